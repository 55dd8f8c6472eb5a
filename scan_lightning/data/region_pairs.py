"""Drawing pairs of an image region and a caption from labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from scan_lightning.data.regions import Box, Image, LabelledImage, Region, cut
from scan_lightning.data.sampling import Draw
from scan_lightning.data.transforms import ColourJitter
from scan_lightning.types import IGNORE_INDEX, ClassHierarchy, Vocabulary

PLAIN_CAPTION = "a photo of a {}."
CAPTIONS: tuple[str, ...] = (
    "{}",
    "a {}",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a {size} {}.",
    "This is a photo of a {size} {}.",
    "There is a {size} {} in the scene.",
)
"""Captions of one region; ``{size}`` is small, medium or large, by the region's box in the whole image."""

CONTEXT_CAPTIONS: tuple[str, ...] = ("a {} on {other}", "a {} in front of {other}", "{other} with a {}")
"""Captions of a region together with the category that surrounds it."""

Pair = tuple[Tensor, str]


@dataclass(frozen=True, kw_only=True)
class RegionTextMixture:
    """What share of the pairs is of which kind; the rest are natural crops around one region.

    Args:
        scene_share: Whole images, captioned with what is in them.
        context_share: Of the crops around one region, those captioned together with the surrounding category.
        masked_share: Crops whose background is `MASK_FILL`. SCAN's premise is that CLIP has seen few or none.
        patch_share: Of the natural crops of large regions, those cut from within the region.
        parent_share: Captions that use a more general category's name, where the source has a hierarchy.
        max_margin: Largest margin around a region's box, relative to its side, drawn for each of the four sides.
        colour_jitter: Whether colours are jittered as in SSD. For photographs; never where words name colours.

    Raises:
        ValueError: If a share is outside [0, 1] or ``max_margin`` is negative.
    """

    scene_share: float = 0.15
    context_share: float = 0.2
    masked_share: float = 0.0
    patch_share: float = 0.6
    parent_share: float = 0.1
    max_margin: float = 0.6
    colour_jitter: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("scene_share", "context_share", "masked_share", "patch_share", "parent_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share in [0, 1], got {getattr(self, name)}")
        if self.max_margin < 0:
            raise ValueError(f"max_margin: expected at least 0, got {self.max_margin}")


class RegionTexts(Dataset[Pair]):
    """Random pairs; a pair is a pure function of the images, the seed, the epoch and its number in the epoch.

    Regions are balanced by class: a class is drawn first, then one of its regions.

    Args:
        images: Where the regions come from; at least one region in all.
        vocabulary: Names and synonyms of the labels.
        hierarchy: Parents, for captions by a more general name; None for none.
        mixture: Which kinds of pairs there are.
        image_size: Side S of the regions in pixels.
        per_epoch: Pairs in an epoch.
        seed: Seed of the draws.

    Raises:
        ValueError: If no image has a region.
    """

    def __init__(
        self,
        *,
        images: Sequence[LabelledImage],
        vocabulary: Vocabulary,
        hierarchy: ClassHierarchy | None,
        mixture: RegionTextMixture,
        image_size: int,
        per_epoch: int,
        seed: int,
    ) -> None:
        self.images = images
        self.vocabulary = vocabulary
        self.parents = dict(hierarchy.parents) if hierarchy is not None else {}
        self.mixture = mixture
        self.image_size = image_size
        self.per_epoch = per_epoch
        self.seed = seed
        self._by_label: dict[int, list[tuple[int, Region]]] = {}
        for number, image in enumerate(images):
            for region in image.regions:
                self._by_label.setdefault(region.label, []).append((number, region))
        if not self._by_label:
            raise ValueError("images: expected at least one region, got none")
        self._labels = sorted(self._by_label)
        self._jitter = ColourJitter() if mixture.colour_jitter else None

    def __len__(self) -> int:
        """Count the pairs of an epoch."""
        return self.per_epoch

    def __getitem__(self, key: Draw | int) -> Pair:
        """Draw a pair, uint8 (3, S, S) and its caption; a bare number stands for the first epoch."""
        epoch, number = (0, key) if isinstance(key, int) else key
        rng = np.random.default_rng([self.seed, epoch, number])
        if rng.random() < self.mixture.scene_share:
            image = self.images[int(rng.integers(len(self.images)))]
            height, width = image.image.shape[:2]
            pixels, text = cut(image.image, (0, 0, height, width), size=self.image_size), self._list_caption(rng, image)
            pixels = self._colours(rng, pixels)
        else:
            entries = self._by_label[self._labels[rng.integers(len(self._labels))]]
            index, region = entries[rng.integers(len(entries))]
            pixels, text = self._region_pair(rng, self.images[index].image, region)
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), text

    def _region_pair(self, rng: Generator, image: Image, region: Region) -> tuple[Image, str]:
        """Cut one region out, masked, from within or with surroundings, and caption it."""
        text = self._caption(rng, region, image)
        if rng.random() < self.mixture.masked_share:
            top, left, bottom, right = region.box
            piece = self._colours(
                rng, image[top:bottom, left:right]
            )  # before masking, so that the fill stays what it is
            return cut(piece, (0, 0, *region.mask.shape), size=self.image_size, mask=region.mask), text
        if _is_large(region, image) and rng.random() < self.mixture.patch_share:
            return self._colours(rng, cut(image, _patch(rng, region), size=self.image_size)), text
        box = _with_margin(rng, region.box, image, self.mixture.max_margin)
        if region.around != IGNORE_INDEX and rng.random() < self.mixture.context_share:
            template = CONTEXT_CAPTIONS[rng.integers(len(CONTEXT_CAPTIONS))]
            text = template.format(self._word(rng, region.label), other=self._word(rng, region.around))
        return self._colours(rng, cut(image, box, size=self.image_size)), text

    def _colours(self, rng: Generator, pixels: Image) -> Image:
        """Jitter colours, where the mixture says so."""
        return pixels if self._jitter is None else self._jitter(np.ascontiguousarray(pixels), rng)

    def _caption(self, rng: Generator, region: Region, image: Image) -> str:
        """Caption a region by its own word, half of the time in the plain form."""
        template = PLAIN_CAPTION if rng.random() < 0.5 else CAPTIONS[rng.integers(len(CAPTIONS))]
        top, left, bottom, right = region.box
        share = max((bottom - top) / image.shape[0], (right - left) / image.shape[1])
        size = "small" if share < 0.25 else "medium" if share < 0.5 else "large"
        return template.format(self._word(rng, region.label), size=size)

    def _word(self, rng: Generator, label: int) -> str:
        """Draw a name of a class: half of the time its first, else any synonym, now and then a parent's name."""
        parents = self.parents.get(label, ())
        if parents and rng.random() < self.mixture.parent_share:
            return self.vocabulary.names[parents[rng.integers(len(parents))]]
        words = self.vocabulary.synonyms[label]
        return self.vocabulary.names[label] if rng.random() < 0.5 else words[rng.integers(len(words))]

    def _list_caption(self, rng: Generator, image: LabelledImage) -> str:
        """List what an image holds, in random order, "a scene with sky, red star and grass" for instance."""
        labels = rng.permutation(sorted({region.label for region in image.regions}))
        words = [self._word(rng, int(label)) for label in labels]
        if len(words) < 2:
            return PLAIN_CAPTION.format("".join(words) or "scene")
        return f"a scene with {', '.join(words[:-1])} and {words[-1]}"


def _is_large(region: Region, image: Image) -> bool:
    """Tell whether a region's box is at least half as high or as wide as the image."""
    height, width = region.mask.shape
    return bool(2 * height >= image.shape[0] or 2 * width >= image.shape[1])


def _with_margin(rng: Generator, box: Box, image: Image, max_margin: float) -> Box:
    """Enlarge a box by four random margins, within the image."""
    top, left, bottom, right = box
    margins = rng.uniform(0, rng.uniform(0, max_margin), size=4) * np.array([bottom - top, right - left] * 2)
    up, before, down, after = (round(margin) for margin in margins)
    return (
        max(0, top - up),
        max(0, left - before),
        min(image.shape[0], bottom + down),
        min(image.shape[1], right + after),
    )


def _patch(rng: Generator, region: Region) -> Box:
    """Draw a box inside a region's box that the region fills to three quarters, the fullest of a few if none does."""
    top, left, _, _ = region.box
    height, width = region.mask.shape
    best, best_share = region.box, 0.0
    for _ in range(8):
        rows, columns = (max(1, round(side * rng.uniform(0.25, 0.8))) for side in (height, width))
        row, column = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        share = float(region.mask[row : row + rows, column : column + columns].mean())
        if share > best_share:
            best, best_share = (top + row, left + column, top + row + rows, left + column + columns), share
        if share >= 0.75:
            break
    return best


class RegionCrops(Dataset[Pair]):
    """Every region once in its tight box, with its class name: what zero-shot accuracy is measured on.

    Args:
        images: Where the regions come from.
        vocabulary: Names of the labels.
        image_size: Side S of the crops in pixels.
        masked: Whether the background is filled with CLIP's mean colour.
    """

    def __init__(
        self, *, images: Sequence[LabelledImage], vocabulary: Vocabulary, image_size: int, masked: bool
    ) -> None:
        self.vocabulary = vocabulary
        self.image_size = image_size
        self.masked = masked
        self._entries = [(image.image, region) for image in images for region in image.regions]

    def __len__(self) -> int:
        """Return the number of regions."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Pair:
        """Return a region, uint8 (3, S, S), and its class name."""
        image, region = self._entries[index]
        pixels = cut(image, region.box, size=self.image_size, mask=region.mask if self.masked else None)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), self.vocabulary.names[region.label]
