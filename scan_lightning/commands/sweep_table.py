"""What `sweep` tells of its trials: a line as each begins and ends, and a table of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from scan_lightning.commands.console import make_table
from scan_lightning.sweeps import Metric
from scan_lightning.sweeps.studies import Claim, Entry
from scan_lightning.sweeps.trial_queue import TrialQueue
from scan_lightning.sweeps.worker import Outcome

_DIGITS = 4


def start_line(claim: Claim) -> str:
    """Tell that a trial begins.

    Args:
        claim: The trial.

    Returns:
        Its place and values.
    """
    values = ", ".join(f"{'.'.join(path)} {_text(value)}" for path, value in _flat(claim.values))
    return f"trial {claim.place} begins: {values}"


def result_line(claim: Claim, outcome: Outcome, metric: Metric | None, folder: Path) -> str:
    """Tell how a trial ended.

    Args:
        claim: The trial.
        outcome: How it ended.
        metric: Of the sweep.
        folder: Of the logs.

    Returns:
        Place, state, score and time; for a failed one why, and where its log is.
    """
    words = {"back": "left in the queue", "taken": "taken over by another worker"}
    parts = [words.get(outcome.state, outcome.state)]
    if metric is not None and outcome.value is not None:
        parts.append(f"{metric.name} {outcome.value:.{_DIGITS}f}")
    if outcome.failure:
        parts.append(f"{outcome.failure}, see {folder / f'{claim.place:04d}.log'}")
    return f"trial {claim.place}: {', '.join(parts)}, {outcome.seconds:.1f} s"


def trials_table(queue: TrialQueue) -> Table:
    """Make a table of all trials of a sweep.

    Args:
        queue: The sweep.

    Returns:
        A row for each trial; the best one is bold.
    """
    found = queue.entries()
    metric = queue.sweep.metric
    paths = sorted({path for entry in found for path, _ in _flat(entry.values)})
    varying = [path for path in paths if len({str(dict(_flat(entry.values)).get(path)) for entry in found}) > 1]
    columns = [("trial", "right"), *((title, "fold") for title in _titles(varying))]
    columns += [(metric.name, "right")] if metric else []
    table = make_table(f"Sweep {queue.name}", [*columns, ("state", "left"), ("seconds", "right")])
    best = _best(found, metric)
    for entry in found:
        values = dict(_flat(entry.values))
        cells = [str(entry.place), *(_text(values[path]) if path in values else "" for path in varying)]
        if metric:
            cells.append("" if entry.value is None else f"{entry.value:.{_DIGITS}f}")
        state = f"{entry.state}: {entry.failure}" if entry.failure else entry.state
        cells += [state, "" if entry.seconds is None else f"{entry.seconds:.1f}"]
        table.add_row(*map(Text, cells), style="bold" if entry is best else "")
    return table


def _best(found: Sequence[Entry], metric: Metric | None) -> Entry | None:
    """The completed trial with the best value."""
    scored = [(entry.value, entry) for entry in found if entry.state == "complete" and entry.value is not None]
    if metric is None or not scored:
        return None
    choose = max if metric.goal == "maximize" else min
    return choose(scored, key=lambda pair: pair[0])[1]


def _flat(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Walk through values and nested ones; a mapping with a label is one value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and "label" not in value:
            yield from _flat(value, (*path, name))
        else:
            yield (*path, name), value


def _titles(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Name columns by the last part of dotted names, where that is enough."""
    names = [".".join(path) for path in paths]
    short = [name.rpartition(".")[2] for name in names]
    return [part if short.count(part) == 1 else name for name, part in zip(names, short, strict=True)]


def _text(value: Any) -> str:
    """Write a value as briefly as it can be told."""
    if isinstance(value, Mapping):
        return str(value.get("label", dict(value)))
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)
