"""Work spread over processes comes back in order; a failure ends it."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from scan_lightning.data.parallel import default_workers, worker_pool


def square(number: int) -> int:
    """The square; numbers below 0 are refused."""
    if number < 0:
        raise ValueError(f"negative: {number}")
    return number * number


def kill_self(_: int) -> None:
    """End the process that this runs in, unless it is the test's own."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_worker_pool_keeps_the_order(workers: int) -> None:
    with worker_pool(workers) as spread:
        assert list(spread(square, range(500))) == [number * number for number in range(500)]
        assert list(spread(square, [])) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_pool_failure_ends_the_iteration(workers: int) -> None:
    with worker_pool(workers) as spread:
        results = spread(square, [3, -1, 2])
        with pytest.raises(ValueError, match="negative: -1"):
            list(results)


def test_worker_pool_failure_waits_for_what_has_begun(tmp_path: Path) -> None:
    with worker_pool(2) as spread:
        with pytest.raises(FileExistsError):
            list(spread(fail_or_write_late, [tmp_path, tmp_path / "late"]))
        assert (tmp_path / "late").exists()


def fail_or_write_late(path: Path) -> None:
    """Make a folder, after a while; fail where there is one."""
    if not path.exists():
        time.sleep(0.5)
    path.mkdir()


def test_worker_pool_uses_processes() -> None:
    with worker_pool(2) as spread:
        assert os.getpid() not in set(spread(pid, range(64)))


def pid(_: int) -> int:
    """The process's id."""
    return os.getpid()


def test_worker_pool_killed_process_is_told() -> None:
    with pytest.raises(RuntimeError, match="worker process was killed"), worker_pool(2) as spread:
        list(spread(kill_self, range(4)))


def report_workers_and_wait(pipe: Connection) -> None:
    """Open a pool, tell the ids of its processes and wait."""
    with worker_pool(2):
        pipe.send([process.pid for process in multiprocessing.active_children()])
        time.sleep(60)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_worker_pool_ends_when_its_process_is_killed() -> None:
    here, there = multiprocessing.Pipe()
    owner = multiprocessing.Process(target=report_workers_and_wait, args=(there,))
    owner.start()
    workers = here.recv()
    assert len(workers) == 2
    owner.kill()
    owner.join()
    deadline = time.monotonic() + 20
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_worker_pool_negative_raises() -> None:
    with pytest.raises(ValueError, match="workers: expected at least 0, got -1"), worker_pool(-1):
        pass


def test_default_workers_is_positive() -> None:
    assert 1 <= default_workers() <= (os.cpu_count() or 1)
