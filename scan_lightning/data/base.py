"""The DataModule that all benchmarks share: datasets per split, deterministic order and augmentation, exact shards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scan_lightning.data.accumulation import tell_step_targets
from scan_lightning.data.sampling import (
    Draw,
    EvaluationSampler,
    ResumableLoader,
    TrainingSampler,
    batches_done,
    check_batch_size,
)
from scan_lightning.data.targets import collate_evaluation, collate_training
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.data.worker_memory import keep_freed_memory
from scan_lightning.types import IGNORE_INDEX, Batch, ClassHierarchy, Sample, Vocabulary

Split = Literal["train", "val", "test", "predict"]
SPLITS_OF_STAGE: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}
"""The splits that each stage of the Trainer reads."""


@dataclass(kw_only=True)
class RawSample:
    """An image and its truth as a source gives them, before any transform.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        image_id: Name, unique in the split and the same in every run.
        label_map: Integers (H, W), labels of the complete vocabulary or IGNORE_INDEX; None where there is no truth.
    """

    image: NDArray[np.uint8]
    image_id: str
    label_map: NDArray[np.integer[Any]] | None = None


class Source(Protocol):
    """Random access to raw samples; equal indices give equal samples."""

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def __getitem__(self, index: int, /) -> RawSample:
        """Read one sample."""
        ...


class TrainingDataset(Dataset[Sample]):
    """Augmented samples of a source. The augmentation is a function of (seed, epoch, index) alone.

    Args:
        source: Raw samples with label maps.
        transform: The augmentation.
        seed: Seed of the augmentation's draws.
        relabel: int64 (K,), for each label of the source the label in training, or IGNORE_INDEX. None keeps labels.
    """

    def __init__(
        self, source: Source, *, transform: TrainingTransform, seed: int = 0, relabel: Tensor | None = None
    ) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self._relabel = None if relabel is None else np.append(relabel.numpy(), IGNORE_INDEX)

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.source)

    def __getitem__(self, key: Draw | int) -> Sample:
        """Load and augment one sample; a bare index stands for the first epoch.

        Raises:
            ValueError: If the source has no label map for it.
        """
        epoch, index = (0, key) if isinstance(key, int) else key
        raw = self.source[index]
        if raw.label_map is None:
            raise ValueError(f"{raw.image_id}: expected a label map, which training needs, got none")
        rng = np.random.default_rng([self.seed, epoch, index])
        image, label_map = self.transform(raw.image, raw.label_map, rng)
        if self._relabel is not None:
            label_map = self._relabel[label_map]  # IGNORE_INDEX reads the entry that was appended
        return Sample(
            image=_to_tensor(image),
            image_id=raw.image_id,
            label_map=torch.from_numpy(label_map),
            original_size=(int(raw.image.shape[0]), int(raw.image.shape[1])),
        )


class EvaluationDataset(Dataset[Sample]):
    """Samples of a source with the image resized and the truth untouched.

    Args:
        source: Raw samples, with or without label maps.
        transform: Resizes the image.
    """

    def __init__(self, source: Source, *, transform: EvaluationTransform) -> None:
        self.source = source
        self.transform = transform

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        """Load and resize one sample."""
        raw = self.source[index]
        return Sample(
            image=_to_tensor(self.transform(raw.image)),
            image_id=raw.image_id,
            label_map=None if raw.label_map is None else torch.from_numpy(raw.label_map.astype(np.int64)),
            original_size=(int(raw.image.shape[0]), int(raw.image.shape[1])),
        )


def _to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Turn (H, W, 3) into a contiguous uint8 tensor (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


class SegmentationDataModule(LightningDataModule, ABC):
    """Loaders of one benchmark. A subclass gives `build_dataset` and `vocabulary`, and what else it has.

    Order and augmentation of training samples depend on (seed, epoch, index) alone, not on workers or batch size, and a
    run resumed in the middle of an epoch goes on with the samples the undisturbed run would have seen. Evaluation
    repeats no image: shards may differ by one. The samplers shard themselves, so the Trainer should be given
    ``use_distributed_sampler: false``; left on, Lightning finds them distributed already and changes nothing.

    Args:
        batch_size: Images per training batch and process.
        eval_batch_size: Images per batch in validation, test and prediction.
        num_workers: Loading processes per loader.
        seed: Seed of order and augmentation.
        train_transform: Augmentation; None means the paper's (`TrainingTransform` with its defaults).
        eval_transform: Resizing in evaluation; None means the paper's (shortest side 640, at most 2560).

    Raises:
        ValueError: If a batch size is below 1, or ``num_workers`` or ``seed`` is negative.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        train_transform: TrainingTransform | None = None,
        eval_transform: EvaluationTransform | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.train_transform = train_transform or TrainingTransform()
        self.eval_transform = eval_transform or EvaluationTransform()
        self._datasets: dict[Split, Dataset[Sample] | None] = {}

    @abstractmethod
    def build_dataset(self, split: Split) -> Dataset[Sample] | None:
        """Make the dataset of a split.

        Args:
            split: Which one. The training dataset is indexed by `Draw` (see `TrainingDataset`), the others by integers.

        Returns:
            A sized dataset, or None where the benchmark has no such split.
        """

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """All words that are tested, in the order of the labels in evaluation. Available before `setup`."""

    @property
    def training_vocabulary(self) -> Vocabulary:
        """The words that labels in training index: the seen ones.

        Raises:
            ValueError: If no word is seen.
        """
        if not any(self.vocabulary.seen):
            raise ValueError(f"{type(self).__name__}: expected at least one seen class to train on, got none")
        return self.vocabulary.subset(self.vocabulary.seen_indices)

    @property
    def training_relabel(self) -> Tensor:
        """For each label of the vocabulary the one in training, int64 (K,), IGNORE_INDEX for words not trained on."""
        names = {name: label for label, name in enumerate(self.training_vocabulary.names)}
        return torch.tensor([names.get(name, IGNORE_INDEX) for name in self.vocabulary.names])

    @property
    def hierarchy(self) -> ClassHierarchy | None:
        """Parents of classes for SG-IoU, or None where the benchmark has none."""
        return None

    def setup(self, stage: str) -> None:
        """Build the datasets of a stage, and no others.

        Args:
            stage: "fit", "validate", "test" or "predict".
        """
        for split in SPLITS_OF_STAGE[stage]:
            if split not in self._datasets:
                self._datasets[split] = self.build_dataset(split)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Make the training loader.

        Raises:
            ValueError: If there is no training split, or too few samples for one batch.
        """
        dataset = self._dataset("train")
        if dataset is None:
            raise ValueError(f"{type(self).__name__} has no training split")
        sampler = TrainingSampler(dataset, seed=self.seed)  # type: ignore[arg-type]
        check_batch_size(self.batch_size, images=len(sampler))
        return ResumableLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            progress=partial(batches_done, self),
            prepare=partial(tell_step_targets, self),
            **self._loader_options(collate_training),
        )

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Make the validation loader; an empty list where there is no such split."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Make the test loader; an empty list where there is no such split."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Make the prediction loader; an empty list where there is no such split."""
        return self._evaluation_loader("predict")

    def _dataset(self, split: Split) -> Dataset[Sample] | None:
        """Give the dataset that `setup` built."""
        if split not in self._datasets:
            raise RuntimeError(f"call setup() of the stage that needs the split {split!r} before asking for its loader")
        return self._datasets[split]

    def _evaluation_loader(self, split: Split) -> DataLoader[Sample] | list[Any]:
        dataset = self._dataset(split)
        if dataset is None:
            return []
        sampler = EvaluationSampler(dataset)  # type: ignore[arg-type]
        options = self._loader_options(collate_evaluation)
        return DataLoader(dataset, batch_size=self.eval_batch_size, sampler=sampler, **options)

    def _loader_options(self, collate: Callable[[Sequence[Sample]], Batch]) -> dict[str, Any]:
        # the loader draws a base seed for its workers: from a generator of its own, so that it moves no global state
        generator = torch.Generator().manual_seed(self.seed)
        return {
            "collate_fn": collate,
            "num_workers": self.num_workers,
            "generator": generator,
            "worker_init_fn": keep_freed_memory,
        }
