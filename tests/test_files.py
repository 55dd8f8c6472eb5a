"""Files appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scan_lightning.files import UNFINISHED, remove_unfinished, whole_file, write_whole


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


def test_write_whole_writes_text_as_it_is(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "ä\r\nb\n", durable=False)
    assert (tmp_path / "a.txt").read_bytes() == "ä\r\nb\n".encode()


def test_whole_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole_file(path) as unfinished:
        unfinished.write_text("all", "utf-8")
        assert not path.exists()
        assert unfinished.name.startswith(UNFINISHED)
        assert unfinished.suffix == ""
    assert path.read_text("utf-8") == "all"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_whole_file_after_an_error_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old", "utf-8")

    def write() -> None:
        with whole_file(path) as unfinished:
            unfinished.write_text("ne", "utf-8")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("durable", "waits"), [(True, 1), (False, 0)])
def test_whole_file_waits_for_the_disk_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, waits: int
) -> None:
    handles: list[int] = []
    monkeypatch.setattr(os, "fsync", handles.append)
    write_whole(tmp_path / "a.txt", b"a", durable=durable)
    assert len(handles) == waits


def test_whole_file_has_the_rights_of_a_new_file(tmp_path: Path) -> None:
    """The library of safetensors lets only the owner read what it writes."""
    with whole_file(tmp_path / "a.safetensors") as unfinished:
        save_file({"a": torch.zeros(1)}, unfinished)
    (tmp_path / "new").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_write_whole_into_no_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "a.png", b"")


def test_remove_unfinished_deletes_leftovers_alone(tmp_path: Path) -> None:
    (tmp_path / f"{UNFINISHED}1").write_bytes(b"half")
    (tmp_path / "a.png").write_bytes(b"whole")
    assert remove_unfinished(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
