"""Encode the masked crops of a batch of images by a visual tower under Contextual Shift (spec sections 4 and 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scan_lightning.models.clip import FrozenClip, run_visual
from scan_lightning.models.contextual_shift import (
    SUBSTITUTION_SOURCES,
    SubstitutionSource,
    draw_background_tokens,
    encode_regions,
    foreground_tokens,
    substitutes,
)
from scan_lightning.types import MaskTextBatch


@dataclass(frozen=True, kw_only=True)
class ShiftConfig:
    """Contextual Shift in training; the defaults are those of the released ViT-B/16 configuration.

    Args:
        replace_ratio: Share of background tokens that are overwritten, in [0, 1].
        replace_layers: Blocks of the visual tower after which it happens, from 1.
        source: What overwrites them, see `substitutes`.
        seed: Seed of the draws.

    Raises:
        ValueError: If the ratio is out of its range or the source is unknown.
    """

    replace_ratio: float = 0.15
    replace_layers: tuple[int, ...] = (1, 3, 5)
    source: SubstitutionSource = "image_cls"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.replace_ratio <= 1:
            raise ValueError(f"replace_ratio: expected in [0, 1], got {self.replace_ratio}")
        if self.source not in SUBSTITUTION_SOURCES:
            raise ValueError(f"source: expected one of {', '.join(SUBSTITUTION_SOURCES)}, got {self.source!r}")


def image_substitutes(clip: FrozenClip, batch: MaskTextBatch, config: ShiftConfig) -> dict[int, Tensor]:
    """Run the whole images through the original tower, each once, and make what overwrites background tokens.

    Args:
        clip: The original CLIP.
        batch: B images and R regions.
        config: Layers, source and seed.

    Returns:
        For each layer a tensor (R, 1, C) or (R, N, C), without gradients; empty if nothing is overwritten.
    """
    if config.source == "none" or config.replace_ratio == 0 or not config.replace_layers:
        return {}
    with torch.no_grad():
        _, tokens = run_visual(clip.clip.visual, clip.normalize(batch.images), record=True)
        values = [
            substitutes(
                config.source,
                [layer[index] for layer in tokens],
                layers=config.replace_layers,
                seed=config.seed,
                image_id=name,
            )
            for index, name in enumerate(batch.image_ids)
        ]
        return {layer: torch.stack([image[layer] for image in values])[batch.owners] for layer in config.replace_layers}


def encode_shifted(
    visual: nn.Module,
    clip: FrozenClip,
    batch: MaskTextBatch,
    config: ShiftConfig,
    *,
    names: Sequence[str] | None = None,
) -> Tensor:
    """Encode the masked crops of a batch, background tokens overwritten on the way.

    Args:
        visual: The tower that encodes the crops; gradients flow through it.
        clip: The original CLIP, which sees the whole images.
        batch: B images and R regions.
        config: What is overwritten by what.
        names: Names of the images, from which the tokens are drawn; None takes ``batch.image_ids``.

    Returns:
        float (R, D), L2-normalised.
    """
    values = image_substitutes(clip, batch, config)
    foreground = foreground_tokens(batch.region_masks, clip.patch_size)
    selected = {
        layer: draw_background_tokens(
            foreground,
            ratio=config.replace_ratio,
            layer=layer,
            seed=config.seed,
            image_ids=batch.image_ids if names is None else names,
            owners=batch.owners,
            regions=batch.regions,
        )
        for layer in values
    }
    embeddings = encode_regions(visual, clip.normalize(batch.crops), selected=selected, replacements=values)
    return F.normalize(embeddings, dim=-1)
