import errno
import os
from pathlib import Path

import pytest
import torch

from scan_lightning.callbacks import checkpointing
from scan_lightning.callbacks.checkpointing import WholeCheckpointIO, newest_good


def good(path: Path) -> None:
    if path.read_bytes() == b"bad":
        raise ValueError(f"{path}: damaged")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_save_raises_the_disks_own_error() -> None:
    """Torch hides it behind an error of its own."""
    checkpoint = {"state_dict": {"weight": torch.zeros(1000, 1000)}}
    with pytest.raises(OSError, match="No space left") as error:
        checkpointing._save(checkpoint, Path("/dev/full"))
    assert error.value.errno == errno.ENOSPC


def test_checkpoint_is_written_whole_and_the_one_before_it_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.ckpt"
    for step in range(3):
        WholeCheckpointIO().save_checkpoint({"step": step}, path)
    names = ["last.ckpt", "last.previous.ckpt"]
    assert sorted(file.name for file in path.parent.iterdir()) == names
    assert [torch.load(path.parent / name, weights_only=True)["step"] for name in names] == [2, 1]
    WholeCheckpointIO().remove_checkpoint(path)
    assert not list(path.parent.iterdir())


def test_checkpoint_clears_what_a_kill_left(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-1").write_bytes(b"half")
    WholeCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_newest_good_passes_over_damaged_and_other_files(tmp_path: Path) -> None:
    contents = {"last.ckpt": b"bad", "last.previous.ckpt": b"older", "last-v1.ckpt": b"oldest", "best.ckpt": b"other"}
    for age, (name, content) in enumerate(contents.items()):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    with pytest.warns(UserWarning, match=r"passed over .*last\.ckpt: damaged"):
        assert newest_good([tmp_path / "none", tmp_path], good) == tmp_path / "last.previous.ckpt"


def test_newest_good_of_nothing_is_none(tmp_path: Path) -> None:
    assert newest_good([tmp_path, tmp_path / "none"], good) is None
