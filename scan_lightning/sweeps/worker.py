"""A worker: takes trials from the queue, runs their commands, watches what they report."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from sqlalchemy.exc import SQLAlchemyError

from scan_lightning.sweeps.expansion import expand_command
from scan_lightning.sweeps.process import Report, TrialProcess, trial_environment
from scan_lightning.sweeps.storage import MISSED_BEATS
from scan_lightning.sweeps.studies import Claim
from scan_lightning.sweeps.trial_queue import TrialQueue

Answer = TypeVar("Answer")
_POLL = 0.2
"""Seconds between two looks at a trial."""
_SIGNAL_LAG = 2.0  # a signal to a whole job may reach the trial before it reaches the worker
_BY_SIGNAL = 128  # an exit status above it is that of a process that a signal has ended


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: "complete", "pruned", "failed"; "back" if it waits in the queue again, "taken" if another worker has it.
        value: Of the metric.
        failure: Why it failed.
        seconds: It took.
    """

    state: str
    value: float | None = None
    failure: str = ""
    seconds: float = 0.0


class Worker:
    """Does trials until none is left.

    Args:
        queue: Of the sweep; no other worker uses it.
        folder: For logs and reports.
        stop: When set, the worker ends its trial, leaves it in the queue, and returns.
        say: Takes lines that tell what goes on.
        grace: Seconds between SIGTERM and SIGKILL when a trial is stopped.
        stop_on_failure: Whether a failed trial sets ``stop``.
    """

    def __init__(
        self,
        *,
        queue: TrialQueue,
        folder: Path,
        stop: threading.Event,
        say: Callable[[Claim, Outcome | None], None],
        grace: float = 30.0,
        stop_on_failure: bool = False,
    ) -> None:
        self._queue = queue
        self._folder = folder
        self._stop = stop
        self._say = say
        self._grace = grace
        self._stop_on_failure = stop_on_failure

    def work(self) -> None:
        """Do trials until none waits and none runs, the target is reached, or ``stop`` is set.

        While others are at the last trials it waits, since one of them may die.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        while not self._stop.is_set() and self._patiently(lambda: self._queue.reached) is None:
            claim = self._patiently(self._queue.next)
            if claim is not None:
                self._do(claim)
            elif not self._patiently(lambda: self._queue.is_running):
                return
            else:
                self._stop.wait(self._queue.storage.heartbeat)

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Ask the database; one that is away no longer than signs of life may be missed costs no trial."""
        end = time.monotonic() + MISSED_BEATS * self._queue.storage.heartbeat
        while True:
            try:
                return ask()
            except (StorageInternalError, SQLAlchemyError):
                if time.monotonic() > end or self._stop.wait(_POLL):
                    raise

    def _do(self, claim: Claim) -> None:
        """Run a trial, record how it ended, and tell."""
        self._say(claim, None)
        start = time.monotonic()
        try:
            outcome = self._run(claim)
        except (ValueError, OSError) as error:
            outcome = Outcome(state="failed", failure=str(error))
        except BaseException:
            self._queue.put_back(claim)
            raise
        if outcome.state == "back":
            self._queue.put_back(claim)
        elif outcome.state != "taken":
            finish = partial(self._queue.finish, claim, outcome.state, outcome.value, outcome.failure)
            if not self._patiently(finish):
                outcome = Outcome(state="taken")
        metric = self._queue.sweep.metric
        if outcome.state == "complete" and outcome.value is not None and metric and metric.reached(outcome.value):
            self._queue.reach(claim)
        self._say(claim, replace(outcome, seconds=time.monotonic() - start))
        if outcome.state == "failed" and self._stop_on_failure:
            self._stop.set()

    def _run(self, claim: Claim) -> Outcome:
        """Run a trial's command to its end."""
        name = f"{claim.place:04d}"
        path = (self._folder / f"{name}.jsonl").resolve()
        if not claim.resumed:
            path.unlink(missing_ok=True)
        metric = self._queue.sweep.metric
        wanted = None if metric is None else metric.name
        report = Report(path=path, metric=wanted)
        command = expand_command(self._queue.sweep, claim.values, arguments_file=self._folder / f"{name}.json")
        process = TrialProcess(
            command=command,
            log=self._folder / f"{name}.log",
            environment=trial_environment(report=path, group=self._queue.name, metric=wanted),
            grace=self._grace,
        )
        try:
            return self._watch(claim, process, report)
        except UpdateFinishedTrialError:  # it has no longer been this worker's, since its heart stood still too long
            return Outcome(state="taken")
        finally:
            process.stop()

    def _watch(self, claim: Claim, process: TrialProcess, report: Report) -> Outcome:
        """Pass on what a trial reports, until it ends or has to."""
        beat = time.monotonic()
        while (status := process.poll()) is None:
            if self._stop.wait(_POLL):
                return Outcome(state="back")
            if self._is_hopeless(claim, report):
                process.stop()
                return Outcome(state="pruned", value=report.last)
            if time.monotonic() - beat >= self._queue.storage.heartbeat:
                beat = time.monotonic()
                if not self._patiently(partial(self._queue.beat, claim)):
                    return Outcome(state="taken")
        self._is_hopeless(claim, report)
        if status > _BY_SIGNAL and self._stop.wait(_SIGNAL_LAG):
            return Outcome(state="back")
        return self._ended(status, report)

    def _is_hopeless(self, claim: Claim, report: Report) -> bool:
        """Pass on new values; tell whether the pruner gives the trial up."""
        new = [(step, value) for step, value in report.new_values() if step not in claim.known]
        for step, value in new:
            self._patiently(partial(claim.trial.report, value, step))
        return bool(new) and self._patiently(claim.trial.should_prune)

    def _ended(self, status: int, report: Report) -> Outcome:
        """Judge a trial that has ended by itself."""
        metric = self._queue.sweep.metric
        if status:
            return Outcome(state="failed", failure=f"exit status {status}")
        if metric is None:
            return Outcome(state="complete")
        if report.last is None:
            came = ", ".join(sorted(report.names)) or "nothing"
            return Outcome(state="failed", failure=f"expected {metric.name} in its report, got {came}")
        if not math.isfinite(report.last):
            return Outcome(state="failed", failure=f"{metric.name} is {report.last}")
        return Outcome(state="complete", value=report.last)
