"""The DataModule of mask-text pairs, for training CLIP under Contextual Shift."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from scan_lightning.data.mask_crops import MaskTexts, MaskTextSample, collate_mask_texts
from scan_lightning.data.pair_index import PairIndex
from scan_lightning.data.sampling import EvaluationSampler, ResumableLoader, TrainingSampler, batches_done
from scan_lightning.types import Vocabulary


class MaskTextDataModule(LightningDataModule):
    """Mask-text pairs of indices that ``scan-lightning pairs`` has made.

    Args:
        train_index: Folder of the index to train on; None where nothing is trained.
        val_index: Folder of an index of true masks with class names, on which zero-shot accuracy is measured.
        batch_size: Pairs per training batch and process; all of the batch are negatives of one another.
        root: Folder that the paths of the images start at; None for indices with their images beside them.
        train_root: The same for the index to train on, where it is another; None takes ``root``.
        image_size: Side S in pixels, CLIP's input size.
        colour_jitter: Whether training jitters colours as in SSD. Never where words name colours.
        eval_batch_size: Pairs per validation batch.
        num_workers: Loading processes per loader.
        seed: Seed of order and augmentation.
        cache_dir: Where `datasets` keeps its memory-mapped copy of the indices; None means its own default.

    Raises:
        ValueError: If a size is below 1, or ``seed`` or ``num_workers`` is negative.
    """

    def __init__(
        self,
        *,
        train_index: str | Path | None,
        val_index: str | Path,
        batch_size: int,
        root: str | Path | None = None,
        train_root: str | Path | None = None,
        image_size: int = 224,
        colour_jitter: bool = False,
        eval_batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("image_size", image_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        self.batch_size = batch_size
        self.root = None if root is None else Path(root)
        self.train_root = self.root if train_root is None else Path(train_root)
        self.image_size = image_size
        self.colour_jitter = colour_jitter
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._folders = {"train": None if train_index is None else Path(train_index), "val": Path(val_index)}
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._indices: dict[str, PairIndex] = {}

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes of the validation index.

        Raises:
            ValueError: If its texts are no class names.
        """
        found = self._index("val").vocabulary
        if found is None:
            raise ValueError(f"val_index: expected an index with class names, {self._folders['val']} has none")
        return found

    def setup(self, stage: str) -> None:
        """Open the indices of a stage.

        Args:
            stage: "fit" or "validate".

        Raises:
            ValueError: If the stage has no such data, or an index is damaged or too small.
            FileNotFoundError: If an index is missing.
        """
        if stage not in ("fit", "validate"):
            raise ValueError(f"stage: expected 'fit' or 'validate', got {stage!r}")
        for split in ("train", "val") if stage == "fit" else ("val",):
            self._index(split)

    def _index(self, split: str) -> PairIndex:
        """Open an index once."""
        if split not in self._indices:
            folder = self._folders[split]
            if folder is None:
                raise ValueError(f"{split}_index: expected a folder, got None")
            self._indices[split] = PairIndex(folder, cache_dir=self._cache_dir)
        return self._indices[split]

    def _dataset(self, split: str, **options: Any) -> MaskTexts:
        """Make the dataset of a split."""
        index = self._index(split)
        root = index.folder if index.images_beside else self.train_root if split == "train" else self.root
        if root is None:
            raise ValueError(f"root: expected the folder that the images of {index.folder} lie in, got None")
        return MaskTexts(index=index, root=root, image_size=self.image_size, seed=self.seed, **options)

    def train_dataloader(self) -> DataLoader[MaskTextSample]:
        """Make the training loader: every pair once per epoch, in an order of (seed, epoch).

        Raises:
            ValueError: If there are too few pairs for one batch.
        """
        dataset = self._dataset("train", augment=True, colour_jitter=self.colour_jitter)
        sampler = TrainingSampler(dataset, seed=self.seed)
        if len(sampler) < self.batch_size:
            raise ValueError(
                f"batch_size: expected at most {len(sampler)}, the pairs per process, got {self.batch_size}"
            )
        return ResumableLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            progress=partial(batches_done, self),
            **self._loader_options(),
        )

    def val_dataloader(self) -> DataLoader[MaskTextSample]:
        """Make the validation loader: every pair once, with its box."""
        dataset = self._dataset("val", boxes=True)
        sampler = EvaluationSampler(dataset)
        return DataLoader(dataset, batch_size=self.eval_batch_size, sampler=sampler, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.seed)
        return {"collate_fn": collate_mask_texts, "num_workers": self.num_workers, "generator": generator}
