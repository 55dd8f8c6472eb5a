"""What Optuna draws for each of W&B's distributions, beside W&B's definitions of them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from scipy import stats

from scan_lightning.sweeps.parameters import DISTRIBUTIONS
from scan_lightning.sweeps.space import make_space

DRAWS = 400


def draws(parameter: dict[str, Any], count: int = DRAWS) -> list[Any]:
    """Values that the commands of a random search are given."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = make_space({"a": parameter})
    return [space.draw(study.ask())["a"] for _ in range(count)]


# Parameter -> the cumulative distribution that W&B's documentation gives it.
CONTINUOUS: list[tuple[dict[str, Any], Callable[[Any], Any]]] = [
    ({"min": -1.0, "max": 3.0}, stats.uniform(-1, 4).cdf),
    ({"min": -4, "max": -1, "distribution": "log_uniform"}, lambda x: stats.uniform(-4, 3).cdf(np.log(x))),
    (
        {"min": 1e-4, "max": 0.1, "distribution": "log_uniform_values"},
        lambda x: stats.uniform(math.log(1e-4), math.log(1e3)).cdf(np.log(x)),
    ),
    (  # log(1 / value) is uniform between min and max
        {"min": 1, "max": 4, "distribution": "inv_log_uniform"},
        lambda x: 1 - stats.uniform(1, 3).cdf(np.log(1 / np.asarray(x))),
    ),
    (
        {"min": 0.01, "max": 1.0, "distribution": "inv_log_uniform_values"},
        lambda x: 1 - stats.uniform(0, math.log(100)).cdf(np.log(1 / np.asarray(x))),
    ),
    ({"distribution": "normal", "mu": 2, "sigma": 0.5}, stats.norm(2, 0.5).cdf),
    ({"distribution": "normal"}, stats.norm().cdf),
    ({"distribution": "log_normal", "mu": -2, "sigma": 0.5}, stats.lognorm(0.5, scale=math.exp(-2)).cdf),
    ({"distribution": "beta", "a": 2, "b": 5}, stats.beta(2, 5).cdf),
]


@pytest.mark.parametrize(("parameter", "cumulative"), CONTINUOUS)
def test_values_have_wandbs_distribution(parameter: dict[str, Any], cumulative: Callable[[Any], Any]) -> None:
    found = draws(parameter)
    assert all(isinstance(value, float) for value in found)
    assert stats.kstest(found, cumulative).pvalue > 0.01
    shifted = [value * 1.6 + 0.1 for value in found]
    assert stats.kstest(shifted, cumulative).pvalue < 0.01, "the test tells other distributions"


QUANTIZED: list[tuple[dict[str, Any], Callable[[Any], Any], float]] = [
    ({"min": 0, "max": 10, "distribution": "q_uniform"}, stats.uniform(0, 10).cdf, 1),
    ({"min": 0.0, "max": 1.0, "q": 0.1, "distribution": "q_uniform"}, stats.uniform(0, 1).cdf, 0.1),
    (
        {"min": 0, "max": 4, "q": 2, "distribution": "q_log_uniform"},
        lambda x: stats.uniform(0, 4).cdf(np.log(np.maximum(x, 1e-9))),
        2,
    ),
    (
        {"min": 1, "max": 100, "q": 5, "distribution": "q_log_uniform_values"},
        lambda x: stats.uniform(0, math.log(100)).cdf(np.log(np.maximum(x, 1e-9))),
        5,
    ),
    ({"distribution": "q_normal", "mu": 10, "sigma": 3}, stats.norm(10, 3).cdf, 1),
    (
        {"distribution": "q_log_normal", "mu": 1, "sigma": 1, "q": 0.25},
        lambda x: stats.lognorm(1, scale=math.e).cdf(np.maximum(x, 0)),
        0.25,
    ),
    ({"distribution": "q_beta", "a": 2, "b": 2, "q": 0.2}, stats.beta(2, 2).cdf, 0.2),
]


@pytest.mark.parametrize(("parameter", "cumulative", "q"), QUANTIZED)
def test_quantized_values_are_the_nearest_multiples_of_q(
    parameter: dict[str, Any], cumulative: Callable[[Any], Any], q: float
) -> None:
    found = draws(parameter)
    assert {type(value) for value in found} == {int if isinstance(parameter.get("q", 1), int) else float}
    values, counts = np.unique(found, return_counts=True)
    assert np.allclose(values / q, np.round(values / q), atol=1e-9)
    assert all(len(str(value)) < 8 for value in found), "no digits that q has not"
    expected = (cumulative(values + q / 2) - cumulative(values - q / 2)) * DRAWS
    assert np.abs(counts - expected).max() < 4 * math.sqrt(DRAWS) / 2


def test_whole_numbers_include_both_bounds() -> None:
    found = draws({"min": 2, "max": 4})
    assert set(found) == {2, 3, 4}
    assert all(isinstance(value, int) for value in found)


def test_choices_keep_their_types() -> None:
    values = [1, True, 1.5, "1", None, [1, 2], {"label": "both", "x": None}]
    found = draws({"values": values})
    assert {repr(value) for value in found} == {repr(value) for value in values}


def test_probabilities_are_followed() -> None:
    found = draws({"values": ["a", "b", "c"], "probabilities": [0.7, 0.0, 0.3]})
    assert set(found) == {"a", "c"}
    assert abs(found.count("a") / DRAWS - 0.7) < 0.08


def test_constants_and_nested_parameters_stand_where_they_belong() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    parameters = {"z": {"value": 3}, "b": {"parameters": {"y": {"min": 0.0, "max": 1.0}, "c": {"value": {"k": 1}}}}}
    trial = study.ask()
    values = make_space(parameters).draw(trial)
    assert values == {"b": {"c": {"k": 1}, "y": trial.params["b/y"]}, "z": 3}
    assert list(trial.params) == ["b/y"]


def test_every_distribution_of_wandb_is_tested_here() -> None:
    tested = {parameter.get("distribution") for parameter, *_ in [*CONTINUOUS, *QUANTIZED]}
    inferred = {"constant", "categorical", "categorical_w_probabilities", "int_uniform", "uniform"}
    assert (tested - {None}) | inferred == set(DISTRIBUTIONS)
