"""Files of tensors in every format that released weights come in; none of them is given the chance to run code."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scan_lightning.convert.pickles import PickledArray, RefusedPickleError, load_arrays, no_bytes
from scan_lightning.convert.torchscript import archive_root, load_torchscript
from scan_lightning.models.clip_weights import DAMAGE

Archive = Literal["safetensors", "PyTorch file", "TorchScript archive", "pickle of arrays"]

CONTAINERS = ("model", "state_dict")
"""Entries under which training programs store the network: detectron2's, then Lightning's and open_clip's."""
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""First bytes of files that PyTorch wrote before version 1.6."""
_ZIP = b"PK\x03\x04"

_ARRAY_NAMES: tuple[Any, ...] = (
    np.ndarray,
    np.dtype,
    *((np.empty(0).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((np.float32(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((no_bytes, f"{module}.bytes") for module in ("builtins", "__builtin__")),
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")),
)
"""What PyTorch's own restricted reader must know to read arrays of numbers."""


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """Content of a file of weights.

    Attributes:
        path: The file.
        archive: Its format.
        container: Entry that held the tensors, empty if they were at the top.
        tensors: The tensors by name, in the file's order, arrays too.
        plain: What lay beside the container, by its name.
        others: Names of the container's values that are no tensors.
    """

    path: Path
    archive: Archive
    container: str = ""
    tensors: dict[str, Tensor]
    plain: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def read_tensors(path: Path) -> TensorFile:
    """Read a file of weights.

    Args:
        path: A .safetensors file, a PyTorch file (.pth, .pt, .bin, .ckpt), a TorchScript archive (OpenAI's CLIP), or a
            pickle of NumPy arrays (.pkl, detectron2's model zoo).

    Returns:
        Its tensors, with their dtypes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, truncated or empty, holds code (which is never run), or has no tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with path.open("rb") as file:
        start = file.read(len(_LEGACY))
    if not start:
        raise ValueError(f"{path}: the file is empty")
    try:
        archive, content = _read(path, start)
    except RefusedPickleError as error:
        raise ValueError(
            f"{path}: refused: {_reason(error)}; expected tensors, arrays and plain values only. Nothing was run. If "
            "you trust the file, save its tensors again where it was made: torch.save({'model': tensors}, FILE)"
        ) from error
    except (pickle.UnpicklingError, SafetensorError, OSError, MemoryError, RecursionError, *DAMAGE) as error:
        raise ValueError(f"{path}: damaged, truncated or no file of weights: {_reason(error)}") from error
    return _unwrap(path, archive, content)


def _read(path: Path, start: bytes) -> tuple[Archive, object]:
    """Read by what the file is, whatever its suffix says."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            root = archive_root(archive)
            if root is not None:
                return "TorchScript archive", load_torchscript(archive, root)
        return "PyTorch file", _load_torch(path, mmap=True)
    if start.startswith(_ZIP):
        raise zipfile.BadZipFile("its end is missing")
    if start == _LEGACY:
        return "PyTorch file", _load_torch(path, mmap=False)
    if start[:1] == b"\x80" and path.suffix != ".safetensors":
        return "pickle of arrays", load_arrays(path.read_bytes())
    return "safetensors", load_file(path)


def _load_torch(path: Path, *, mmap: bool) -> object:
    """Load a PyTorch file of tensors, arrays and plain values."""
    with torch.serialization.safe_globals(list(_ARRAY_NAMES)):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:
            found = re.search(r"(?:GLOBAL|operand|class|function) ([\w.]+)", str(error))
            if found is None:
                raise
            raise RefusedPickleError(f"it names {found[1]}") from error


def _reason(error: BaseException) -> str:
    """Say in one line what a reader complained about."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _unwrap(path: Path, archive: Archive, content: object) -> TensorFile:
    """Find the tensors in what a file holds."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected tensors by name, found a {type(content).__name__}")
    for container in CONTAINERS:
        inner = content.get(container)
        if isinstance(inner, Mapping):
            plain = {str(name): value for name, value in content.items() if name != container}
            break
    else:
        container, inner, plain = "", content, {}
    try:
        values = {str(name): _tensor(value) for name, value in inner.items()}
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: damaged: {error}") from error
    tensors = {name: value for name, value in values.items() if value is not None}
    if not tensors:
        raise ValueError(f"{path}: expected tensors, found none among {', '.join(list(values)[:5]) or 'no entries'}")
    others = tuple(name for name, value in values.items() if value is None)
    return TensorFile(path=path, archive=archive, container=container, tensors=tensors, plain=plain, others=others)


def _tensor(value: object) -> Tensor | None:
    """Give a tensor or array as a tensor of its own, None for anything else."""
    if isinstance(value, PickledArray):
        return value.tensor()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value, order="C"))
    if isinstance(value, Tensor):
        return value.detach()
    return None
