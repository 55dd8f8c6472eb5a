"""A CLIP's architecture from the shapes of its tensors, and what stands before their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scan_lightning.models.clip import build_open_clip

PREFIXES = ("", "module.", "module.clip_model.", "clip_model.", "clip_adapter.clip_model.", "model.", "clip.")
"""What training programs put before a CLIP's names: nothing; a process group; the fine-tuning of SCAN, wrapped and not;
the segmenters of OVSeg and SCAN; others."""
_MARKS = ("visual.conv1.weight", "token_embedding.weight", "text_projection")
OPENAI_NUMBERS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's archives keep among the tensors."""
_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}
"""Channels of a visual attention head by those of the tower (open_clip's ViT-H, g, bigG, e); 64 in all others."""


def find_prefix(tensors: Mapping[str, Tensor]) -> str | None:
    """Tell what stands before a CLIP's names.

    Args:
        tensors: Of a file.

    Returns:
        The prefix; None if the file holds no CLIP with a vision transformer.
    """
    return next((prefix for prefix in PREFIXES if all(prefix + mark in tensors for mark in _MARKS)), None)


def architecture_from_shapes(state: Mapping[str, Tensor], *, quick_gelu: bool) -> tuple[dict[str, Any], str]:
    """Work out a CLIP's architecture from its shapes; they do not tell attention heads and activation.

    Args:
        state: Tensors by open_clip's names.
        quick_gelu: Whether it was trained with QuickGELU.

    Returns:
        What `build_open_clip` takes, and a sentence on the heads, which are those of open_clip's models of this width.

    Raises:
        ValueError: If a tensor that tells the architecture is missing.
    """
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        positions = state["visual.positional_embedding"].shape[0]
        hidden = state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
        words, text_width = state["token_embedding.weight"].shape
        context, joint = state["positional_embedding"].shape[0], state["text_projection"].shape[1]
    except (KeyError, ValueError) as error:
        raise ValueError(f"cannot tell CLIP's architecture: the checkpoint has no {error}") from error
    vision = {
        "image_size": round((positions - 1) ** 0.5) * patch,
        "patch_size": patch,
        "width": width,
        "layers": _blocks(state, "visual.transformer.resblocks."),
        "head_width": _HEAD_WIDTHS.get(width, min(64, width)),
        **({} if hidden == 4 * width else {"mlp_ratio": (hidden + 0.5) / width}),  # open_clip rounds down
    }
    text = {
        "context_length": context,
        "vocab_size": words,
        "width": text_width,
        "heads": max(1, text_width // 64),
        "layers": _blocks(state, "transformer.resblocks."),
    }
    heads = f"CLIP has heads of {vision['head_width']} channels in the visual tower, {text['heads']} in the text tower"
    return {"embed_dim": joint, "quick_gelu": quick_gelu, "vision_cfg": vision, "text_cfg": text}, heads


def activation_note(*, openai: bool) -> str:
    """Say which activation a CLIP is taken to have.

    Args:
        openai: Whether it has the form of OpenAI's.
    """
    if openai:
        return "CLIP was trained with QuickGELU, as OpenAI's was"
    return "CLIP was trained with GELU, as LAION's and DataComp's were (--quick-gelu if with QuickGELU, as OpenAI's)"


def _blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """Count a transformer's blocks."""
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def empty_clip(architecture: dict[str, Any], source: Path) -> nn.Module:
    """Build a CLIP without memory for its weights, to compare names and shapes.

    Args:
        architecture: What `build_open_clip` takes.
        source: What it was read from, for messages.

    Returns:
        The model on the meta device.

    Raises:
        ValueError: If it cannot be built.
    """
    try:
        with torch.device("meta"):
            model: nn.Module = build_open_clip(architecture)
    except (TypeError, KeyError, AttributeError, AssertionError) as error:
        raise ValueError(f"{source}: not an architecture of CLIP: {error}") from error
    return model
