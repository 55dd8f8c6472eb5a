"""Read a folder of reference tensors: the format is described in the folder's own README."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
OMITTED_FILE = "omitted.json"
ROWS, VALUES = "#rows", "#values"


@dataclass(frozen=True)
class ImageInfo:
    """An image of the folder.

    Attributes:
        name: Prefix of its tensors.
        index: Its position, on which seeds depend.
        size: (H, W) in pixels.
        output_size: (H, W) of its final result.
    """

    name: str
    index: int
    size: tuple[int, int]
    output_size: tuple[int, int]


class Reference:
    """The content of a folder of reference tensors.

    Args:
        folder: Holds config.json, model.safetensors, and files of recorded tensors.

    Attributes:
        config: config.json.
        values: values.json, or empty.
        metrics: metrics.json, or empty.
        tensors: The tensors of all files but the weights.
        weights: The weights under released names. What the folder omits (omitted.json) is NaN.

    Raises:
        FileNotFoundError: If there is no such folder, or it lacks config.json or model.safetensors.
        ValueError: If a file cannot be read or is not of this format.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
        for name in (CONFIG_FILE, MODEL_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} is not a folder of reference tensors: it has no {name}")
        self.config = _read_json(folder / CONFIG_FILE)
        for key in ("clip_model", "class_names", "images", "resolved"):
            if key not in self.config:
                raise ValueError(f"{folder / CONFIG_FILE}: expected an entry {key!r}, found none")
        self.values = _read_json(folder / "values.json", optional=True)
        self.metrics = _read_json(folder / "metrics.json", optional=True)
        self.tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            if path.name != MODEL_FILE:
                self.tensors.update(_read_tensors(path))
        self._omitted = _read_json(folder / OMITTED_FILE, optional=True)
        self.weights = fill_omitted(_read_tensors(folder / MODEL_FILE), self._omitted)
        manifest = _read_json(folder / "manifest.json", optional=True)
        self._manifest = {entry["name"]: entry for entry in manifest.get("tensors", [])}
        readme = folder / "README.md"
        self._readme = " ".join(readme.read_text(encoding="utf-8").split()) if readme.is_file() else ""

    @property
    def model(self) -> dict[str, Any]:
        """The MODEL section of the configuration."""
        section: dict[str, Any] = self.config["resolved"]["MODEL"]
        return section

    @property
    def images(self) -> list[ImageInfo]:
        """The images, in order."""
        return [
            ImageInfo(
                entry["name"],
                index,
                (entry["height"], entry["width"]),
                (entry["output_height"], entry["output_width"]),
            )
            for index, entry in enumerate(self.config["images"])
        ]

    def get(self, name: str) -> Tensor | None:
        """Give a recorded tensor, None where it is absent.

        Args:
            name: Its full name.
        """
        return self.tensors.get(name)

    def bits(self, name: str, count: int) -> Tensor | None:
        """Unpack a tensor whose last axis is packed bits, most significant first.

        Args:
            name: Its full name.
            count: Number of bits of the last axis.

        Returns:
            bool (..., count), or None where it is absent.

        Raises:
            ValueError: If the last axis does not hold as many bits.
        """
        packed = self.get(name)
        if packed is None:
            return None
        if packed.ndim == 0 or packed.shape[-1] != -(-count // 8) or packed.dtype != torch.uint8:
            raise ValueError(f"{name}: expected {count} bits as uint8, got {packed.dtype} {tuple(packed.shape)}")
        return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1, count=count)).bool()

    def strided(self, name: str, mark: str, end: str = "") -> tuple[Tensor, int, str] | None:
        """Find a tensor of which only every n-th row was recorded, as its name's ending says.

        Args:
            name: Name without the ending.
            mark: Letter before the number, such as "s" in ``crops_s16``.
            end: What follows the number.

        Returns:
            The tensor, n (1 if the name has no such ending) and the full name; None where it is absent.
        """
        pattern = re.compile(re.escape(name) + rf"(?:_{mark}(\d+))?" + re.escape(end))
        for key, tensor in self.tensors.items():
            match = pattern.fullmatch(key)
            if match:
                return tensor, int(match[1] or 1), key
        return None

    def names(self, pattern: str) -> list[re.Match[str]]:
        """Match all names of recorded tensors.

        Args:
            pattern: Regular expression for the whole name.

        Returns:
            The matches, by name.
        """
        return [match for key in sorted(self.tensors) if (match := re.fullmatch(pattern, key))]

    def described(self, name: str, pattern: str) -> tuple[str, ...] | None:
        """Find something in what the manifest says about a tensor.

        Args:
            name: Full name of the tensor.
            pattern: Regular expression with groups.

        Returns:
            The groups, or None where the manifest does not say it.
        """
        entry = self._manifest.get(name, {})
        match = re.search(pattern, f"{entry.get('meaning', '')} {entry.get('source', '')}")
        return match.groups() if match else None

    def seed(self, pattern: str) -> int | None:
        """Find a seed in the folder's README, which alone tells it.

        Args:
            pattern: Regular expression with one group, the number; white space counts as one blank.
        """
        match = re.search(pattern, self._readme)
        return int(match[1]) if match else None

    def omits(self, prefix: str) -> bool:
        """Tell whether the folder omits weights whose released names start with ``prefix``.

        Args:
            prefix: Start of a released name.
        """
        return any(name.startswith(prefix) for name in self._omitted)


def fill_omitted(tensors: dict[str, Tensor], omitted: dict[str, Any]) -> dict[str, Tensor]:
    """Put NaN in the place of omitted weights, and recorded rows where only some rows were kept.

    Args:
        tensors: Content of model.safetensors; ``NAME#rows`` and ``NAME#values`` are rows of an omitted tensor NAME.
        omitted: For each omitted name its shape.

    Returns:
        All weights.
    """
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith((ROWS, VALUES))}
    for name, shape in omitted.items():
        weights[name] = torch.full(shape, torch.nan)
        if name + ROWS in tensors:
            weights[name][tensors[name + ROWS].long()] = tensors[name + VALUES]
    return weights


def _read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Read a JSON object."""
    if optional and not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or not safetensors: {error}") from error
