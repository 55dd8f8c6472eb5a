"""Early termination by W&B's rule, by hand."""

from typing import Any

import optuna
import pytest

from scan_lightning.sweeps.pruning import BandPruner
from scan_lightning.sweeps.studies import PLACE


def study_of(direction: str, *histories: list[float]) -> tuple[optuna.Study, list[optuna.trial.FrozenTrial]]:
    """A study of trials that have reported so much."""
    study = optuna.create_study(direction=direction)
    for history in histories:
        trial = study.ask()
        for step, value in enumerate(history):
            trial.report(value, step)
    return study, study.get_trials()


@pytest.mark.parametrize(
    ("rule", "bands"),
    [
        ({"min_iter": 3}, [3, 9, 27, 81]),
        ({"min_iter": 2, "eta": 1.5}, [2, 3, 4, 6]),
        ({"max_iter": 27, "s": 2}, [3, 9]),
        ({"max_iter": 10, "s": 9, "eta": 3}, [1, 3]),
        ({"min_iter": 5, "max_iter": 8, "s": 2, "eta": 2}, [2, 4]),
    ],
)
def test_bands_are_wandbs(rule: dict[str, Any], bands: list[int]) -> None:
    found = BandPruner(rule=rule).bands()
    assert [band for band, _ in zip(found, range(4), strict=False)] == bands


def test_trials_that_are_not_among_the_best_half_stop_at_their_last_band() -> None:
    # Bands are 1 and 2; at band 1 the values are 9 10 8 7 6, of which the third is 8, at band 2 8 7 6, the second 7.
    study, trials = study_of("minimize", [10, 9], [10, 10], [10, 8, 8], [10, 7, 7], [10, 6, 6])
    pruner = BandPruner(rule={"max_iter": 5, "eta": 2, "s": 2})
    assert [pruner.prune(study, trial) for trial in trials] == [True, True, True, False, False]


def test_goal_maximize_keeps_the_largest() -> None:
    study, trials = study_of("maximize", [0.1, 0.3], [0.1, 0.2], [0.1, 0.1])
    pruner = BandPruner(rule={"min_iter": 1, "eta": 3})
    assert [pruner.prune(study, trial) for trial in trials] == [False, False, True]


def test_strict_looks_at_the_value_at_the_band_and_not_at_the_best_one() -> None:
    histories = [[1.0, 9.0], [5.0, 4.0], [6.0, 3.0], [7.0, 8.0]]
    study, trials = study_of("minimize", *histories)
    lenient, strict = (BandPruner(rule={"min_iter": 1, "eta": 2, "strict": strict}) for strict in (False, True))
    assert [lenient.prune(study, trial) for trial in trials] == [False, False, False, False]
    study, trials = study_of("minimize", *histories, [2.0, 2.0])
    assert [lenient.prune(study, trial) for trial in trials] == [False, False, False, True, False]
    assert [strict.prune(study, trial) for trial in trials] == [True, False, False, True, False]


def test_trial_that_is_done_again_counts_once() -> None:
    study, trials = study_of("minimize", [1, 1], [1, 1], [1, 1], [2, 2], [3, 3])
    for trial, place in zip(trials, (0, 0, 0, 1, 2), strict=True):
        study._storage.set_trial_user_attr(trial._trial_id, PLACE, place)
    pruner = BandPruner(rule={"min_iter": 1, "eta": 2})
    assert pruner.prune(study, trials[3]) is False, "threshold 2 of 1 2 3, where 1 1 1 2 3 has 1"


def test_nothing_stops_before_the_first_band_or_without_values() -> None:
    study, trials = study_of("minimize", [1, 1], [9, 9], [])
    pruner = BandPruner(rule={"min_iter": 2, "eta": 3})
    assert [pruner.prune(study, trial) for trial in trials] == [False, False, False]


def test_values_that_are_no_numbers_are_passed_over() -> None:
    study, trials = study_of("minimize", [1, float("nan")], [9, 9], [2, 2], [float("nan"), float("nan")])
    pruner = BandPruner(rule={"min_iter": 1, "eta": 3})
    assert [pruner.prune(study, trial) for trial in trials] == [False, True, False, False]
