"""Label the images of a batch: run the network on every view, classify the regions, make the maps (spec section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.augmentation import View, ViewOutput, merged_labels, plan_views
from scan_lightning.models.inference import InferenceSettings, class_scores, semantic_labels, upsample_masks
from scan_lightning.models.preprocessing import padded_size
from scan_lightning.models.text import TextFeatures

if TYPE_CHECKING:
    from scan_lightning.models.scan import Scan, ScanOutput


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A view of an image of the batch with its own name; ``alone`` if it is the image itself and the only view."""

    image: int
    number: int
    name: str
    view: View
    alone: bool


def predict_labels(
    scan: Scan,
    images: Tensor,
    *,
    sizes: Sequence[tuple[int, int]],
    original_sizes: Sequence[tuple[int, int]],
    image_ids: Sequence[str],
    text: TextFeatures,
    settings: InferenceSettings,
) -> list[Tensor]:
    """Label every pixel of a batch; `Scan.predict` checks the arguments.

    The network sees no more views at once than the batch has images.

    Args:
        scan: The network, in evaluation mode.
        images: (B, 3, H, W), RGB 0 to 255.
        sizes: Valid (H_i, W_i) of each image.
        original_sizes: Wanted (H0, W0) of each label map.
        image_ids: Names, from which Contextual Shift draws; a view that is not the image itself has a name of its own.
        text: Features of the vocabulary.
        settings: Test-time settings.

    Returns:
        Label maps int64 (H0, W0), in the order of the images.

    Raises:
        ValueError: If a size does not fit into ``images``.
    """
    for size in sizes:
        if min(size) < 1 or size[0] > images.shape[2] or size[1] > images.shape[3]:
            raise ValueError(f"sizes: expected within 1 x 1 and {tuple(images.shape[2:])}, got {list(sizes)}")
    valid = [image[:, :height, :width] for image, (height, width) in zip(images, sizes, strict=True)]
    labels: dict[int, Tensor] = {}
    found: list[dict[int, ViewOutput]] = [{} for _ in sizes]
    for looks in _groups(sizes, image_ids, settings):
        pixels = [look.view.cut(valid[look.image]) for look in looks]
        output = scan(_stack(pixels), [look.view.size for look in looks], text)
        with torch.autocast(images.device.type, enabled=False):
            for position, look in enumerate(looks):
                masks, seen = _classify(scan, output, position, pixels[position], look, text, settings)
                if look.alone:
                    labels[look.image] = semantic_labels(seen.scores, masks, size=original_sizes[look.image])
                else:
                    found[look.image][look.number] = seen
    with torch.autocast(images.device.type, enabled=False):
        for image, outputs in enumerate(found):
            if outputs:  # in the order of the views, so that sums do not depend on the batch
                ordered = [outputs[number] for number in sorted(outputs)]
                labels[image] = merged_labels(ordered, size=original_sizes[image])
    return [labels[image] for image in range(len(sizes))]


def _groups(
    sizes: Sequence[tuple[int, int]], image_ids: Sequence[str], settings: InferenceSettings
) -> Iterator[list[_Look]]:
    """Put the views that are padded to the same size together, at most as many as there are images."""
    groups: dict[tuple[int, int], list[_Look]] = {}
    for image, (size, name) in enumerate(zip(sizes, image_ids, strict=True)):
        views = plan_views(size, settings)
        for number, view in enumerate(views):
            alone = len(views) == 1 and not view.suffix
            look = _Look(image=image, number=number, name=name + view.suffix, view=view, alone=alone)
            groups.setdefault(padded_size(view.size), []).append(look)
    for looks in groups.values():
        for start in range(0, len(looks), len(sizes)):
            yield looks[start : start + len(sizes)]


def _classify(
    scan: Scan,
    output: ScanOutput,
    position: int,
    pixels: Tensor,
    look: _Look,
    text: TextFeatures,
    settings: InferenceSettings,
) -> tuple[Tensor, ViewOutput]:
    """Classify the proposals of the view at a position of the network's output; also gives their masks (Q, H, W)."""
    logits = output.mask_logits[-1][position]
    masks = upsample_masks(logits, padded=output.padded, size=look.view.size)
    tokens = [layer[position] for layer in output.image_tokens]
    regions = scan.classify_regions(pixels, masks, tokens, image_id=look.name, text=text, settings=settings)
    scores = class_scores(output.class_logits[-1][position], regions, settings)
    return masks, ViewOutput(view=look.view, scores=scores, mask_logits=logits, padded=output.padded)


def _stack(pixels: Sequence[Tensor]) -> Tensor:
    """Pad images (3, H_i, W_i) on the right and bottom to one size: (B, 3, H, W)."""
    height, width = (max(image.shape[axis] for image in pixels) for axis in (1, 2))
    return torch.stack([F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in pixels])
