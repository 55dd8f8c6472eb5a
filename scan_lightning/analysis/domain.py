"""Domain bias: what masking does to CLIP, and how much of it Contextual Shift undoes.

SCAN's second claim (CVPR 2024, section 1): masked crops are unlike anything CLIP was trained on. Measured on true
regions, so that no segmenter is in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scan_lightning.analysis.regions import ImageRegions, RegionCutter
from scan_lightning.analysis.truth import images_with_truth
from scan_lightning.models.clip import FrozenClip, TokenEdit, run_visual
from scan_lightning.models.shifted_encoding import ShiftConfig
from scan_lightning.models.text import TextFeatures
from scan_lightning.types import Batch

BACKGROUND_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Bins of the background's share of a box, lower ends included."""
EVERYTHING = "all"


@dataclass(frozen=True, kw_only=True)
class RegionScores:
    """How the regions fared under one condition, M of them.

    Attributes:
        condition: "box", the tight box with its surroundings; "masked", the masked crop; "shifted", the masked crop
            under Contextual Shift.
        shift: The Contextual Shift, or None.
        labels: int64 (M,), the truth.
        predictions: int64 (M,), the nearest class of the vocabulary.
        background: float (M,), the share of the box outside the mask, in [0, 1).
        layer_drift: float (M, L), 1 - cosine between the [CLS] token after each block and that of the region's box.
        drift: float (M,), the same for the projected [CLS], which is compared with the text.
    """

    condition: str
    shift: ShiftConfig | None
    labels: Tensor
    predictions: Tensor
    background: Tensor
    layer_drift: Tensor
    drift: Tensor


@dataclass(frozen=True, kw_only=True)
class BinScore:
    """A group of regions under one condition.

    Attributes:
        classes: "all", "seen", "unseen" or the name of another group of classes.
        background: "all", or the bin of the background's share such as "0.2-0.4".
        regions: Their number.
        accuracy: Share of them whose nearest class is right, NaN of none.
        mean_accuracy: The same averaged over the classes that occur.
        drift: Mean of `RegionScores.drift`.
    """

    classes: str
    background: str
    regions: int
    accuracy: float
    mean_accuracy: float
    drift: float


def cut_batches(clip: FrozenClip, batches: Iterable[Batch], cutter: RegionCutter) -> Iterator[ImageRegions]:
    """Cut the true regions out of the images of a split, at the size that the network sees.

    Args:
        clip: CLIP.
        batches: Of an evaluation loader, with label maps.
        cutter: How.

    Yields:
        The regions of each image that has any.

    Raises:
        ValueError: If an image has no label map.
    """
    for batch in batches:
        for index, image, labels in images_with_truth(batch):
            device = clip.mean.device
            found = cutter.cut(clip, image.to(device), labels.to(device), image_id=batch.image_ids[index])
            if found is not None:
                yield found


@torch.no_grad()
def measure_domain(
    clip: FrozenClip,
    images: Iterable[ImageRegions],
    *,
    text: TextFeatures,
    shifts: Sequence[ShiftConfig],
    region_batch: int = 64,
) -> list[RegionScores]:
    """Classify true regions by CLIP in their boxes, masked, and masked under Contextual Shift.

    Everything runs through the tower that classifies regions, a tuned one where CLIP has one; only the tokens that
    overwrite come from the original tower.

    Args:
        clip: CLIP.
        images: From `cut_batches`.
        text: Features of K classes, all of which are candidates.
        shifts: Each gives a condition "shifted".
        region_batch: Regions that CLIP encodes at once.

    Returns:
        The scores: of "box", of "masked", and one for each of ``shifts``.

    Raises:
        ValueError: If no image has a region, or the tower lacks a layer.
    """
    for config in shifts:
        clip.check_layers(config.replace_layers, "replace_layers")
    conditions: list[tuple[str, ShiftConfig | None]] = [("box", None), ("masked", None)]
    conditions += [("shifted", config) for config in shifts]
    parts: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in conditions]
    labels, background = [], []
    for image in images:
        labels.append(image.labels.cpu())
        background.append(image.background.cpu())
        for start in range(0, len(image.labels), region_batch):
            part = slice(start, start + region_batch)
            reference = _encode(clip.region_visual, image.boxes[part])
            for found, (name, shift) in zip(parts, conditions, strict=True):
                seen = reference  # of the boxes themselves
                if name != "box":
                    edit = None if shift is None else image.shift(shift, part)
                    seen = _encode(clip.region_visual, image.crops[part], edit)
                found.append(_compare(seen, reference, text))
    if not labels:
        raise ValueError("images: expected at least one region, got none")
    return [
        RegionScores(
            condition=name,
            shift=shift,
            labels=torch.cat(labels),
            background=torch.cat(background),
            predictions=torch.cat([predictions for predictions, _, _ in found]),
            layer_drift=torch.cat([drift for _, drift, _ in found]),
            drift=torch.cat([drift for _, _, drift in found]),
        )
        for found, (name, shift) in zip(parts, conditions, strict=True)
    ]


def _encode(visual: nn.Module, crops: Tensor, edit: TokenEdit | None = None) -> tuple[Tensor, Tensor]:
    """Encode crops: the projected [CLS] (R, D) and [CLS] after each block (R, L, C), all normalised."""
    pooled, tokens = run_visual(visual, crops, edit=edit, record=True)
    layers = torch.stack([layer[:, 0] for layer in tokens[1:]], dim=1)
    return F.normalize(pooled.float(), dim=-1), F.normalize(layers.float(), dim=-1)


def _compare(
    seen: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor], text: TextFeatures
) -> tuple[Tensor, Tensor, Tensor]:
    """Classify what `_encode` gave, and measure how far it lies from the boxes: by layer and projected."""
    predictions = text.similarities(seen[0]).argmax(-1)
    final, layers = ((1 - (here * there).sum(-1)).clamp(min=0) for here, there in zip(seen, reference, strict=True))
    return predictions.cpu(), layers.cpu(), final.cpu()


def score_by_background(
    scores: RegionScores, seen: Sequence[bool], *, groups: Mapping[str, Sequence[int]] | None = None
) -> list[BinScore]:
    """Average over the regions with equally much background, of all classes and of some.

    Args:
        scores: Of one condition.
        seen: For each class whether the training vocabulary holds it.
        groups: Further groups of classes, labels by name, such as classes that only their surroundings tell apart.

    Returns:
        For all, seen and unseen classes and each of ``groups``: everything, then one entry for each bin of
        `BACKGROUND_EDGES`. Seen and unseen are left out where all classes are seen.

    Raises:
        ValueError: If a group has a name that is taken.
    """
    flags = torch.tensor(list(seen))
    chosen_classes = {EVERYTHING: torch.ones_like(flags)}
    if not all(seen):
        chosen_classes |= {"seen": flags, "unseen": ~flags}
    for name, labels in (groups or {}).items():
        if name in (EVERYTHING, "seen", "unseen"):
            raise ValueError(f"groups: the name {name!r} is taken")
        chosen_classes[name] = torch.isin(torch.arange(len(flags)), torch.tensor(list(labels)))
    bins = {EVERYTHING: torch.ones_like(scores.background, dtype=torch.bool)}
    for low, high in pairwise(BACKGROUND_EDGES):
        bins[f"{low:.1f}-{high:.1f}"] = (scores.background >= low) & (scores.background < high)
    return [
        _score(scores, chosen & group[scores.labels], classes=classes, background=background)
        for classes, group in chosen_classes.items()
        for background, chosen in bins.items()
    ]


def _score(scores: RegionScores, chosen: Tensor, *, classes: str, background: str) -> BinScore:
    """Average over some of the regions, bool (M,)."""
    right = (scores.predictions == scores.labels)[chosen].double()
    _, positions, counts = torch.unique(scores.labels[chosen], return_inverse=True, return_counts=True)
    by_class = torch.zeros(len(counts), dtype=torch.float64).index_add(0, positions, right) / counts
    return BinScore(
        classes=classes,
        background=background,
        regions=len(right),
        accuracy=float(right.mean()),
        mean_accuracy=float(by_class.mean()),
        drift=float(scores.drift[chosen].double().mean()),
    )


def drift_by_layer(scores: RegionScores) -> list[float]:
    """Average the drift of [CLS] over all regions.

    Args:
        scores: Of one condition.

    Returns:
        For each block, from the first on, the mean cosine distance to the box's [CLS], in [0, 2].
    """
    return [float(value) for value in scores.layer_drift.double().mean(0)]
