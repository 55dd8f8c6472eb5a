"""Which sample comes when: samplers that depend on (seed, epoch) alone, and a training loader that resumes exactly.

Both samplers derive from `DistributedSampler`, which makes Lightning leave them in place: they shard themselves,
whether the Trainer's ``use_distributed_sampler`` is on or off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple, TypeVar

import torch
from lightning.pytorch import LightningDataModule
from torch import distributed
from torch.utils.data import DataLoader, DistributedSampler

T = TypeVar("T")


class Draw(NamedTuple):
    """Key of one training sample: the epoch seeds its augmentation, whichever worker process loads it."""

    epoch: int
    sample: int


def process_rank() -> tuple[int, int]:
    """Find this process among those that train together.

    Returns:
        Rank and number of processes; (0, 1) where torch.distributed is not initialised.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def batches_done(data: LightningDataModule) -> int:
    """Count the batches of the epoch that a Trainer has completed, from which a resumed training goes on.

    Args:
        data: Attached to the Trainer, or to none.

    Returns:
        The number; 0 outside of a training.
    """
    if data.trainer is None or not data.trainer.training:
        return 0
    return data.trainer.fit_loop.epoch_loop.batch_progress.current.ready


def check_batch_size(batch_size: int, *, images: int) -> None:
    """Raise unless a process has training images for one whole batch.

    Args:
        batch_size: Images of a batch.
        images: Training images of a process.

    Raises:
        ValueError: If there are too few.
    """
    if images < batch_size:
        raise ValueError(f"batch_size: expected at most {images}, the training images per process, got {batch_size}")


class TrainingSampler(DistributedSampler[Draw]):
    """A permutation of the data set per epoch, drawn from (seed, epoch), every rank taking each world-size-th entry.

    The rest that cannot be shared evenly is left out of the epoch. Over all ranks together, the samples of the k-th
    batch are the same however many processes share the same total batch size.

    Args:
        dataset: What is sampled from; only its length matters.
        seed: Seed of the order.
    """

    def __init__(self, dataset: Sized, *, seed: int) -> None:
        rank, world_size = process_rank()
        super().__init__(dataset, num_replicas=world_size, rank=rank, seed=seed, drop_last=True)  # type: ignore[arg-type]
        self.num_samples = len(dataset) // world_size
        self.total_size = self.num_samples * world_size
        self._skip = 0

    def skip(self, samples: int) -> None:
        """Leave out the first samples of this rank in the next iteration only."""
        self._skip = samples

    def __iter__(self) -> Iterator[Draw]:
        """Iterate over this rank's share of the epoch."""
        generator = torch.Generator().manual_seed(_mix(self.seed, self.epoch))
        order = torch.randperm(len(self.dataset), generator=generator)  # type: ignore[arg-type]
        share = order[: self.total_size][self.rank :: self.num_replicas].tolist()
        skip, self._skip = self._skip, 0
        return iter([Draw(self.epoch, sample) for sample in share[skip:]])


class EvaluationSampler(DistributedSampler[int]):
    """Every sample once, in order; ranks take each world-size-th, so that shards may differ by one sample.

    Args:
        dataset: What is sampled from; only its length matters.
    """

    def __init__(self, dataset: Sized) -> None:
        rank, world_size = process_rank()
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.total_size = len(dataset)
        self.num_samples = len(range(rank, self.total_size, world_size))

    def __iter__(self) -> Iterator[int]:
        """Iterate over this rank's share."""
        return iter(range(self.rank, self.total_size, self.num_replicas))


def _nothing_done() -> int:
    """Start every epoch at its beginning."""
    return 0


class ResumableLoader(DataLoader[T]):
    """A data loader that starts where training stands in its epoch, without loading what was already seen.

    Where training stands is asked when the first batch is wanted: the Trainer has restored its progress and set the
    epoch by then, so loader and Trainer cannot disagree, whatever was prefetched before an interruption.

    Args:
        *args: Positional arguments of `DataLoader`.
        progress: Tells how many batches of the epoch training has completed.
        prepare: Given that number and the batches of the rest of the epoch, gives the batches that come out; None
            leaves them as they are.
        **kwargs: Keyword arguments of `DataLoader`; the sampler should be a `TrainingSampler`.
    """

    def __init__(
        self,
        *args: Any,
        progress: Callable[[], int] = _nothing_done,
        prepare: Callable[[int, Iterator[Any]], Iterator[Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.progress = progress
        self.prepare = prepare
        self._restored: dict[str, int] = {}

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]
        """Iterate over what is left of the epoch."""
        done = self.progress()
        if done and isinstance(self.sampler, TrainingSampler):
            self._check_restored()
            self.sampler.skip(done * (self.batch_size or 1))
        batches = super().__iter__()
        yield from batches if self.prepare is None else self.prepare(done, batches)

    def state_dict(self) -> dict[str, int]:
        """Describe what the order of batches depends on."""
        state = {"dataset_size": len(self.dataset), "batch_size": self.batch_size or 1}  # type: ignore[arg-type]
        if isinstance(self.sampler, TrainingSampler):
            state |= {"seed": self.sampler.seed, "processes": self.sampler.num_replicas}
        return state

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Remember what the order depended on in the interrupted run."""
        self._restored = dict(state_dict)

    def _check_restored(self) -> None:
        """Refuse to go on in the middle of an epoch whose order was another one."""
        state = self.state_dict()
        for name, value in self._restored.items():
            if state.get(name) != value:
                raise ValueError(
                    f"cannot resume in the middle of an epoch with another {name.replace('_', ' ')}: expected {value} "
                    f"as in the checkpoint, got {state.get(name)}; resume from the end of an epoch instead"
                )


def _mix(seed: int, epoch: int) -> int:
    """Turn (seed, epoch) into one seed, different pairs into different ones below 2**31 epochs."""
    return (seed * 2**31 + epoch) % 2**63
