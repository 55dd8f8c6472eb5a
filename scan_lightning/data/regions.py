"""Regions of labelled images: splitting label maps, cutting boxes out, masking the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from scan_lightning.data.base import RawSample
from scan_lightning.types import IGNORE_INDEX

MASK_FILL = (123, 117, 104)
"""CLIP's mean colour, RGB: what lies outside the mask in a masked crop (paper section 3.3)."""

RegionKind = Literal["component", "class"]
Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Region:
    """A piece of an image that carries one label.

    Attributes:
        label: Its class.
        box: Tight box (top, left, bottom, right), half open, in pixels.
        mask: bool (bottom - top, right - left), which pixels of the box belong to it.
        around: Label of the class that touches it most, or IGNORE_INDEX.
    """

    label: int
    box: Box
    mask: Mask
    around: int


def find_regions(label_map: NDArray[np.int64], *, kind: RegionKind = "component", min_area: int = 64) -> list[Region]:
    """Split a label map into regions.

    Args:
        label_map: (H, W), labels or IGNORE_INDEX.
        kind: "component" for connected pieces, "class" for all pixels of a class together.
        min_area: Regions with fewer pixels are left out.

    Returns:
        Regions, by ascending label.
    """
    regions = []
    for label in np.unique(label_map[label_map != IGNORE_INDEX]):
        mask = (label_map == label).astype(np.uint8)
        pieces = cv2.connectedComponents(mask)[1] if kind == "component" else mask
        for piece in range(1, int(pieces.max()) + 1):
            whole = np.asarray(pieces == piece)
            if whole.sum() >= min_area:
                regions.append(_region(label_map, whole, int(label)))
    return regions


def _region(label_map: NDArray[np.int64], whole: Mask, label: int) -> Region:
    """Describe the region of a mask of the whole image."""
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    rim = cv2.dilate(whole.astype(np.uint8), np.ones((5, 5), dtype=np.uint8)).astype(bool) & ~whole
    touching, counts = np.unique(label_map[rim & (label_map != IGNORE_INDEX)], return_counts=True)
    around = int(touching[counts.argmax()]) if len(touching) else IGNORE_INDEX
    return Region(label=label, box=(top, left, bottom, right), mask=whole[top:bottom, left:right].copy(), around=around)


def cut(image: Image, box: Box, *, size: int, mask: Mask | None = None) -> Image:
    """Cut a box out of an image and resize it to a square without regard to aspect.

    Args:
        image: (H, W, 3).
        box: (top, left, bottom, right) within the image.
        size: Side of the result in pixels.
        mask: Of the box's size; pixels outside it become `MASK_FILL`. None leaves the surroundings in.

    Returns:
        uint8 (size, size, 3).
    """
    top, left, bottom, right = box
    crop = image[top:bottom, left:right]
    if mask is not None:
        crop = np.where(mask[..., None], crop, np.array(MASK_FILL, dtype=np.uint8))
    shrinks = crop.shape[0] > size and crop.shape[1] > size
    resized = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(resized, dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """An image and its regions.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        regions: Regions by ascending label.
    """

    image: Image
    regions: tuple[Region, ...]

    @classmethod
    def from_raw(cls, raw: RawSample, *, kind: RegionKind, min_area: int) -> LabelledImage:
        """Split a sample's label map into regions.

        Args:
            raw: An image with its label map.
            kind: See `find_regions`.
            min_area: See `find_regions`.

        Returns:
            The image with its regions.

        Raises:
            ValueError: If the sample has no label map, or one of another size than the image.
        """
        if raw.label_map is None or raw.label_map.shape != raw.image.shape[:2]:
            found = "no label map" if raw.label_map is None else f"one of {raw.label_map.shape}"
            raise ValueError(f"{raw.image_id}: expected a label map of {raw.image.shape[:2]}, got {found}")
        regions = find_regions(raw.label_map.astype(np.int64), kind=kind, min_area=min_area)
        return cls(image=raw.image, regions=tuple(regions))
