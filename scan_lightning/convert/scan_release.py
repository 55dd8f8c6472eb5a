"""This project's SCAN folders to released checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scan_lightning.convert.architecture import TRAINING_CLASSES, relative_position_index
from scan_lightning.convert.clip import RELEASED_NAME, ClipWeights, read_clip_folder
from scan_lightning.convert.clip_architecture import architecture_from_shapes
from scan_lightning.convert.files import read_tensors
from scan_lightning.convert.network import empty_scan
from scan_lightning.convert.output import save_checkpoint
from scan_lightning.convert.report import Conversion, summarize
from scan_lightning.convert.scan import CLIP, ENTRY, SHIFTED, released_state
from scan_lightning.models.clip import (
    CLIP_MEAN,
    CLIP_STD,
    SHIPPED_FOLDER,
    SHIPPED_MODEL,
    ClipConfig,
    load_open_clip,
)
from scan_lightning.models.clip_weights import clip_weight_files
from scan_lightning.models.plain import tensor_hash
from scan_lightning.models.pretrained import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    check_state,
    read_record,
    recommended_settings,
)
from scan_lightning.models.scan import ScanConfig
from scan_lightning.models.segmenter import SegmenterConfig

NO_OBJECT_WEIGHT = 0.1
"""Weight of the no-object class in the released loss (spec section 5)."""


def scan_to_file(source: Path, path: Path, *, output: Path) -> Conversion:
    """Write a SCAN folder as a released checkpoint, with CLIP in it.

    An additional entry, which detectron2 passes over, holds what released checkpoints leave to their configuration.

    Args:
        source: The folder.
        path: Where to write.
        output: The name of that file in the report.

    Returns:
        The report.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or does not fit, or the released network cannot be this one.
    """
    record, config = read_record(source)
    if config.semantic_integration is None:
        raise ValueError(f"{source / CONFIG_NAME}: the released network always has SIM, this one has none")
    clip, tower = read_clips(config.clip)
    state = dict(read_tensors(source / WEIGHTS_NAME).tensors)
    state |= {CLIP + name: value for name, value in clip.state.items()}
    state |= {SHIFTED + name: value for name, value in tower.items()}
    network = empty_scan(config, clip.architecture, shifted=bool(tower), source=source)
    check_state(network, state, str(source))
    names = [name for name in network.state_dict() if name.startswith("clip.")]
    found = tensor_hash({name.removeprefix("clip."): state[name] for name in names})
    if found != record.get("clip_hash"):
        raise ValueError(f"{source}: trained with a CLIP of hash {record.get('clip_hash')}, {config.clip} has {found}")
    released = released_state(state)
    extra = source / RELEASED_NAME
    kept = read_tensors(extra).tensors if extra.is_file() else derived_buffers(config, clip)
    description = {
        "architecture": {**asdict(config), "clip": asdict(ClipConfig())},
        "clip": clip.architecture,
        "preprocess": dict(clip.preprocess),
        "inference": asdict(recommended_settings(source)),
        "origin": record.get("origin", {}),
    }
    plain = json.loads(json.dumps(description))
    save_checkpoint("model", {**released, **kept}, path, **{ENTRY: plain})
    assumptions = [] if extra.is_file() else [f"the released loss has {TRAINING_CLASSES} classes, as COCO-Stuff has"]
    return summarize("SCAN", source, output, released, kept=list(kept), assumptions=assumptions)


def read_clips(config: ClipConfig) -> tuple[ClipWeights, dict[str, Tensor]]:
    """Read the tensors of a network's CLIP, as they are stored where that is a folder.

    Args:
        config: What names it.

    Returns:
        The original CLIP, and the tuned visual tower by the names of a visual tower, empty where there is none.

    Raises:
        FileNotFoundError: If a folder or file does not exist.
        ValueError: If one cannot be read or does not fit.
    """
    folder = SHIPPED_FOLDER if config.model == SHIPPED_MODEL else Path(config.model)
    if folder.is_dir() and config.weights is None:
        clip = read_clip_folder(folder)
    else:
        model, _ = load_open_clip(config.model, weights=config.weights)
        state = model.state_dict()
        quick_gelu = any(type(module).__name__ == "QuickGELU" for module in model.modules())
        clip = ClipWeights(state=state, architecture=architecture_from_shapes(state, quick_gelu=quick_gelu)[0])
    if config.shifted_weights is None:
        return clip, {}
    path = Path(config.shifted_weights)
    file = next(iter(clip_weight_files(path)), path) if path.is_dir() else path
    tuned = read_tensors(file).tensors
    return clip, {name.removeprefix("visual."): v for name, v in tuned.items() if name.startswith("visual.")}


def derived_buffers(config: ScanConfig, clip: ClipWeights) -> dict[str, Tensor]:
    """Compute the buffers of a released checkpoint that follow from its configuration.

    Args:
        config: The architecture.
        clip: The CLIP.

    Returns:
        Tensors under released names.
    """
    buffers = swin_buffers(config.segmenter)
    for name, values in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
        given: Any = clip.preprocess.get(name, values)
        buffers[f"clip_adapter.pixel_{name}"] = torch.tensor(given).mul(255.0).view(1, 3, 1, 1)
    weights = torch.ones(TRAINING_CLASSES + 1)
    weights[-1] = NO_OBJECT_WEIGHT
    return {**buffers, "criterion.empty_weight": weights}


def swin_buffers(config: SegmenterConfig) -> dict[str, Tensor]:
    """Compute the position indices of the backbone's attention windows.

    Args:
        config: The segmenter's architecture.

    Returns:
        int64 tensors under released names.
    """
    index = relative_position_index(config.window_size)
    return {
        f"backbone.layers.{stage}.blocks.{block}.attn.relative_position_index": index.clone()
        for stage, depth in enumerate(config.depths)
        for block in range(depth)
    }
