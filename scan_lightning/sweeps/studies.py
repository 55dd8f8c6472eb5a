"""Names of studies, and what a study says of a sweep's trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from scan_lightning.sweeps.specification import Sweep

PLACE = "place"
"""Attribute of a trial: its number in the sweep."""
VALUES = "values"
"""Attribute of a trial: what the command was given."""
FAILURE = "failure"
"""Attribute of a trial: why its command failed. A trial that was only cut short has none."""
RESUMED = "resumed"
"""Attribute of a trial: that it was cut short before, and its report goes on."""
REACHED = "reached"
"""Attribute of a study: place of the trial that has reached the target."""
_IDENTITY = ("method", "metric", "parameters", "early_terminate", "command", "program")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that a worker has taken.

    Attributes:
        place: Its number in the sweep, from 0; the same when it is done again.
        values: What the command is given, by parameter.
        trial: Of Optuna.
        known: Iterations of which the study has a value from an earlier attempt.
        resumed: Whether an earlier attempt was cut short.
    """

    place: int
    values: Mapping[str, Any]
    trial: optuna.Trial
    known: frozenset[int] = frozenset()
    resumed: bool = False


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of one place.

    Attributes:
        place: Number in the sweep, from 0.
        state: "waiting", "running", "complete", "pruned" or "failed".
        values: What the command was given; empty before its first start.
        value: Of the metric: the last one, None where there is none.
        seconds: From start to end, None before.
        failure: Why it failed.
    """

    place: int
    state: str
    values: Mapping[str, Any]
    value: float | None
    seconds: float | None
    failure: str


def study_name(sweep: Sweep, seed: int) -> str:
    """Name the study of a sweep: by its file, and by a hash of all that its trials depend on.

    Args:
        sweep: The sweep.
        seed: Of random and TPE; a grid does not depend on it.

    Returns:
        Such as learning_rate-1a2b3c4d.
    """
    content = {key: sweep.content.get(key) for key in _IDENTITY}
    content["seed"] = None if sweep.method == "grid" else seed
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{sweep.stem}-{digest[:8]}"


def other_studies(names: Iterable[str], sweep: Sweep, name: str) -> list[str]:
    """Find the studies of the same file with another content or seed.

    Args:
        names: Of all studies.
        sweep: The sweep.
        name: Of its study.

    Returns:
        Their names, in order.
    """
    return sorted(other for other in names if other.rpartition("-")[0] == sweep.stem and other != name)


def last_attempts(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Give the last attempt at each place.

    Args:
        study: Of a sweep.

    Returns:
        Trials by place, in order.
    """
    trials = study.get_trials(deepcopy=False)
    last = {int(trial.user_attrs[PLACE]): trial for trial in trials if PLACE in trial.user_attrs}
    return dict(sorted(last.items()))


def entries(study: optuna.Study, *, scored: bool) -> list[Entry]:
    """List what a study says of each place, in order.

    Args:
        study: Of a sweep.
        scored: Whether the sweep has a metric.

    Returns:
        An entry for each place.
    """
    return [_entry(place, trial, scored) for place, trial in last_attempts(study).items()]


def _entry(place: int, trial: FrozenTrial, scored: bool) -> Entry:
    finished = trial.state.is_finished()
    steps = trial.intermediate_values
    value = trial.value if finished and trial.value is not None else steps[max(steps)] if steps else None
    duration = trial.duration.total_seconds() if finished and trial.duration is not None else None
    return Entry(
        place=place,
        state="failed" if trial.state == TrialState.FAIL else trial.state.name.lower(),
        values=trial.user_attrs.get(VALUES, {}),
        value=value if scored else None,
        seconds=duration,
        failure=trial.user_attrs.get(FAILURE, ""),
    )
