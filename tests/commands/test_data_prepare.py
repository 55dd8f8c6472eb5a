"""``scan-lightning data prepare``: what it writes, says and returns."""

import errno
import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from data.miniature import write_original

from scan_lightning.cli import main
from scan_lightning.commands import data_prepare
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.files import UNFINISHED


def call(root: Path, *names: str, workers: int = 0) -> int:
    """Run the command."""
    return main(["data", "prepare", *names, "--root", str(root), "--workers", str(workers)])


def rows(shown: str) -> list[list[str]]:
    """The table's lines: benchmark, split, written, already there, problems, without the folder."""
    lines = [line for line in shown.splitlines() if "│" in line]
    return [row for row in ([cell.strip() for cell in line.split("│")[1:-2]] for line in lines) if row[0]]


def test_prepare_twice_writes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_original("ade20k_847", tmp_path)
    assert call(tmp_path, "a847", workers=2) == 0
    assert rows(capsys.readouterr().out) == [["a847", "validation", "3", "0", "0"]]
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    assert call(tmp_path, "ade20k_847", workers=2) == 0
    shown = capsys.readouterr().out
    assert "Nothing to do, all files were there." in shown
    assert rows(shown) == [["a847", "validation", "0", "3", "0"]]
    assert {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]} == before


def test_prepare_default_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_original("coco_stuff_171", tmp_path)
    write_original("ade20k_150", tmp_path)
    assert call(tmp_path, "coco_stuff", "a150") == 0
    done = [row[:2] for row in rows(capsys.readouterr().out)]
    assert done == [["coco_stuff", "train2017"], ["coco_stuff", "val2017"], ["a150", "validation"]]


def test_prepare_given_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_original("ade20k_150", tmp_path)
    assert call(tmp_path, "a150", "--split", "training", "--split", "validation", "--split", "training") == 0
    assert [row[1] for row in rows(capsys.readouterr().out)] == ["training", "validation"]


def test_prepare_all_takes_what_is_on_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_original("pascal_context_459", tmp_path, splits=["val"])  # also the files of PC-59 and PC-60
    write_original("pascal_voc_21", tmp_path)
    write_original("coco_stuff_171", tmp_path, splits=["val2017"])
    write_original("ade20k_150", tmp_path, splits=["training"])  # not what tests need
    assert call(tmp_path, "all") == 0
    done = [row[:3] for row in rows(capsys.readouterr().out)]
    assert done == [["pc59", "val", "3"], ["pc459", "val", "3"], ["voc20", "val", "3"], ["coco_stuff", "val2017", "3"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the note tells the order of the classes, nothing is uncertain
        for key in ("pascal_context_60", "pascal_context_59"):
            original, converted = (
                DATAMODULES[key](root=tmp_path, layout=layout).source("val")  # type: ignore[arg-type]
                for layout in ("original", "converted")
            )
            for index in range(3):
                expected, came = original[index].label_map, converted[index].label_map
                assert expected is not None
                assert came is not None
                np.testing.assert_array_equal(came, expected)


def test_prepare_all_without_tests_on_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_original("ade20k_150", tmp_path, splits=["training"])
    assert call(tmp_path, "all") == 1
    assert "expected published files of at least one split to test on" in capsys.readouterr().err


def test_prepare_problems_are_printed_and_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_original("ade20k_150", tmp_path, count=14)
    bad = sorted((folder / "annotations/validation").iterdir())[2:]
    for path in bad:
        path.write_bytes(b"no image")
    assert call(tmp_path, "a150") == 1
    printed = capsys.readouterr()
    assert rows(printed.out) == [["a150", "validation", "2", "0", "12"]]
    assert all(str(path) in printed.err for path in bad[:10])
    assert str(bad[10]) not in printed.err
    assert "A-150 validation: and 2 more" in printed.err


@pytest.mark.parametrize("workers", [0, 2])
def test_prepare_disk_full(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if workers and multiprocessing.get_start_method() != "fork":
        pytest.skip("other processes do not see the full disk")
    write_original("ade20k_150", tmp_path, count=4)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert call(tmp_path, "a150", workers=workers) == 1
    message = capsys.readouterr().err
    assert "the disk is full (No space left on device); 0 of 4 label files are there, each whole" in message
    assert "Traceback" not in message
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(UNFINISHED)]
    assert call(tmp_path, "a150") == 0


def test_prepare_can_be_broken_off_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_original("ade20k_150", tmp_path, count=4)
    real, done = os.fsync, []

    def interrupt(handle: int) -> None:
        if len(done) == 3:  # the note of what was begun, and two labels
            raise KeyboardInterrupt
        done.append(handle)
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        assert call(tmp_path, "a150") == 130
    assert "run it again to go on" in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(UNFINISHED)]
    assert call(tmp_path, "a150") == 0
    assert rows(capsys.readouterr().out) == [["a150", "validation", "2", "2", "0"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["voc21"], "voc21: nothing to prepare, the published label files of PAS-21 hold its labels"),
        (["a150", "--split", "val"], "split: expected one of training, validation, got 'val'"),
        (["a150"], "expected the folder ADEChallengeData2016"),
        (["all"], "expected at least one of the folders"),
        (["b150"], "expected one of a150"),
    ],
)
def test_prepare_wrong_call(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, *arguments) == 1
    assert message in capsys.readouterr().err


def test_prepare_names_a_killed_worker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_original("ade20k_150", tmp_path)

    def killed(*_: object, **__: object) -> None:
        raise RuntimeError("a worker process was killed")

    monkeypatch.setattr(data_prepare, "prepare", killed)
    assert call(tmp_path, "a150") == 1
    assert "a worker process was killed" in capsys.readouterr().err
