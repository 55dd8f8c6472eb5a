"""Training and evaluation on streamed rows, shared among processes and workers, deterministic and resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from scan_lightning.data.base import EvaluationDataset, RawSample, TrainingDataset
from scan_lightning.data.hub_rows import RowReader
from scan_lightning.data.sampling import Draw, ResumableLoader, process_rank
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.types import Sample

_EPOCHS = 2**20
"""Bound of epochs; passes over a share that is read again within an epoch count above it."""


class StreamedTraining(IterableDataset[Sample]):
    """Augmented samples of a stream, as many in each epoch as are asked for.

    Each worker of each process reads a share of its own (whole files where their number allows it, else every so many
    rows) in an order that `datasets` shuffles anew in each epoch, and again from the start where it ends early. So all
    processes get equally many batches. The augmentation is a function of (seed, epoch, image id). At the end of each
    pass over Parquet files `datasets` itself waits for five seconds.

    Args:
        rows: A `datasets.IterableDataset` that gives Arrow tables.
        reader: Reads a row.
        where: Data set and split, for messages.
        transform: The augmentation.
        size: Images in an epoch, of all processes together.
        batch_size: Images per batch and process.
        shuffle_buffer: Rows that each worker holds to draw from.
        seed: Seed of order and augmentation.
        relabel: See `TrainingDataset`.
    """

    def __init__(
        self,
        rows: Any,
        *,
        reader: RowReader,
        where: str,
        transform: TrainingTransform,
        size: int,
        batch_size: int,
        shuffle_buffer: int = 256,
        seed: int = 0,
        relabel: Tensor | None = None,
    ) -> None:
        self.rows = rows.select_columns(reader.columns).shuffle(seed=seed, buffer_size=shuffle_buffer)
        self.reader = reader
        self.where = where
        self.size = size
        self.batch_size = batch_size
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self._held: dict[int, RawSample] = {}
        self._augmented = TrainingDataset(self._held, transform=transform, seed=seed, relabel=relabel)
        self._epoch = 0
        self._done = 0
        self._process = (0, 1)

    @property
    def batches(self) -> int:
        """Batches in an epoch, the same for every process."""
        return self.size // (process_rank()[1] * self.batch_size)

    def start(self, *, epoch: int, batches_done: int) -> None:
        """Say where the next iteration starts; call it in the main process.

        Args:
            epoch: Which epoch.
            batches_done: Batches of the epoch that this process has done before.
        """
        self._epoch, self._done, self._process = epoch, batches_done, process_rank()

    def __iter__(self) -> Iterator[Sample]:
        """Iterate over this worker's part of what is left of the epoch.

        Batches come from the workers in turn. After a resumption the first worker loads what is the first batch now, so
        it takes the share of the worker whose turn it would have been.
        """
        worker = get_worker_info()
        workers = 1 if worker is None else worker.num_workers
        turn = ((0 if worker is None else worker.id) + self._done) % workers
        rank, processes = self._process
        batches = self.size // (processes * self.batch_size)
        before = len(range(turn, self._done, workers)) * self.batch_size
        after = len(range(turn, batches, workers)) * self.batch_size
        for epoch, row in islice(self._share(rank * workers + turn, processes * workers), before, after):
            raw = self.reader.read(row, where=self.where)
            key = int.from_bytes(hashlib.blake2b(raw.image_id.encode(), digest_size=8).digest())
            self._held[key] = raw
            yield self._augmented[Draw(epoch, key)]
            del self._held[key]

    def _share(self, part: int, parts: int) -> Iterator[tuple[int, Any]]:
        """Read one share of the stream endlessly: pairs of an epoch's number and a row."""
        from datasets.distributed import split_dataset_by_node

        for again in count():
            share = split_dataset_by_node(self.rows, rank=part, world_size=parts)
            epoch = self._epoch + again * _EPOCHS
            share.set_epoch(epoch)
            row = None
            for row in share.iter(batch_size=1):  # plain iteration would share among workers a second time
                yield epoch, row
            if row is None:
                raise ValueError(f"{self.where}: expected rows for each of {parts} workers of all processes, got fewer")


class StreamedEvaluation(IterableDataset[Sample]):
    """Samples of a stream, each once over all processes and workers, whose shares may differ in size.

    Args:
        rows: A `datasets.IterableDataset` that gives Arrow tables.
        reader: Reads a row.
        where: Data set and split, for messages.
        transform: Resizes the image.
    """

    def __init__(self, rows: Any, *, reader: RowReader, where: str, transform: EvaluationTransform) -> None:
        self.rows = rows.select_columns(reader.columns)
        self.reader = reader
        self.where = where
        self._held: list[RawSample] = []
        self._resized = EvaluationDataset(self._held, transform=transform)
        self._process = process_rank()

    def __iter__(self) -> Iterator[Sample]:
        """Iterate over this worker's share."""
        from datasets.distributed import split_dataset_by_node

        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rank, processes = self._process
        share = split_dataset_by_node(self.rows, rank=rank * workers + number, world_size=processes * workers)
        for row in share.iter(batch_size=1):
            self._held[:] = [self.reader.read(row, where=self.where)]
            yield self._resized[0]


class StreamLoader(ResumableLoader[Sample]):
    """Loads a `StreamedTraining`, from where training stands in its epoch.

    On resumption in the middle of an epoch the rows before are read again, without decoding an image; the number of
    processes and workers, which the order depends on, has to be that of the interrupted run.

    Args:
        dataset: The stream; its batch size is taken.
        epoch: Tells the epoch that training is in.
        progress: Tells how many batches of the epoch training has completed.
        **kwargs: Keyword arguments of `DataLoader`.
    """

    dataset: StreamedTraining

    def __init__(
        self, dataset: StreamedTraining, *, epoch: Callable[[], int], progress: Callable[[], int], **kwargs: Any
    ) -> None:
        super().__init__(dataset, batch_size=dataset.batch_size, drop_last=True, progress=progress, **kwargs)
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self.dataset.batches

    def __iter__(self) -> Iterator[Sample]:  # type: ignore[override]
        """Iterate over what is left of the epoch."""
        done = self.progress()
        if done:
            self._check_restored()
        self.dataset.start(epoch=self.epoch(), batches_done=done)
        yield from super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """Describe what the order of batches depends on."""
        return {
            "dataset_size": self.dataset.size,
            "batch_size": self.dataset.batch_size,
            "seed": self.dataset.seed,
            "processes": process_rank()[1],
            "number_of_workers": max(1, self.num_workers),
            "shuffle_buffer": self.dataset.shuffle_buffer,
        }
