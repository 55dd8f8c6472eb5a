"""Files appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from scan_lightning.data.atomic import UNFINISHED, remove_unfinished, write_whole


def test_write_whole_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_whole(path, b"one")
    write_whole(path, b"three")
    assert path.read_bytes() == b"three"
    assert list(tmp_path.iterdir()) == [path]


def test_write_whole_on_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    write_whole(path, b"old")

    def full(handle: int) -> None:
        assert os.fstat(handle).st_size == 3, "the disk is full while a part is written"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_whole_into_no_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "a.png", b"")


def test_remove_unfinished_deletes_leftovers_alone(tmp_path: Path) -> None:
    (tmp_path / f"{UNFINISHED}1").write_bytes(b"half")
    (tmp_path / "a.png").write_bytes(b"whole")
    assert remove_unfinished(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
