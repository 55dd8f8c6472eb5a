"""Masked crops, their boxes and their whole images, cut out on the fly from the pairs of an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from scan_lightning.data.images import ImageFileError, read_image_of
from scan_lightning.data.pair_index import MaskText, PairIndex
from scan_lightning.data.regions import MASK_FILL, Image, Mask
from scan_lightning.data.sampling import Draw
from scan_lightning.data.transforms import ColourJitter
from scan_lightning.types import MaskTextBatch

PADDING_MULTIPLE = 32
"""Whole images are padded to a multiple of this many pixels before CLIP sees them, as the network pads them."""


@dataclass(frozen=True, kw_only=True)
class MaskTextSample:
    """One pair, cut out.

    Attributes:
        crop: uint8 (3, S, S), the masked crop.
        region_mask: bool (S, S).
        text: What it shows.
        image: uint8 (3, S, S), the whole image.
        image_id: Its name.
        region: The region's number within it.
        box: uint8 (3, S, S), the crop with its surroundings, or None.
    """

    crop: Tensor
    region_mask: Tensor
    text: str
    image: Tensor
    image_id: str
    region: int
    box: Tensor | None


class MaskTexts(Dataset[MaskTextSample]):
    """The pairs of an index.

    Crops are resized bicubically without antialiasing and masks by nearest neighbour, as the network cuts its proposals
    (spec section 4); the whole image is padded and resized by nearest neighbour as it does (spec section 3).

    Args:
        index: The pairs.
        root: Folder that the paths of the images start at.
        image_size: Side S of crops and whole images in pixels.
        augment: Whether images are flipped, and with ``colour_jitter`` coloured. What is drawn is a function of the
            seed, the epoch and the image, so that all regions of an image share one context.
        colour_jitter: Whether colours are jittered as in SSD. Never where words name colours.
        boxes: Whether samples hold the boxes with their surroundings.
        seed: Seed of the augmentation.
    """

    def __init__(
        self,
        *,
        index: PairIndex,
        root: Path,
        image_size: int,
        augment: bool = False,
        colour_jitter: bool = False,
        boxes: bool = False,
        seed: int = 0,
    ) -> None:
        self.index = index
        self.root = root.resolve()
        self.image_size = image_size
        self.augment = augment
        self.boxes = boxes
        self.seed = seed
        self._jitter = ColourJitter() if augment and colour_jitter else None

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.index)

    def __getitem__(self, key: Draw | int) -> MaskTextSample:
        """Cut a pair out; a bare number stands for the first epoch.

        Raises:
            FileNotFoundError: If the image is missing.
            ImageFileError: If it is damaged, outside the root or of another size than the mask.
        """
        epoch, number = (0, key) if isinstance(key, int) else key
        pair = self.index[number]
        image, mask = self._read(pair), pair.mask
        if self.augment:
            image, mask = self._augmented(image, mask, np.random.default_rng(self._draws(epoch, pair.image_id)))
        return self._cut(pair, image, mask)

    def _draws(self, epoch: int, image_id: str) -> list[int]:
        """Seed of an image's augmentation in an epoch."""
        return [self.seed, epoch, int.from_bytes(blake2b(image_id.encode(), digest_size=8).digest(), "little")]

    def _read(self, pair: MaskText) -> Image:
        """Read the image of a pair, turned as its mask is."""
        path = (self.root / pair.image).resolve()
        if not path.is_relative_to(self.root):
            raise ImageFileError(f"{pair.image}: expected a path inside {self.root}, got one that leads out of it")
        image = read_image_of(path, pair.mask.shape)
        if image.shape[:2] != pair.mask.shape:
            raise ImageFileError(f"{path}: expected {pair.mask.shape} as its mask has, got {image.shape[:2]}")
        return image

    def _augmented(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
        """Flip an image with its mask, and change its colours."""
        if rng.random() < 0.5:
            image, mask = np.ascontiguousarray(image[:, ::-1]), mask[:, ::-1]
        return (image if self._jitter is None else self._jitter(image, rng)), mask

    def _cut(self, pair: MaskText, image: Image, mask: Mask) -> MaskTextSample:
        """Cut a region out of its image."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        pixels, inside = image[window], mask[window]
        filled = np.where(inside[..., None], pixels, np.array(MASK_FILL, dtype=np.uint8))
        return MaskTextSample(
            crop=self._resized(filled),
            region_mask=torch.from_numpy(_nearest(inside, self.image_size)),
            text=pair.text,
            image=torch.from_numpy(whole_image(image, self.image_size).transpose(2, 0, 1).copy()),
            image_id=pair.image_id,
            region=pair.region,
            box=self._resized(pixels) if self.boxes else None,
        )

    def _resized(self, pixels: Image) -> Tensor:
        """Resize bicubically to (3, S, S), without antialiasing."""
        size = (self.image_size, self.image_size)
        resized = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_CUBIC)
        return torch.from_numpy(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1).copy())


def whole_image(image: Image, size: int) -> Image:
    """Bring an image to CLIP's square as the network does: padded, then resized by nearest neighbour.

    Args:
        image: uint8 (H, W, 3).
        size: Side of the result in pixels.

    Returns:
        uint8 (size, size, 3); the padding has CLIP's mean colour.
    """
    height, width = image.shape[:2]
    padding = ((0, -height % PADDING_MULTIPLE), (0, -width % PADDING_MULTIPLE))
    planes = [np.pad(image[..., c], padding, constant_values=fill) for c, fill in enumerate(MASK_FILL)]
    return _nearest(np.stack(planes, axis=-1), size)


def _nearest(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Resize (H, W, ...) to a square by nearest neighbour: source index = floor(target index * scale)."""
    rows, columns = (np.arange(size) * side // size for side in values.shape[:2])
    resized: NDArray[Any] = values[rows[:, None], columns[None, :]]
    return resized


def collate_mask_texts(samples: Sequence[MaskTextSample]) -> MaskTextBatch:
    """Stack pairs, each image once.

    Args:
        samples: Pairs of one size; those of one image share their context.

    Returns:
        The batch, images in the order of their first region.
    """
    first: dict[str, int] = {}
    for index, sample in enumerate(samples):
        first.setdefault(sample.image_id, index)
    numbers = {name: number for number, name in enumerate(first)}
    boxes = [sample.box for sample in samples if sample.box is not None]
    return MaskTextBatch(
        crops=torch.stack([sample.crop for sample in samples]),
        region_masks=torch.stack([sample.region_mask for sample in samples]),
        texts=[sample.text for sample in samples],
        images=torch.stack([samples[index].image for index in first.values()]),
        image_ids=list(first),
        owners=torch.tensor([numbers[sample.image_id] for sample in samples]),
        regions=torch.tensor([sample.region for sample in samples]),
        boxes=torch.stack(boxes) if boxes else None,
    )
