"""W&B's early termination, hyperband, as a pruner of Optuna."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from scan_lightning.sweeps.studies import PLACE


class BandPruner(BasePruner):  # type: ignore[misc]
    """Stop a trial that is not among the best 1 / eta of those that have come as far.

    W&B compares all runs at bands of iterations: ``min_iter``, ``min_iter * eta``, ``min_iter * eta ** 2`` and so on,
    or ``max_iter / eta`` and so on down, ``s`` of them. An iteration is a value of the metric, counted from 0. This is
    one bracket of hyperband, and neither of Optuna's pruners stops by the same rule: their factor is a whole number,
    and they look at a trial only at the moment when it comes to a band, with the value that it has there. W&B goes on
    looking, and compares the best value so far.

    Args:
        rule: What the sweep file says under ``early_terminate``. ``strict`` compares the value at the band and not the
            best one so far.
    """

    def __init__(self, *, rule: Mapping[str, Any]) -> None:
        self._rule = dict(rule)
        self._eta = float(rule.get("eta", 3))
        self._strict = bool(rule.get("strict", False))

    def bands(self) -> Iterator[int]:
        """Give the iterations at which trials are compared, in ascending order.

        Yields:
            Iterations, counted from 0; without end where the rule has ``min_iter`` alone.
        """
        if "max_iter" in self._rule:
            below = (self._rule["max_iter"] / self._eta**power for power in range(self._rule["s"], 0, -1))
            yield from (int(band) for band in below if band >= 1)
            return
        band = float(self._rule["min_iter"])
        while math.isfinite(band):
            yield int(band)
            band *= self._eta

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether a trial is to end.

        Args:
            study: With all trials.
            trial: With its values so far, by iteration.

        Returns:
            Whether it is worse than the best 1 / eta at the last band that it has come to.
        """
        sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
        values = {step: sign * value for step, value in trial.intermediate_values.items() if math.isfinite(value)}
        if not values:
            return False
        band = None
        for candidate in self.bands():
            if candidate > max(values):
                break
            band = candidate
        if band is None:
            return False
        # A trial that is done again counts once, by its last attempt.
        attempts = {one.user_attrs.get(PLACE, one.number): one for one in study.get_trials(deepcopy=False)}
        others = (other.intermediate_values.get(band, math.nan) for other in attempts.values())
        reached = sorted(sign * value for value in others if math.isfinite(value))
        if not reached:
            return False
        threshold = reached[int(len(reached) / self._eta)]
        reference = values.get(band, math.inf) if self._strict else min(values.values())
        return bool(reference > threshold)
