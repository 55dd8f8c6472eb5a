"""Contextual Shift (CS): give CLIP back the context that a masked crop takes away (paper section 3.3, spec section 4).

Regions are cut out, their background filled with CLIP's mean colour; inside the visual tower a share of the background
tokens is overwritten by the whole image's [CLS] token of the same layer. Which tokens is a function of seed, image,
region and layer alone: the same in any batch, order, process or on any device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scan_lightning.models.clip import run_visual

SubstitutionSource = Literal["image_cls", "final_cls", "patch_mean", "zeros", "noise", "none"]
SUBSTITUTION_SOURCES: tuple[SubstitutionSource, ...] = (
    "image_cls",
    "final_cls",
    "patch_mean",
    "zeros",
    "noise",
    "none",
)

_CUBIC_A = -0.75  # PyTorch's bicubic coefficient
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)  # constants of SplitMix64, as signed numbers
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)


def region_boxes(masks: Tensor, *, expand: float = 1.0) -> Tensor:
    """Find the tight box of each mask.

    Args:
        masks: bool (R, H, W), each with at least one pixel.
        expand: Factor by which both sides grow about the centre; ends are truncated to integers, clipped to
            the image.

    Returns:
        int64 (R, 4): x1, y1, x2, y2 with exclusive ends.

    Raises:
        ValueError: If ``expand`` is below 1.
    """
    if expand < 1:
        raise ValueError(f"expand: expected at least 1, got {expand}")
    height, width = masks.shape[1:]
    columns, rows = masks.any(1).to(torch.uint8), masks.any(2).to(torch.uint8)
    x1, y1 = columns.argmax(1), rows.argmax(1)
    x2, y2 = width - columns.flip(1).argmax(1), height - rows.flip(1).argmax(1)
    if expand > 1:
        x1, x2 = _grow(x1, x2, expand, width)
        y1, y2 = _grow(y1, y2, expand, height)
    return torch.stack([x1, y1, x2, y2], dim=1)


def _grow(start: Tensor, end: Tensor, factor: float, limit: int) -> tuple[Tensor, Tensor]:
    """Scale intervals about their centres, truncate to integers, clip to [0, limit]."""
    centre, half = (start + end) / 2, (end - start) * factor / 2
    return (centre - half).long().clamp(min=0), (centre + half).long().clamp(max=limit)


def cut_regions(
    pixels: Tensor, masks: Tensor, boxes: Tensor, *, size: tuple[int, int], chunk: int = 16
) -> tuple[Tensor, Tensor]:
    """Cut regions out of an image, fill their background with the mean colour, and resize them all at once.

    Equal to cropping, filling, normalising and ``interpolate(mode="bicubic")`` (not antialiased) one by one; the masks
    are resized by nearest neighbour. A resize is two products with interpolation matrices, so no region waits for
    another and nothing is read back to the host.

    Args:
        pixels: float (3, H, W), normalised by CLIP's statistics, so that 0 is the mean colour.
        masks: bool (R, H, W).
        boxes: int64 (R, 4) from `region_boxes`.
        size: Height and width of the crops.
        chunk: Regions in work at once, which bounds the memory at chunk * 3 * H * W floats.

    Returns:
        Crops float (R, 3, h, w), normalised, and their masks bool (R, h, w).
    """
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(1)
    to_rows = _bicubic_matrix(y1, y2, height, masks.shape[1])
    to_columns = _bicubic_matrix(x1, x2, width, masks.shape[2])
    crops = pixels.new_empty(len(masks), 3, height, width)
    for start in range(0, len(masks), chunk):
        part = slice(start, start + chunk)
        filled = pixels[None] * masks[part, None]
        crops[part] = to_rows[part, None] @ (filled @ to_columns[part, None].transpose(2, 3))
    regions = torch.arange(len(masks), device=masks.device)[:, None, None]
    rows, columns = _nearest_indices(y1, y2, height), _nearest_indices(x1, x2, width)
    return crops, masks[regions, rows[:, :, None], columns[:, None, :]]


def _bicubic_matrix(start: Tensor, end: Tensor, target: int, source: int) -> Tensor:
    """Give (R, target, source) weights that resample [start, end) bicubically, clamping at the interval's ends."""
    length = (end - start).float()[:, None]
    position = (torch.arange(target, device=start.device) + 0.5) * (length / target) - 0.5
    base = position.floor()
    t = position - base
    weights = torch.stack([_cubic_far(t + 1), _cubic_near(t), _cubic_near(1 - t), _cubic_far(2 - t)])
    matrix = torch.zeros(len(start), target, source, device=start.device)
    for offset in range(4):
        index = (base.long() + offset - 1).clamp(min=0).minimum((end - start)[:, None] - 1) + start[:, None]
        matrix.scatter_add_(2, index[..., None], weights[offset][..., None])
    return matrix


def _cubic_near(x: Tensor) -> Tensor:
    """Cubic convolution kernel for distances up to 1."""
    return ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1


def _cubic_far(x: Tensor) -> Tensor:
    """Cubic convolution kernel for distances from 1 to 2."""
    return ((_CUBIC_A * x - 5 * _CUBIC_A) * x + 8 * _CUBIC_A) * x - 4 * _CUBIC_A


def _nearest_indices(start: Tensor, end: Tensor, target: int) -> Tensor:
    """Give (R, target) source indices of nearest-neighbour resampling, as ``interpolate(mode="nearest")`` does."""
    scale = (end - start).float()[:, None] / target
    index = (torch.arange(target, device=start.device).float() * scale).floor().long()
    return index.minimum((end - start)[:, None] - 1) + start[:, None]


def foreground_tokens(region_masks: Tensor, patch_size: int) -> Tensor:
    """Tell which tokens hold any pixel of the region.

    Args:
        region_masks: bool (R, S, S).
        patch_size: Side of a patch in pixels.

    Returns:
        bool (R, N), row by row.
    """
    return F.max_pool2d(region_masks.float()[:, None], patch_size).flatten(1) > 0


def draw_background_tokens(
    foreground: Tensor,
    *,
    ratio: float,
    layer: int,
    seed: int,
    image_ids: Sequence[str],
    owners: Tensor,
    regions: Tensor,
) -> Tensor:
    """Draw the background tokens that a layer overwrites.

    Args:
        foreground: bool (R, N) from `foreground_tokens`.
        ratio: Share of a region's background tokens, in [0, 1]; their number is rounded down.
        layer: Block number, from 1.
        seed: Seed of the run.
        image_ids: Names of the images.
        owners: int64 (R,), for each region the index of its image in ``image_ids``.
        regions: int64 (R,), for each region its number within its image (the query's index).

    Returns:
        bool (R, N), a subset of the background.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"replace_ratio: expected in [0, 1], got {ratio}")
    tokens = torch.arange(foreground.shape[1], device=foreground.device)
    images = torch.tensor([image_seed(seed, name) for name in image_ids], device=foreground.device)
    layers = torch.full_like(regions, layer)
    key = _mix(_mix(images[owners] + regions * _STEP) + layers * _STEP)
    keys = _mix(key[:, None] + tokens * _STEP).masked_fill(foreground, torch.iinfo(torch.int64).max)
    count = ((~foreground).sum(1).double() * ratio).floor().long()
    ranks = keys.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return (ranks < count[:, None]) & ~foreground


def image_seed(seed: int, image_id: str) -> int:
    """Derive a seed for one image.

    Args:
        seed: Seed of the run.
        image_id: The image's name.

    Returns:
        A number in [0, 2**63), the same in every process and Python version.
    """
    digest = hashlib.blake2b(f"{seed}:{image_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _mix(x: Tensor) -> Tensor:
    """Scramble int64 numbers (finaliser of SplitMix64, Steele et al. 2014), wrapping around."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def substitutes(
    source: SubstitutionSource, tokens: Sequence[Tensor], *, layers: Sequence[int], seed: int, image_id: str
) -> dict[int, Tensor]:
    """Make what overwrites background tokens of one image's regions (ablation of paper table 6, spec section 4).

    Args:
        source: "image_cls", the paper's: the image's [CLS] of the same layer; "final_cls": that of the last layer;
            "patch_mean": the mean of the image's patch tokens of the same layer; "zeros"; "noise": normal noise with
            the mean and deviation of those patch tokens, one draw per position; "none": nothing.
        tokens: Tokens of the whole image in the original visual tower, index l after block l, each (1 + N, C).
        layers: Block numbers, from 1, after which tokens are overwritten.
        seed: Seed of the run, for the noise.
        image_id: The image's name, for the noise.

    Returns:
        For each layer a tensor (1, C) or (N, C); empty for "none".

    Raises:
        ValueError: If there is no such source.
    """
    if source not in SUBSTITUTION_SOURCES:
        raise ValueError(f"source: expected one of {', '.join(SUBSTITUTION_SOURCES)}, got {source!r}")
    if source == "none":
        return {}
    result = {}
    for layer in layers:
        cls, patches = tokens[layer][:1], tokens[layer][1:]
        if source == "image_cls":
            result[layer] = cls
        elif source == "final_cls":
            result[layer] = tokens[-1][:1]
        elif source == "patch_mean":
            result[layer] = patches.mean(0, keepdim=True)
        elif source == "zeros":
            result[layer] = torch.zeros_like(cls)
        else:
            generator = torch.Generator().manual_seed(image_seed(seed + layer, image_id))
            noise = torch.randn(patches.shape, generator=generator).to(patches)
            result[layer] = patches.mean() + patches.std() * noise
    return result


def encode_regions(
    visual: nn.Module,
    crops: Tensor,
    *,
    selected: Mapping[int, Tensor] | None = None,
    replacements: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Encode crops with background tokens overwritten on the way (spec section 4).

    Args:
        visual: CLIP's visual tower for regions.
        crops: float (R, 3, S, S), normalised.
        selected: For each layer that overwrites, bool (R, N): the tokens.
        replacements: For each such layer a tensor that broadcasts to (R, N, C).

    Returns:
        float (R, D), the projected [CLS] of each region, not normalised.
    """
    chosen, values = selected or {}, replacements or {}

    def edit(layer: int, tokens: Tensor) -> Tensor:
        if layer not in chosen or layer not in values:
            return tokens
        patches = torch.where(chosen[layer][..., None], values[layer].to(tokens.dtype), tokens[:, 1:])
        return torch.cat([tokens[:, :1], patches], dim=1)

    return run_visual(visual, crops, edit=edit if values else None)[0]
