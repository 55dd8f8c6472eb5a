"""Checkpoints that outlive a kill and a full disk: written whole, one older kept, the newest good one found."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from scan_lightning.files import remove_unfinished, whole_file

LAST_NAME = f"{ModelCheckpoint.CHECKPOINT_NAME_LAST}{ModelCheckpoint.FILE_EXTENSION}"
"""The checkpoint that ``--ckpt_path last`` resumes from."""

PREVIOUS_SUFFIX = f".previous{ModelCheckpoint.FILE_EXTENSION}"
"""End of the name of the checkpoint that stood before: last.previous.ckpt beside last.ckpt."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, waits for the disk, and then moves it there.

    After a kill, a full disk or a power cut stands the old file or the new one. The one that was replaced stays as
    NAME.previous.ckpt, should the newer one be damaged later; no more room is needed while writing than without it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: What to write.
            path: Of the file; an address with a scheme, such as s3://, is left to Lightning.
            storage_options: None, as Lightning's own plugin demands.

        Raises:
            OSError: If it cannot be written, such as on a full disk; says which checkpoint stays.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        previous = place.with_name(f"{place.stem}{PREVIOUS_SUFFIX}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            remove_unfinished(place.parent)
            good = zipfile.is_zipfile(place)  # a damaged one does not take the place of the one before it
            if good:
                previous.unlink(missing_ok=True)
            with whole_file(place) as unfinished:
                _save(checkpoint, unfinished)
                if good:
                    _link(place, previous)
        except OSError as error:
            stays = f"the older {place.name} stays as it was" if place.is_file() else "there is no older one"
            full = "the disk is full: " if error.errno == errno.ENOSPC else ""
            text = f"{full}{error.strerror}; the checkpoint was not written, {stays}"
            raise OSError(error.errno, text, str(place)) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint that is no longer wanted, and the one that stood before it.

        Args:
            path: Of the file.
        """
        super().remove_checkpoint(path)
        if "://" not in str(path):
            Path(path).with_name(f"{Path(path).stem}{PREVIOUS_SUFFIX}").unlink(missing_ok=True)


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    """Write with torch, and raise the disk's own error where torch hides it."""
    try:
        with path.open("wb") as file:
            torch.save(checkpoint, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def _link(place: Path, previous: Path) -> None:
    """Give a file a second name, where the file system knows such."""
    try:
        os.link(place, previous)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise


def newest_good(folders: Iterable[Path], check: Callable[[Path], None]) -> Path | None:
    """Find the newest undamaged checkpoint whose name begins with "last".

    Args:
        folders: Where to look, without subfolders; those that are missing are passed over.
        check: Raises ValueError for a damaged file.

    Returns:
        The file, or None where no folder holds one.

    Raises:
        ValueError: If there are checkpoints and all are damaged: to begin anew would lose them in silence.
    """
    pattern = f"{ModelCheckpoint.CHECKPOINT_NAME_LAST}*{ModelCheckpoint.FILE_EXTENSION}"
    found = [path for folder in folders for path in folder.glob(pattern)]
    errors: list[str] = []
    for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name == LAST_NAME), reverse=True):
        try:
            check(path)
        except ValueError as error:
            errors.append(str(error))
            continue
        for message in errors:
            rank_zero_warn(f"ckpt_path last: passed over {message}")
        return path
    if errors:
        raise ValueError(f"ckpt_path last: every checkpoint is damaged: {'; '.join(errors)}")
    return None


def checkpoint_folders(callbacks: Iterable[Callback]) -> list[Path]:
    """Name the folders into which a run writes checkpoints.

    Args:
        callbacks: Of the Trainer.

    Returns:
        The folders that are given; those that follow from a logger's version are not known before the run.
    """
    folders = [callback.dirpath for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    return [Path(folder) for folder in dict.fromkeys(folders) if folder]
