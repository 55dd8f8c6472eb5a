"""Pairs of image regions and captions, cut from labelled images, for training CLIP contrastively."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from scan_lightning.data.base import SegmentationDataModule, Source, Split
from scan_lightning.data.region_pairs import Pair, RegionCrops, RegionTextMixture, RegionTexts
from scan_lightning.data.regions import LabelledImage, RegionKind
from scan_lightning.data.sampling import EvaluationSampler, ResumableLoader, TrainingSampler, batches_done
from scan_lightning.types import RegionTextBatch, Vocabulary

CROP_KINDS = ("whole", "masked")
"""The validation loaders, in order: tight boxes with their surroundings, and with the background masked."""


class RegionTextDataModule(LightningDataModule):
    """Captioned regions of a segmentation benchmark, and its regions by class name for zero-shot accuracy.

    Training draws pairs from the source's training images (see `RegionTexts`). There are two validation loaders: of
    every class in every validation image all its pixels together, which is what the segmenter's masks are trained to
    be, cut out in their tight box, first as it is, then with the background masked. Their texts are class names. The
    images stay in memory.

    Args:
        source: The benchmark. Its training and validation images are read without its augmentation, with the labels of
            its complete vocabulary.
        batch_size: Pairs per training batch and process; each is a negative of the others.
        samples_per_epoch: Pairs per epoch, over all processes.
        image_size: Side S of the regions in pixels, CLIP's input size.
        mixture: Which kinds of pairs there are; None means the defaults of `RegionTextMixture`.
        region_kind: What training cuts out: "component" for connected pieces of a class, "class" for all its pixels.
        min_area: Regions with fewer pixels are left out.
        eval_batch_size: Regions per validation batch.
        num_workers: Loading processes per loader.
        seed: Seed of the draws.

    Raises:
        ValueError: If a size is below 1, or ``seed`` or ``num_workers`` is negative.
    """

    def __init__(
        self,
        *,
        source: SegmentationDataModule,
        batch_size: int,
        samples_per_epoch: int,
        image_size: int = 224,
        mixture: RegionTextMixture | None = None,
        region_kind: RegionKind = "component",
        min_area: int = 64,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("samples_per_epoch", samples_per_epoch, batch_size),
            ("image_size", image_size, 1),
            ("min_area", min_area, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        self.source = source
        self.batch_size = batch_size
        self.samples_per_epoch = samples_per_epoch
        self.image_size = image_size
        self.mixture = mixture or RegionTextMixture()
        self.region_kind: RegionKind = region_kind
        self.min_area = min_area
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._images: dict[Split, list[LabelledImage]] = {}

    @property
    def vocabulary(self) -> Vocabulary:
        """The source's complete vocabulary; validation texts are its names."""
        return self.source.vocabulary

    def prepare_data(self) -> None:
        """Let the source check or fetch its files."""
        self.source.prepare_data()

    def setup(self, stage: str) -> None:
        """Read the images of a stage and split them into regions.

        Args:
            stage: "fit" or "validate".

        Raises:
            ValueError: If the stage has no such data, or the source lacks a split.
        """
        if stage not in ("fit", "validate"):
            raise ValueError(f"stage: expected 'fit' or 'validate', got {stage!r}")
        splits: tuple[Split, ...] = ("train", "val") if stage == "fit" else ("val",)
        for split in splits:
            if split not in self._images:
                self._images[split] = self._read(split)

    def train_dataloader(self) -> DataLoader[Pair]:
        """Make the loader of random pairs."""
        dataset = RegionTexts(
            images=self._images["train"],
            vocabulary=self.vocabulary,
            hierarchy=self.source.hierarchy,
            mixture=self.mixture,
            image_size=self.image_size,
            per_epoch=self.samples_per_epoch,
            seed=self.seed,
        )
        sampler = TrainingSampler(dataset, seed=self.seed)
        return ResumableLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            progress=partial(batches_done, self),
            **self._loader_options(),
        )

    def val_dataloader(self) -> list[DataLoader[Pair]]:
        """Make the two loaders of `CROP_KINDS`."""
        return [self.crops_loader("val", masked=kind == "masked") for kind in CROP_KINDS]

    def crops_loader(self, split: Split, *, masked: bool) -> DataLoader[Pair]:
        """Make a loader of every region of a split once, in its tight box, with its class name.

        Args:
            split: One that `setup` has read.
            masked: Whether the background is filled with CLIP's mean colour.

        Returns:
            The loader; batches are `RegionTextBatch`.
        """
        dataset = RegionCrops(
            images=self._images[split], vocabulary=self.vocabulary, image_size=self.image_size, masked=masked
        )
        sampler = EvaluationSampler(dataset)
        return DataLoader(dataset, batch_size=self.eval_batch_size, sampler=sampler, **self._loader_options())

    def _read(self, split: Split) -> list[LabelledImage]:
        """Read every image of a split from the source's raw samples."""
        kind: RegionKind = self.region_kind if split == "train" else "class"
        dataset = self.source.build_dataset(split)
        raw: Source | None = getattr(dataset, "source", None)
        if raw is None:
            raise ValueError(f"source: {type(self.source).__name__} has no raw samples for the split {split!r}")
        return [LabelledImage.from_raw(raw[index], kind=kind, min_area=self.min_area) for index in range(len(raw))]

    def _loader_options(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.seed)
        return {"collate_fn": collate_pairs, "num_workers": self.num_workers, "generator": generator}


def collate_pairs(pairs: Sequence[Pair]) -> RegionTextBatch:
    """Stack pairs.

    Args:
        pairs: Regions of one size and their texts.

    Returns:
        The batch, images uint8 (B, 3, S, S).
    """
    return RegionTextBatch(images=torch.stack([image for image, _ in pairs]), texts=[text for _, text in pairs])
