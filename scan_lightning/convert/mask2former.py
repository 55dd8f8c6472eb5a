"""Mask2Former's released checkpoints (detectron2's names, Swin) to transformers' folders and back.

A folder is what the segmenter's ``weights`` take as a warm start.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from scan_lightning.convert.architecture import (
    Configuration,
    merge_section,
    section_from_shapes,
    segmenter_from_released,
)
from scan_lightning.convert.clip import RELEASED_NAME
from scan_lightning.convert.files import TensorFile, read_tensors
from scan_lightning.convert.names import from_released, is_derived, missing_keys, to_released
from scan_lightning.convert.network import unused_tensors
from scan_lightning.convert.output import save_checkpoint, save_tensors
from scan_lightning.convert.report import Conversion, IncompleteCheckpointError, summarize
from scan_lightning.convert.scan_release import NO_OBJECT_WEIGHT, swin_buffers
from scan_lightning.models.clip_weights import DAMAGE
from scan_lightning.models.pretrained import check_state
from scan_lightning.models.segmenter import SegmenterConfig

_OURS = "segmenter."
_HEAD, _CLASSES = "sem_seg_head.predictor.class_embed.", "class_predictor."
_LOSS = "criterion.empty_weight"


def is_mask2former(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors are those of a released Mask2Former.

    Args:
        tensors: Of a file.
    """
    return any(name.startswith("sem_seg_head.predictor.") for name in tensors)


def mask2former_to_folder(source: TensorFile, folder: Path, *, output: Path, config: Configuration) -> Conversion:
    """Convert a released Mask2Former with a Swin backbone.

    Args:
        source: The checkpoint.
        folder: Where to write.
        output: The name of that folder in the report.
        config: The configuration that belongs to it; what it leaves out follows from the shapes.

    Returns:
        The report.

    Raises:
        ValueError: If the checkpoint does not fit its configuration, or has another backbone.
        IncompleteCheckpointError: If it lacks tensors.
    """
    tensors = {_present_name(name): value for name, value in source.tensors.items()}
    if "backbone.patch_embed.proj.weight" not in tensors:
        raise ValueError(f"{source.path}: expected a Mask2Former with a Swin backbone, found another backbone")
    section = merge_section(section_from_shapes(tensors), config.model)
    head = {name: value for name, value in tensors.items() if name.startswith(_HEAD) and ".layers." not in name}
    if f"{_HEAD}bias" not in head:
        raise ValueError(f"{source.path}: expected Mask2Former's linear class head, found none")
    state = {name.removeprefix(_OURS): value for name, value in from_released(tensors)[0].items()}
    state |= {_CLASSES + name.removeprefix(_HEAD): value for name, value in head.items()}
    classes = head[f"{_HEAD}bias"].shape[0] - 1
    state[_LOSS] = tensors.get(_LOSS, loss_weights(classes))
    network = _empty(segmenter_from_released(section, tensors), classes)
    expected = network.state_dict()
    state = {name: value for name, value in state.items() if name in expected}
    rewritten = _released(state)
    kept = {name: value for name, value in tensors.items() if name not in rewritten}
    missing = missing_keys([_OURS + name for name in expected], {_OURS + name: value for name, value in state.items()})
    report = summarize(
        "Mask2Former",
        source.path,
        output,
        rewritten,
        unused=[*(name for name in kept if not is_derived(name)), *source.others],
        kept=list(kept),
        missing=list(_released({name.removeprefix(_OURS): torch.empty(0) for name in missing})),
        assumptions=_renamed_note(source.tensors),
    )
    if missing:
        raise IncompleteCheckpointError(report)
    prefixed = unused_tensors({_OURS + name: value for name, value in expected.items()}, {})
    state |= {name.removeprefix(_OURS): value for name, value in prefixed.items()}
    check_state(network, state, str(source.path))
    _require_one_dtype(state, source.path)
    network.load_state_dict(state, assign=True)
    network.save_pretrained(folder)
    save_tensors(kept, folder / RELEASED_NAME)
    return report


def mask2former_to_file(source: Path, path: Path, *, output: Path) -> Conversion:
    """Write a transformers folder of a Mask2Former as a released checkpoint.

    Args:
        source: The folder.
        path: Where to write.
        output: The name of that file in the report.

    Returns:
        The report.

    Raises:
        ValueError: If it is no Mask2Former with Swin, or cannot be read.
        IncompleteCheckpointError: If tensors are missing.
    """
    network, unused = _load(source)
    released = _released(network.state_dict())
    extra = source / RELEASED_NAME
    kept = read_tensors(extra).tensors if extra.is_file() else swin_buffers(_segmenter(network.config))
    save_checkpoint("model", {**released, **kept}, path)
    return summarize("Mask2Former", source, output, released, unused=unused, kept=list(kept))


def mask2former_to_own_folder(source: Path, folder: Path, *, output: Path) -> Conversion:
    """Copy a Mask2Former from the hub's cache or another folder, once it was found complete.

    Args:
        source: A transformers folder.
        folder: Where to write.
        output: The name of that folder in the report.

    Returns:
        The report.

    Raises:
        ValueError: As `mask2former_to_file`.
        IncompleteCheckpointError: As there.
    """
    network, unused = _load(source)
    network.save_pretrained(folder)
    extra = source / RELEASED_NAME
    kept = read_tensors(extra).tensors if extra.is_file() else {}
    if kept:
        save_tensors(kept, folder / RELEASED_NAME)
    return summarize("Mask2Former", source, output, network.state_dict(), unused=unused, kept=list(kept))


def loss_weights(classes: int) -> Tensor:
    """Give the weights of the classes in the loss, no-object last, as a released checkpoint stores them.

    Args:
        classes: Number of classes.

    Returns:
        float32 (classes + 1,).
    """
    weights = torch.ones(classes + 1)
    weights[-1] = NO_OBJECT_WEIGHT
    return weights


def _present_name(name: str) -> str:
    """Bring a name of Mask2Former's first release up to date."""
    name = name.replace("sem_seg_head.predictor.static_query.", "sem_seg_head.predictor.query_feat.")
    if name.startswith("sem_seg_head.") and not name.startswith(
        ("sem_seg_head.predictor.", "sem_seg_head.pixel_decoder.")
    ):
        return name.replace("sem_seg_head.", "sem_seg_head.pixel_decoder.", 1)
    return name


def _renamed_note(tensors: Mapping[str, Tensor]) -> list[str]:
    """Say whether names were brought up to date."""
    renamed = [name for name in tensors if _present_name(name) != name]
    return (
        [f"{len(renamed)} names of an earlier release, such as {renamed[0]}, have their present form"]
        if renamed
        else []
    )


def _empty(config: SegmenterConfig, classes: int) -> Any:
    """Build transformers' Mask2Former without memory for its weights."""
    values = config.to_transformers()
    values.num_labels = classes
    with torch.device("meta"):
        return Mask2FormerForUniversalSegmentation(values).eval()


def _released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate transformers' names to released ones."""
    released = to_released({_OURS + name: value for name, value in state.items() if name.startswith("model.")})[0]
    head = {_HEAD + name.removeprefix(_CLASSES): value for name, value in state.items() if name.startswith(_CLASSES)}
    return {**released, **head, **({_LOSS: state[_LOSS]} if _LOSS in state else {})}


def _require_one_dtype(state: Mapping[str, Tensor], source: Path) -> None:
    """Raise ValueError where tensors differ in their type, which transformers' folders cannot hold."""
    dtypes = {str(value.dtype) for name, value in state.items() if name != _LOSS and "layernorm" not in name}
    if len(dtypes) > 1:
        raise ValueError(f"{source}: expected tensors of one dtype, found {', '.join(sorted(dtypes))}")


def _load(source: Path) -> tuple[Any, list[str]]:
    """Load transformers' Mask2Former and list the names that it did not use."""
    config = AutoConfig.from_pretrained(source)
    backbone = getattr(getattr(config, "backbone_config", None), "model_type", None)
    if config.model_type != "mask2former" or backbone != "swin":
        raise ValueError(f"{source}: expected a Mask2Former with Swin, found a {config.model_type} with {backbone}")
    try:
        network, info = Mask2FormerForUniversalSegmentation.from_pretrained(
            source, dtype="auto", output_loading_info=True, local_files_only=True
        )
    except (SafetensorError, pickle.UnpicklingError, *DAMAGE) as error:
        raise ValueError(f"{source}: damaged, or its weights do not fit its config.json: {error}") from error
    state = network.state_dict()
    lacking = {name for name in info["missing_keys"] if name != _LOSS}
    missing = missing_keys([_OURS + name for name in state if name in lacking], {})
    unused = sorted(info["unexpected_keys"])
    if missing:
        names = [name.removeprefix(_OURS) for name in missing]
        raise IncompleteCheckpointError(summarize("Mask2Former", source, source, state, unused=unused, missing=names))
    return network, unused


def _segmenter(config: Mask2FormerConfig) -> SegmenterConfig:
    """Read what the buffers of the backbone depend on."""
    swin = config.backbone_config
    return SegmenterConfig(depths=tuple(swin.depths), window_size=swin.window_size)
