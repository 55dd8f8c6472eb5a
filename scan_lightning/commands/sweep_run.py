"""What `sweep` does once its arguments are read: fills the study, lets workers do the trials, shows the table."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import optuna
from sqlalchemy.exc import SQLAlchemyError

from scan_lightning.commands.console import output_console
from scan_lightning.commands.sweep_table import result_line, start_line, trials_table
from scan_lightning.sweeps import Sweep
from scan_lightning.sweeps.storage import MISSED_BEATS, Storage
from scan_lightning.sweeps.studies import Claim, other_studies
from scan_lightning.sweeps.trial_queue import TrialQueue
from scan_lightning.sweeps.worker import Outcome, Worker

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def run_sweep(sweep: Sweep, options: argparse.Namespace) -> int:
    """Do what is left of a sweep.

    Args:
        sweep: The sweep.
        options: Of the command line.

    Returns:
        Exit status: 0, 1 if a trial failed, 128 and the signal's number after a signal.

    Raises:
        ValueError: If the options do not suit the sweep.
        OSError: If a file cannot be written, or the database fails.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return _run(sweep, options)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise OSError(f"storage: {str(error).splitlines()[0]}") from error


def _run(sweep: Sweep, options: argparse.Namespace) -> int:
    """Do what is left of a sweep."""
    trials = _number_of_trials(sweep, options.trials)
    if options.grace is not None and options.grace >= MISSED_BEATS * options.heartbeat:
        raise ValueError(
            f"--grace {options.grace:g}: expected less than {MISSED_BEATS} heartbeats of {options.heartbeat} seconds, "
            "since a trial gives no sign of life while it is being stopped"
        )
    url = options.storage or f"sqlite:///{(options.output / sweep.stem).as_posix()}.db"
    storage = Storage(url=url, heartbeat=options.heartbeat)
    queue = TrialQueue(sweep=sweep, storage=storage, seed=options.seed)
    total = queue.fill(trials)
    if options.retry_failed:
        _say(f"{queue.retry_failed()} failed trials go back into the queue")
    folder = options.output / queue.name / "trials"
    _introduce(queue, total, trials, folder)
    stop = threading.Event()
    with _signals(stop) as received:
        errors = _work(sweep, options, storage, folder, stop)
    output_console().print(trials_table(queue))
    if errors:
        raise errors[0]
    if (place := queue.reached) is not None:
        _say(f"trial {place} has reached the target, no further one begins")
    if received:
        _say(f"stopped by {signal.Signals(received[0]).name}; the same command goes on from here")
        return 128 + received[0]
    return int(any(entry.state == "failed" for entry in queue.entries()))


def _number_of_trials(sweep: Sweep, asked: int | None) -> int | None:
    """Give how many trials a sweep is to have; None is all of a grid."""
    bounds = [bound for bound in (asked, sweep.run_cap) if bound is not None]
    if not bounds and sweep.method != "grid":
        raise ValueError(f"{sweep.name}: method {sweep.method} has no end, expected --trials N or run_cap in the file")
    return min(bounds) if bounds else None


def _introduce(queue: TrialQueue, total: int, trials: int | None, folder: Path) -> None:
    """Tell what is done where."""
    left = sum(entry.state in ("waiting", "running") for entry in queue.entries())
    _say(f"study {queue.name} in {queue.storage}: {total} trials, {left} of them to do; logs in {folder}")
    if trials is not None and total > trials:
        _say(f"the study has {total} trials already, {trials} were asked for")
    others = other_studies(queue.storage.study_names(), queue.sweep, queue.name)
    if others:
        _say(f"earlier studies with another content or seed are left alone: {', '.join(others)}")


def _work(
    sweep: Sweep, options: argparse.Namespace, storage: Storage, folder: Path, stop: threading.Event
) -> list[BaseException]:
    """Let workers do the trials, each in a thread that waits for its trial's process."""
    errors: list[BaseException] = []
    grace = 2.0 * options.heartbeat if options.grace is None else options.grace

    def say(claim: Claim, outcome: Outcome | None) -> None:
        _say(start_line(claim) if outcome is None else result_line(claim, outcome, sweep.metric, folder))

    def work() -> None:
        try:
            Worker(
                queue=TrialQueue(sweep=sweep, storage=storage, seed=options.seed),
                folder=folder,
                stop=stop,
                say=say,
                grace=grace,
                stop_on_failure=options.stop_on_failure,
            ).work()
        except BaseException as error:  # raised again once the other workers have left their trials in order
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=work) for _ in range(options.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # a join without an end would keep signals waiting
            thread.join(0.5)
    return errors


@contextmanager
def _signals(stop: threading.Event) -> Iterator[list[int]]:
    """Let signals set an event, and collect them; outside of the main thread they stay as they are."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, receive) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    """Tell what goes on."""
    print(text, file=sys.stderr, flush=True)
