"""Conversion by what the input is: which weights, from where, in which direction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from scan_lightning.convert.architecture import Configuration, read_configuration
from scan_lightning.convert.clip import clip_folder_to_folder, clip_to_file, clip_to_folder
from scan_lightning.convert.clip_architecture import find_prefix
from scan_lightning.convert.files import TensorFile, read_tensors
from scan_lightning.convert.mask2former import (
    is_mask2former,
    mask2former_to_file,
    mask2former_to_folder,
    mask2former_to_own_folder,
)
from scan_lightning.convert.output import whole_file, whole_folder
from scan_lightning.convert.report import Conversion
from scan_lightning.convert.scan import is_scan, scan_to_folder
from scan_lightning.convert.scan_release import scan_to_file
from scan_lightning.models.clip import CONFIG_NAME as CLIP_CONFIG_NAME
from scan_lightning.models.hub import find_folder
from scan_lightning.models.pretrained import CONFIG_NAME

RELEASED_SUFFIX = ".pth"
_OTHER_SUFFIXES = (".pt", ".bin", ".safetensors", ".pkl", ".ckpt")
_FOLDERS = {
    "scan": "a SCAN of this project (config.json with an architecture)",
    "clip": f"a CLIP ({CLIP_CONFIG_NAME})",
    "mask2former": "a Mask2Former of transformers (config.json with a model_type)",
}


def convert(
    source: str | Path,
    output: Path,
    *,
    configs: Sequence[Path] = (),
    quick_gelu: bool | None = None,
    shifted_clip: Path | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert released weights to a folder of this project, or such a folder to released weights.

    Args:
        source: A file of released weights, a folder, or the hub name of a Mask2Former or CLIP.
        output: A folder, or a file that ends in .pth.
        configs: Configurations that tell what a released file's shapes do not.
        quick_gelu: Whether a released file's CLIP was trained with QuickGELU; None finds out as well as it can.
        shifted_clip: File of a fine-tuned CLIP to put into a released SCAN.
        overwrite: Whether an older output may be replaced.

    Returns:
        The report. The output is whole, or there is none.

    Raises:
        FileNotFoundError: If something is not there.
        FileExistsError: If the output is there and may not be replaced.
        ValueError: If the source cannot be read or does not fit, or the output names no direction.
        IncompleteCheckpointError: If tensors are missing.
    """
    path = Path(source)
    released = output.suffix == RELEASED_SUFFIX
    if output.suffix in _OTHER_SUFFIXES and not output.is_dir():
        raise ValueError(f"output: expected a folder or a file that ends in {RELEASED_SUFFIX}, got {output.name}")
    if path.is_file():
        if released:
            raise ValueError(
                f"{source} is a file of released weights already: expected a folder as output, got {output}"
            )
        config = _merge([read_configuration(file) for file in configs])
        return _from_file(read_tensors(path), output, config, quick_gelu, shifted_clip, overwrite)
    if configs or quick_gelu is not None or shifted_clip is not None:
        raise ValueError("--config, --quick-gelu and --shifted-clip belong to a file of released weights, not a folder")
    if path.suffix in (RELEASED_SUFFIX, *_OTHER_SUFFIXES) and not path.is_dir():
        raise FileNotFoundError(f"no file {source}")
    folder = find_folder(source)
    kind = _kind(folder)
    if released:
        writers = {"scan": scan_to_file, "clip": clip_to_file, "mask2former": mask2former_to_file}
        with whole_file(output, overwrite=overwrite) as place:
            return writers[kind](folder, place, output=output)
    if kind == "scan":
        raise ValueError(f"{source} is a folder of this project already: expected a {RELEASED_SUFFIX} file as output")
    copiers = {"clip": clip_folder_to_folder, "mask2former": mask2former_to_own_folder}
    with whole_folder(output, overwrite=overwrite) as place:
        return copiers[kind](folder, place, output=output)


def _from_file(
    source: TensorFile,
    output: Path,
    config: Configuration,
    quick_gelu: bool | None,
    shifted_clip: Path | None,
    overwrite: bool,
) -> Conversion:
    """Convert a file to a folder."""
    scan = is_scan(source.tensors)
    if shifted_clip is not None and not scan:
        raise ValueError(f"--shifted-clip belongs to a released SCAN, {source.path} is none")
    with whole_folder(output, overwrite=overwrite) as place:
        if scan:
            tuned = None if shifted_clip is None else read_tensors(shifted_clip)
            return scan_to_folder(
                source, place, output=output, config=config, quick_gelu=quick_gelu, shifted_clip=tuned
            )
        if find_prefix(source.tensors) is not None:
            return clip_to_folder(source, place, output=output, config=config, quick_gelu=quick_gelu)
        if is_mask2former(source.tensors):
            return mask2former_to_folder(source, place, output=output, config=config)
        names = ", ".join(list(source.tensors)[:3])
        raise ValueError(
            f"{source.path}: expected a released SCAN, a Mask2Former with Swin, or a CLIP with a vision transformer; "
            f"the names of its {len(source.tensors)} tensors ({names}, ...) are of none"
        )


def _merge(configs: Sequence[Configuration]) -> Configuration:
    """Put configurations together, later ones first."""
    merged = Configuration()
    for config in configs:
        merged = Configuration(
            model=config.model or merged.model,
            clip=config.clip or merged.clip,
            preprocess=config.preprocess or merged.preprocess,
        )
    return merged


def _kind(folder: Path) -> str:
    """Tell what a folder holds."""
    config = folder / CONFIG_NAME
    if config.is_file():
        try:
            content = json.loads(config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{config}: not JSON: {error}") from error
        if isinstance(content, dict) and "architecture" in content:
            return "scan"
        if isinstance(content, dict) and content.get("model_type") == "mask2former":
            return "mask2former"
    if (folder / CLIP_CONFIG_NAME).is_file():
        return "clip"
    raise ValueError(f"{folder}: expected one of {'; '.join(_FOLDERS.values())}")
