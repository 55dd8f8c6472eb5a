"""CLIP's architecture without its weights, to plan with."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip

from scan_lightning.models.clip import (
    CONFIG_NAME,
    SHIPPED_FOLDER,
    SHIPPED_MODEL,
    ClipConfig,
    FrozenClip,
    build_open_clip,
)
from scan_lightning.models.clip_tokenizer import build_tokenizer


def clip_architecture(model: str) -> dict[str, Any]:
    """Look an architecture up.

    Args:
        model: As in `ClipConfig`: an open_clip name, a folder with open_clip_config.json, or "tiny".

    Returns:
        What open_clip_config.json holds under "model_cfg".

    Raises:
        FileNotFoundError: If a folder has no configuration.
        ValueError: If there is neither a folder nor an architecture of that name, or the configuration is none.

    Example:
        >>> clip_architecture("ViT-B-16")["embed_dim"]
        512
    """
    folder = SHIPPED_FOLDER if model == SHIPPED_MODEL else Path(model)
    if folder.is_dir():
        path = folder / CONFIG_NAME
        if not path.is_file():
            raise FileNotFoundError(f"clip model: expected {CONFIG_NAME} in {folder}, found none")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: expected an open_clip configuration with a 'model_cfg': {error}") from error
    else:
        found = open_clip.get_model_config(model)
    if not isinstance(found, dict):
        raise ValueError(
            f"clip model: expected 'tiny', a folder with {CONFIG_NAME}, or an open_clip architecture such as "
            f"'ViT-B-16', got {model!r}"
        )
    return found


def build_untrained(config: ClipConfig) -> FrozenClip:
    """Build a CLIP of the configured architecture that has read no weights; on the default device.

    Args:
        config: Which CLIP. Its weights are not looked at, not even for being there.

    Returns:
        The frozen CLIP, with a second visual tower where ``shifted_weights`` names one.

    Raises:
        FileNotFoundError: If a folder has no configuration.
        ValueError: If the architecture is unknown or no vision transformer.
    """
    architecture = clip_architecture(config.model)
    clip = build_open_clip(architecture)
    context = int(architecture.get("text_cfg", {}).get("context_length", 77))
    shifted = None if config.shifted_weights is None else deepcopy(clip.visual)
    return FrozenClip(clip=clip, tokenizer=build_tokenizer(context), shifted_visual=shifted)
