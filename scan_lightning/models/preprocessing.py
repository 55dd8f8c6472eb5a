"""Normalisation and padding of image batches, shared by the encoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SIZE_DIVISIBILITY = 32
"""Images are padded on the right and bottom to a multiple of this many pixels (paper's SIZE_DIVISIBILITY)."""


def normalize_and_pad(
    images: Tensor, sizes: Sequence[tuple[int, int]], *, mean: Tensor, std: Tensor, divisor: int = SIZE_DIVISIBILITY
) -> Tensor:
    """Normalise images and put zeros, the mean colour, wherever there is no image.

    Args:
        images: (B, 3, H, W), RGB 0 to 255, any dtype; what lies outside ``sizes`` is ignored.
        sizes: Valid (H_i, W_i) of each image.
        mean: (3, 1, 1), in 0 to 255.
        std: (3, 1, 1), in 0 to 255.
        divisor: H and W of the result are the smallest multiples of it that hold the largest valid size.

    Returns:
        float32 (B, 3, H', W').

    Raises:
        ValueError: If ``images`` is not (B, 3, H, W) or a size does not fit into it.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] != len(sizes):
        raise ValueError(f"images: expected ({len(sizes)}, 3, H, W), got {tuple(images.shape)}")
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    if height > images.shape[2] or width > images.shape[3] or min(min(size) for size in sizes) < 1:
        raise ValueError(f"sizes: expected within 1 x 1 and {tuple(images.shape[2:])}, got {list(sizes)}")
    pixels = (images[:, :, :height, :width].float() - mean) / std
    for index, (valid_height, valid_width) in enumerate(sizes):
        pixels[index, :, valid_height:] = 0.0
        pixels[index, :, :, valid_width:] = 0.0
    return F.pad(pixels, (0, -width % divisor, 0, -height % divisor))


def padded_size(size: tuple[int, int], divisor: int = SIZE_DIVISIBILITY) -> tuple[int, int]:
    """Give the size after padding.

    Args:
        size: (H, W) in pixels.
        divisor: Both sides become multiples of it.

    Returns:
        (H', W').

    Example:
        >>> padded_size((86, 118))
        (96, 128)
    """
    return size[0] + -size[0] % divisor, size[1] + -size[1] % divisor


def nearest_resize(images: Tensor, side: int) -> Tensor:
    """Resize to a square by nearest neighbour without regard to the aspect ratio, as the released SCAN feeds CLIP.

    Args:
        images: float (B, 3, H, W).
        side: Target side in pixels.

    Returns:
        float (B, 3, side, side); source index = floor(target index * scale).
    """
    return F.interpolate(images, size=(side, side), mode="nearest")


def bicubic_resize(images: Tensor, side: int) -> Tensor:
    """Resize to a square bicubically with antialiasing, the way CLIP was trained; a variant of the whole-image input.

    Args:
        images: float (B, 3, H, W).
        side: Target side in pixels.

    Returns:
        float (B, 3, side, side).
    """
    return torch.nn.functional.interpolate(
        images, size=(side, side), mode="bicubic", antialias=True, align_corners=False
    )
