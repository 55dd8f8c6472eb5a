"""One run of an ablation: done once however many processes want it, its row copied where another ablation has it."""

from __future__ import annotations

import gc
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from filelock import FileLock, Timeout

from scan_lightning.callbacks.interruption import Interrupted
from scan_lightning.callbacks.record import append_row
from scan_lightning.commands.ablate_plan import PARSE_ERROR, AblationRun, Runner
from scan_lightning.commands.ablate_rows import (
    Combination,
    StoredRow,
    all_rows,
    arrange,
    combination_of,
    read_rows,
    rows_path,
)

LOCKS = ".locks"
"""Folder of one lock per key, beside the rows."""


class Status(StrEnum):
    """What became of a run."""

    DONE = "done"
    COPIED = "copied from another ablation"
    THERE = "there already"
    BUSY = "being done by another process"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run.

    Attributes:
        status: See `Status`.
        message: What went wrong, where something did.
    """

    status: Status
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Does the runs of some ablations, by their number; it can be sent to another process.

    Args:
        runs: All runs.
        orders: For each ablation its combinations, as `arrange` wants them.
        rows: Folder of the rows.
        runner: Plans and executes.
        separate: Whether every run gets a process of its own, as those on several devices need.
    """

    runs: tuple[AblationRun, ...]
    orders: dict[str, tuple[Combination, ...]]
    rows: Path
    runner: Runner
    separate: bool = False

    def __call__(self, index: int, *, wait: bool) -> Outcome:
        """Do one run.

        Args:
            index: Of the run.
            wait: Whether to wait where another process is doing the same; otherwise the run is left for later.

        Returns:
            What became of it. What is wrong with one run does not end the others, so it is returned and not raised.

        Raises:
            Interrupted: If a signal has ended its training.
            SystemExit: If somebody has ended this process.
        """
        run = self.runs[index]
        try:
            lock = _lock(self.rows, run.key)
            with FileLock(lock, timeout=-1 if wait else 0):
                status = self._perform(run)
                with suppress(OSError):  # where a file in use cannot be deleted
                    lock.unlink()  # whoever waits for it is going to find the row
                return Outcome(status=status)
        except Timeout:
            return Outcome(status=Status.BUSY)
        except Interrupted:
            raise
        except SystemExit as stop:
            if stop.code != PARSE_ERROR:
                raise
            return Outcome(status=Status.FAILED, message="its arguments cannot be parsed, as reported")
        except Exception as error:
            if not isinstance(error, ValueError | OSError):
                traceback.print_exc()
            return Outcome(status=Status.FAILED, message=f"{type(error).__name__}: {error}")

    def _perform(self, run: AblationRun) -> Status:
        """Do one run that no other process is doing."""
        path = rows_path(self.rows, run.name)
        if any(is_row_of(row, run) for row in read_rows(path)):
            return Status.THERE
        found = next((row for row in all_rows(self.rows) if row["key"] == run.key), None)
        if found is None:
            self._execute(run)
        else:
            variant, parameters = run.plan.columns["variant"], run.plan.columns["parameters"]
            append_row(path, {**found, "name": run.name, "variant": variant, "parameters": parameters})
        arrange(path, self.orders[run.name])
        if not any(is_row_of(row, run) for row in read_rows(path)):
            raise RuntimeError(f"expected its row in {path}, found none")
        return Status.DONE if found is None else Status.COPIED

    def _execute(self, run: AblationRun) -> None:
        """Plan the run again, as files may have changed since, and execute it."""
        plan = self.runner.plan(run.arguments)
        if plan.key != run.key:
            raise ValueError("its configuration has changed since the start, start again")
        if self.separate:
            _run_separately(run.arguments)
        else:
            self.runner.execute(plan)
            gc.collect()  # network and Trainer hold one another


def is_row_of(row: StoredRow, run: AblationRun) -> bool:
    """Whether a row is that of a run.

    Args:
        row: Of the run's ablation.
        run: The run.

    Returns:
        Whether configuration and combination are the same.
    """
    return row["key"] == run.key and combination_of(row) == run.combination


def outdated(rows: Sequence[StoredRow], runs: Sequence[AblationRun]) -> list[StoredRow]:
    """Find rows that stand in the place of a run's, but are of another configuration.

    Args:
        rows: Of an ablation.
        runs: Of the same.

    Returns:
        Those rows.
    """
    keys = {(run.combination, run.seed): run.key for run in runs}  # a file without seeds has that of its recipe

    def key_of(row: StoredRow) -> str:
        combination = combination_of(row)
        return keys.get((combination, row["seed"])) or keys.get((combination, "")) or row["key"]

    return [row for row in rows if key_of(row) != row["key"]]


def _run_separately(arguments: Sequence[str]) -> None:
    """Run ``scan-lightning run`` in a process of its own, and end it if this one is to end."""
    with subprocess.Popen([sys.executable, "-m", "scan_lightning", "run", *arguments]) as process:  # noqa: S603
        try:
            status = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
    if status:
        raise RuntimeError(f"its process ended with exit status {status}")


def _lock(folder: Path, key: str) -> Path:
    """Give the place of a configuration's lock."""
    path = folder / LOCKS / f"{key}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
