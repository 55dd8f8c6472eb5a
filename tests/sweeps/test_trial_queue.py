"""The queue: every place once, whoever takes it, whoever dies."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scan_lightning.sweeps.storage import Storage
from scan_lightning.sweeps.studies import Claim, other_studies
from scan_lightning.sweeps.trial_queue import TrialQueue

RANDOM: dict[str, Any] = {"method": "random", "parameters": {"x": {"min": 0.0, "max": 1.0}, "k": {"values": [1, 2]}}}


def take(queue: TrialQueue) -> Claim:
    """The next trial, which is there."""
    claim = queue.next()
    assert claim is not None
    return claim


def age_heartbeats(folder: Path) -> None:
    """Let all signs of life so far be an hour old."""
    with sqlite3.connect(folder / "toy.db") as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")
    database.close()


def test_fill_adds_every_combination_once_however_often_it_is_called(make_queue: Callable[..., TrialQueue]) -> None:
    queue = make_queue()
    assert queue.fill(None) == 3
    assert make_queue().fill(None) == 3
    assert [entry.state for entry in queue.entries()] == ["waiting"] * 3
    assert [take(queue).values for _ in range(3)] == [{"x": 1}, {"x": 2}, {"x": 3}]
    assert queue.next() is None


def test_fill_can_begin_with_some_and_add_the_rest(make_queue: Callable[..., TrialQueue]) -> None:
    queue = make_queue()
    assert queue.fill(2) == 2
    assert queue.fill(1) == 2
    assert queue.fill(None) == 3
    assert [take(queue).values["x"] for _ in range(3)] == [1, 2, 3]


def test_states_values_and_reasons_are_recorded(make_queue: Callable[..., TrialQueue]) -> None:
    queue = make_queue()
    queue.fill(None)
    claims = [take(queue) for _ in range(3)]
    assert queue.is_running
    claims[1].trial.report(0.25, 0)
    assert queue.finish(claims[0], "complete", 0.5)
    assert queue.finish(claims[1], "pruned")
    assert queue.finish(claims[2], "failed", failure="exit status 3")
    assert not queue.is_running
    found = [(entry.place, entry.state, entry.value, entry.failure) for entry in make_queue().entries()]
    assert found == [(0, "complete", 0.5, ""), (1, "pruned", 0.25, ""), (2, "failed", None, "exit status 3")]
    assert [entry.values for entry in queue.entries()] == [{"x": 1}, {"x": 2}, {"x": 3}]


def test_trial_that_is_put_back_is_taken_again_with_what_it_has_reported(
    make_queue: Callable[..., TrialQueue],
) -> None:
    queue = make_queue(**RANDOM)
    queue.fill(1)
    first = take(queue)
    first.trial.report(0.5, 0)
    queue.put_back(first)
    again = take(make_queue(**RANDOM))
    assert (again.place, again.values, again.known, again.resumed) == (0, first.values, frozenset({0}), True)
    assert (first.known, first.resumed) == (frozenset(), False)
    assert queue.next() is None


def test_trial_of_a_worker_without_a_sign_of_life_is_done_again_and_the_worker_told(
    make_queue: Callable[..., TrialQueue], tmp_path: Path
) -> None:
    queue = make_queue(**RANDOM)
    queue.fill(2)
    lost, kept = take(queue), take(queue)
    age_heartbeats(tmp_path)
    assert queue.beat(kept)
    other = make_queue(**RANDOM)
    again = take(other)
    assert (again.place, again.values, again.resumed) == (lost.place, lost.values, True)
    assert other.next() is None
    assert not queue.beat(lost)
    assert not queue.finish(lost, "complete", 1.0)
    assert other.finish(again, "complete", 2.0)
    assert queue.finish(kept, "complete", 3.0)
    assert [(entry.state, entry.value) for entry in queue.entries()] == [("complete", 2.0), ("complete", 3.0)]


def test_trial_of_a_worker_that_died_on_taking_it_is_missed(
    make_queue: Callable[..., TrialQueue], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue()
    queue.fill(1)

    def die(trial: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(queue._space.__class__, "draw", lambda self, trial: die(trial))
    with pytest.raises(KeyboardInterrupt):
        queue.next()
    monkeypatch.undo()
    assert queue.next() is None
    age_heartbeats(tmp_path)
    assert take(queue).values == {"x": 1}


def test_trial_whose_rescuer_died_is_rescued_by_the_next(
    make_queue: Callable[..., TrialQueue], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue()
    queue.fill(1)
    take(queue)
    age_heartbeats(tmp_path)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(queue.study, "add_trial", die)
    with pytest.raises(KeyboardInterrupt):
        queue.next()
    assert take(make_queue()).values == {"x": 1}
    assert make_queue().next() is None


def test_failed_trials_stay_failed_until_asked_for_again(make_queue: Callable[..., TrialQueue]) -> None:
    queue = make_queue(**RANDOM)
    queue.fill(2)
    failed, done = take(queue), take(queue)
    queue.finish(failed, "failed", failure="no luck")
    queue.finish(done, "complete", 1.0)
    assert queue.next() is None
    assert queue.retry_failed() == 1
    again = take(queue)
    assert (again.place, again.values, again.resumed) == (failed.place, failed.values, False)
    assert queue.retry_failed() == 0


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_draws_depend_on_place_and_seed_alone(make_queue: Callable[..., TrialQueue], method: str) -> None:
    content = {**RANDOM, "method": method}
    queues = [make_queue(**content), make_queue(**content)]
    queues[0].fill(4)
    shared = [take(queues[place % 2]).values for place in range(4)]
    assert len({str(values) for values in shared}) == 4
    alone = make_queue(**content, command=["echo", "${args}"])
    alone.fill(4)
    assert [take(alone).values for _ in range(4)] == shared
    other = make_queue(seed=1, **content)
    other.fill(1)
    assert take(other).values != shared[0]


def test_tpe_learns_from_completed_trials(make_queue: Callable[..., TrialQueue]) -> None:
    queue = make_queue(method="bayes", parameters={"x": {"min": 0.0, "max": 1.0}})
    queue.fill(20)
    drawn = []
    while claim := queue.next():
        drawn.append(claim.values["x"])
        queue.finish(claim, "complete", -((claim.values["x"] - 0.3) ** 2))
    far = [abs(x - 0.3) for x in drawn]
    assert sum(far[10:]) < 0.6 * sum(far[:10]), "the first ten are random"


def test_many_workers_take_every_trial_once(make_queue: Callable[..., TrialQueue]) -> None:
    content = {"parameters": {"x": {"min": 1, "max": 18}}}
    make_queue(**content).fill(None)
    taken: list[int] = []

    def work() -> None:
        queue = make_queue(**content)
        while claim := queue.next():
            taken.append(claim.place)
            queue.finish(claim, "complete", 1.0)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(18))


def test_many_processes_that_fill_at_once_add_every_combination_once(make_queue: Callable[..., TrialQueue]) -> None:
    content = {"parameters": {"x": {"min": 1, "max": 10}}}
    queues = [make_queue(**content) for _ in range(4)]
    threads = [threading.Thread(target=queue.fill, args=(None,)) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.place for entry in queues[0].entries()] == list(range(10))
    assert len(queues[0].study.get_trials()) == 10


def test_study_follows_the_files_content_and_not_its_words(make_queue: Callable[..., TrialQueue]) -> None:
    queue = make_queue()
    assert make_queue(name="Toy", description="words", run_cap=2, seed=3).name == queue.name
    changed = [
        make_queue(parameters={"x": {"values": [1, 2]}}).name,
        make_queue(command=["echo", "${args}"]).name,
        make_queue(metric={"name": "score"}).name,
        make_queue(method="random").name,
        make_queue(method="random", seed=1).name,
    ]
    assert len({queue.name, *changed}) == 6
    assert other_studies([*queue.storage.study_names(), "toy-2-12345678"], queue.sweep, queue.name) == sorted(changed)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("toy.db", r"storage: expected a URL such as sqlite:///sweeps\.db, got 'toy\.db'"),
        ("sqlite://", r"storage: expected a file, since workers share it"),
        ("oracle://host/db", r"storage: expected sqlite, postgresql, mysql or mariadb, got oracle"),
    ],
)
def test_storage_that_workers_cannot_share_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Storage(url=url, heartbeat=1)
