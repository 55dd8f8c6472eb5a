"""Raw samples read from image files and label files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scan_lightning.data.base import RawSample
from scan_lightning.data.benchmarks import INVALID_LABEL
from scan_lightning.data.images import ImageFileError, read_image, read_image_of, read_label
from scan_lightning.data.layout import ImagePair
from scan_lightning.types import IGNORE_INDEX

LabelReader = Callable[[Path], NDArray[np.integer[Any]]]
"""Reads the values in a label file, integers (H, W)."""


class FolderSource:
    """Raw samples read from files.

    The orientation tag of an image is applied, unless its label map has the size of the stored pixels alone: some label
    maps were drawn on these.

    Args:
        pairs: The files; an image's name without its ending is its id.
        label_table: int64, for each value in a file the label, IGNORE_INDEX or -2 where the value is not allowed.
        reader: Reads the values in a label file.
        shorter_side: Images and labels whose shorter side is longer are reduced to it, as the converted files of
            ADE20K-847 are; None leaves all as they are.
    """

    def __init__(
        self,
        pairs: Sequence[ImagePair],
        *,
        label_table: NDArray[np.int64],
        reader: LabelReader = read_label,
        shorter_side: int | None = None,
    ) -> None:
        self.pairs = pairs
        self.label_table = label_table
        self.reader = reader
        self.shorter_side = shorter_side

    def __len__(self) -> int:
        """Count the images."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> RawSample:
        """Read an image and its labels.

        Raises:
            ImageFileError: If a file is damaged or no image, the sizes differ or a value in the label map is no label.
        """
        pair = self.pairs[index]
        values = None if pair.label is None else self.reader(pair.label)
        image = read_image(pair.image) if values is None else read_image_of(pair.image, values.shape)
        if values is not None and values.shape != image.shape[:2]:
            raise ImageFileError(
                f"{pair.label}: expected the size of its image {pair.image}, {image.shape[:2]}, got {values.shape}"
            )
        if self.shorter_side is not None:
            image, values = reduce_size(image, values, shorter_side=self.shorter_side)
        labels = None if values is None or pair.label is None else self._to_labels(values, pair.label)
        return RawSample(image=image, image_id=pair.image.stem, label_map=labels)

    def read_labels(self, path: Path) -> NDArray[np.int64]:
        """Read a label map at its full size and turn the values in the file into labels.

        Args:
            path: The file.

        Returns:
            int64 (H, W), labels or IGNORE_INDEX.

        Raises:
            ImageFileError: If the file is damaged or no label map, or a value in it is no label.
        """
        return self._to_labels(self.reader(path), path)

    def _to_labels(self, values: NDArray[np.integer[Any]], path: Path) -> NDArray[np.int64]:
        """Look every value up in the table."""
        if values.min() >= 0 and values.max() < len(self.label_table):
            labels: NDArray[np.int64] = self.label_table[values]
            if labels.min() > INVALID_LABEL:
                return labels
        known = np.flatnonzero(self.label_table > INVALID_LABEL)
        wrong = np.setdiff1d(values, known)
        raise ImageFileError(f"{path}: expected {_describe(self.label_table)}, got {wrong[:10].tolist()}")


def reduce_size(
    image: NDArray[np.uint8], values: NDArray[np.integer[Any]] | None, *, shorter_side: int
) -> tuple[NDArray[np.uint8], NDArray[np.integer[Any]] | None]:
    """Reduce an image and its label values if the shorter side is longer than wanted, never enlarge them.

    The image is interpolated bilinearly without antialiasing and values are taken from the nearest pixel, both by
    OpenCV, as the field's preparation of ADE20K-847 does; sizes are rounded half to even, as there.

    Args:
        image: uint8 (H, W, 3).
        values: Integers (H, W) below 65536, or None.
        shorter_side: Length in pixels.

    Returns:
        Image and values of one size.

    Raises:
        ValueError: If ``shorter_side`` is not positive.
    """
    if shorter_side < 1:
        raise ValueError(f"shorter_side: expected at least 1, got {shorter_side}")
    height, width = image.shape[:2]
    if min(height, width) <= shorter_side:
        return image, values
    size = (  # OpenCV's order
        shorter_side if width <= height else round(width / height * shorter_side),
        shorter_side if height <= width else round(height / width * shorter_side),
    )
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    if values is None:
        return small, None
    return small, np.asarray(cv2.resize(values.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST))


def _describe(table: NDArray[np.int64]) -> str:
    """Say in words which values a table allows."""
    allowed, ignored = np.flatnonzero(table >= 0), np.flatnonzero(table == IGNORE_INDEX)
    text = f"labels {_ranges(allowed)}"
    return f"{text} or {_ranges(ignored)} for ignored pixels" if ignored.size else text


def _ranges(values: NDArray[np.intp]) -> str:
    """Write ascending numbers as ranges, at most six of them."""
    parts = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    texts = [f"from {part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in parts]
    return ", ".join(texts[:6]) + (", ..." if len(texts) > 6 else "")
