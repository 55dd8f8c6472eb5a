"""Work spread over processes comes back in order; a failure ends it."""

import multiprocessing
import os
import signal

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


def test_worker_pool_uses_processes() -> None:
    with worker_pool(2) as spread:
        assert os.getpid() not in set(spread(pid, range(64)))


def pid(_: int) -> int:
    """The process's id."""
    return os.getpid()


def test_worker_pool_killed_process_is_told() -> None:
    with pytest.raises(RuntimeError, match="worker process was killed"), worker_pool(2) as spread:
        list(spread(kill_self, range(4)))


def test_worker_pool_negative_raises() -> None:
    with pytest.raises(ValueError, match="workers: expected at least 0, got -1"), worker_pool(-1):
        pass


def test_default_workers_is_positive() -> None:
    assert 1 <= default_workers() <= (os.cpu_count() or 1)
