"""The architecture of a released checkpoint: shapes of its tensors, and its configuration for what they hide."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.scan import ScanConfig
from scan_lightning.models.segmenter import SegmenterConfig
from scan_lightning.models.semantic_integration import SemanticIntegrationConfig

Section = dict[str, Any]
"""A MODEL section, keys as detectron2 has them."""

_PIXEL = "sem_seg_head.pixel_decoder."
_HEAD = "sem_seg_head.predictor."
_LEVELS_AND_POINTS = 3 * 4
"""Scales and sampling points of the deformable attention, which neither code base lets one choose."""

TRAINING_CLASSES = 171
"""Classes of COCO-Stuff, on which the released network was trained."""


def config_from_released(model: Mapping[str, Any], state: Mapping[str, Tensor]) -> ScanConfig:
    """Read the architecture from a released configuration's MODEL section and the checkpoint's shapes.

    Args:
        model: The MODEL section, keys as detectron2 has them.
        state: The checkpoint's tensors, released names.

    Returns:
        The architecture; its CLIP is left at the default, since a released checkpoint carries CLIP's tensors.

    Raises:
        KeyError: If the section lacks an entry.
    """
    integration = SemanticIntegrationConfig(
        layers=tuple(model["SELECT_ORI_CLIP_ID"]),
        sigmas=tuple(float(sigma) for sigma in model["FREQUENCY_SIGMA"]),
        fusion_layers=_count(state, "fusion_decoder.multiattn"),
        encoder_layers=_count(state, "lightweight_transformer.layers"),
        feedforward=state["lightweight_transformer.layers.0.linear1.weight"].shape[0],
        memory_hidden=state["oriclip_mlp.fc1.weight"].shape[0],
    )
    return ScanConfig(
        segmenter=segmenter_from_released(model, state),
        semantic_integration=integration,
        template_set=model["CLIP_ADAPTER"]["TEXT_TEMPLATES"],
    )


def segmenter_from_released(model: Mapping[str, Any], state: Mapping[str, Tensor]) -> SegmenterConfig:
    """Read the segmenter's architecture, SCAN's or a Mask2Former's.

    Args:
        model: The MODEL section, keys as detectron2 has them.
        state: The checkpoint's tensors, released names.

    Returns:
        The architecture.

    Raises:
        KeyError: If the section lacks an entry.
    """
    swin, head, former = model["SWIN"], model["SEM_SEG_HEAD"], model["MASK_FORMER"]
    return SegmenterConfig(
        embed_dim=swin["EMBED_DIM"],
        depths=tuple(swin["DEPTHS"]),
        num_heads=tuple(swin["NUM_HEADS"]),
        window_size=swin["WINDOW_SIZE"],
        patch_size=swin["PATCH_SIZE"],
        pretrain_image_size=swin["PRETRAIN_IMG_SIZE"],
        mlp_ratio=swin["MLP_RATIO"],
        drop_path_rate=swin["DROP_PATH_RATE"],
        conv_dim=head["CONVS_DIM"],
        mask_dim=head["MASK_DIM"],
        hidden_dim=former["HIDDEN_DIM"],
        heads=former["NHEADS"],
        encoder_layers=head["TRANSFORMER_ENC_LAYERS"],
        encoder_feedforward=state[_PIXEL + "transformer.encoder.layers.0.linear1.weight"].shape[0],
        decoder_layers=former["DEC_LAYERS"],
        dim_feedforward=former["DIM_FEEDFORWARD"],
        num_queries=former["NUM_OBJECT_QUERIES"],
        embedding_hidden=head["EMBED_HIDDEN_DIM"],
    )


def section_from_shapes(state: Mapping[str, Tensor]) -> Section:
    """Write the MODEL section that a checkpoint's shapes imply, for SCAN or a Mask2Former with Swin.

    What shapes do not tell has the released configurations' values: stochastic depth 0.3, pre-training at 384 pixels,
    SIM's layers at one half, three quarters and the end of CLIP's visual tower, sigmas 9, 7, 3, templates "vild".

    Args:
        state: The checkpoint's tensors, released names.

    Returns:
        What `config_from_released` reads.

    Raises:
        ValueError: If the checkpoint lacks a tensor that tells its architecture.
    """
    try:
        return {"SWIN": _swin(state), **_heads(state), **_integration(state)}
    except KeyError as error:
        raise ValueError(f"cannot tell the architecture: the checkpoint has no {error}") from error


def _swin(state: Mapping[str, Tensor]) -> Section:
    """Read the backbone's architecture from its shapes."""
    embed_dim, _, patch_size, _ = state["backbone.patch_embed.proj.weight"].shape
    stages = range(_count(state, "backbone.layers"))
    tables = [state[f"backbone.layers.{stage}.blocks.0.attn.relative_position_bias_table"].shape for stage in stages]
    return {
        "EMBED_DIM": embed_dim,
        "PATCH_SIZE": patch_size,
        "DEPTHS": [_count(state, f"backbone.layers.{stage}.blocks") for stage in stages],
        "NUM_HEADS": [heads for _, heads in tables],
        "WINDOW_SIZE": (math.isqrt(tables[0][0]) + 1) // 2,
        "MLP_RATIO": state["backbone.layers.0.blocks.0.mlp.fc1.weight"].shape[0] / embed_dim,
        "DROP_PATH_RATE": 0.3,
        "PRETRAIN_IMG_SIZE": 384,
    }


def _heads(state: Mapping[str, Tensor]) -> Section:
    """Read the architecture of pixel decoder and decoder from their shapes."""
    mask_dim, conv_dim = state[_PIXEL + "mask_features.weight"].shape[:2]
    queries, hidden_dim = state[_HEAD + "query_feat.weight"].shape
    first = _PIXEL + "transformer.encoder.layers.0.self_attn.attention_weights.weight"
    embedding = state.get(_HEAD + "class_embed.layers.0.weight")
    return {
        "SEM_SEG_HEAD": {
            "CONVS_DIM": conv_dim,
            "MASK_DIM": mask_dim,
            "TRANSFORMER_ENC_LAYERS": _count(state, _PIXEL + "transformer.encoder.layers"),
            "EMBED_HIDDEN_DIM": SegmenterConfig().embedding_hidden if embedding is None else embedding.shape[0],
        },
        "MASK_FORMER": {
            "HIDDEN_DIM": hidden_dim,
            "NHEADS": state[first].shape[0] // _LEVELS_AND_POINTS,
            "DEC_LAYERS": _count(state, _HEAD + "transformer_ffn_layers"),
            "DIM_FEEDFORWARD": state[_HEAD + "transformer_ffn_layers.0.linear1.weight"].shape[0],
            "NUM_OBJECT_QUERIES": queries,
        },
    }


def _integration(state: Mapping[str, Tensor]) -> Section:
    """Say what SIM reads of a CLIP of this depth, and how texts are made, as the released configurations do."""
    depth = _count(state, "clip_adapter.original_clip.transformer.resblocks")
    layers = sorted({depth // 2, 3 * depth // 4, depth})
    return {
        "SELECT_ORI_CLIP_ID": layers,
        "FREQUENCY_SIGMA": [9, 7, 3][-len(layers) :],
        "CLIP_ADAPTER": {"TEXT_TEMPLATES": "vild", "REPLACE_LAYER": [1, 3, 5, 7, 9] if depth >= 24 else [1, 3, 5]},
    }


def merge_section(section: Section, given: Mapping[str, Any]) -> Section:
    """Let a configuration's entries override those that shapes imply.

    Args:
        section: From `section_from_shapes`.
        given: The checkpoint's own MODEL section, complete or not.

    Returns:
        A new section.
    """
    merged = dict(section)
    for key, value in given.items():
        if isinstance(value, Mapping):
            before = merged.get(key, {})
            merged[key] = merge_section(before, value) if isinstance(before, dict) else dict(value)
        else:
            merged[key] = value
    return merged


def settings_from_section(section: Mapping[str, Any]) -> InferenceSettings:
    """Read the test-time settings of a released configuration.

    Args:
        section: A MODEL section; entries that it lacks keep this project's defaults.

    Returns:
        The settings.
    """
    names = {
        "MASK_THR": "mask_threshold",
        "CLIP_ENSEMBLE_WEIGHT": "ensemble_weight",
        "REPLACE_RATIO": "replace_ratio",
        "REPLACE_LAYER": "replace_layers",
        "MASK_EXPAND_RATIO": "mask_expand",
    }
    adapter = section.get("CLIP_ADAPTER", {})
    given = {ours: adapter[released] for released, ours in names.items() if released in adapter}
    if "replace_layers" in given:
        given["replace_layers"] = tuple(given["replace_layers"])
    return InferenceSettings(**given)


class _PlainLoader(yaml.SafeLoader):
    """YAML without Python objects: a tag that would run code gives None, as released configurations have one."""


def _ignore(_loader: yaml.SafeLoader, _suffix: str, _node: yaml.Node) -> None:
    """Give None for a tag that is not plain YAML."""


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _ignore)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What a configuration file says beside the tensors' shapes; each part is empty where it says nothing.

    Attributes:
        model: A detectron2 configuration's MODEL section.
        clip: "model_cfg" of an open_clip configuration: CLIP's whole architecture.
        preprocess: "preprocess_cfg" of one.
    """

    model: Section = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)


def read_configuration(path: Path) -> Configuration:
    """Read what a configuration file says of the network; nothing in it is run.

    Args:
        path: A detectron2 configuration (YAML or JSON, with MODEL), an open_clip_config.json (with model_cfg), or the
            config.json of a folder of reference tensors (with both, under "resolved" and "clip_model").

    Returns:
        Its parts.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be parsed or holds none of them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"config: no file {path}")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, _PlainLoader)  # noqa: S506
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: neither JSON nor plain YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a configuration, got {type(content).__name__}")
    resolved = content.get("resolved")
    model = (resolved if isinstance(resolved, dict) else content).get("MODEL", {})
    clip: Any = content.get("clip_model", content.get("model_cfg", {}))
    preprocess: Any = content.get("preprocess_cfg", {})
    if not all(isinstance(part, dict) for part in (model, clip, preprocess)) or not (model or clip):
        raise ValueError(f"{path}: expected a section MODEL (detectron2) or an entry model_cfg (open_clip)")
    return Configuration(model=model, clip=clip, preprocess=preprocess)


def relative_position_index(window: int) -> Tensor:
    """Number the pairs of tokens of an attention window by their offset, as Swin's code stores it (a buffer).

    Args:
        window: Side of the window in tokens.

    Returns:
        int64 (window ** 2, window ** 2), rows of the table of relative position biases.
    """
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    down = rows.flatten()[:, None] - rows.flatten()[None] + window - 1
    right = columns.flatten()[:, None] - columns.flatten()[None] + window - 1
    return down * (2 * window - 1) + right


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Count the numbered children of a module."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match[1] for name in state if (match := pattern.match(name))})
