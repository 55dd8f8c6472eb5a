"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

UNFINISHED = ".unfinished-"
"""Start of the names of files that are being written."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears under its name only when all of it is on the disk.

    Args:
        path: The file; an older one of that name is replaced.
        content: All of it.

    Raises:
        OSError: If the folder cannot be written to or the disk is full; no part of the file remains.
    """
    unfinished = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


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
