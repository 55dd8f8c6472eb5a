"""CLIP's weights, as OpenAI, open_clip and the training programs of segmentation store them, to a folder and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from scan_lightning.convert.architecture import Configuration
from scan_lightning.convert.clip_architecture import (
    OPENAI_NUMBERS,
    activation_note,
    architecture_from_shapes,
    empty_clip,
    find_prefix,
)
from scan_lightning.convert.files import TensorFile, read_tensors
from scan_lightning.convert.output import save_checkpoint, save_tensors
from scan_lightning.convert.report import Conversion, IncompleteCheckpointError, summarize
from scan_lightning.models.clip import CLIP_MEAN, CLIP_STD, CONFIG_NAME
from scan_lightning.models.clip_weights import clip_weight_files
from scan_lightning.models.pretrained import WEIGHTS_NAME, check_state

RELEASED_NAME = "released.safetensors"
"""File for what a released checkpoint holds beyond the network, so that going back loses nothing."""
_ORIGIN = "released"


@dataclass(frozen=True, kw_only=True)
class ClipWeights:
    """A CLIP found in a file.

    Attributes:
        state: Tensors by open_clip's names.
        architecture: What `build_open_clip` takes.
        prefix: What stood before the names in the file.
        kept: Tensors under that prefix that are not the network's, with the prefix.
        unused: Names of everything else in the file.
        assumptions: What the shapes do not tell.
        preprocess: Entries of "preprocess_cfg" of open_clip_config.json that are not OpenAI's.
    """

    state: dict[str, Tensor]
    architecture: dict[str, Any]
    prefix: str = ""
    kept: dict[str, Tensor] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    preprocess: Mapping[str, Any] = field(default_factory=dict)


def find_clip(source: TensorFile, *, config: Configuration, quick_gelu: bool | None) -> ClipWeights:
    """Find a CLIP in a file.

    Args:
        source: The file.
        config: Tells the CLIP's architecture, or nothing: then it follows from the shapes.
        quick_gelu: Whether the CLIP was trained with QuickGELU; None takes what the configuration says, else what the
            kind of file implies: OpenAI's was.

    Returns:
        The CLIP.

    Raises:
        ValueError: If there is none, or it does not fit the architecture.
        IncompleteCheckpointError: If tensors are missing.
    """
    prefix = find_prefix(source.tensors)
    if prefix is None:
        some = ", ".join(list(source.tensors)[:3])
        raise ValueError(f"{source.path}: expected a CLIP with a vision transformer, found {some}, ...")
    inside = {name.removeprefix(prefix): value for name, value in source.tensors.items() if name.startswith(prefix)}
    if config.clip:
        chosen = config.clip.get("quick_gelu", False) if quick_gelu is None else quick_gelu
        architecture, assumptions = {**config.clip, "quick_gelu": bool(chosen)}, []
    else:
        openai = source.archive == "TorchScript archive" or all(name in inside for name in OPENAI_NUMBERS)
        architecture, heads = architecture_from_shapes(inside, quick_gelu=openai if quick_gelu is None else quick_gelu)
        assumptions = [heads] if quick_gelu is not None else [heads, activation_note(openai=openai)]
    model = empty_clip(architecture, source.path)
    expected = model.state_dict()
    state = {name: inside[name] for name in expected if name in inside}
    outside = [name for name in source.tensors if not name.startswith(prefix)] + list(source.others)
    missing = [prefix + name for name in expected if name not in state]
    if missing:
        report = summarize("CLIP", source.path, source.path, state, unused=outside, missing=missing)
        raise IncompleteCheckpointError(report)
    check_state(model, state, str(source.path))
    return ClipWeights(
        state=state,
        architecture=architecture,
        prefix=prefix,
        kept={prefix + name: value for name, value in inside.items() if name not in expected},
        unused=tuple(outside),
        assumptions=tuple(assumptions),
        preprocess=config.preprocess,
    )


def write_clip_folder(clip: ClipWeights, folder: Path) -> None:
    """Write a CLIP as a folder that open_clip and `load_open_clip` read; dtypes are kept.

    Args:
        clip: The CLIP.
        folder: Where to; made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    side = clip.architecture["vision_cfg"]["image_size"]
    preprocess = {
        "size": [side, side],
        "mode": "RGB",
        "mean": list(CLIP_MEAN),
        "std": list(CLIP_STD),
        "interpolation": "bicubic",
        "resize_mode": "squash",
        **clip.preprocess,
    }
    config: dict[str, Any] = {"model_cfg": clip.architecture, "preprocess_cfg": preprocess}
    if clip.prefix:
        config[_ORIGIN] = {"prefix": clip.prefix}
    save_tensors(clip.state, folder / WEIGHTS_NAME)
    if clip.kept:
        save_tensors(clip.kept, folder / RELEASED_NAME)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_clip_folder(folder: Path) -> ClipWeights:
    """Read a folder of open_clip's form, tensors as they are stored.

    Args:
        folder: With open_clip_config.json and weights beside it.

    Returns:
        The CLIP.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or does not fit.
        IncompleteCheckpointError: If tensors are missing.
    """
    path = folder / CONFIG_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = Configuration(clip=dict(content["model_cfg"]), preprocess=dict(content.get("preprocess_cfg", {})))
        prefix = str(content.get(_ORIGIN, {}).get("prefix", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected an open_clip configuration with a 'model_cfg': {error}") from error
    files = [file for file in clip_weight_files(folder) if file.name != RELEASED_NAME]
    if not files:
        raise FileNotFoundError(f"{folder}: expected weights beside {CONFIG_NAME} (*.safetensors, *.bin, *.pt)")
    found = find_clip(read_tensors(files[0]), config=config, quick_gelu=None)
    extra = folder / RELEASED_NAME
    kept = read_tensors(extra).tensors if extra.is_file() else found.kept
    return replace(found, prefix=prefix or found.prefix, kept=kept)


def clip_to_folder(
    source: TensorFile, folder: Path, *, output: Path, config: Configuration, quick_gelu: bool | None
) -> Conversion:
    """Convert a file that holds a CLIP.

    Args:
        source: The file.
        folder: Where to write.
        output: The name of that folder in the report.
        config: As in `find_clip`.
        quick_gelu: As there.

    Returns:
        The report.

    Raises:
        ValueError: As `find_clip`.
    """
    clip = find_clip(source, config=config, quick_gelu=quick_gelu)
    write_clip_folder(clip, folder)
    return _report(clip, source.path, output)


def clip_folder_to_folder(source: Path, folder: Path, *, output: Path) -> Conversion:
    """Bring a folder of open_clip's form into this project's: safetensors and a complete configuration.

    Args:
        source: The folder.
        folder: Where to write.
        output: The name of that folder in the report.

    Returns:
        The report.
    """
    clip = read_clip_folder(source)
    write_clip_folder(clip, folder)
    return _report(clip, source, output)


def clip_to_file(source: Path, path: Path, *, output: Path) -> Conversion:
    """Write a CLIP folder as training programs do: open_clip's names under "state_dict", their prefix as it came.

    Args:
        source: The folder.
        path: Where to write.
        output: The name of that file in the report.

    Returns:
        The report.
    """
    clip = read_clip_folder(source)
    tensors = {clip.prefix + name: value for name, value in clip.state.items()}
    save_checkpoint("state_dict", {**tensors, **clip.kept}, path)
    return _report(clip, source, output)


def _report(clip: ClipWeights, source: Path, output: Path) -> Conversion:
    """Report on a CLIP."""
    return summarize(
        "CLIP",
        source,
        output,
        clip.state,
        unused=[*clip.kept, *clip.unused],
        kept=list(clip.kept),
        assumptions=clip.assumptions,
    )
