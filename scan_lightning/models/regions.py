"""Classify the proposals of an image by CLIP under Contextual Shift: cut, draw, encode, compare (spec section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.clip import FrozenClip
from scan_lightning.models.contextual_shift import (
    cut_regions,
    draw_background_tokens,
    encode_regions,
    foreground_tokens,
    region_boxes,
    substitutes,
)
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.text import TextFeatures


def classify_regions(
    clip: FrozenClip,
    image: Tensor,
    masks: Tensor,
    tokens: Sequence[Tensor],
    *,
    image_id: str,
    text: TextFeatures,
    settings: InferenceSettings,
    temperature: float,
) -> Tensor:
    """Classify the proposals of one image.

    Args:
        clip: The frozen CLIP; its region tower encodes.
        image: (3, H, W), RGB 0 to 255.
        masks: float (Q, H, W), probabilities.
        tokens: Tokens of the whole image in the original visual tower, each (1 + N, C).
        image_id: The image's name, from which Contextual Shift draws.
        text: Features of K classes.
        settings: Test-time settings.
        temperature: Factor of the cosine similarities.

    Returns:
        float (Q, K), probabilities; 1 for proposals without a pixel above the threshold, or if no region counts.
    """
    result = masks.new_ones(len(masks), text.num_classes)
    valid = (masks > settings.mask_threshold).flatten(1).any(1).nonzero()[:, 0]
    if settings.ensemble_weight == 0 or len(valid) == 0:
        return result
    pixels = clip.normalize(image)
    values = {}
    if settings.shifts:
        values = substitutes(
            settings.source, tokens, layers=settings.replace_layers, seed=settings.seed, image_id=image_id
        )
    for queries in torch.split(valid, settings.region_batch):
        embeddings = _encode_queries(clip, pixels, masks, queries, values, image_id=image_id, settings=settings)
        logits = temperature * text.similarities(F.normalize(embeddings.float(), dim=-1))
        result[queries] = logits.softmax(-1)
    return result


def _encode_queries(
    clip: FrozenClip,
    pixels: Tensor,
    masks: Tensor,
    queries: Tensor,
    values: dict[int, Tensor],
    *,
    image_id: str,
    settings: InferenceSettings,
) -> Tensor:
    """Cut, draw and encode the regions of some queries: float (R, D)."""
    binary = masks[queries] > settings.mask_threshold
    boxes = region_boxes(binary, expand=settings.mask_expand)
    crops, region_masks = cut_regions(pixels, binary, boxes, size=(clip.image_size, clip.image_size))
    foreground = foreground_tokens(region_masks, clip.patch_size)
    selected = {
        layer: draw_background_tokens(
            foreground,
            ratio=settings.replace_ratio,
            layer=layer,
            seed=settings.seed,
            image_ids=[image_id],
            owners=torch.zeros_like(queries),
            regions=queries,
        )
        for layer in values
    }
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=settings.clip_bfloat16):
        return encode_regions(clip.region_visual, crops, selected=selected, replacements=values)
