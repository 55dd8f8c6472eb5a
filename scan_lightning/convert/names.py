"""Released names of tensors (detectron2's) to this project's and back.

Every tensor keeps its bits; only names change, and joint query-key-value projections are split or joined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_LEVEL = "segmenter.model.pixel_level_module."
_SWIN = _LEVEL + "encoder.swin."
_PIXEL = "sem_seg_head.pixel_decoder."
_HEAD = "sem_seg_head.predictor."
_MODULE = "segmenter.model.transformer_module."

_RENAMES: tuple[tuple[str, str], ...] = (
    ("learnable_weight", "semantic_integration.cls_weight"),
    ("LFM", "semantic_integration.enhancement"),
    ("oriclip_mlp.fc1", "semantic_integration.memory_projection.0"),
    ("oriclip_mlp.fc2", "semantic_integration.memory_projection.1"),
    ("fusion_decoder.multiattn.{i}", "semantic_integration.fusion.attentions.{i}"),
    ("fusion_decoder.ln.{i}", "semantic_integration.fusion.norms.{i}"),
    ("lightweight_transformer", "semantic_integration.encoder"),
    ("clip_adapter.non_object_embedding", "non_object_embedding"),
    ("clip_adapter.original_clip", "clip.clip.visual"),
    ("clip_adapter.clip_model.visual", "clip.shifted_visual"),
    ("clip_adapter.clip_model", "clip.clip"),
    ("backbone.patch_embed.proj", _SWIN + "embeddings.patch_embeddings.projection"),
    ("backbone.patch_embed.norm", _SWIN + "embeddings.norm"),
    ("backbone.layers.{i}.blocks.{j}.norm1", _SWIN + "encoder.layers.{i}.blocks.{j}.layernorm_before"),
    ("backbone.layers.{i}.blocks.{j}.norm2", _SWIN + "encoder.layers.{i}.blocks.{j}.layernorm_after"),
    ("backbone.layers.{i}.blocks.{j}.attn.proj", _SWIN + "encoder.layers.{i}.blocks.{j}.attention.o_proj"),
    (
        "backbone.layers.{i}.blocks.{j}.attn.relative_position_bias_table",
        _SWIN + "encoder.layers.{i}.blocks.{j}.attention.relative_position_bias.relative_position_bias_table",
    ),
    ("backbone.layers.{i}.blocks.{j}.mlp", _SWIN + "encoder.layers.{i}.blocks.{j}.mlp"),
    ("backbone.layers.{i}.downsample", _SWIN + "encoder.layers.{i}.downsample"),
    (_PIXEL + "input_proj.{i}", _LEVEL + "decoder.input_projections.{i}"),
    (_PIXEL + "transformer.level_embed", _LEVEL + "decoder.level_embed"),
    (_PIXEL + "transformer.encoder.layers.{i}.self_attn", _LEVEL + "decoder.encoder.layers.{i}.self_attn"),
    (_PIXEL + "transformer.encoder.layers.{i}.norm1", _LEVEL + "decoder.encoder.layers.{i}.self_attn_layer_norm"),
    (_PIXEL + "transformer.encoder.layers.{i}.linear1", _LEVEL + "decoder.encoder.layers.{i}.fc1"),
    (_PIXEL + "transformer.encoder.layers.{i}.linear2", _LEVEL + "decoder.encoder.layers.{i}.fc2"),
    (_PIXEL + "transformer.encoder.layers.{i}.norm2", _LEVEL + "decoder.encoder.layers.{i}.final_layer_norm"),
    (_PIXEL + "mask_features", _LEVEL + "decoder.mask_projection"),
    (_PIXEL + "adapter_1.norm", _LEVEL + "decoder.adapter_1.1"),
    (_PIXEL + "adapter_1", _LEVEL + "decoder.adapter_1.0"),
    (_PIXEL + "layer_1.norm", _LEVEL + "decoder.layer_1.1"),
    (_PIXEL + "layer_1", _LEVEL + "decoder.layer_1.0"),
    (
        _HEAD + "transformer_self_attention_layers.{i}.self_attn.out_proj",
        _MODULE + "decoder.layers.{i}.self_attn.out_proj",
    ),
    (_HEAD + "transformer_self_attention_layers.{i}.norm", _MODULE + "decoder.layers.{i}.self_attn_layer_norm"),
    (_HEAD + "transformer_cross_attention_layers.{i}.multihead_attn", _MODULE + "decoder.layers.{i}.cross_attn"),
    (_HEAD + "transformer_cross_attention_layers.{i}.norm", _MODULE + "decoder.layers.{i}.cross_attn_layer_norm"),
    (_HEAD + "transformer_ffn_layers.{i}.linear1", _MODULE + "decoder.layers.{i}.fc1"),
    (_HEAD + "transformer_ffn_layers.{i}.linear2", _MODULE + "decoder.layers.{i}.fc2"),
    (_HEAD + "transformer_ffn_layers.{i}.norm", _MODULE + "decoder.layers.{i}.final_layer_norm"),
    (_HEAD + "decoder_norm", _MODULE + "decoder.layernorm"),
    (_HEAD + "query_feat", _MODULE + "queries_features"),
    (_HEAD + "query_embed", _MODULE + "queries_embedder"),
    (_HEAD + "level_embed", _MODULE + "level_embed"),
    (_HEAD + "input_proj.{i}", _MODULE + "input_projections.{i}"),
    (_HEAD + "mask_embed.layers.{i}", _MODULE + "decoder.mask_predictor.mask_embedder.{i}.0"),
    (_HEAD + "class_embed.layers.0", "segmenter.embedding_head.0"),
    (_HEAD + "class_embed.layers.1", "segmenter.embedding_head.2"),
    *((f"backbone.norm{i}", f"{_LEVEL}encoder.hidden_states_norms.stage{i + 1}") for i in range(4)),
)
"""Prefixes, released and ours; a name takes the first rule that fits it and keeps what follows the prefix."""

_SPLITS: tuple[tuple[str, str], ...] = (
    (
        "backbone.layers.{i}.blocks.{j}.attn.qkv.{kind}",
        _SWIN + "encoder.layers.{i}.blocks.{j}.attention.{part}_proj.{kind}",
    ),
    (
        _HEAD + "transformer_self_attention_layers.{i}.self_attn.in_proj_{kind}",
        _MODULE + "decoder.layers.{i}.self_attn.{part}_proj.{kind}",
    ),
)
"""Joint projections, released, and their three parts, ours."""

_DERIVED = (
    re.compile(r"backbone\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_index"),
    re.compile(r"criterion\.empty_weight"),
    re.compile(r"clip_adapter\.pixel_(mean|std)"),
)
"""Released buffers that follow from the configuration and are not loaded."""

UNUSED = (_SWIN + "layernorm.",)
"""Ours that no released tensor fills: the library's final norm of Swin, which nothing uses."""


def _pattern(template: str) -> re.Pattern[str]:
    """Compile a template: {i} and {j} are numbers, {kind} is weight or bias, {part} is q, k or v."""
    text = re.escape(template)
    for name, body in (("i", r"\d+"), ("j", r"\d+"), ("kind", "weight|bias"), ("part", "[qkv]")):
        text = text.replace(re.escape("{" + name + "}"), f"(?P<{name}>{body})")
    return re.compile(text + r"(?P<rest>(\..*|_proj.*)?)$")


_FORWARD = tuple((_pattern(released), ours) for released, ours in _RENAMES)
_BACKWARD = tuple((_pattern(ours), released) for released, ours in _RENAMES)
_FORWARD_SPLITS = tuple((_pattern(released), ours) for released, ours in _SPLITS)
_BACKWARD_SPLITS = tuple((_pattern(ours), released) for released, ours in _SPLITS)


def _rename(name: str, rules: Sequence[tuple[re.Pattern[str], str]]) -> str | None:
    """Apply the first rule that fits; None where none does."""
    for pattern, template in rules:
        match = pattern.match(name)
        if match:
            groups = match.groupdict()
            return template.format(**groups) + groups["rest"]
    return None


def is_derived(name: str) -> bool:
    """Tell whether a released tensor is a buffer that follows from the configuration.

    Args:
        name: Its released name.
    """
    return any(pattern.fullmatch(name) for pattern in _DERIVED)


def from_released(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Translate a released checkpoint's tensors to this project's names.

    Args:
        state: The "model" entry of a released checkpoint.

    Returns:
        State for `Scan.load_state_dict`, and the released names for which there is no place here.
    """
    result: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        if is_derived(name):
            continue
        split = _split(name, tensor)
        if split is not None:
            result.update(split)
            continue
        renamed = _rename(name, _FORWARD)
        if renamed is None:
            unknown.append(name)
        else:
            result[renamed] = tensor
    return result, unknown


def _split(name: str, tensor: Tensor) -> dict[str, Tensor] | None:
    """Split a joint projection into query, key and value; None for any other tensor."""
    for pattern, template in _FORWARD_SPLITS:
        match = pattern.match(name)
        if match:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            return {template.format(part=part, **match.groupdict()): value.clone() for part, value in parts}
    return None


def to_released(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Translate this project's state to released names; derived buffers are not written.

    Args:
        state: From `Scan.state_dict`.

    Returns:
        Tensors under released names, and the names here for which there is no place there.
    """
    result: dict[str, Tensor] = {}
    joint: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in state.items():
        if name.startswith(UNUSED):
            continue
        for pattern, template in _BACKWARD_SPLITS:
            match = pattern.match(name)
            if match:
                joint.setdefault(template.format(**match.groupdict()), {})[match["part"]] = tensor
                break
        else:
            renamed = _rename(name, _BACKWARD)
            if renamed is None:
                unknown.append(name)
            else:
                result[renamed] = tensor
    result.update({name: torch.cat([parts[key] for key in "qkv"]) for name, parts in joint.items()})
    return result, unknown


def missing_keys(expected: Sequence[str], state: Mapping[str, Tensor]) -> list[str]:
    """List what a translated checkpoint does not fill.

    Args:
        expected: Names of `Scan.state_dict`.
        state: From `from_released`.

    Returns:
        Names that are expected, used, and not there.
    """
    return [name for name in expected if name not in state and not name.startswith(UNUSED)]
