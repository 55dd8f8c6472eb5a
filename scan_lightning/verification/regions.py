"""Regions of an image, their tokens and selections, computed as the network does but step by step."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scan_lightning.models.contextual_shift import (
    cut_regions,
    draw_background_tokens,
    encode_regions,
    foreground_tokens,
    region_boxes,
    substitutes,
)
from scan_lightning.models.inference import upsample_masks
from scan_lightning.verification.ledger import Ledger
from scan_lightning.verification.reference import ImageInfo
from scan_lightning.verification.subject import Subject, View

NEAR = 1e-5
"""Mask pixels whose probability is nearer to the threshold may fall on either side by rounding."""


@dataclass(frozen=True)
class Regions:
    """The regions of one image.

    Attributes:
        valid: bool (Q,), queries with a mask.
        binary: bool (R, H, W).
        boxes: int64 (R, 4).
        crops: float (R, 3, S, S), normalised.
        masks: bool (R, S, S).
        foreground: bool (R, N).
    """

    valid: Tensor
    binary: Tensor
    boxes: Tensor
    crops: Tensor
    masks: Tensor
    foreground: Tensor


def mask_probabilities(view: View, image: ImageInfo, position: int = 0) -> Tensor:
    """Give the probabilities of all masks at the image's size, float (Q, H, W).

    Args:
        view: A forward pass.
        image: Which image.
        position: Its place in the batch.
    """
    logits = view.output.mask_logits[-1][position]
    return upsample_masks(logits, padded=view.output.padded, size=image.size)


def compare_masks(ledger: Ledger, stage: str, name: str, masks: Tensor, recorded: Tensor, threshold: float) -> None:
    """Count mask pixels that differ, but for those that rounding may turn.

    Args:
        ledger: Where the result goes.
        stage: Name of the stage.
        name: Name of the tensor.
        masks: Our probabilities (Q, H, W).
        recorded: bool (Q, H, W).
        threshold: The mask threshold.
    """
    if masks.shape != recorded.shape:
        ledger.fail(stage, f"{name}: shape {tuple(masks.shape)}, expected {tuple(recorded.shape)}")
        return
    differ = ((masks > threshold) != recorded) & ((masks - threshold).abs() > NEAR)
    ledger.note_error(stage, name, float(differ.sum()))


def cut(subject: Subject, pixels: Tensor, binary: Tensor) -> Regions:
    """Cut all regions of an image.

    Args:
        subject: The network.
        pixels: uint8 (3, H, W).
        binary: bool (Q, H, W).
    """
    clip = subject.network.clip
    valid = binary.flatten(1).any(1)
    boxes = region_boxes(binary[valid], expand=subject.settings.mask_expand)
    size = (clip.image_size, clip.image_size)
    crops, masks = cut_regions(clip.normalize(pixels), binary[valid], boxes, size=size)
    return Regions(valid, binary[valid], boxes, crops, masks, foreground_tokens(masks, clip.patch_size))


@torch.no_grad()
def shifted_embeddings(
    subject: Subject, crops: Tensor, selected: Mapping[int, Tensor], replacements: Mapping[int, Tensor]
) -> Tensor:
    """Encode regions with given tokens overwritten: float (R, D).

    Args:
        subject: The network.
        crops: float (R, 3, S, S).
        selected: For each layer bool (R, N).
        replacements: For each layer what overwrites them.
    """
    parts = []
    for rows in torch.split(torch.arange(len(crops)), subject.settings.region_batch):
        chosen = {layer: tokens[rows] for layer, tokens in selected.items()}
        visual = subject.network.clip.region_visual
        parts.append(encode_regions(visual, crops[rows], selected=chosen, replacements=replacements))
    return torch.cat(parts)


def class_tokens(tokens: Sequence[Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
    """Give what the paper overwrites background tokens with: the image's [CLS] of the same layer.

    Args:
        tokens: Tokens of the whole image, each (1 + N, C).
        layers: Block numbers.
    """
    return substitutes("image_cls", tokens, layers=layers, seed=0, image_id="")


def drawn_again(foreground: Tensor, *, ratio: float, layers: int, generator: random.Random) -> Tensor:
    """Draw selections as the reference implementation does, layer by layer, region by region.

    Args:
        foreground: bool (R, N).
        ratio: Share of the background tokens.
        layers: Number of layers.
        generator: Seeded as the reference implementation's was.

    Returns:
        bool (layers, R, N).
    """
    selected = torch.zeros(layers, *foreground.shape, dtype=torch.bool)
    for layer in range(layers):
        for region, tokens in enumerate(foreground):
            background = (~tokens).nonzero()[:, 0]
            picked = generator.sample(range(len(background)), int(ratio * len(background)))
            selected[layer, region, background[picked]] = True
    return selected


def wrong_selections(selected: Tensor, foreground: Tensor, *, ratio: float) -> int:
    """Count recorded selections that our own draw could not have made.

    Args:
        selected: bool (layers, R, N).
        foreground: bool (R, N).
        ratio: Share of the background tokens.

    Returns:
        Number of pairs of layer and region with another number of tokens, or a token of the foreground.
    """
    regions = torch.arange(len(foreground))
    drawn = draw_background_tokens(
        foreground, ratio=ratio, layer=1, seed=0, image_ids=[""], owners=torch.zeros_like(regions), regions=regions
    )
    other_count = selected.sum(-1) != drawn.sum(-1)
    return int((other_count | (selected & foreground).any(-1)).sum())
