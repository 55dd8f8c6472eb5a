"""Outputs that appear whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from scan_lightning import files
from scan_lightning.files import UNFINISHED

_MARKS = ("config.json", "open_clip_config.json")
"""A folder with one of these is a network's, and may be replaced by another."""


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a place to write a file to, and move it to its own place when all is done.

    Args:
        path: The file.
        overwrite: Whether an older one may be replaced.

    Yields:
        The temporary file; nothing remains of it after an error.

    Raises:
        FileExistsError: If the file is there and may not be replaced, or is a folder.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"output: {path} is there already; --overwrite replaces a file, never a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_file(path) as unfinished:
        yield unfinished


@contextmanager
def whole_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a folder to write to, and move it to its own place when all is done.

    Args:
        path: The folder.
        overwrite: Whether a network's folder that is there may be replaced.

    Yields:
        The temporary folder; nothing remains of it after an error, and an older folder stays as it was.

    Raises:
        FileExistsError: If the folder is there, is not empty, and may not be replaced, or holds no network.
    """
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"output: expected a folder or a .pth file, {path} is another file")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise FileExistsError(f"output: the folder {path} is not empty; --overwrite replaces it")
        if not any((path / name).is_file() for name in _MARKS):
            raise FileExistsError(f"output: {path} holds no network, so it is not replaced")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=UNFINISHED) as work:
        new, old = Path(work) / "new", Path(work) / "old"
        new.mkdir()
        yield new
        _share(new)
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


def _share(folder: Path) -> None:
    """Give all files of a folder the rights of new ones, where a library lets only their owner read them."""
    model = folder / f"{UNFINISHED}model"
    model.touch()
    mode = model.stat().st_mode
    model.unlink()
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write safetensors.

    Args:
        tensors: By name; views and shared memory are copied, dtypes kept.
        path: The file.
    """
    save_file({name: _own(tensor) for name, tensor in tensors.items()}, path)


def save_checkpoint(container: str, tensors: Mapping[str, Tensor], path: Path, **plain: Any) -> None:
    """Write a PyTorch file as training programs do.

    Args:
        container: Entry for the tensors, "model" or "state_dict"; empty puts them at the top.
        tensors: By name; dtypes are kept.
        path: The file.
        plain: Other entries, plain values.
    """
    own = {name: _own(tensor) for name, tensor in tensors.items()}
    with path.open("wb") as file:  # a name would have to suit the library, which puts it into the archive
        torch.save({container: own, **plain} if container else own, file)


def _own(tensor: Tensor) -> Tensor:
    """Give a contiguous tensor that fills its memory alone."""
    tensor = tensor.detach().contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
