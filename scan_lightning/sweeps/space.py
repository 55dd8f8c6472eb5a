"""W&B's distributions as Optuna draws them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy import stats

from scan_lightning.sweeps.combinations import values_of
from scan_lightning.sweeps.parameters import Parameter, distribution_of, leaves, nest

_TAIL = 1e-6  # normal and log-normal distributions have no bounds: what lies further out is not drawn
_SHARE = FloatDistribution(_TAIL, 1 - _TAIL)


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One parameter as Optuna sees it.

    Attributes:
        path: Its names, from the outermost.
        distribution: What Optuna draws.
        value: From what Optuna draws to what the command is given.
    """

    path: tuple[str, ...]
    distribution: BaseDistribution
    value: Callable[[Any], Any]

    @property
    def name(self) -> str:
        """Its name in a study; nested ones are joined by "/"."""
        return "/".join(self.path)


@dataclass(frozen=True, kw_only=True)
class Space:
    """All parameters of a sweep.

    Args:
        dimensions: Those that vary.
        constants: Those that do not, by their paths.
    """

    dimensions: tuple[Dimension, ...]
    constants: Mapping[tuple[str, ...], Any]

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw the values of a trial.

        Args:
            trial: Of Optuna.

        Returns:
            What the command is given, by parameter; nested ones as mappings.
        """
        drawn = {
            dimension.path: dimension.value(_suggest(trial, dimension.name, dimension.distribution))
            for dimension in self.dimensions
        }
        return nest(dict(sorted({**self.constants, **drawn}.items())))


def make_space(parameters: Mapping[str, Parameter], *, finite: bool = False) -> Space:
    """Turn the parameters of a sweep into what Optuna draws.

    Args:
        parameters: As in the file, checked.
        finite: Whether a grid is searched, so that every parameter has a list of values.

    Returns:
        The space.
    """
    dimensions = []
    constants = {}
    for path, parameter in leaves(parameters):
        if distribution_of(parameter) == "constant":
            constants[path] = parameter["value"]
        elif finite:
            dimensions.append(Dimension(path=path, distribution=_choice(values_of(parameter)), value=json.loads))
        else:
            distribution, value = _translate(parameter)
            dimensions.append(Dimension(path=path, distribution=distribution, value=value))
    return Space(dimensions=tuple(dimensions), constants=constants)


def as_choice(value: Any) -> str:
    """Write a value of a list as a study holds it: as JSON, which tells 1 from true and takes mappings.

    Args:
        value: Any value of a sweep file.

    Returns:
        JSON.
    """
    return json.dumps(value)


def _suggest(trial: optuna.Trial, name: str, distribution: Any) -> Any:
    """Draw from a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _choice(values: list[Any]) -> CategoricalDistribution:
    return CategoricalDistribution([as_choice(value) for value in values])


def _translate(parameter: Parameter) -> tuple[BaseDistribution, Callable[[Any], Any]]:
    """Give what Optuna draws for a parameter, and how it becomes the value."""
    distribution = distribution_of(parameter) or ""
    if distribution == "categorical":
        return _choice(parameter["values"]), json.loads
    if distribution == "categorical_w_probabilities":
        return FloatDistribution(0, 1), _weighted(parameter["values"], parameter["probabilities"])
    if distribution == "int_uniform":
        return IntDistribution(parameter["min"], parameter["max"]), int
    quantized = distribution.startswith("q_")
    drawn, value = _continuous(distribution.removeprefix("q_"), parameter)
    return drawn, _quantized(value, parameter.get("q", 1)) if quantized else value


def _continuous(distribution: str, parameter: Parameter) -> tuple[FloatDistribution, Callable[[float], float]]:
    """Give what Optuna draws for a continuous distribution; where it has none such, a share for the inverse CDF."""
    if distribution in ("normal", "log_normal"):
        inverse = stats.norm(parameter.get("mu", 0), parameter.get("sigma", 1)).ppf
        if distribution == "normal":
            return _SHARE, lambda share: float(inverse(share))
        return _SHARE, lambda share: math.exp(inverse(share))
    if distribution == "beta":
        inverse = stats.beta(parameter.get("a", 1), parameter.get("b", 1)).ppf
        return _SHARE, lambda share: float(inverse(share))
    low, high = float(parameter["min"]), float(parameter["max"])
    if distribution == "log_uniform":  # bounds are exponents of e
        low, high = math.exp(low), math.exp(high)
    elif distribution == "inv_log_uniform":  # log(1 / value) lies between the bounds
        low, high = math.exp(-high), math.exp(-low)
    return FloatDistribution(low, high, log=distribution != "uniform"), float


def _quantized(value: Callable[[float], float], q: float) -> Callable[[float], float]:
    """Round to a multiple of q, as W&B does; a whole q gives whole numbers."""
    if isinstance(q, int):
        return lambda drawn: round(value(drawn) / q) * q
    # A product of a float has digits that q has not: 3 * 0.1 is 0.30000000000000004.
    digits = max(0, 12 - math.floor(math.log10(q)))
    return lambda drawn: round(round(value(drawn) / q) * q, digits)


def _weighted(values: list[Any], probabilities: list[float]) -> Callable[[float], Any]:
    """Choose by probabilities where a share falls."""

    def choose(share: float) -> Any:
        total = 0.0
        for value, probability in zip(values, probabilities, strict=True):
            total += probability
            if share < total:
                return value
        # The sum may miss 1 by rounding; a value of probability 0 is never chosen.
        return next(
            value for value, probability in zip(reversed(values), reversed(probabilities), strict=True) if probability
        )

    return choose
