"""Tensors of a TorchScript archive, the form of OpenAI's CLIP, without loading the program in it."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scan_lightning.convert.pickles import PlainDict, RefusedPickleError, RestrictedUnpickler, Stand

PROGRAM = "__torch__"
"""Module of all classes that an archive's own program defines."""

_DTYPES = {
    "HalfStorage": torch.float16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Storage(NamedTuple):
    """The bytes behind tensors, and the type of the numbers in them."""

    content: bytearray
    dtype: torch.dtype


def _rebuild(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """Stand for PyTorch's function: a view of a storage, copied."""
    if not storage.content:
        return torch.empty(size, dtype=storage.dtype)
    return torch.frombuffer(storage.content, dtype=storage.dtype).as_strided(size, stride, offset).contiguous()


def _same(value: Any, *_: object) -> Any:
    """Stand for functions that only mark the type of a list or dictionary."""
    return value


class _ArchiveUnpickler(RestrictedUnpickler):
    """Read data.pkl of an archive: modules become their attributes.

    Args:
        archive: The open archive.
        root: The name that all its entries start with.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        class Module:
            """A module of the program: only its attributes."""

            __slots__ = ("attributes",)

            def __setstate__(self, state: dict[str, Any]) -> None:
                self.attributes = state

        self.module = Module
        self._archive, self._root = archive, root
        self._storages: dict[str, _Storage] = {}
        table = {
            ("torch._utils", "_rebuild_tensor_v2"): Stand(_rebuild),
            ("collections", "OrderedDict"): Stand(PlainDict),
            **{("torch", name): dtype for name, dtype in _DTYPES.items()},
            **{
                ("torch.jit._pickle", f"build_{kind}list"): Stand(_same) for kind in ("int", "tensor", "double", "bool")
            },
            ("torch.jit._pickle", "restore_type_tag"): Stand(_same),
        }
        content = io.BytesIO(_read(archive, f"{root}/data.pkl"))
        super().__init__(content, table=table, prefixes={PROGRAM: Module})

    def persistent_load(self, pid: tuple[Any, ...]) -> _Storage:
        """Give a storage.

        Args:
            pid: ("storage", type, key, place, count).
        """
        _, dtype, key, _, _ = pid
        if not isinstance(dtype, torch.dtype):
            raise RefusedPickleError("it holds a storage of no known type")
        if key not in self._storages:
            self._storages[key] = _Storage(bytearray(_read(self._archive, f"{self._root}/data/{key}")), dtype)
        return self._storages[key]


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read an entry, which PyTorch never compresses."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"{name} is compressed")
    return archive.read(name)


def archive_root(archive: zipfile.ZipFile) -> str | None:
    """Tell whether a ZIP file is a TorchScript archive.

    Args:
        archive: The file.

    Returns:
        The name that all entries start with; None for another kind of file.
    """
    ending = "/constants.pkl"
    roots = [name[: -len(ending)] for name in archive.namelist() if name.endswith(ending) and name.count("/") == 1]
    return roots[0] if roots else None


def load_torchscript(archive: zipfile.ZipFile, root: str) -> dict[str, Tensor]:
    """Read the tensors of a TorchScript archive by the names that its state dict would have; its program is not run.

    Args:
        archive: The file.
        root: From `archive_root`.

    Returns:
        Parameters and buffers.

    Raises:
        RefusedPickleError: If the archive holds something else than modules, tensors and plain values.
        pickle.UnpicklingError: If it is damaged.
        KeyError: If an entry is missing.
        zipfile.BadZipFile: If an entry is damaged.
    """
    unpickler = _ArchiveUnpickler(archive, root)
    content = unpickler.load()
    if not isinstance(content, unpickler.module):
        raise pickle.UnpicklingError(f"it holds a {type(content).__name__} instead of a module")
    return dict(_walk(content, unpickler.module, ""))


def _walk(module: Any, kind: type, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Go through a module's tensors and submodules."""
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, kind):
            yield from _walk(value, kind, f"{prefix}{name}.")
