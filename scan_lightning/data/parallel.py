"""Work on many files in several processes, in order, with errors that stop the rest."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 16
"""Files that a process takes at once."""


class ParallelMap(Protocol):
    """Applies a function to items and yields the results in the items' order."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        """Start the work; the function and the items must be picklable where there are several processes."""
        ...


def default_workers() -> int:
    """Count the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def worker_pool(workers: int) -> Iterator[ParallelMap]:
    """Start processes to spread work over, which end with the block.

    An exception of the function ends the iteration, when work that has begun is done; the rest is dropped. The
    processes start here and not at the first use, so that threads of a progress display that opens later are not
    copied into them. They also end when this process is killed.

    Args:
        workers: Number of processes; 0 and 1 work in this process.

    Yields:
        The mapping function.

    Raises:
        ValueError: If ``workers`` is negative.
        RuntimeError: If a process was killed.
    """
    if workers < 0:
        raise ValueError(f"workers: expected at least 0, got {workers}")
    if workers <= 1:
        yield map
        return
    executor = ProcessPoolExecutor(max_workers=workers, initializer=_end_with_parent)
    try:
        executor.submit(os.getpid).result()

        def spread(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
            todo = list(items)
            chunk = max(1, min(CHUNK, len(todo) // workers))
            # a window of chunks at a time keeps the queue short: 118,287 waiting tasks would take seconds to drop
            window = chunk * workers * 8
            for start in range(0, len(todo), window):
                yield from _in_chunks(executor, function, todo[start : start + window], chunk)

        yield spread
    except BrokenProcessPool as error:
        raise RuntimeError("a worker process was killed, perhaps for want of memory: use fewer --workers") from error
    finally:
        executor.shutdown(cancel_futures=True)


def _in_chunks(
    executor: Executor, function: Callable[[Item], Result], items: Sequence[Item], chunk: int
) -> Iterator[Result]:
    """Work on items, several per task; on a failure drop what has not begun and wait for what has."""
    tasks = [executor.submit(_each, function, items[start : start + chunk]) for start in range(0, len(items), chunk)]
    try:
        for task in tasks:
            yield from task.result()
    finally:
        for task in tasks:
            task.cancel()
        wait(tasks)


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply a function to each item."""
    return [function(item) for item in items]


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
