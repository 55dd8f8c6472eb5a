"""Trained SCANs as folders: config.json and model.safetensors, read without running code."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scan_lightning.models.clip import ClipConfig, FrozenClip
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.scan import Scan, ScanConfig
from scan_lightning.models.segmenter import SegmenterConfig
from scan_lightning.models.semantic_integration import SemanticIntegrationConfig

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
SHIPPED_SCAN = Path(__file__).parent.parent / "assets" / "tiny_scan"
_FROZEN = "clip."
_HERE = "./"  # starts a path within the folder


def save_scan(scan: Scan, folder: Path, *, half: bool = False, settings: InferenceSettings | None = None) -> None:
    """Write a network's configuration and what it has learnt.

    A frozen CLIP that can be had by name is named; one that came from a folder is copied into ``clip``.

    Args:
        scan: The network.
        folder: Made when needed; files in it are replaced in one step each.
        half: Whether to store float16.
        settings: Test-time settings to recommend to whoever uses the network; None recommends none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in scan.state_dict().items()
        if not name.startswith(_FROZEN)
    }
    architecture = asdict(scan.config)
    with_clip = {**architecture, "clip": _keep_clip(scan.config.clip, folder)}
    record = {"architecture": with_clip, "clip_hash": clip_hash(scan.clip)}
    if settings is not None:
        record["inference"] = asdict(settings)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        save_file(state, Path(work) / WEIGHTS_NAME)
        (Path(work) / CONFIG_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for name in (WEIGHTS_NAME, CONFIG_NAME):
            (Path(work) / name).replace(folder / name)


def _keep_clip(config: ClipConfig, folder: Path) -> dict[str, str | None]:
    """Copy what CLIP was read from into the folder; return a configuration whose paths start there."""
    kept = asdict(config)
    for key, target in (("model", "clip"), ("weights", "clip_weights"), ("shifted_weights", "shifted_clip")):
        source = Path(kept[key] or "")
        if kept[key] is None or not source.exists():
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
    values = asdict(config)
    found = {
        key: str(folder / value.removeprefix(_HERE)) if value and value.startswith(_HERE) else value
        for key, value in values.items()
    }
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
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"weights: expected {CONFIG_NAME} and {WEIGHTS_NAME} in {folder}, found no {name}")
    try:
        record = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        config = config_from_dict(record["architecture"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG_NAME}: not a configuration of SCAN: {error}") from error
    # What the segmenter once started from is in the file already, and need not be there any more.
    config = replace(config, segmenter=replace(config.segmenter, weights=None))
    config = replace(config, clip=_find_clip(config.clip, folder))
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
    values = json.loads(path.read_text(encoding="utf-8")).get("inference", {})
    try:
        return InferenceSettings(**_tuples(values))
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path}: 'inference' does not hold test-time settings: {error}") from error


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


def config_from_dict(values: Mapping[str, Any]) -> ScanConfig:
    """Rebuild an architecture from plain values.

    Args:
        values: As `dataclasses.asdict` of a `ScanConfig` gives them, lists for tuples.

    Returns:
        The architecture.

    Raises:
        TypeError: If a key is unknown.
    """
    parts = dict(values)
    integration = parts.pop("semantic_integration")
    return ScanConfig(
        segmenter=SegmenterConfig(**_tuples(parts.pop("segmenter"))),
        clip=ClipConfig(**parts.pop("clip")),
        semantic_integration=None if integration is None else SemanticIntegrationConfig(**_tuples(integration)),
        **parts,
    )


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn lists into tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def clip_hash(clip: FrozenClip) -> str:
    """Identify a frozen CLIP by its weights.

    Args:
        clip: The towers.

    Returns:
        16 hexadecimal digits of a SHA-256 over names and tensors.
    """
    digest = hashlib.sha256()
    for name, tensor in clip.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
