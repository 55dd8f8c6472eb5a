"""Runs done by several processes, so that none waits for a training that another one has in hand."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from scan_lightning.callbacks.interruption import Interrupted
from scan_lightning.commands.ablate_plan import AblationRun
from scan_lightning.commands.ablate_run import Job, Outcome, Status

PATIENCE = 120.0
"""Seconds that a worker has to write its checkpoint, when all is to stop."""
GLANCE = 5.0
"""Seconds between two looks at the trainings on disk, while a worker is idle."""


def run_here(job: Job, indices: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
    """Do runs in this process, one after the other; those that another process has in hand come last.

    Args:
        job: Does them.
        indices: Of the runs.

    Yields:
        Each run's number and what became of it.
    """
    later = []
    for index in indices:
        outcome = job(index, wait=False)
        if outcome.status is Status.BUSY:
            later.append(index)
        else:
            yield index, outcome
    for index in later:
        yield index, job(index, wait=True)


def run_apart(job: Job, indices: Sequence[int], *, workers: int, logs: Path) -> Iterator[tuple[int, Outcome]]:
    """Do runs in several processes; a worker that dies costs the run that it had in hand, and another takes its place.

    Args:
        job: Does them.
        indices: Of the runs.
        workers: Number of processes.
        logs: Folder for what they print, a file each.

    Yields:
        Each run's number and what became of it, in the order in which they end.
    """
    queue = _Queue(runs=job.runs, waiting=list(indices))
    team: list[_Worker] = []
    try:
        team += [_Worker.start(job, logs) for _ in range(min(workers, len(indices)))]
        while queue.hand_out(team):
            for worker in _ready(team):
                index, outcome = worker.result()
                if not worker.process.is_alive():
                    team[team.index(worker)] = _Worker.start(job, logs)
                if queue.take_back(index, outcome):
                    yield index, outcome
    finally:
        _dismiss(team)


@dataclass(kw_only=True)
class _Queue:
    """The runs that are still to be done, and which of them may begin.

    Attributes:
        runs: All runs.
        waiting: Numbers of those that nobody has tried.
        later: Numbers of those that another command has in hand; they come last, and are waited for.
        active: Numbers of those that a worker has in hand.
    """

    runs: Sequence[AblationRun]
    waiting: list[int]
    later: list[int] = field(default_factory=list)
    active: set[int] = field(default_factory=set)

    def hand_out(self, team: Sequence[_Worker]) -> bool:
        """Give every idle worker a run that may begin; False when all is done."""
        for worker in team:
            index = self._next() if worker.index is None else None
            if index is not None:
                self.active.add(index)
                worker.give(index, wait=index in self.later)
        return bool(self.active)

    def _next(self) -> int | None:
        """Take the first run that may begin."""
        busy = [self.runs[index] for index in self.active]
        keys = {run.key for run in busy}
        trainings = {training for run in busy for training in run.missing_trainings}
        for index in self.waiting or self.later:
            run = self.runs[index]
            if index not in self.active and run.key not in keys and not trainings.intersection(run.missing_trainings):
                if index in self.waiting:
                    self.waiting.remove(index)
                return index
        return None

    def take_back(self, index: int, outcome: Outcome) -> bool:
        """Note what became of a run; False if it is to be tried once more."""
        self.active.discard(index)
        if outcome.status is Status.BUSY:
            self.later.append(index)
            return False
        if index in self.later:
            self.later.remove(index)
        return True


@dataclass(kw_only=True)
class _Worker:
    """A process that does one run after the other, as they are given to it.

    Attributes:
        process: The process.
        connection: To it.
        log: What it prints.
        index: Of the run that it has in hand.
    """

    process: SpawnProcess
    connection: Connection
    log: Path
    index: int | None = None

    @classmethod
    def start(cls, job: Job, logs: Path) -> _Worker:
        """Start a process."""
        logs.mkdir(parents=True, exist_ok=True)
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, job, logs))
        process.start()
        theirs.close()
        return cls(process=process, connection=ours, log=logs / f"worker_{process.pid}.log")

    def give(self, index: int, *, wait: bool) -> None:
        """Give it a run."""
        self.index = index
        try:
            self.connection.send((index, wait))
        except OSError:
            self.process.join()  # it is dead: `result` says so

    def result(self) -> tuple[int, Outcome]:
        """Take the result of the run that it had in hand."""
        if self.index is None:
            raise RuntimeError("a worker without a run has no result")
        index, self.index = self.index, None
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            outcome = Outcome(status=Status.FAILED, message=f"its process ended ({_ending(self.process)})")
        if outcome.status is Status.FAILED:
            outcome = Outcome(status=Status.FAILED, message=f"{outcome.message} (see {self.log})")
        return index, outcome


def _ready(team: Sequence[_Worker]) -> list[_Worker]:
    """Wait until workers have a result or are dead, and give those; or until a training may be finished."""
    active = [worker for worker in team if worker.index is not None]
    found = wait([worker.connection for worker in active], timeout=None if len(active) == len(team) else GLANCE)
    return [worker for worker in active if worker.connection in found]


def _ending(process: SpawnProcess) -> str:
    """Say how a process has ended."""
    code = process.exitcode or 0
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _work(connection: Connection, job: Job, logs: Path) -> None:
    """Do the runs that come, until there are no more or nobody is at the other end."""
    sys.stdout = sys.stderr = (logs / f"worker_{os.getpid()}.log").open("a", encoding="utf-8", buffering=1)
    for descriptor in (1, 2):  # of processes that this one starts, and of libraries in C
        os.dup2(sys.stdout.fileno(), descriptor)
    try:
        with stop_on_signal():  # a process that this one waits for has to end with it
            while (given := connection.recv()) is not None:
                index, patient = given
                print(f"--- {job.runs[index].title}")
                connection.send(job(index, wait=patient))
    except (EOFError, BrokenPipeError):
        return
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.status)


def _dismiss(team: Sequence[_Worker]) -> None:
    """End all workers; one in the middle of a training writes its checkpoint first."""
    for worker in team:
        if worker.index is None:
            with suppress(OSError):  # it may be dead
                worker.connection.send(None)
        else:
            worker.process.terminate()
        worker.connection.close()
    for worker in team:
        worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


@contextmanager
def stop_on_signal() -> Iterator[None]:
    """Turn SIGTERM into an end of this process that lets it end those that it has started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
