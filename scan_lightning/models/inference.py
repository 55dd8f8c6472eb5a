"""Settings of a test, the two ensembles, and the semantic map at the original size (spec section 4).

Test-time settings are never hyperparameters: no checkpoint stores them, so what a test is given is in force.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.contextual_shift import SUBSTITUTION_SOURCES, SubstitutionSource
from scan_lightning.models.preprocessing import SIZE_DIVISIBILITY

SMALLEST_WINDOW = SIZE_DIVISIBILITY
"""Least side of a sliding window: a smaller one would be padded to this anyway."""


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How trained weights are tested; the defaults are those of the released ViT-B/16 configuration.

    Args:
        mask_threshold: A proposal is classified by CLIP if its mask probability exceeds this somewhere, in [0, 1].
        ensemble_weight: Share of CLIP's opinion in the ensemble, in [0, 1]; at 0 no region is classified.
        log_ensemble: The variant for ADE-847 and PC-459, see `log_ensemble`.
        replace_ratio: Share of background tokens that Contextual Shift overwrites, in [0, 1].
        replace_layers: Blocks of CLIP's visual tower after which it does so, from 1.
        source: What overwrites them; "none" classifies plain masked crops (the row without CS).
        mask_expand: Factor by which a region's box grows, at least 1.
        seed: Seed of Contextual Shift's draws.
        region_batch: Regions that CLIP encodes at once.
        clip_bfloat16: Whether CLIP encodes regions in bfloat16.
        scales: Factors of the image's size, distinct and positive; every scale is looked at, their maps averaged.
        flip: Whether every scale is looked at mirrored as well.
        window: Side of the square windows that slide over each scaled image, in pixels of the network's input, at
            least 32; each is segmented as an image of its own. None looks at the image as a whole.
        stride: Step from one window to the next, in [1, ``window``]; None takes two thirds of the window.

    Raises:
        ValueError: If a number is out of its range, the source is unknown, or ``stride`` comes without ``window``.
    """

    mask_threshold: float = 0.4
    ensemble_weight: float = 0.7
    log_ensemble: bool = False
    replace_ratio: float = 0.15
    replace_layers: tuple[int, ...] = (1, 3, 5)
    source: SubstitutionSource = "image_cls"
    mask_expand: float = 1.0
    seed: int = 0
    region_batch: int = 64
    clip_bfloat16: bool = False
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        """Check every range."""
        for name in ("mask_threshold", "ensemble_weight", "replace_ratio"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected in [0, 1], got {value}")
        if self.source not in SUBSTITUTION_SOURCES:
            raise ValueError(f"source: expected one of {', '.join(SUBSTITUTION_SOURCES)}, got {self.source!r}")
        if self.mask_expand < 1:
            raise ValueError(f"mask_expand: expected at least 1, got {self.mask_expand}")
        if self.region_batch < 1:
            raise ValueError(f"region_batch: expected at least 1, got {self.region_batch}")
        self._check_views()

    def _check_views(self) -> None:
        """Check what says how often and how an image is looked at."""
        distinct = len(set(self.scales)) == len(self.scales) > 0
        if not distinct or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"scales: expected distinct positive factors, at least one, got {list(self.scales)}")
        if self.window is not None and self.window < SMALLEST_WINDOW:
            raise ValueError(f"window: expected at least {SMALLEST_WINDOW} pixels, got {self.window}")
        if self.stride is None:
            return
        if self.window is None:
            raise ValueError(f"stride: expected a window with it, got {self.stride} alone")
        if not 1 <= self.stride <= self.window:
            raise ValueError(f"stride: expected in 1..{self.window}, the window's side, got {self.stride}")

    @property
    def shifts(self) -> bool:
        """Whether Contextual Shift overwrites anything."""
        return self.source != "none" and self.replace_ratio > 0 and bool(self.replace_layers)


def blend(in_vocab: Tensor, out_vocab: Tensor, *, weight: float) -> Tensor:
    """Blend two classifiers of the same masks by a weighted geometric mean (spec section 4).

    Args:
        in_vocab: Probabilities from the segmenter, (B, Q, K), rows sum to at most 1 (no-object dropped).
        out_vocab: Probabilities from CLIP, same shape; 1 for proposals without a valid mask.
        weight: Share of ``out_vocab``, in [0, 1]; 0 gives ``in_vocab``.

    Returns:
        float (B, Q, K), scores in [0, 1], not normalised over classes.

    Raises:
        ValueError: If ``weight`` is outside [0, 1] or the shapes differ.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight: expected in [0, 1], got {weight}")
    if in_vocab.shape != out_vocab.shape:
        raise ValueError(f"shapes differ: {tuple(in_vocab.shape)} and {tuple(out_vocab.shape)}")
    return in_vocab ** (1 - weight) * out_vocab**weight


def log_ensemble(scores: Tensor, void: Tensor) -> Tensor:
    """Turn blended scores into probabilities for large vocabularies (ADE-847, PC-459; spec section 4).

    Args:
        scores: float (B, Q, K) from `blend`.
        void: float (B, Q, 1), the segmenter's probability of no object.

    Returns:
        float (B, Q, K): the scores normalised over classes, times 1 - void, with 1e-8 against logarithms of 0 and
        normalised together with void, as the released code does.
    """
    # Where every class underflows to 0, logarithms of 0 would give NaN and spoil the sum over proposals.
    normalised = torch.log(scores.clamp(min=torch.finfo(scores.dtype).tiny)).softmax(-1)
    joined = torch.cat([normalised * (1 - void), void], dim=-1)
    return torch.log(joined + 1e-8).softmax(-1)[..., :-1]


def class_scores(logits: Tensor, out_vocab: Tensor, settings: InferenceSettings) -> Tensor:
    """Combine the segmenter's and CLIP's classification of proposals.

    Args:
        logits: float (B, Q, K + 1), the segmenter's, no-object last.
        out_vocab: float (B, Q, K), CLIP's probabilities.
        settings: Weight and variant.

    Returns:
        float (B, Q, K).
    """
    probabilities = logits.softmax(-1)
    scores = blend(probabilities[..., :-1], out_vocab, weight=settings.ensemble_weight)
    return log_ensemble(scores, probabilities[..., -1:]) if settings.log_ensemble else scores


def upsample_masks(mask_logits: Tensor, *, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Bring mask logits to the size of the network's input and drop the padding.

    Args:
        mask_logits: float (Q, h, w).
        padded: Size of the padded input, (H', W').
        size: Valid size, (H, W).

    Returns:
        float (Q, H, W), probabilities.
    """
    upsampled = F.interpolate(mask_logits[None].float(), size=padded, mode="bilinear", align_corners=False)[0]
    return upsampled[:, : size[0], : size[1]].sigmoid()


def semantic_scores(scores: Tensor, masks: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Sum proposals into a score for every class and pixel.

    Args:
        scores: float (Q, K).
        masks: float (Q, H, W), probabilities.
        size: Output size (H0, W0); another size than (H, W) is reached bilinearly.

    Returns:
        float (K, H0, W0).
    """
    rows = [torch.einsum("qk,qhw->khw", scores, part) for part in _resized_rows(masks, size, size[0])]
    return torch.cat(rows, dim=1)


def semantic_labels(scores: Tensor, masks: Tensor, *, size: tuple[int, int], tile_elements: int = 16_000_000) -> Tensor:
    """Choose the best class of every pixel, in tiles of rows so that memory does not grow with K x H x W.

    Args:
        scores: float (Q, K).
        masks: float (Q, H, W), probabilities.
        size: Output size (H0, W0).
        tile_elements: Largest number of floats of a tile's class scores.

    Returns:
        int64 (H0, W0), labels in [0, K).
    """
    rows = max(1, tile_elements // (max(scores.shape[1], scores.shape[0]) * size[1]))
    return torch.cat([torch.einsum("qk,qhw->khw", scores, part).argmax(0) for part in _resized_rows(masks, size, rows)])


def _resized_rows(masks: Tensor, size: tuple[int, int], rows: int) -> Iterator[Tensor]:
    """Yield (Q, rows, W0) pieces of the masks resized bilinearly to ``size``.

    Resizing the masks before the sum over proposals gives the same as resizing the sum, since both are linear.
    """
    if tuple(masks.shape[1:]) == tuple(size):
        yield from torch.split(masks, rows, dim=1)
        return
    upper, lower, fraction = linear_taps(masks.shape[1], size[0], masks.device)
    left, right, across = linear_taps(masks.shape[2], size[1], masks.device)
    for start in range(0, size[0], rows):
        part = slice(start, start + rows)
        weight = fraction[part][:, None]
        lines = masks[:, upper[part]] * (1 - weight) + masks[:, lower[part]] * weight
        yield take_columns(lines, left) * (1 - across) + take_columns(lines, right) * across


def take_columns(lines: Tensor, index: Tensor) -> Tensor:
    """Give ``lines[..., index]``, which on the CPU takes many times as long when written so.

    Args:
        lines: (Q, H, W).
        index: int64 (T,), in [0, W).

    Returns:
        (Q, H, T).
    """
    return lines.gather(2, index.expand(*lines.shape[:2], -1))


def linear_taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tell where bilinear resampling along one axis reads (``interpolate`` with ``align_corners=False``).

    Args:
        source: Length before.
        target: Length after.
        device: Of the result.

    Returns:
        Lower index int64 (T,), upper index int64 (T,), and the share of the upper one, float (T,) in [0, 1).
    """
    position = ((torch.arange(target, device=device) + 0.5) * (source / target) - 0.5).clamp(min=0)
    index = position.floor().long()
    return index, (index + 1).clamp(max=source - 1), position - index
