"""Masks as run lengths, the way COCO writes uncompressed ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def encode_mask(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Write a mask as the lengths of its runs.

    Args:
        mask: bool (H, W).

    Returns:
        uint32 (runs,): column by column, as in COCO's "counts", the first run being one of pixels outside the mask; it
        may be 0.

    Example:
        >>> encode_mask(np.array([[False, True], [True, True]])).tolist()
        [1, 3]
    """
    pixels = mask.T.ravel()
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    bounds = np.concatenate([[0], edges, [pixels.size]])
    counts = np.diff(bounds).astype(np.uint32)
    return np.concatenate([[np.uint32(0)], counts]) if pixels.size and pixels[0] else counts


def decode_mask(counts: NDArray[np.integer] | Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Turn run lengths back into a mask.

    Args:
        counts: As `encode_mask` gives them.
        size: (H, W).

    Returns:
        bool (H, W).

    Raises:
        ValueError: If the runs do not fill the size.
    """
    runs = np.asarray(counts, dtype=np.int64)
    total = int(runs.sum())
    if total != size[0] * size[1] or (len(runs) and runs.min() < 0):
        raise ValueError(f"counts: expected runs of {size[0] * size[1]} pixels for {size[0]} x {size[1]}, got {total}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size[1], size[0]).T
