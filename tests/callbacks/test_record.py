import csv
import functools
import hashlib
import multiprocessing
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lightning.pytorch import seed_everything

from scan_lightning.callbacks import record
from scan_lightning.callbacks.record import (
    append_row,
    canonical_json,
    file_hash,
    git_state,
    hardware,
    run_record,
)


@dataclass
class Settings:
    weight: float = 0.5


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_canonical_json_is_the_same_for_equal_configurations() -> None:
    first = {"b": [1, 2.5], "a": {"y": None, "x": "ü"}}
    second = {"a": {"x": "ü", "y": None}, "b": [1, 2.5]}
    assert canonical_json(first) == canonical_json(second) == '{"a":{"x":"ü","y":null},"b":[1,2.5]}'


def test_canonical_json_objects_leave_no_address() -> None:
    config = {
        "path": Path("a") / "b",
        "settings": Settings(),
        "type": Settings,
        "function": canonical_json,
        "object": object(),
        "partial": functools.partial(canonical_json),
        "dtype": torch.bfloat16,
        "set": {"b", "a"},
    }
    assert canonical_json(config) == (
        '{"dtype":"torch.bfloat16","function":"scan_lightning.callbacks.record.canonical_json",'
        '"object":"builtins.object","partial":"functools.partial","path":"a/b","set":["a","b"],'
        f'"settings":{{"weight":0.5}},"type":"{__name__}.Settings"}}'
    )


def test_file_hash_of_known_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_hash(path) == hashlib.sha256(b"abc").hexdigest()


def test_git_state_of_a_checkout_clean_and_changed(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("")
    assert git_state(tmp_path) == (commit, False)
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == (commit, True)


def test_git_state_with_a_new_row_is_clean(tmp_path: Path) -> None:
    rows = tmp_path / "experiments" / "results" / "ablations" / "rows.csv"
    append_row(rows, {"seed": 0})
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    append_row(rows, {"seed": 1})
    assert git(tmp_path, "status", "--porcelain", "--untracked-files=no")
    assert git_state(tmp_path) == (git(tmp_path, "rev-parse", "HEAD"), False)


def test_git_state_inside_another_checkout_does_not_count(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "one", "--allow-empty")
    (tmp_path / "site-packages").mkdir()
    assert git_state(tmp_path / "site-packages") == ("", False)


def test_git_state_without_checkout_or_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(tmp_path) == ("", False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parents[2]) == ("", False)


def test_hardware_does_not_name_the_machine() -> None:
    assert "CPU" in hardware()
    if len(platform.node()) > 3:
        assert platform.node() not in hardware()


def test_run_record_depends_on_configuration_and_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "git_state", lambda folder: ("0" * 40, False))
    seed_everything(7, verbose=False)
    first, again, other = run_record({"a": 1}), run_record({"a": 1}), run_record({"a": 2})
    assert first == again
    assert first["seed"] == "7"
    assert first["torch"] == torch.__version__.split("+")[0]
    assert first["config_hash"] == hashlib.sha256(b'{"a":1}').hexdigest()
    assert {name for name in first if first[name] != other[name]} == {"config_hash"}


def test_run_record_without_seed_is_empty_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert run_record({})["seed"] == ""


def test_append_row_adds_columns_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.csv"
    append_row(path, {"name": "a", "miou": 0.25})
    append_row(path, {"name": 'b, "quoted"\nline', "sg_iou": float("nan"), "miou": 0.5})
    append_row(path, {"sg_iou": 0.75})
    assert read(path) == [
        {"name": "a", "miou": "0.25", "sg_iou": ""},
        {"name": 'b, "quoted"\nline', "miou": "0.5", "sg_iou": ""},
        {"name": "", "miou": "", "sg_iou": "0.75"},
    ]
    assert not list(path.parent.glob("*.part"))


def test_append_row_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.csv"
    append_row(path, {"name": "a"})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(csv.DictWriter, "writerows", fail)
    with pytest.raises(OSError, match="disk full"):
        append_row(path, {"name": "b"})
    assert read(path) == [{"name": "a"}]


def append_many(path: Path, process: int) -> None:
    for index in range(20):
        append_row(path, {"process": process, "index": index})


def test_append_row_of_several_processes_loses_none(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append_many, args=(path, process)) for process in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    rows = [(int(row["process"]), int(row["index"])) for row in read(path)]
    assert sorted(rows) == [(process, index) for process in range(3) for index in range(20)]


def test_row_of_a_run_that_is_done_again_replaces_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    run = {"name": "ratio", "key": "1f", "variant": "", "parameters": "{}", "miou_any": 0.5}
    for row in (run, run | {"key": "2e"}, run | {"variant": "b"}, run | {"miou_any": 0.25}):
        append_row(path, row)
    with path.open(newline="", encoding="utf-8") as file:
        found = [(row["key"], row["variant"], row["miou_any"]) for row in csv.DictReader(file)]
    assert found == [("2e", "", "0.5"), ("1f", "b", "0.5"), ("1f", "", "0.25")]
