"""``scan-lightning ablate``: what is run and what is not, rows on disk, wrong files. Nothing is trained here."""

import sys
from pathlib import Path

import pytest

from commands.ablated import (
    COMMAND,
    FILE,
    LOG,
    ROWS,
    FakeRunner,
    ablate,
    drop_row,
    log,
    rows,
    summary,
    write_ablation,
)
from scan_lightning.cli import COMMANDS
from scan_lightning.commands import ablate as ablate_command
from scan_lightning.commands import ablate_run
from scan_lightning.commands.ablate_plan import plan_ablation, run_arguments
from scan_lightning.commands.ablate_rows import read_rows
from scan_lightning.commands.ablate_run import outdated

RATIO = "model__ratio"
SEEDS = [0, 1, 2]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablate_run.gc, "collect", lambda: 0)  # nothing is built, and the tests' process is large
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    write_ablation(**{RATIO: [0.3, 0.1, 1], "seed_everything": SEEDS})


def content(name: str = FILE.stem) -> bytes:
    return (ROWS / f"{name}.csv").read_bytes()


def test_every_combination_with_every_seed_in_the_files_order() -> None:
    assert ablate() == 0
    assert summary() == [("", ratio, str(seed)) for ratio in ("0.3", "0.1", "1") for seed in SEEDS]
    assert {row["name"] for row in rows()} == {"question"}
    assert len({row["key"] for row in rows()}) == 9
    assert rows()[0]["parameters"] == '{"model.ratio": 0.3}'


def test_rows_of_two_sizes_lie_in_folders_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("big").mkdir()
    Path("big", "small").mkdir()
    file, overlay = FILE.rename("big/question.yaml"), Path("big", "small", "question.yaml")
    overlay.write_text("description: small\n", encoding="utf-8")
    for more, folder in (([], "big"), (["-o", str(overlay)], "small"), (["-o", "big/small"], "small")):
        assert ablate_command.main([str(file), *more], runner=FakeRunner()) == 0
        assert len(read_rows(Path("experiments", "results", folder, "question.csv"))) == 9
    assert ablate_command.main([str(file), "question.yaml"], runner=FakeRunner()) == 1
    assert "files of 2 folders: expected --rows FOLDER for their rows" in capsys.readouterr().err


def test_runs_of_one_training_follow_one_another() -> None:
    """Trainings differ by seed, and the grid goes through the seeds of each ratio."""
    assert ablate() == 0
    assert [line.split()[-1] for line in log("begin")] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    assert len(log("train")) == 3


def test_second_run_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate() == 0
    before, when = content(), (ROWS / "question.csv").stat().st_mtime_ns
    assert ablate() == 0
    assert (content(), (ROWS / "question.csv").stat().st_mtime_ns) == (before, when)
    assert len(log("begin")) == 9
    assert "9 runs: 9 there already" in capsys.readouterr().err


@pytest.mark.parametrize("index", [0, 4, 8])
def test_deleted_row_is_made_again_in_its_place(index: int) -> None:
    assert ablate() == 0
    before, deleted = content(), summary()[index]
    drop_row(index)
    assert len(rows()) == 8
    assert ablate() == 0
    assert content() == before
    assert len(log("begin")) == 10
    assert log("begin")[-1].endswith(deleted[2])
    assert len(log("train")) == 3


def test_failed_run_is_reported_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate(runner=FakeRunner(fails="0.1")) == 1
    assert [ratio for _, ratio, _ in summary()] == ["0.3"] * 3 + ["1"] * 3
    printed = capsys.readouterr().err
    assert "question: ratio 0.1, seed 2: failed: ValueError: this one fails" in printed
    assert "9 runs: 6 done, 3 failed" in printed
    assert ablate() == 0
    assert len(log("end")) == 9
    assert [ratio for _, ratio, _ in summary()] == ["0.3"] * 3 + ["0.1"] * 3 + ["1"] * 3


def test_run_without_a_row_has_failed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(FakeRunner, "execute", lambda self, plan: None)
    assert ablate("--only=0.3", "--seeds", 0) == 1
    assert "RuntimeError: expected its row in rows/question.csv, found none" in capsys.readouterr().err


def test_equal_configuration_of_another_ablation_is_copied(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate() == 0
    values = [{"label": "same", "model.ratio": 0.1}, {"label": "new", "model.ratio": 0.7}]
    other = write_ablation(Path("other.yaml"), variant=values, seed_everything=[0, 1])
    assert ablate(other) == 0
    assert summary("other") == [("same", "0.1", "0"), ("same", "0.1", "1"), ("new", "0.7", "0"), ("new", "0.7", "1")]
    assert {row["name"] for row in rows("other")} == {"other"}
    assert rows("other")[0]["miou_any"] == rows()[3]["miou_any"]
    assert len(log("begin")) == 11
    assert "4 runs: 2 done, 2 copied from another ablation" in capsys.readouterr().err


def test_equal_combinations_of_one_file_have_a_row_each() -> None:
    values = [{"label": "only 1", "model.ratio": 0.1}, {"label": "first 1", "model.ratio": 0.1}]
    write_ablation(variant=values, seed_everything=[0])
    assert ablate() == 0
    assert summary() == [("only 1", "0.1", "0"), ("first 1", "0.1", "0")]
    assert len(log("begin")) == 1


def test_seeds_of_the_call_replace_those_of_the_file() -> None:
    assert ablate("--seeds", 5, 1) == 0
    assert [(ratio, seed) for _, ratio, seed in summary()] == [(r, s) for r in ("0.3", "0.1", "1") for s in "15"]
    assert ablate("--seeds", 0) == 0
    assert [seed for _, _, seed in summary()] == ["0", "1", "5"] * 3


def test_only_runs_what_holds_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    values = [{"label": "Both", "model.ratio": 0.1}, {"label": "none", "model.ratio": 0}]
    write_ablation(variant=values, seed_everything=SEEDS)
    assert ablate("--only", "both") == 0
    assert {label for label, _, _ in summary()} == {"Both"}
    assert ablate("--only", "nowhere") == 0
    assert "question: no combination holds 'nowhere'" in capsys.readouterr().err
    assert len(log("begin")) == 3


def test_dry_tells_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("--seeds", 0) == 0
    before = content()
    other = write_ablation(Path("other.yaml"), **{RATIO: [0.1, 0.7], "seed_everything": SEEDS})
    capsys.readouterr()
    assert ablate(FILE, other, "--dry") == 0
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    # of `other` 0.1 is there with seed 0, and with the others it is among the runs to come
    assert ["question", "9", "3", "0", "6"] in cells
    assert ["other", "6", "0", "3", "3"] in cells
    assert content() == before
    assert len(log("begin")) == 3


def test_dry_tells_the_trainings(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("--seeds", 0, "--only", "0.3") == 0
    capsys.readouterr()
    assert ablate("--dry") == 0
    printed = capsys.readouterr().out
    assert "trainings: 3 needed, 1 of them there" in printed
    trainings = [line for line in printed.splitlines() if "runs/" in line]
    assert [("yes" in line, "no" in line) for line in trainings] == [(True, False), (False, True), (False, True)]
    assert "question: ratio 0.3, seed 2" in trainings[2]


def test_overlay_of_the_same_name_in_a_folder() -> None:
    write_ablation(Path("small", FILE.name), seed_everything=[4])
    assert ablate("-o", "small") == 0
    assert [seed for _, _, seed in summary()] == ["4"] * 3


def test_rows_of_another_configuration_stay_unless_they_are_to_be_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate() == 0
    before = content()
    write_ablation(
        variant=[{"label": "a", "model.ratio": 0.3}, {"label": "b", "model.ratio": 0.1}], seed_everything=SEEDS
    )
    assert ablate("--dry") == 0
    assert "9 rows are of no combination of the file; --replace drops them" in capsys.readouterr().err
    assert content() == before
    assert ablate("--replace") == 0
    assert [label for label, _, _ in summary()] == ["a"] * 3 + ["b"] * 3


def test_changed_configuration_is_not_mixed_with_old_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate() == 0
    before = content()
    write_ablation(
        **{RATIO: [0.3, 0.1, 1], "seed_everything": SEEDS}, command=[*COMMAND[:3], "-c", "x.yaml", "${args}"]
    )
    monkeypatch.setattr("commands.ablated.read", _read_other)
    assert ablate() == 1
    assert "rows/question.csv: 9 rows are of another configuration than this one" in capsys.readouterr().err
    assert content() == before
    assert ablate("--replace", "--only", "0.1") == 0
    assert [row["key"] in before.decode() for row in rows()] == [True] * 3 + [False] * 3 + [True] * 3


def test_rows_of_a_file_without_seeds_are_outdated_whatever_seed_the_recipe_has() -> None:
    write_ablation(**{RATIO: [0.3]})
    (run,) = plan_ablation(
        FILE, overlay=None, seeds=None, only=None, rows=ROWS, trainings=None, runner=FakeRunner()
    ).runs
    row = {"key": run.key, "seed": "5", "variant": "", "parameters": run.combination[1]}
    assert outdated([row], [run]) == []
    assert outdated([row | {"key": "another"}], [run]) == [row | {"key": "another"}]


def _read_other(arguments: list[str]) -> object:
    from commands.ablated import Config

    return Config({"start": "changed"} | {a[2:].split("=", 1)[0]: a.split("=", 1)[1] for a in arguments[1:]})


@pytest.mark.parametrize(
    "command",
    [
        ["${env}", "python", "train.py", "${args}"],
        ["scan-lightning", "fit", "${args}"],
        ["${env}", "scan-lightning"],
        ["scan-lightning", "${args}"],
    ],
)
def test_another_command_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_ablation(**{RATIO: [0.3]}, command=command)
    assert ablate() == 1
    printed = capsys.readouterr().err
    assert "ablations/question.yaml: command: expected ${env}, scan-lightning, run and its arguments, got" in printed
    assert "`scan-lightning sweep` runs any command" in printed


def test_program_may_be_a_path() -> None:
    assert run_arguments(["bin/scan-lightning", "run", "--a=1"]) == ("--a=1",)


def test_wrong_calls(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert ablate("absent.yaml") == 1
    assert "no sweep file absent.yaml" in capsys.readouterr().err
    assert ablate(FILE, write_ablation(Path("b", FILE.name), **{RATIO: [1]})) == 1
    assert "expected files of different names, whose rows lie apart, got question twice" in capsys.readouterr().err
    random = Path("random.yaml")
    random.write_text("{method: random, parameters: {a: {values: [1]}}, command: [scan-lightning, run]}")
    assert ablate(random) == 1
    assert "random.yaml: method: an ablation needs grid, got random" in capsys.readouterr().err
    write_ablation(**{RATIO: [1]})
    assert ablate("--seeds", 1) == 1
    assert "seeds: expected a parameter seed_everything whose values they replace, got none" in capsys.readouterr().err
    write_ablation(**{RATIO: ["unreadable"]})
    assert ablate() == 1
    assert "question.yaml: ratio unreadable: its arguments cannot be parsed" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ablate() == 1
    assert "expected to be started as one process" in capsys.readouterr().err


def test_file_of_other_rows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    ROWS.mkdir()
    (ROWS / "question.csv").write_text("name,miou_any\nx,1\n")
    assert ablate() == 1
    assert "rows/question.csv: expected rows of scan-lightning run, found no column key" in capsys.readouterr().err


def test_every_run_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("--seeds", 0, "--only", "0.3") == 0
    (ROWS / "question.csv").rename("row.csv")
    program = Path("program").resolve()
    program.write_text(
        '#!/bin/sh\necho "apart $*" >> log.txt\n'
        'case "$*" in *ratio=0.3*) cp row.csv rows/question.csv ;; *) exit 3 ;; esac\n'
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    assert ablate("--separate", "--seeds", 0) == 1
    assert [ratio for _, ratio, _ in summary()] == ["0.3"]
    assert len(log("apart -m scan_lightning run -c recipe.yaml --model.ratio=")) == 3
    assert len(log("begin")) == 1
    assert "ratio 1, seed 0: failed: RuntimeError: its process ended with exit status 3" in capsys.readouterr().err


def test_command_is_listed() -> None:
    assert "ablate" in COMMANDS
    assert not LOG.exists()
