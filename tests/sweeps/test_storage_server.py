"""The queue in a database server, where one is lent: its URL stands in SCAN_LIGHTNING_TEST_STORAGE."""

import os
import threading
import uuid
from pathlib import Path

import pytest
import sqlalchemy

from scan_lightning.sweeps import load_sweep
from scan_lightning.sweeps.storage import Storage
from scan_lightning.sweeps.trial_queue import TrialQueue
from tests.sweeps.toys import write_sweep

URL = os.environ.get("SCAN_LIGHTNING_TEST_STORAGE", "")
PLACES = 18

pytestmark = pytest.mark.skipif(not URL, reason="SCAN_LIGHTNING_TEST_STORAGE names no PostgreSQL or MySQL")


def run_threads(*tasks: object) -> None:
    """Run functions at once, and wait for all."""
    threads = [threading.Thread(target=task) for task in tasks]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_workers_of_a_server_fill_once_take_once_and_bring_back(tmp_path: Path) -> None:
    name = f"t{uuid.uuid4().hex[:8]}"
    sweep = load_sweep(write_sweep(tmp_path, f"{name}.yaml", parameters={"x": {"min": 1, "max": PLACES}}))
    queues: list[TrialQueue] = []

    def fill() -> None:  # each on a storage of its own, as on machines of their own
        queue = TrialQueue(sweep=sweep, storage=Storage(url=URL, heartbeat=15), seed=0)
        queue.fill(None)
        queues.append(queue)

    run_threads(*[fill] * 4)
    assert [entry.place for entry in queues[0].entries()] == list(range(PLACES))
    lost = queues[0].next()
    assert lost is not None
    taken: list[int] = []

    def work(queue: TrialQueue) -> None:
        while claim := queue.next():
            taken.append(claim.place)
            queue.finish(claim, "complete", 1.0)

    run_threads(*[lambda queue=queue: work(queue) for queue in queues])
    assert sorted([*taken, lost.place]) == list(range(PLACES))
    age = "INTERVAL '1' HOUR" if URL.startswith("postgresql") else "INTERVAL 1 HOUR"
    with sqlalchemy.create_engine(URL).begin() as connection:
        connection.execute(sqlalchemy.text(f"UPDATE trial_heartbeats SET heartbeat = heartbeat - {age}"))  # noqa: S608
    again = queues[1].next()
    assert again is not None
    assert (again.place, again.values) == (lost.place, lost.values)
    assert queues[2].next() is None
    assert not queues[0].finish(lost, "complete", 1.0)


def test_lock_of_a_worker_that_stands_still_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    storages = [Storage(url=URL, heartbeat=15) for _ in range(2)]
    monkeypatch.setattr("scan_lightning.sweeps.storage._LOCK_PATIENCE", 1)
    with (
        storages[0].lock(),
        pytest.raises(TimeoutError, match="another worker has held the lock for 1 seconds"),
        storages[1].lock(),
    ):
        pass
    with storages[1].lock():
        pass


def test_password_is_not_shown() -> None:
    url = sqlalchemy.make_url(URL).set(password="secret")  # noqa: S106
    storage = Storage(url=url.render_as_string(hide_password=False), heartbeat=15)
    assert "secret" not in str(storage)
