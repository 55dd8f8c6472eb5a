"""Released SCAN checkpoints to this project's folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scan_lightning.convert.architecture import (
    Configuration,
    config_from_released,
    merge_section,
    section_from_shapes,
    settings_from_section,
)
from scan_lightning.convert.clip import RELEASED_NAME, ClipWeights, find_clip, write_clip_folder
from scan_lightning.convert.clip_architecture import activation_note, architecture_from_shapes
from scan_lightning.convert.files import TensorFile
from scan_lightning.convert.names import from_released, is_derived, missing_keys, to_released
from scan_lightning.convert.network import empty_scan, unused_tensors
from scan_lightning.convert.output import save_tensors
from scan_lightning.convert.report import Conversion, IncompleteCheckpointError, summarize
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.model_card import RELEASED_FORMAT
from scan_lightning.models.plain import config_from_dict, settings_from_dict, tensor_hash
from scan_lightning.models.pretrained import (
    check_state,
    make_record,
    write_scan,
)
from scan_lightning.models.scan import ScanConfig

CLIP, ORIGINAL, SHIFTED = "clip.clip.", "clip.clip.visual.", "clip.shifted_visual."
RELEASED_CLIP, RELEASED_ORIGINAL = "clip_adapter.clip_model.", "clip_adapter.original_clip."
ENTRY = "scan_lightning"
"""Entry of a checkpoint written here for what released checkpoints leave to their configuration."""


def is_scan(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors are those of a released SCAN.

    Args:
        tensors: Of a file.
    """
    return any(name.startswith(RELEASED_ORIGINAL) for name in tensors)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of a checkpoint beside its tensors.

    Attributes:
        config: Architecture, CLIP aside.
        clip: CLIP's architecture.
        preprocess: Entries of CLIP's "preprocess_cfg".
        settings: Test-time settings to recommend.
        assumptions: What neither tensors nor configuration tell.
    """

    config: ScanConfig
    clip: dict[str, Any]
    preprocess: Mapping[str, Any]
    settings: InferenceSettings
    assumptions: Sequence[str]


def describe(source: TensorFile, config: Configuration, *, quick_gelu: bool | None) -> Description:
    """Work out what a released checkpoint is.

    Args:
        source: The checkpoint.
        config: The configuration that belongs to it; what it leaves out follows from the shapes, or is as released.
        quick_gelu: Whether its CLIP was trained with QuickGELU; None takes what the configuration says, else GELU.

    Returns:
        The description.

    Raises:
        ValueError: If the tensors do not tell the architecture, or the configuration has values that do not fit.
    """
    stored = source.plain.get(ENTRY)
    if isinstance(stored, Mapping) and not config.model and not config.clip and quick_gelu is None:
        return _stored(stored, source)
    section = merge_section(section_from_shapes(source.tensors), config.model)
    assumptions = [] if "SELECT_ORI_CLIP_ID" in config.model else [_layers_note(section)]
    clip = dict(config.clip)
    if not clip:
        towers = _towers(source.tensors)
        clip, heads = architecture_from_shapes(towers, quick_gelu=bool(quick_gelu))
        assumptions += [heads] if quick_gelu is not None else [heads, activation_note(openai=False)]
    else:
        clip["quick_gelu"] = bool(clip.get("quick_gelu", False) if quick_gelu is None else quick_gelu)
    try:
        return Description(
            config=config_from_released(section, source.tensors),
            clip=clip,
            preprocess=config.preprocess,
            settings=settings_from_section(section),
            assumptions=assumptions,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"config: the section MODEL does not fit {source.path}: {error}") from error


def _stored(stored: Mapping[str, Any], source: TensorFile) -> Description:
    """Read the entry that `scan_to_file` writes."""
    try:
        return Description(
            config=config_from_dict(stored["architecture"]),
            clip=dict(stored["clip"]),
            preprocess=dict(stored["preprocess"]),
            settings=settings_from_dict(stored["inference"]),
            assumptions=(),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source.path}: its entry {ENTRY!r} is damaged: {error}") from error


def _layers_note(section: Mapping[str, Any]) -> str:
    """Say which of CLIP's layers SIM is taken to read."""
    layers = ", ".join(str(layer) for layer in section["SELECT_ORI_CLIP_ID"])
    sigmas = ", ".join(str(sigma) for sigma in section["FREQUENCY_SIGMA"])
    return f"SIM reads CLIP's layers {layers} with sigmas {sigmas}, texts use the usual templates (--config tells)"


def _towers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the original CLIP under open_clip's names: its text tower lies with the tuned visual tower."""
    text = {
        name.removeprefix(RELEASED_CLIP): value
        for name, value in tensors.items()
        if name.startswith(RELEASED_CLIP) and not name.startswith(RELEASED_CLIP + "visual.")
    }
    visual = {
        f"visual.{name.removeprefix(RELEASED_ORIGINAL)}": value
        for name, value in tensors.items()
        if name.startswith(RELEASED_ORIGINAL)
    }
    return {**text, **visual}


def scan_to_folder(
    source: TensorFile,
    folder: Path,
    *,
    output: Path,
    config: Configuration,
    quick_gelu: bool | None = None,
    shifted_clip: TensorFile | None = None,
) -> Conversion:
    """Convert a released SCAN checkpoint.

    Args:
        source: The checkpoint.
        folder: Where to write.
        output: The name of that folder in the report.
        config: As in `describe`.
        quick_gelu: As there.
        shifted_clip: A fine-tuned CLIP, whose visual tower is to classify the regions in place of the checkpoint's.

    Returns:
        The report.

    Raises:
        ValueError: If the checkpoint does not fit its configuration.
        IncompleteCheckpointError: If it lacks tensors.
    """
    found = describe(source, config, quick_gelu=quick_gelu)
    ours = from_released(source.tensors)[0]
    if shifted_clip is not None:
        ours = _replace_tower(ours, shifted_clip, found)
    if _same_towers(ours):
        ours = {name: value for name, value in ours.items() if not name.startswith(SHIFTED)}
    shifted = any(name.startswith(SHIFTED) for name in ours)
    network = empty_scan(found.config, found.clip, shifted=shifted, source=source.path)
    expected = network.state_dict()
    ours = {name: ours[name] for name in expected if name in ours}
    rewritten = released_state(ours)
    kept = {name: value for name, value in source.tensors.items() if name not in rewritten}
    missing = missing_keys(list(expected), ours)
    report = summarize(
        "SCAN",
        source.path,
        output,
        rewritten,
        unused=[*(name for name in kept if not is_derived(name)), *source.others],
        kept=list(kept),
        missing=list(to_released({name: torch.empty(0) for name in missing})[0]),
        assumptions=found.assumptions,
    )
    if missing:
        raise IncompleteCheckpointError(report)
    ours |= unused_tensors(expected, ours)
    check_state(network, ours, str(source.path))
    _write(folder, found, ours, _origin(source))
    save_tensors(kept, folder / RELEASED_NAME)
    return report


def _replace_tower(ours: dict[str, Tensor], source: TensorFile, found: Description) -> dict[str, Tensor]:
    """Put another CLIP's visual tower in the place of the one that classifies regions."""
    tuned = find_clip(source, config=Configuration(clip=found.clip), quick_gelu=None)
    others = {name: value for name, value in ours.items() if not name.startswith(SHIFTED)}
    visual = {name.removeprefix("visual."): v for name, v in tuned.state.items() if name.startswith("visual.")}
    return {**others, **{SHIFTED + name: value for name, value in visual.items()}}


def _same_towers(ours: Mapping[str, Tensor]) -> bool:
    """Tell whether the visual tower that classifies regions is the original one, bit for bit."""
    original = {name[len(ORIGINAL) :]: value for name, value in ours.items() if name.startswith(ORIGINAL)}
    tuned = {name[len(SHIFTED) :]: value for name, value in ours.items() if name.startswith(SHIFTED)}
    return original.keys() == tuned.keys() and all(
        value.dtype == tuned[name].dtype and torch.equal(value, tuned[name]) for name, value in original.items()
    )


def released_state(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a network's whole state; a network without a tuned visual tower gets the original in its place.

    Args:
        ours: State with CLIP.

    Returns:
        Tensors under released names, without the buffers that follow from the configuration.
    """
    state = dict(ours)
    if not any(name.startswith(SHIFTED) for name in ours):
        state |= {SHIFTED + name[len(ORIGINAL) :]: v for name, v in ours.items() if name.startswith(ORIGINAL)}
    return to_released(state)[0]


def _origin(source: TensorFile) -> dict[str, str]:
    """Say where the weights come from; a checkpoint that was written here says it itself."""
    stored = source.plain.get(ENTRY)
    if isinstance(stored, Mapping):
        origin = stored.get("origin")
        return {str(name): str(value) for name, value in origin.items()} if isinstance(origin, Mapping) else {}
    return {
        "format": RELEASED_FORMAT,
        "file": source.path.name,
        "converted_by": f"scan-lightning {version('scan-lightning')}",
    }


def _write(folder: Path, found: Description, ours: Mapping[str, Tensor], origin: Mapping[str, str]) -> None:
    """Write CLIP's folders, weights and configuration."""
    whole = {name[len(CLIP) :]: value for name, value in ours.items() if name.startswith(CLIP)}
    tuned = {name[len(SHIFTED) :]: value for name, value in ours.items() if name.startswith(SHIFTED)}
    clip = ClipWeights(state=whole, architecture=found.clip, preprocess=found.preprocess)
    write_clip_folder(clip, folder / "clip")
    if tuned:
        state = {**whole, **{f"visual.{name}": value for name, value in tuned.items()}}
        write_clip_folder(replace(clip, state=state), folder / "shifted_clip")
    record = make_record(
        found.config,
        {"model": "./clip", "weights": None, "shifted_weights": "./shifted_clip" if tuned else None},
        tensor_hash({name.removeprefix("clip."): v for name, v in ours.items() if name.startswith("clip.")}),
        settings=found.settings,
        origin=origin,
    )
    learnt = {name: value.contiguous() for name, value in ours.items() if not name.startswith("clip.")}
    write_scan(folder, learnt, record)
