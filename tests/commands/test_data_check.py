"""``scan-lightning data list`` and ``check``: tables, findings, reports and exit codes."""

import json
import os
from pathlib import Path

import pytest
from data.miniature import write_original

from scan_lightning.cli import main
from scan_lightning.commands import data_check
from scan_lightning.data.benchmarks import BENCHMARK_KEYS, load_benchmark
from scan_lightning.data.preparation import plan_preparation, prepare


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the miniature's 3 images be the published number."""
    for key in BENCHMARK_KEYS:
        benchmark = load_benchmark(key)
        monkeypatch.setitem(benchmark.__dict__, "splits", dict.fromkeys(benchmark.splits, 3))


def test_data_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in ("list", "check", "prepare", "hierarchy"))
    assert main(["data", "chek"]) == 2
    assert "expected one of list, check, prepare, hierarchy, got 'chek'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list", "check", "prepare", "hierarchy"])
def test_data_commands_explain_themselves(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", command, "--help"])
    assert end.value.code == 0
    assert f"scan-lightning data {command}" in capsys.readouterr().out


def test_list_tells_what_is_known_and_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_original("ade20k_150", tmp_path)
    prepare(plan_preparation(load_benchmark("a150"), root=tmp_path, split="validation"))
    folder = write_original("pascal_voc_20", tmp_path, splits=["val"])
    name = (folder / "ImageSets/Segmentation/val.txt").read_text("utf-8").split()[0]
    (folder / "JPEGImages" / f"{name}.jpg").unlink()
    assert main(["data", "list", "--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    splits: dict[tuple[str, str], list[str]] = {}
    name = ""
    for row in (row for row in rows if len(row) == 7):
        name = row[0] or name
        splits[name, row[3]] = row[4:]
    assert splits["a150", "training"] == ["3", "20,210", "original"]
    assert splits["a150", "validation"] == ["3", "2,000", "converted and original"]
    assert splits["voc20", "train"] == ["0", "1,464", "not on disk"]
    assert splits["voc20", "val"] == ["2", "1,449", "original, 1 missing: see data check"]
    assert {row[0] for row in rows} >= {load_benchmark(key).short for key in BENCHMARK_KEYS}
    for key in BENCHMARK_KEYS:
        assert load_benchmark(key).licence.split()[0] in shown
    assert "Not ready to test on: a847, pc59, pc459, voc20, coco_stuff, pc60, voc21, cityscapes." in shown


def test_list_without_any_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "a847", "--root", str(tmp_path / "none")]) == 0
    shown = capsys.readouterr().out
    assert "not on disk" in shown
    assert "on request" in shown
    assert f"None of them is in {tmp_path / 'none'}: found no such folder; in {tmp_path} there is: nothing." in shown


def test_list_of_an_archive_says_to_unpack_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "ADEChallengeData2016.zip"
    archive.write_bytes(b"PK")
    assert main(["data", "list", "a150", "--root", str(archive)]) == 0
    assert capsys.readouterr().out.endswith(f"{archive}: found an archive: unpack it and give the folder.\n")


def test_list_wrong_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "a151"]) == 1
    assert "expected one of a150" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_check_good_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_original("ade20k_150", tmp_path)
    write_original("pascal_voc_20", tmp_path)
    assert main(["data", "check", "--root", str(tmp_path), "--workers", "2"]) == 0
    shown = capsys.readouterr().out
    assert "Nothing is wrong." in shown
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert [row[:2] for row in rows] == [
        ["a150", "training"],
        ["a150", "validation"],
        ["voc20", "train"],
        ["voc20", "val"],
        ["voc21", "train"],
        ["voc21", "val"],
    ]
    assert all(row[2:] == ["original", "3", "3", "0", "0"] for row in rows)


@pytest.mark.usefixtures("small")
def test_check_bad_data_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_original("ade20k_150", tmp_path)
    bad = folder / "annotations/validation/ADE_val_00000002.png"
    bad.write_bytes(bad.read_bytes()[:50])
    report = tmp_path / "new" / "report.json"
    call = ["data", "check", "a150", "--root", str(tmp_path), "--report", str(report), "--workers", "0"]
    assert main(call) == 1
    shown = capsys.readouterr().out
    assert "a150 validation: damaged label: 1" in shown
    assert str(bad) in shown
    assert [entry["file"] for entry in json.loads(report.read_text("utf-8"))["findings"]] == [str(bad)]
    assert main([*call, "--split", "training"]) == 0
    assert main([*call, "--names-only"]) == 0
    assert "opened no file" in capsys.readouterr().out


def test_check_lists_the_first_ten_missing_files_and_the_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_original("ade20k_150", tmp_path, count=15, splits=["validation"])
    gone = sorted((folder / "annotations/validation").iterdir())[3:]
    for path in gone:
        path.unlink()
    assert main(["data", "check", "a150", "--root", str(tmp_path), "--names-only"]) == 1
    shown = capsys.readouterr().out
    assert "a150 validation: missing label: 12" in shown
    assert all(f"{path}: expected a label file" in shown for path in gone[:10])
    assert str(gone[10]) not in shown
    assert "and 2 more" in shown


def test_check_names_that_a_terminal_lacks_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_original("ade20k_150", tmp_path, splits=["validation"])
    (folder / "images/validation" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    assert main(["data", "check", "a150", "--root", str(tmp_path), "--workers", "0"]) == 1
    assert "caf\\udce9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a150", "--report", "r.txt"], "expected a file name that ends in .json or .csv"),
        (["a150", "--split", "val"], "split: expected one of training, validation, got 'val'"),
        (["voc21", "--layout", "converted"], "layout: PAS-21 has original files"),
        (["--workers", "-1", "a150"], "workers: expected at least 0, got -1"),
        ([], "expected at least one of the folders"),
        (["x"], "expected one of a150"),
    ],
)
def test_check_wrong_call(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", "--root", str(tmp_path), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_check_absent_benchmark_fails_and_says_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ADEChallengeData2016.zip").write_bytes(b"")
    assert main(["data", "check", "a150", "--root", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "expected the folder ADEChallengeData2016" in shown
    assert "unpack ADEChallengeData2016.zip first" in shown


def test_check_can_be_broken_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_original("ade20k_150", tmp_path)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data_check, "check_files", interrupt)
    assert main(["data", "check", "--root", str(tmp_path), "--workers", "0"]) == 130
    assert "broken off" in capsys.readouterr().err
