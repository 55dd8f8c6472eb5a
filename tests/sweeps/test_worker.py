"""A worker with real processes of a program that takes no time."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError

from scan_lightning.sweeps.studies import Claim
from scan_lightning.sweeps.trial_queue import TrialQueue
from scan_lightning.sweeps.worker import Outcome, Worker
from tests.sweeps.toys import METRIC, lines


@pytest.fixture
def work(
    make_queue: Callable[..., TrialQueue], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[int, Outcome]]:
    """Function that does a sweep: ``work(interrupt=1, **content)`` stops when trial 1 has reported something."""
    monkeypatch.chdir(tmp_path)

    def run(interrupt: int | None = None, stop_on_failure: bool = False, **content: Any) -> dict[int, Outcome]:
        queue = make_queue(heartbeat=1, **content)
        queue.fill(None)
        stop = threading.Event()
        outcomes: dict[int, Outcome] = {}

        def stop_at_report(name: str) -> None:
            while not (tmp_path / "trials" / name).is_file():
                time.sleep(0.02)
            stop.set()

        def say(claim: Claim, outcome: Outcome | None) -> None:
            if outcome is not None:
                outcomes[claim.place] = outcome
            elif claim.place == interrupt:
                threading.Thread(target=stop_at_report, args=(f"{interrupt:04d}.jsonl",)).start()

        Worker(
            queue=queue,
            folder=tmp_path / "trials",
            stop=stop,
            say=say,
            grace=5,
            stop_on_failure=stop_on_failure,
        ).work()
        return outcomes

    return run


def test_worker_does_every_combination_and_reads_its_score(work: Callable[..., Any], tmp_path: Path) -> None:
    outcomes = work(parameters={"x": {"values": [1, 2]}, "steps": {"value": 2}})
    assert {place: (outcome.state, outcome.value) for place, outcome in outcomes.items()} == {
        0: ("complete", 2.0),
        1: ("complete", 4.0),
    }
    expected = [{"steps": "2", "x": "1", "score": 2.0}, {"steps": "2", "x": "2", "score": 4.0}]
    assert lines(tmp_path / "rows.txt") == expected
    log = (tmp_path / "trials" / "0001.log").read_text().splitlines()
    assert log == ["$ /usr/bin/env python -S toy.py --steps=2 --x=2", "working on {'steps': '2', 'x': '2'}"]
    assert work(parameters={"x": {"values": [1, 2]}, "steps": {"value": 2}}) == {}, "a finished sweep has nothing to do"
    assert lines(tmp_path / "rows.txt") == expected


def test_sweep_without_a_metric_needs_no_report(work: Callable[..., Any]) -> None:
    outcomes = work(metric=None, command=["python", "-S", "-c", ""], parameters={"x": {"value": 1}})
    assert [(outcome.state, outcome.value) for outcome in outcomes.values()] == [("complete", None)]


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("import sys; sys.exit(4)", "exit status 4"),
        ("", "expected score in its report, got nothing"),
        ('{"step": 1, "metrics": {"loss": 1, "a": 2}}', "expected score in its report, got a, loss"),
        ('{"step": 1, "metrics": {"score": NaN}}', "score is nan"),
        ("no JSON", "expected lines such as"),
    ],
)
def test_failures_say_what_was_wrong(work: Callable[..., Any], code: str, failure: str) -> None:
    if not code.startswith("import"):
        code = f"import os; open(os.environ['SCAN_LIGHTNING_REPORT'], 'a').write({code!r} + '\\n' * bool({code!r}))"
    outcomes = work(command=["python", "-S", "-c", code], parameters={"x": {"value": 1}})
    assert outcomes[0].state == "failed"
    assert failure in outcomes[0].failure


def test_worker_goes_on_after_a_failure_unless_told_to_stop(work: Callable[..., Any], tmp_path: Path) -> None:
    content = {"parameters": {"status": {"values": [0, 1]}, "x": {"values": [1, 2]}}}
    states = {place: outcome.state for place, outcome in work(**content).items()}
    assert states == {0: "complete", 1: "complete", 2: "failed", 3: "failed"}
    content["parameters"]["status"]["values"] = [1, 0]
    assert [outcome.state for outcome in work(stop_on_failure=True, **content).values()] == ["failed"]


def test_hopeless_trials_end_early_and_their_processes_with_them(work: Callable[..., Any], tmp_path: Path) -> None:
    outcomes = work(
        parameters={"x": {"values": [4, 3, 1]}, "steps": {"value": 40}, "seconds": {"value": 0.05}},
        early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2},
    )
    # At band 1 stand 8, then 8 6, then 8 6 2, and what is worse than the second of three has to go.
    assert [outcome.state for outcome in outcomes.values()] == ["complete", "complete", "pruned"]
    assert [row["x"] for row in lines(tmp_path / "rows.txt")] == ["3", "4"]
    assert len((tmp_path / "trials" / "0002.jsonl").read_text().splitlines()) < 40


def test_no_trial_begins_once_the_target_is_reached(work: Callable[..., Any], tmp_path: Path) -> None:
    outcomes = work(metric={**METRIC, "target": 2})
    assert [(outcome.state, outcome.value) for outcome in outcomes.values()] == [("complete", 1.0), ("complete", 2.0)]
    assert work(metric={**METRIC, "target": 2}) == {}
    assert len(lines(tmp_path / "starts.txt")) == 2


def test_interrupted_trial_is_left_and_done_later_once(work: Callable[..., Any], tmp_path: Path) -> None:
    content = {"parameters": {"x": {"values": [1, 2]}, "seconds": {"value": 0.5}, "steps": {"value": 6}}}
    outcomes = work(interrupt=1, **content)
    assert [outcome.state for outcome in outcomes.values()] == ["complete", "back"]
    assert [row["x"] for row in lines(tmp_path / "rows.txt")] == ["1"]
    reported = len((tmp_path / "trials" / "0001.jsonl").read_text().splitlines())
    outcomes = work(**content)
    assert {place: (outcome.state, outcome.value) for place, outcome in outcomes.items()} == {1: ("complete", 12.0)}
    assert [row["x"] for row in lines(tmp_path / "rows.txt")] == ["1", "2"]
    assert len((tmp_path / "trials" / "0001.jsonl").read_text().splitlines()) == reported + 6


def test_database_that_is_away_for_a_moment_costs_no_trial(
    work: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away: list[str] = []

    def fail_once(name: str) -> Callable[..., Any]:
        ask = getattr(TrialQueue, name)

        def asked(*arguments: Any) -> Any:
            if name not in away:
                away.append(name)
                raise StorageInternalError("the server is restarted")
            return ask(*arguments)

        return asked

    for name in ("next", "beat", "finish"):
        monkeypatch.setattr(TrialQueue, name, fail_once(name))
    outcomes = work(parameters={"x": {"values": [1]}, "seconds": {"value": 0.8}, "steps": {"value": 2}})
    assert sorted(away) == ["beat", "finish", "next"]
    assert [(outcome.state, outcome.value) for outcome in outcomes.values()] == [("complete", 2.0)]
    assert len(lines(tmp_path / "starts.txt")) == 1


def test_file_of_arguments_lies_beside_the_log(work: Callable[..., Any], tmp_path: Path) -> None:
    code = "import json, sys; sys.exit(json.load(open(sys.argv[1]))['x'])"
    outcomes = work(command=["python", "-S", "-c", code, "${args_json_file}"], parameters={"x": {"value": 7}})
    assert outcomes[0].failure == "exit status 7"
    assert (tmp_path / "trials" / "0000.json").is_file()
