"""Resizing and augmentation of images together with their label maps."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scan_lightning.types import IGNORE_INDEX

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for a newer version otherwise
import albumentations as A

PADDING_GREY = 128
"""Value of image pixels that the training crop adds (spec of the released training, Mask2Former's)."""


def resized_shape(height: int, width: int, *, shortest: int, longest: int) -> tuple[int, int]:
    """Find the size of an image whose shortest side becomes ``shortest`` and whose longest stays within ``longest``.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        shortest: Wanted length of the shorter side.
        longest: Bound of the longer side; where it is reached, the shorter side becomes less than ``shortest``.

    Returns:
        (H, W), rounded half up, at least 1.

    Example:
        >>> resized_shape(480, 640, shortest=320, longest=2560)
        (320, 427)
        >>> resized_shape(100, 1000, shortest=640, longest=2560)
        (256, 2560)
    """
    scale = min(shortest / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


class _ScaleSaturation(A.ImageOnlyTransform):  # type: ignore[misc]
    """Multiply the saturation in HSV by a factor; albumentations itself only shifts it."""

    def __init__(self, *, limit: float, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.limit = limit

    def get_params(self) -> dict[str, float]:
        """Draw the factor."""
        return {"factor": self.py_random.uniform(1 - self.limit, 1 + self.limit)}

    def apply(self, img: NDArray[np.uint8], factor: float, **params: Any) -> NDArray[np.uint8]:
        """Scale the S channel of an RGB image, clipped at 255."""
        values = np.arange(256)
        table = np.stack([values, np.clip(values * factor, 0, 255), values], axis=1).astype(np.uint8)
        hsv = cv2.LUT(cv2.cvtColor(img, cv2.COLOR_RGB2HSV), table[:, None])
        return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.uint8)


def ssd_colour_jitter() -> A.BaseCompose:
    """Make the colour jitter of SSD (Liu et al., ECCV 2016): each step with probability 0.5.

    Brightness +-32 comes first. Then, with equal chance, contrast x 0.5 to 1.5 before saturation x 0.5 to 1.5 and hue
    +-18 degrees of OpenCV's 180, or after both.

    Returns:
        An albumentations transform of uint8 RGB images.
    """

    def contrast() -> A.BasicTransform:
        return A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.5, p=0.5)

    def colour() -> list[A.BasicTransform]:
        return [
            _ScaleSaturation(limit=0.5),
            A.HueSaturationValue(hue_shift_limit=18, sat_shift_limit=0, val_shift_limit=0, p=0.5),
        ]

    return A.Sequential(
        [
            A.RandomBrightnessContrast(brightness_limit=32 / 255, contrast_limit=0, p=0.5),
            A.OneOrOther(
                first=A.Sequential([contrast(), *colour()], p=1),
                second=A.Sequential([*colour(), contrast()], p=1),
                p=0.5,
            ),
        ],
        p=1,
    )


class ColourJitter:
    """The colour jitter of SSD on its own, a function of the generator it is given."""

    def __init__(self) -> None:
        self._pipeline = A.Compose([ssd_colour_jitter()])

    def __call__(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Jitter an image's colours.

        Args:
            image: uint8 (H, W, 3), RGB.
            rng: Source of the draws.

        Returns:
            uint8 (H, W, 3).
        """
        self._pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))  # noqa: S311
        return np.asarray(self._pipeline(image=image)["image"], dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class TrainingTransform:
    """Augment an image and its label map for training (Mask2Former's recipe, which SCAN follows).

    The shortest side is resized to a drawn length, a window of at most ``crop_size`` is cut at a drawn place, colours
    are jittered, the window is mirrored in half of the cases, and padded on the right and bottom.

    Args:
        shortest_sides: Lengths to draw from.
        longest_side: Bound of the longer side after resizing.
        crop_size: Side of the square that comes out.
        colour_jitter: Whether to jitter colours.
        flip: Whether to mirror.

    Raises:
        ValueError: If ``shortest_sides`` is empty or a length is not positive.
    """

    shortest_sides: tuple[int, ...] = tuple(range(320, 1281, 64))
    longest_side: int = 2560
    crop_size: int = 640
    colour_jitter: bool = True
    flip: bool = True
    _pipeline: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the lengths and build the albumentations pipeline."""
        if not self.shortest_sides or min(*self.shortest_sides, self.longest_side, self.crop_size) < 1:
            raise ValueError(
                f"expected positive lengths, got shortest_sides={self.shortest_sides}, "
                f"longest_side={self.longest_side}, crop_size={self.crop_size}"
            )
        steps = [ssd_colour_jitter()] if self.colour_jitter else []
        steps += [A.HorizontalFlip(p=0.5)] if self.flip else []
        padding = A.PadIfNeeded(
            self.crop_size, self.crop_size, position="top_left", fill=PADDING_GREY, fill_mask=IGNORE_INDEX
        )
        object.__setattr__(self, "_pipeline", A.Compose([*steps, padding]))

    def __call__(
        self, image: NDArray[np.uint8], label_map: NDArray[np.integer[Any]], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Draw one augmentation. Every draw comes from ``rng``, so equal generators give equal results.

        Args:
            image: uint8 (H, W, 3), RGB.
            label_map: (H, W), labels or IGNORE_INDEX.
            rng: Source of the draws; seed it by (seed, epoch, index).

        Returns:
            Image uint8 (S, S, 3) and label map int64 (S, S), S being ``crop_size``.

        Raises:
            ValueError: If the label map's size is not the image's.
        """
        if image.shape[:2] != label_map.shape:
            raise ValueError(f"label_map: expected the image's size {image.shape[:2]}, got {label_map.shape}")
        image, labels = self._resize_and_crop(image, label_map, rng)
        # one shared state: set_random_seed would give every step the same seed, and so the same draws
        self._pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))  # noqa: S311
        result = self._pipeline(image=image, mask=labels)
        return result["image"], result["mask"].astype(np.int64)

    def _resize_and_crop(
        self, image: NDArray[np.uint8], label_map: NDArray[np.integer[Any]], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Draw scale and window, and compute only the window of the resized image."""
        height, width = image.shape[:2]
        shortest = int(rng.choice(self.shortest_sides))
        new_height, new_width = resized_shape(height, width, shortest=shortest, longest=self.longest_side)
        crop_height, crop_width = min(new_height, self.crop_size), min(new_width, self.crop_size)
        top = int(rng.integers(new_height - crop_height + 1))
        left = int(rng.integers(new_width - crop_width + 1))
        step_y, step_x = height / new_height, width / new_width
        box = (
            left * step_x,
            top * step_y,
            min((left + crop_width) * step_x, width),
            min((top + crop_height) * step_y, height),
        )
        cut = Image.fromarray(image).resize((crop_width, crop_height), Image.Resampling.BILINEAR, box=box)
        rows, columns = nearest_indices(box[1], box[3], crop_height), nearest_indices(box[0], box[2], crop_width)
        return np.array(cut), label_map[rows].take(columns, axis=1).astype(np.int32)


def nearest_indices(start: float, end: float, target: int) -> NDArray[np.intp]:
    """Tell which pixels a nearest-neighbour resize takes along one axis: those of Pillow's ``resize(box=...)``.

    Args:
        start: First edge of the part that is resized, in pixels.
        end: Its other edge.
        target: Length after resizing.

    Returns:
        Indices (target,), ascending, in [start, end).

    Example:
        >>> nearest_indices(1.0, 4.0, 6)
        array([1, 1, 2, 2, 3, 3])
    """
    first, last = np.float32(start), np.float32(end)  # the precision in which Pillow keeps a box
    step = float(last - first) / target
    positions = np.full(target, step)
    positions[0] = float(first) + step * 0.5
    return np.add.accumulate(positions).astype(np.intp)  # one after the other, as Pillow adds


@dataclass(frozen=True, kw_only=True)
class EvaluationTransform:
    """Resize an image for evaluation; the truth stays as it is.

    Resizing is bilinear with antialiasing (Pillow), as in the evaluation of the released implementation.

    Args:
        min_size: Length of the shortest side; None leaves images as they are.
        max_size: Bound of the longest side.

    Raises:
        ValueError: If a length is not positive.
    """

    min_size: int | None = 640
    max_size: int = 2560

    def __post_init__(self) -> None:
        """Check the lengths."""
        if (self.min_size is not None and self.min_size < 1) or self.max_size < 1:
            raise ValueError(f"expected positive lengths, got min_size={self.min_size}, max_size={self.max_size}")

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize one image.

        Args:
            image: uint8 (H, W, 3), RGB.

        Returns:
            uint8 (H', W', 3).
        """
        if self.min_size is None:
            return image
        height, width = resized_shape(*image.shape[:2], shortest=self.min_size, longest=self.max_size)
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
