"""Mask-text pairs from the truth: the masks and class names of any benchmark (spec section 6)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scan_lightning.data.base import RawSample, SegmentationDataModule, Source, Split
from scan_lightning.data.pair_index import IMAGES_FOLDER, MaskText, write_part
from scan_lightning.data.regions import Region, RegionKind, find_regions
from scan_lightning.data.source import FolderSource
from scan_lightning.files import write_whole
from scan_lightning.types import IGNORE_INDEX


@dataclass(frozen=True, kw_only=True)
class TruthPairs:
    """Makes the pairs of one split of a benchmark; picklable, so that several processes can share the work.

    Args:
        source: Raw samples with labels of the complete vocabulary.
        names: For each label its class name, or None for a class that is left out.
        kind: What a region is: "component" for connected pieces of a class, "class" for all its pixels together.
        min_area: Regions with fewer pixels are left out.
        root: Folder that the paths of the images start at; None where there are no files, or others than those the
            masks were drawn on: the images are then written beside the index.
    """

    source: Source
    names: tuple[str | None, ...]
    kind: RegionKind
    min_area: int
    root: Path | None

    @classmethod
    def of(cls, data: SegmentationDataModule, *, split: Split, kind: RegionKind, min_area: int) -> TruthPairs:
        """Look a split up.

        Args:
            data: The benchmark.
            split: Which split. Of the training split only classes of the training vocabulary count, as in training the
                segmenter.
            kind: See above.
            min_area: See above.

        Returns:
            What makes its pairs.

        Raises:
            ValueError: If there is no such split with label maps.
        """
        dataset = data.build_dataset(split)
        source: Source | None = getattr(dataset, "source", None)
        if source is None:
            raise ValueError(f"{type(data).__name__} has no raw samples for the split {split!r}")
        names: list[str | None] = list(data.vocabulary.names)
        if split == "train":
            known = data.training_relabel.tolist()
            names = [name if label != IGNORE_INDEX else None for name, label in zip(names, known, strict=True)]
        root = getattr(data, "root", None)
        direct = isinstance(source, FolderSource) and source.shorter_side is None and root is not None
        return cls(
            source=source,
            names=tuple(names),
            kind=kind,
            min_area=min_area,
            root=Path(root).absolute() if direct and root is not None else None,
        )

    def write(self, job: tuple[range, Path]) -> int:
        """Write one part of the index.

        Args:
            job: Numbers of its images, and the part's file.

        Returns:
            The number of its pairs.

        Raises:
            ValueError: If an image or label map is damaged, or an image has no label map.
            OSError: If the disk is full.
        """
        images, path = job
        return write_part(path, (pair for number in images for pair in self.pairs(number, path.parent)))

    def pairs(self, number: int, folder: Path) -> Iterator[MaskText]:
        """Make the pairs of an image.

        Args:
            number: Its number in the source.
            folder: The index's, for images that no file holds.

        Yields:
            Pairs; regions are numbered by ascending label.
        """
        image, image_id, labels = self._labelled(number, folder)
        wanted = np.array([name is not None for name in self.names] + [False])  # IGNORE_INDEX reads the last
        regions = find_regions(np.where(wanted[labels], labels, IGNORE_INDEX), kind=self.kind, min_area=self.min_area)
        for region_number, region in enumerate(regions):
            yield MaskText(
                image=image,
                image_id=image_id,
                region=region_number,
                mask=_whole_mask(region, labels.shape),
                text=str(self.names[region.label]),
                source="truth",
            )

    def _labelled(self, number: int, folder: Path) -> tuple[str, str, NDArray[np.int64]]:
        """Give an image's path and name, and its label map; an image without a file is written beside the index."""
        if self.root is not None and isinstance(self.source, FolderSource):
            pair = self.source.pairs[number]
            if pair.label is None:
                raise ValueError(f"{pair.image}: expected a label map, found none")
            path = pair.image.absolute().relative_to(self.root).as_posix()
            return path, pair.image.stem, self.source.read_labels(pair.label)
        raw = self.source[number]
        if raw.label_map is None or raw.label_map.shape != raw.image.shape[:2]:
            found = "none" if raw.label_map is None else f"one of {raw.label_map.shape}"
            raise ValueError(f"{raw.image_id}: expected a label map of {raw.image.shape[:2]}, got {found}")
        return _write_image(raw, number, folder), raw.image_id, raw.label_map.astype(np.int64)


def _write_image(raw: RawSample, number: int, folder: Path) -> str:
    """Write an image beside the index, named by its number, since ids may hold what file names may not."""
    path = folder / IMAGES_FOLDER / f"{number:06d}.png"
    path.parent.mkdir(exist_ok=True)
    content = io.BytesIO()
    Image.fromarray(raw.image).save(content, format="png")
    write_whole(path, content.getvalue())
    return path.relative_to(folder).as_posix()


def _whole_mask(region: Region, size: tuple[Any, ...]) -> NDArray[np.bool_]:
    """Put a region's mask into the whole image."""
    mask = np.zeros(size, dtype=bool)
    top, left, bottom, right = region.box
    mask[top:bottom, left:right] = region.mask
    return mask
