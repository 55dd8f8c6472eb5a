"""``scan-lightning sweep``: the whole command on a program that takes no time."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from scan_lightning.commands import sweep
from scan_lightning.sweeps import expand_command, grid, load_sweep
from tests.sweeps.toys import COMMAND, METRIC, lines, start_sweep, write_sweep


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def wait_for_starts(folder: Path, count: int, process: "subprocess.Popen[str]") -> None:
    """Wait until so many trials have begun."""
    end = time.monotonic() + 120
    while len(lines(folder / "starts.txt")) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_grid_by_two_workers_gives_the_rows_of_its_expanded_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file as by W&B's agents: `test_expansion` shows that these are the commands that they start."""
    parameters = {"x": {"values": [1, 2.0, 3.5]}, "seed_everything": {"values": [0, 1]}, "steps": {"value": 2}}
    file = write_sweep(tmp_path, parameters=parameters)
    assert sweep.main([str(file), "--workers=2"]) == 0
    rows = lines(tmp_path / "rows.txt")
    assert len(rows) == 6
    (tmp_path / "rows.txt").unlink()
    monkeypatch.setenv("SCAN_LIGHTNING_REPORT", str(tmp_path / "report.jsonl"))
    loaded = load_sweep(file)
    for values in grid(loaded):
        subprocess.run(expand_command(loaded, values), check=True, stdout=subprocess.DEVNULL)
    assert lines(tmp_path / "rows.txt") == rows
    table = capsys.readouterr().out
    assert "steps" not in table, "what does not vary needs no column"
    for words in (" 5 ", "3.5", "7.0000", "complete", "score", "seed_everything"):
        assert words in table


def test_finished_sweep_started_again_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_sweep(tmp_path)
    assert sweep.main([str(file)]) == 0
    capsys.readouterr()
    assert sweep.main([str(file), "--workers=2"]) == 0
    assert "3 trials, 0 of them to do" in capsys.readouterr().err
    assert len(lines(tmp_path / "starts.txt")) == 3


def test_target_ends_a_sweep_and_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_sweep(tmp_path, metric={**METRIC, "target": 2}, parameters={"x": {"values": [1, 2, 3]}})
    assert sweep.main([str(file)]) == 0
    assert "trial 1 has reached the target, no further one begins" in capsys.readouterr().err
    assert len(lines(tmp_path / "starts.txt")) == 2


def test_failed_trial_gives_status_1_and_its_log_and_can_be_retried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path, parameters={"x": {"values": [1]}, "status": {"values": [0, 3]}})
    assert sweep.main([str(file)]) == 1
    captured = capsys.readouterr()
    (log,) = tmp_path.glob("outputs/sweeps/toy-*/trials/0001.log")
    where = log.relative_to(tmp_path)
    assert "trial 0: complete, score 1.0000, " in captured.err
    assert f"trial 1: failed, exit status 3, see {where}, " in captured.err
    assert "failed: exit status 3" in captured.out
    assert log.read_text().splitlines()[-1].startswith("working on")
    assert sweep.main([str(file)]) == 1, "a failed trial is not forgotten"
    assert len(lines(tmp_path / "starts.txt")) == 2
    (tmp_path / "toy.py").write_text((tmp_path / "toy.py").read_text().replace('values.get("status", 0)', "0"))
    assert sweep.main([str(file), "--retry_failed"]) == 0
    assert len(lines(tmp_path / "starts.txt")) == 3


def test_changed_file_is_another_study_and_the_command_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main([str(write_sweep(tmp_path)), "--trials=1"]) == 0
    name = capsys.readouterr().err.split()[1]
    assert sweep.main([str(write_sweep(tmp_path, parameters={"x": {"values": [5]}}))]) == 0
    err = capsys.readouterr().err
    assert "1 trials, 1 of them to do" in err
    assert f"earlier studies with another content or seed are left alone: {name}" in err


def test_print_writes_the_merged_file_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_sweep(tmp_path)
    (tmp_path / "quick").mkdir()
    overlay = write_sweep(tmp_path, "quick/toy.yaml", parameters={"x": None, "y": {"values": [7]}}, method=None)
    assert sweep.main([str(file), "-o", str(overlay.parent), "--print"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {
        "method": "grid",
        "metric": {"name": "score", "goal": "maximize"},
        "parameters": {"y": {"values": [7]}},
        "command": COMMAND,
    }
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ({"method": "random"}, [], "toy: method random has no end, expected --trials N or run_cap in the file"),
        ({"method": "annealing"}, [], "method: expected one of grid, random, bayes, got 'annealing'"),
        ({}, ["--storage=toy.db"], "storage: expected a URL such as sqlite:///sweeps.db, got 'toy.db'"),
        ({}, ["--storage=postgresql+nothing://h/d"], "storage: "),
        ({}, ["--heartbeat=5", "--grace=20"], "--grace 20: expected less than 4 heartbeats of 5 seconds"),
        ({}, ["--overlay=absent.yaml"], "no sweep file absent.yaml"),
    ],
)
def test_wrong_calls_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, Any], arguments: list[str], message: str
) -> None:
    assert sweep.main([str(write_sweep(tmp_path, **content)), *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("scan-lightning sweep: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_number_of_trials_is_the_smaller_of_the_two_bounds(tmp_path: Path, method: str) -> None:
    parameters = {"x": {"distribution": "beta", "a": 2}, "k": {"values": ["a", "b"]}}
    file = write_sweep(tmp_path, method=method, parameters=parameters, run_cap=3)
    assert sweep.main([str(file), "--trials=5", "--seed=4"]) == 0
    rows = lines(tmp_path / "rows.txt")
    assert len({row["x"] for row in rows}) == 3
    assert all(0 < float(row["x"]) < 1 for row in rows)


def test_two_workers_one_killed_do_every_trial_exactly_once(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, parameters={"x": {"min": 1, "max": 6}, "seconds": {"value": 0.3}})
    first = start_sweep(tmp_path, str(file), "--heartbeat=1", TOY_HANG="2")
    wait_for_starts(tmp_path, 2, first)
    second = start_sweep(tmp_path, str(file), "--heartbeat=1")
    wait_for_starts(tmp_path, 4, second)
    first.send_signal(signal.SIGKILL)
    first.wait()
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    rows = lines(tmp_path / "rows.txt")
    assert [row["x"] for row in rows] == [str(x) for x in range(1, 7)], output
    assert output.count("complete │") == 6
    assert [start["x"] for start in lines(tmp_path / "starts.txt")] == ["1", "2", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_leaves_the_trial_to_be_done_later(tmp_path: Path, number: signal.Signals) -> None:
    file = write_sweep(tmp_path, parameters={"x": {"values": [1, 2]}})
    process = start_sweep(tmp_path, str(file), TOY_HANG="1")
    wait_for_starts(tmp_path, 1, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}; the same command goes on from here" in output
    assert "trial 0: left in the queue" in output
    assert output.count("waiting") == 2
    assert lines(tmp_path / "rows.txt") == []
    assert sweep.main([str(file)]) == 0
    assert [row["x"] for row in lines(tmp_path / "rows.txt")] == ["1", "2"]
