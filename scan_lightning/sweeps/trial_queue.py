"""The trials of a sweep as a queue in a study: each place is done once, by whichever worker comes first."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from scan_lightning.sweeps.combinations import grid
from scan_lightning.sweeps.pruning import BandPruner
from scan_lightning.sweeps.space import as_choice, make_space
from scan_lightning.sweeps.specification import Sweep
from scan_lightning.sweeps.storage import Storage
from scan_lightning.sweeps.studies import (
    FAILURE,
    PLACE,
    REACHED,
    RESUMED,
    VALUES,
    Claim,
    Entry,
    entries,
    last_attempts,
    study_name,
)


class TrialQueue:
    """A sweep's study. Every worker has its own, on the same storage.

    Args:
        sweep: The sweep.
        storage: Where the study is.
        seed: Of random and TPE; what a place draws at random does not depend on who does it and when.
    """

    def __init__(self, *, sweep: Sweep, storage: Storage, seed: int) -> None:
        self.sweep = sweep
        self.storage = storage
        self.name = study_name(sweep, seed)
        self._seed = seed
        self._space = make_space(sweep.parameters, finite=sweep.method == "grid")
        with storage.lock():
            self.study = optuna.create_study(
                study_name=self.name,
                storage=storage.rdb,
                direction="minimize" if sweep.metric is None else sweep.metric.goal,
                pruner=optuna.pruners.NopPruner()
                if sweep.early_terminate is None
                else BandPruner(rule=sweep.early_terminate),
                load_if_exists=True,
            )
        self._id = storage.rdb.get_study_id_from_name(self.name)

    def fill(self, trials: int | None) -> int:
        """Add the places that are not there yet.

        Args:
            trials: How many the sweep is to have; None takes all of a grid.

        Returns:
            How many it has now, which may be more than was asked for.
        """
        combinations = grid(self.sweep)[:trials] if self.sweep.method == "grid" else [{}] * (trials or 0)
        with self.storage.lock():
            present = len(last_attempts(self.study))
            for place in range(present, len(combinations)):
                self.study.enqueue_trial(self._fixed(combinations[place]), user_attrs={PLACE: place})
            return max(present, len(combinations))

    def retry_failed(self) -> int:
        """Put all failed trials back into the queue.

        Returns:
            How many.
        """
        with self.storage.lock():
            failed = [trial for trial in last_attempts(self.study).values() if trial.state == TrialState.FAIL]
            for trial in failed:
                self._again(trial, resumed=False)
            return len(failed)

    def next(self) -> Claim | None:
        """Take the next trial; those of workers that have died come back first.

        Returns:
            The trial, or None where none waits.
        """
        with self.storage.lock():
            self._bring_back()
            waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if not waiting:
                return None
            place = int(waiting[0].user_attrs[PLACE])
            self.study.sampler = self._sampler(place)
            self._beat(waiting[0].number)  # before it runs: a trial without one would never be missed
            trial = self.study.ask()
            if trial.number != waiting[0].number:
                raise RuntimeError(f"{self.name}: expected trial {waiting[0].number}, Optuna gave {trial.number}")
            values = self._space.draw(trial)
            trial.set_user_attr(VALUES, values)
        return Claim(
            place=place,
            values=values,
            trial=trial,
            known=frozenset(waiting[0].intermediate_values),
            resumed=waiting[0].user_attrs.get(RESUMED, False),
        )

    def beat(self, claim: Claim) -> bool:
        """Give a sign of life of a running trial.

        Args:
            claim: The trial.

        Returns:
            Whether it is still this worker's.
        """
        self._beat(claim.trial.number)
        return bool(self._state(claim) == TrialState.RUNNING)

    def put_back(self, claim: Claim) -> None:
        """Leave a trial to whoever comes next.

        Args:
            claim: The trial, which has not ended.
        """
        with self.storage.lock(), suppress(UpdateFinishedTrialError):
            claim.trial.set_user_attr(RESUMED, True)
            self.storage.rdb.set_trial_state_values(self._trial_id(claim.trial.number), TrialState.WAITING)

    def finish(self, claim: Claim, state: str, value: float | None = None, failure: str = "") -> bool:
        """Record how a trial ended.

        Args:
            claim: The trial.
            state: "complete", "pruned" or "failed".
            value: Of the metric, for a complete trial; None where the sweep has no metric.
            failure: Why it failed.

        Returns:
            False if another worker has taken the trial meanwhile, since this one gave no sign of life.
        """
        with self.storage.lock():
            if self._state(claim) != TrialState.RUNNING:
                return False
            if state == "complete":
                self.study.tell(claim.trial, 0.0 if value is None else value)
            elif state == "pruned":
                self.study.tell(claim.trial, state=TrialState.PRUNED)
            else:
                claim.trial.set_user_attr(FAILURE, failure)
                self.study.tell(claim.trial, state=TrialState.FAIL)
        return True

    def reach(self, claim: Claim) -> None:
        """Note that a trial has reached the metric's target, so that no further one begins.

        Args:
            claim: The trial.
        """
        self.study.set_user_attr(REACHED, claim.place)

    @property
    def reached(self) -> int | None:
        """Place of the trial that has reached the target, None where none has."""
        return self.study.user_attrs.get(REACHED)  # type: ignore[no-any-return]

    @property
    def is_running(self) -> bool:
        """Whether any worker is at a trial."""
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def entries(self) -> list[Entry]:
        """List all places in order.

        Returns:
            What is known of each.
        """
        return entries(self.study, scored=self.sweep.metric is not None)

    def _bring_back(self) -> None:
        """Queue the trials of workers that give no sign of life, and of any that died while doing just that."""
        optuna.storages.fail_stale_trials(self.study)
        for trial in last_attempts(self.study).values():
            if trial.state == TrialState.FAIL and FAILURE not in trial.user_attrs:
                self._again(trial, resumed=True)

    def _again(self, trial: FrozenTrial, *, resumed: bool) -> None:
        """Queue a trial's place once more, with the values that it has drawn."""
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                system_attrs=trial.system_attrs,
                user_attrs={PLACE: trial.user_attrs[PLACE], RESUMED: resumed},
            )
        )

    def _fixed(self, combination: Mapping[str, Any]) -> dict[str, Any]:
        """A combination of a grid as Optuna's parameters; without one they are drawn when the trial starts."""
        fixed = {}
        for dimension in self._space.dimensions:
            if combination and isinstance(dimension.distribution, CategoricalDistribution):
                value: Any = combination
                for name in dimension.path:
                    value = value[name]
                fixed[dimension.name] = as_choice(value)
        return fixed

    def _sampler(self, place: int) -> BaseSampler:
        """A sampler of its own for each place, so that workers draw different values and a repetition the same."""
        seed = int(np.random.SeedSequence([self._seed, place]).generate_state(1)[0])
        return TPESampler(seed=seed) if self.sweep.method == "bayes" else RandomSampler(seed=seed)

    def _trial_id(self, number: int) -> int:
        return int(self.storage.rdb.get_trial_id_from_study_id_trial_number(self._id, number))

    def _beat(self, number: int) -> None:
        self.storage.rdb.record_heartbeat(self._trial_id(number))

    def _state(self, claim: Claim) -> TrialState:
        return self.storage.rdb.get_trial(self._trial_id(claim.trial.number)).state
