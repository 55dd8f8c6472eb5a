"""Trained SCANs as folders: config.json and model.safetensors, read without running code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scan_lightning.files import whole_file
from scan_lightning.models.clip import SHIPPED_MODEL, ClipConfig, FrozenClip
from scan_lightning.models.hub import CLIP_FOLDERS
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.plain import config_from_dict, settings_from_dict, tensor_hash
from scan_lightning.models.scan import Scan, ScanConfig

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
SHIPPED_SCAN = Path(__file__).parent.parent / "assets" / "tiny_scan"
_FROZEN = "clip."
_HERE = "./"  # starts a path within the folder


def save_scan(
    scan: Scan,
    folder: Path,
    *,
    half: bool = False,
    settings: InferenceSettings | None = None,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write a network's configuration and what it has learnt.

    A frozen CLIP that can be had by name is named; one that came from a folder is copied into ``clip``.

    Args:
        scan: The network.
        folder: Made when needed; files in it are replaced in one step each.
        half: Whether to store float16.
        settings: Test-time settings to recommend to whoever uses the network; None recommends none.
        origin: Where the weights come from, if not from training here, in words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in scan.state_dict().items()
        if not name.startswith(_FROZEN)
    }
    kept = _keep_clip(scan.config.clip, folder)
    record = make_record(scan.config, kept, clip_hash(scan.clip), settings=settings, origin=origin)
    write_scan(folder, state, record)


def make_record(
    config: ScanConfig,
    clip: Mapping[str, str | None],
    identity: str,
    *,
    settings: InferenceSettings | None = None,
    origin: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Describe a network for config.json.

    Args:
        config: Its architecture.
        clip: Its CLIP, fields of `ClipConfig`; paths within the folder start with "./".
        identity: `clip_hash` of that CLIP.
        settings: Test-time settings to recommend.
        origin: Where the weights come from.

    Returns:
        Plain values.
    """
    record: dict[str, Any] = {"architecture": {**asdict(config), "clip": dict(clip)}, "clip_hash": identity}
    if settings is not None:
        record["inference"] = asdict(settings)
    if origin:
        record["origin"] = dict(origin)
    return record


def write_scan(folder: Path, state: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write a network's weights and configuration, each whole or not at all, the configuration last.

    Args:
        folder: Where to; it exists.
        state: What the network has learnt, without CLIP; dtypes are kept.
        record: From `make_record`.
    """
    with whole_file(folder / CONFIG_NAME) as config, whole_file(folder / WEIGHTS_NAME) as weights:
        config.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        save_file(dict(state), weights)


def _keep_clip(config: ClipConfig, folder: Path) -> dict[str, str | None]:
    """Copy what CLIP was read from into the folder; return a configuration whose paths start there."""
    kept = asdict(config)
    for key, target in CLIP_FOLDERS.items():
        source = Path(kept[key] or "")
        # As the loader takes it: a file or folder of the same name does not stand for a model or tag that has it.
        named = {"model": not source.is_dir(), "weights": not source.is_file(), "shifted_weights": not source.exists()}
        if kept[key] is None or named[key] or (key == "model" and kept[key] == SHIPPED_MODEL):
            continue
        destination = folder / target / source.name if source.is_file() else folder / target
        if source.resolve() != destination.resolve():
            destination.parent.mkdir(parents=True, exist_ok=True)
            if source.is_file():
                shutil.copyfile(source, destination)
            else:
                shutil.copytree(source, destination, dirs_exist_ok=True)
        kept[key] = f"{_HERE}{destination.relative_to(folder).as_posix()}"
    return kept


def _find_clip(config: ClipConfig, folder: Path) -> ClipConfig:
    """Undo `_keep_clip`: paths that start in the folder become paths from here."""
    found = asdict(config)
    for key, value in found.items():
        if value and value.startswith(_HERE):
            if ".." in PurePosixPath(value).parts:
                raise ValueError(f"{folder / CONFIG_NAME}: clip.{key} leaves the folder: {value!r}")
            found[key] = str(folder / value.removeprefix(_HERE))
    return ClipConfig(**found)


def load_scan(folder: str | Path = SHIPPED_SCAN, *, text_cache: Path | None = None) -> Scan:
    """Read a network that `save_scan` wrote.

    Args:
        folder: With config.json and model.safetensors; by default the small network that the package ships, which knows
            the generated benchmark `shapes`.
        text_cache: As in `Scan`.

    Returns:
        The network in evaluation mode on the CPU, float32.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, does not fit, or was trained with another CLIP.
    """
    folder = Path(folder)
    record, config = read_record(folder)
    scan = Scan(config=config, text_cache=text_cache)
    found = clip_hash(scan.clip)
    if found != record.get("clip_hash"):
        raise ValueError(f"{folder}: trained with a CLIP of hash {record.get('clip_hash')}, {config.clip} has {found}")
    try:
        state = load_file(folder / WEIGHTS_NAME)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS_NAME}: damaged, expected safetensors: {error}") from error
    check_state(scan, state, str(folder / WEIGHTS_NAME), ignore=_FROZEN)
    scan.load_state_dict(state, strict=False)
    return scan.eval()


def read_record(folder: Path) -> tuple[dict[str, Any], ScanConfig]:
    """Read the configuration of a network that `save_scan` wrote.

    Args:
        folder: With config.json and model.safetensors.

    Returns:
        What config.json holds, and the architecture; what the segmenter once started from is not in it, since the
        weights hold it already, and the paths of CLIP start from here.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If config.json is damaged or names files outside the folder.
    """
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"weights: expected {CONFIG_NAME} and {WEIGHTS_NAME} in {folder}, found no {name}")
    try:
        record = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        config = config_from_dict(record["architecture"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG_NAME}: not a configuration of SCAN: {error}") from error
    config = replace(config, segmenter=replace(config.segmenter, weights=None))
    return record, replace(config, clip=_find_clip(config.clip, folder))


def recommended_settings(folder: str | Path) -> InferenceSettings:
    """Read the test-time settings that a saved network recommends, those of the recipe that trained it.

    Args:
        folder: From `save_scan`; `load_scan` has found it sound.

    Returns:
        The settings; the defaults if it recommends none.

    Raises:
        ValueError: If they are not settings.
    """
    path = Path(folder) / CONFIG_NAME
    return settings_of(json.loads(path.read_text(encoding="utf-8")), Path(folder)) or InferenceSettings()


def settings_of(record: Mapping[str, Any], folder: Path) -> InferenceSettings | None:
    """Give the test-time settings in a network's record.

    Args:
        record: From `read_record`.
        folder: Where it was read, for the message.

    Returns:
        The settings; None if it recommends none.

    Raises:
        ValueError: If they are not settings.
    """
    if "inference" not in record:
        return None
    try:
        return settings_from_dict(record["inference"])
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG_NAME}: 'inference' does not hold test-time settings: {error}") from error


def check_state(module: nn.Module, state: Mapping[str, Tensor], source: str, *, ignore: str | None = None) -> None:
    """Raise unless a state fits a module, naming what differs.

    Args:
        module: What the state is for.
        state: Tensors by name.
        source: Where the state comes from, for the message.
        ignore: Prefix of names that may be missing.

    Raises:
        ValueError: If names are missing or unknown, or shapes differ (a checkpoint of another width).
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state and not (ignore and name.startswith(ignore))]
    unknown = [name for name in state if name not in expected]
    shapes = [name for name in state if name in expected and state[name].shape != expected[name].shape]
    if shapes:
        name = shapes[0]
        raise ValueError(
            f"{source}: does not fit the configured network: {len(shapes)} tensors have another shape, such as {name}: "
            f"{tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        )
    for what, names in (("missing", missing), ("unknown", unknown)):
        if names:
            raise ValueError(f"{source}: does not fit the configured network: {len(names)} {what}, such as {names[0]}")


def clip_hash(clip: FrozenClip) -> str:
    """Identify a frozen CLIP by its weights.

    Args:
        clip: The towers.

    Returns:
        16 hexadecimal digits of a SHA-256 over names and tensors.
    """
    return tensor_hash(clip.state_dict())
