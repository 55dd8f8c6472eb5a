"""Files that are whole or not there: after an error, a full disk or a kill stands the old file or the new one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished-"
"""Start of the names of files that are being written."""


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a place to write a file to, and move it to its own place when all of it is on the disk.

    Args:
        path: The file; an older one of that name is replaced. Its folder is there.
        durable: Whether to wait until the disk has it, so that it is whole after a power cut, too. Without, a kill of
            the process leaves no half file, a power cut may.

    Yields:
        An empty file in the same folder, with the rights of a new file, to be written or replaced. It has no suffix, so
        that no listing takes it for a finished one.

    Raises:
        OSError: If the folder cannot be written to or the disk is full; no part of the file remains.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder) / "a.txt") as unfinished:
        ...         _ = unfinished.write_text("all of it")
        ...     (Path(folder) / "a.txt").read_text()
        'all of it'
    """
    unfinished = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    try:
        unfinished.touch(exist_ok=False)
        rights = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(rights)  # safetensors lets only the owner read its file
        if durable:
            with unfinished.open("r+b") as file:
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Write a file so that it appears under its name only when all of it is on the disk.

    Args:
        path: The file; an older one of that name is replaced.
        content: All of it; text is written as UTF-8, its line ends as they are.
        durable: As in `whole_file`.

    Raises:
        OSError: If the folder cannot be written to or the disk is full; no part of the file remains.
    """
    with whole_file(path, durable=durable) as unfinished:
        unfinished.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def remove_unfinished(folder: Path) -> int:
    """Delete what a killed run left behind.

    Args:
        folder: Looked through without its subfolders. No other process may be writing there.

    Returns:
        The number of files deleted.

    Raises:
        OSError: If one cannot be deleted.
    """
    leftovers = [path for path in folder.iterdir() if path.name.startswith(UNFINISHED)]
    for path in leftovers:
        path.unlink()
    return len(leftovers)
