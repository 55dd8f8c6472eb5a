"""Published weights for the mask segmenter: a Swin backbone, or a whole Mask2Former as a warm start.

Three forms are read: folders and hub names in transformers' format, and single files of a Swin in the names of its
own code (Microsoft's ``swin_base_patch4_window12_384_22k.pth``) or of timm.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, Mask2FormerModel
from transformers.models.swin.modeling_swin import SwinBackbone

from scan_lightning.models.clip_weights import DAMAGE

State = dict[str, Tensor]

_DECODER_LAYERS = "transformer_module.decoder.layers."
_MAY_LACK = re.compile(r"hidden_states_norms\.|(.*\.)?swin\.layernorm\.")
"""Norms that a backbone published alone lacks, and the final norm, which no segmenter uses."""

_BLOCK = r"layers\.(\d+)\.blocks\.(\d+)\."
_OURS = r"encoder.layers.\1.blocks.\2."
_BIAS_TABLE = "relative_position_bias_table"
_RENAMES = (
    (r"patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"patch_embed\.norm\.", "embeddings.norm."),
    (_BLOCK + r"norm1\.", _OURS + "layernorm_before."),
    (_BLOCK + r"norm2\.", _OURS + "layernorm_after."),
    (_BLOCK + r"attn\.proj\.", _OURS + "attention.o_proj."),
    (_BLOCK + rf"attn\.{_BIAS_TABLE}$", _OURS + f"attention.relative_position_bias.{_BIAS_TABLE}"),
    (_BLOCK + r"mlp\.", _OURS + "mlp."),
    (r"layers\.(\d+)\.downsample\.", r"encoder.layers.\1.downsample."),
    (r"norm\.", "layernorm."),
)
"""How names start in Swin's own code, and in transformers'."""
_QKV = re.compile(_BLOCK + r"attn\.qkv\.(weight|bias)$")
_NOT_BACKBONE = re.compile(r"head\.|.*\.relative_position_index$|.*\.attn_mask$")
"""In a Swin file: the classifier, and buffers that follow from the architecture."""
_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".pkl", ".safetensors")


def load_published(model: Mask2FormerModel, source: str) -> None:
    """Fill in published weights of a Swin backbone or of a whole Mask2Former.

    Args:
        model: Changed in place. What a published backbone lacks (the norms of its outputs), and decoder layers beyond
            the published ones, keep their initial values.
        source: Hub name or local folder in transformers' format, or a file of a Swin in its own or timm's names
            (.pth, .bin, .safetensors), which must hold tensors only.

    Raises:
        FileNotFoundError: If there is no such file or folder, and no hub that knows the name.
        ValueError: If the source cannot be read, is neither a Swin nor a Mask2Former, or does not fit the model.
    """
    part: nn.Module = model.pixel_level_module.encoder
    if Path(source).is_file():
        state = {f"swin.{name}": tensor for name, tensor in from_swin_names(read_tensors(Path(source))).items()}
    elif _published_kind(source) == "swin":
        state = _read_transformers(SwinBackbone, source, out_features=part.out_features)
    else:
        part, state = model, _read_transformers(Mask2FormerModel, source)
    _check_fit(part.state_dict(), state, source)
    part.load_state_dict(state, strict=False)


def read_tensors(path: Path) -> State:
    """Read a file of tensors; pickled code is refused, never run.

    Args:
        path: A .safetensors file, or a PyTorch file of tensors, bare or under "model" or "state_dict".

    Returns:
        Its tensors by name.

    Raises:
        ValueError: If the file is damaged or holds no tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, *DAMAGE) as error:
        reason = str(error).splitlines()[0] if str(error) else "the file is empty"
        raise ValueError(f"weights: {path}: damaged, or more than tensors, which is refused: {reason}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state = {}
    if isinstance(content, Mapping):
        state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"weights: {path}: expected tensors by name, found none")
    return state


def from_swin_names(state: Mapping[str, Tensor]) -> State:
    """Translate a Swin's own names, or timm's, to those of transformers' SwinModel.

    The classifier and buffers that follow from the architecture are left out, joint query-key-value projections are
    split, and names that are not a Swin's stay as they are. timm counts a reduction to the stage behind it, Swin's own
    code to the stage before it.

    Args:
        state: Tensors by their published names.

    Returns:
        Tensors by transformers' names.
    """
    timm = "layers.0.downsample.reduction.weight" not in state
    result: State = {}
    for name, tensor in state.items():
        if _NOT_BACKBONE.match(name):
            continue
        joint = _QKV.match(name)
        if joint:
            stem = joint.expand(_OURS + "attention.")
            for part, value in zip("qkv", tensor.chunk(3), strict=True):
                result[f"{stem}{part}_proj.{joint[3]}"] = value
            continue
        if timm:
            name = re.sub(r"^layers\.(\d+)\.downsample", lambda stage: f"layers.{int(stage[1]) - 1}.downsample", name)
        result[_rename(name)] = tensor
    return result


def _rename(name: str) -> str:
    """Translate the start of a name; one that no rule knows stays as it is."""
    for pattern, ours in _RENAMES:
        match = re.match(pattern, name)
        if match:
            return match.expand(ours) + name[match.end() :]
    return name


def _published_kind(source: str) -> str:
    """Tell "swin" or "mask2former" from what a folder or hub name says of itself."""
    folder = Path(source)
    is_path = source.count("/") > 1 or source.startswith((".", "~")) or folder.suffix in _FILE_SUFFIXES
    if not folder.exists() and (is_path or folder.is_absolute()):
        raise FileNotFoundError(f"weights: no file or folder {source!r}")
    try:
        kind = str(AutoConfig.from_pretrained(source).model_type)
    except (OSError, ValueError) as error:
        if folder.is_dir():
            raise ValueError(
                f"weights: {source}: expected a folder in transformers' format with a config.json that names its "
                f"model_type; of a Swin in another format name the file of weights: {_first_line(error)}"
            ) from error
        raise FileNotFoundError(
            f"weights: no file or folder {source!r}, and the hub did not give a model of that name; a copy on disk can "
            f"be named by its path: {_first_line(error)}"
        ) from error
    if kind not in ("swin", "mask2former"):
        raise ValueError(f"weights: expected a Swin or a Mask2Former at {source!r}, found a {kind!r}")
    return kind


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _read_transformers(kind: Any, source: str, **options: Any) -> State:
    """Load a published model of transformers and keep what was really in its files."""
    try:
        published, report = kind.from_pretrained(source, output_loading_info=True, **options)
    except (SafetensorError, pickle.UnpicklingError, OSError, *DAMAGE) as error:
        raise ValueError(f"weights: {source}: cannot be read: {_first_line(error)}") from error
    lacking = set(report["missing_keys"])
    needed = sorted(name for name in lacking if not _MAY_LACK.match(name))
    if needed:
        raise ValueError(f"weights: {source}: {len(needed)} tensors are missing, such as {needed[0]}")
    return {name: tensor for name, tensor in published.state_dict().items() if name not in lacking}


def _check_fit(known: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise unless the published tensors are those of the model, or lack no more than they may."""
    # A published decoder may have fewer layers than ours (9 instead of 10); the others keep their initial values.
    required = [
        name
        for name in {**known, **state}
        if (name in known and name in state) or not (_DECODER_LAYERS in name or _MAY_LACK.match(name))
    ]
    wrong = [name for name in required if _shape(known, name) != _shape(state, name)]
    if wrong:
        example = wrong[0]
        raise ValueError(
            f"weights: {Path(source).name} does not fit the configured segmenter: {len(wrong)} tensors differ, such as "
            f"{example}: {_shape(state, example)} instead of {_shape(known, example)}"
        )


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    """Give a tensor's shape, None where the state lacks it."""
    return tuple(state[name].shape) if name in state else None
