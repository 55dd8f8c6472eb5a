"""Colours of classes, as distinct as their number allows."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from scan_lightning.types import Vocabulary

UInt8 = NDArray[np.uint8]


@lru_cache
def _spread_colors(count: int) -> UInt8:
    """Pick ``count`` colours of the RGB cube, each as far as can be from those before it in CIELAB."""
    levels = np.linspace(0, 255, 24).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(1, -1, 3)
    lab = cv2.cvtColor(cube.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    # Not so dark or grey that it looks like an ignored pixel, not so light that it looks like paper, not glaring.
    usable = (lab[:, 0] > 35) & (lab[:, 0] < 88) & (chroma > 22) & (chroma < 78)
    colors, lab = cube[0, usable], lab[usable]
    first = int(np.argmin(np.linalg.norm(lab - np.array([55.0, 0.0, -50.0]), axis=1)))  # a calm blue
    chosen, distance = [first], np.linalg.norm(lab - lab[first], axis=1)
    while len(chosen) < min(count, len(colors)):
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    return np.resize(colors[chosen], (count, 3)).astype(np.uint8)


def color_palette(num_classes: int) -> UInt8:
    """Choose one colour per class, as distinct as the number allows.

    A shorter palette is the beginning of a longer one. No colour is black, grey or white, which mean ignored and paper.

    Args:
        num_classes: K, at least 1. Colours repeat after some thousands.

    Returns:
        uint8 (K, 3), RGB.

    Raises:
        ValueError: If ``num_classes`` is below 1.

    Example:
        >>> color_palette(3).shape
        (3, 3)
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
    return _spread_colors(num_classes).copy()


def vocabulary_palette(vocabulary: Vocabulary) -> UInt8:
    """Take the colours of a vocabulary, or choose them where it has none.

    Args:
        vocabulary: K classes.

    Returns:
        uint8 (K, 3), RGB.
    """
    if vocabulary.palette:
        return np.array(vocabulary.palette, dtype=np.uint8)
    return color_palette(vocabulary.num_classes)
