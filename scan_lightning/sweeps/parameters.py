"""Parameters of a sweep file: their kinds, what each kind may say, and how nested ones are named."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

Parameter = Mapping[str, Any]
"""What a sweep file says of one parameter."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_BOUNDS = frozenset({"min", "max"})
_NORMAL = frozenset({"mu", "sigma"})
_BETA = frozenset({"a", "b"})
_Q = frozenset({"q"})
_NONE: frozenset[str] = frozenset()
_EXPONENTS = ("log_uniform", "q_log_uniform", "inv_log_uniform")
_LARGEST_EXPONENT = 700  # e to the power of 710 is no float

# Distribution -> the keys that it needs, and those that it may have (W&B's schema of a sweep file).
DISTRIBUTIONS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "constant": (frozenset({"value"}), _NONE),
    "categorical": (frozenset({"values"}), _NONE),
    "categorical_w_probabilities": (frozenset({"values", "probabilities"}), _NONE),
    "int_uniform": (_BOUNDS, _NONE),
    "uniform": (_BOUNDS, _NONE),
    "q_uniform": (_BOUNDS, _Q),
    "log_uniform": (_BOUNDS, _NONE),
    "log_uniform_values": (_BOUNDS, _NONE),
    "q_log_uniform": (_BOUNDS, _Q),
    "q_log_uniform_values": (_BOUNDS, _Q),
    "inv_log_uniform": (_BOUNDS, _NONE),
    "inv_log_uniform_values": (_BOUNDS, _NONE),
    "normal": (_NONE, _NORMAL),
    "q_normal": (_NONE, _NORMAL | _Q),
    "log_normal": (_NONE, _NORMAL),
    "q_log_normal": (_NONE, _NORMAL | _Q),
    "beta": (_NONE, _BETA),
    "q_beta": (_NONE, _BETA | _Q),
}
FINITE = frozenset({"constant", "categorical", "int_uniform", "q_uniform"})
"""Distributions that a grid may have."""


def distribution_of(parameter: Parameter) -> str | None:
    """Name the distribution of a parameter: the one it says, or the one that W&B infers from its other keys.

    Args:
        parameter: What the file says.

    Returns:
        The name, not checked; None where nothing tells it.

    Example:
        >>> distribution_of({"min": 1, "max": 4}), distribution_of({"min": 0.0, "max": 1})
        ('int_uniform', 'uniform')
    """
    if "distribution" in parameter:
        return str(parameter["distribution"])
    if "value" in parameter:
        return "constant"
    if "values" in parameter:
        return "categorical_w_probabilities" if "probabilities" in parameter else "categorical"
    if parameter.keys() >= _BOUNDS:
        return "int_uniform" if all(_is_int(parameter[bound]) for bound in _BOUNDS) else "uniform"
    return None


def leaves(parameters: Mapping[str, Parameter]) -> Iterator[tuple[tuple[str, ...], Parameter]]:
    """Walk through parameters in W&B's order, by name, and into nested ones.

    Args:
        parameters: As in a sweep file.

    Yields:
        Names from the outermost to the parameter's own, and what the file says of it.
    """
    for name, parameter in sorted(parameters.items()):
        if "parameters" in parameter:
            for path, inner in leaves(parameter["parameters"]):
                yield (name, *path), inner
        else:
            yield (name,), parameter


def nest(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Put values where their paths say.

    Args:
        values: By the paths that `leaves` gives.

    Returns:
        Values by outermost name; nested parameters as mappings.
    """
    nested: dict[str, Any] = {}
    for path, value in values.items():
        place = nested
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
    return nested


def check_parameters(parameters: Any, method: str, where: str = "parameters") -> None:
    """Raise unless parameters are as W&B wants them, and as a method can search them.

    Args:
        parameters: What stands under ``parameters`` in the file.
        method: "grid", "random" or "bayes".
        where: The key, for messages.

    Raises:
        ValueError: With the key, what was expected and what came.
    """
    if not isinstance(parameters, Mapping) or not parameters:
        raise ValueError(f"{where}: expected a mapping of at least one parameter, got {parameters!r}")
    for name, parameter in parameters.items():
        place = f"{where}.{name}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{place}: expected a name of letters, digits, '_', '.' and '-', got {name!r}")
        if not isinstance(parameter, Mapping):
            raise ValueError(f"{place}: expected a mapping such as {{values: [...]}}, got {parameter!r}")
        if "parameters" in parameter:
            if len(parameter) > 1:
                raise ValueError(f"{place}: expected nothing beside parameters, got {sorted(map(str, parameter))}")
            check_parameters(parameter["parameters"], method, f"{place}.parameters")
        else:
            _check_parameter(parameter, place)
            _check_method(parameter, method, place)


def _check_parameter(parameter: Parameter, where: str) -> None:
    """Raise unless a parameter has the keys of its distribution, with sensible values."""
    distribution = distribution_of(parameter)
    if distribution is None:
        raise ValueError(f"{where}: expected value, values, min and max, or distribution, got {dict(parameter)!r}")
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"{where}.distribution: expected one of {', '.join(DISTRIBUTIONS)}, got {distribution!r}")
    needed, allowed = DISTRIBUTIONS[distribution]
    if missing := sorted(needed - parameter.keys()):
        raise ValueError(f"{where}: {distribution} needs {' and '.join(missing)}, got {dict(parameter)!r}")
    if unknown := sorted(map(str, parameter.keys() - needed - allowed - {"distribution"})):
        raise ValueError(f"{where}: {distribution} knows no {', '.join(unknown)}")
    for key in parameter.keys() & (_BOUNDS | _NORMAL | _BETA | _Q):
        _check_number(parameter[key], f"{where}.{key}", positive=key in ("sigma", "a", "b", "q"))
    if "min" in needed:
        _check_bounds(parameter, distribution, where)
    if "values" in needed:
        _check_values(parameter["values"], f"{where}.values")
    if "value" in needed:
        _check_plain(parameter["value"], f"{where}.value")
    if "probabilities" in needed:
        _check_probabilities(parameter["probabilities"], len(parameter["values"]), f"{where}.probabilities")


def _check_number(value: Any, where: str, *, positive: bool) -> None:
    """Raise unless a value is a finite number, above 0 where it has to be."""
    if isinstance(value, str):
        raise ValueError(
            f"{where}: expected a number, got the text {value!r} (in YAML 1.0e-4 is a number, 1e-4 is not)"
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}: expected a number, got {value!r}")
    if positive and value <= 0:
        raise ValueError(f"{where}: expected a number above 0, got {value!r}")


def _check_bounds(parameter: Parameter, distribution: str, where: str) -> None:
    """Raise unless min is below max and both suit the distribution."""
    low, high = parameter["min"], parameter["max"]
    if distribution == "int_uniform" and not (_is_int(low) and _is_int(high)):
        raise ValueError(f"{where}: int_uniform needs whole numbers, got min {low!r} and max {high!r}")
    if low >= high:
        raise ValueError(f"{where}: expected min below max, got min {low!r} and max {high!r}")
    if distribution in _EXPONENTS and max(abs(low), abs(high)) > _LARGEST_EXPONENT:
        raise ValueError(
            f"{where}: the bounds of {distribution} are exponents of e, got min {low!r} and max {high!r}; "
            f"{distribution}_values takes the values themselves"
        )
    if distribution.endswith("_values") and low <= 0:
        raise ValueError(f"{where}.min: {distribution} needs a number above 0, got {low!r}")


def _check_values(values: Any, where: str) -> None:
    """Raise unless values are several different ones that JSON can hold."""
    if not isinstance(values, list) or not values:
        raise ValueError(f"{where}: expected a list of at least one value, got {values!r}")
    seen: set[str] = set()
    for position, value in enumerate(values):
        text = _check_plain(value, f"{where}[{position}]")
        if text in seen:
            raise ValueError(f"{where}: {value!r} stands there twice")
        seen.add(text)


def _check_plain(value: Any, where: str) -> str:
    """Raise unless JSON can hold a value; return it as JSON."""
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected text, number, true, false, null, a list or a mapping: {error}") from error


def _check_probabilities(probabilities: Any, count: int, where: str) -> None:
    """Raise unless there is a probability for each value and they sum to 1."""
    if not isinstance(probabilities, list) or len(probabilities) != count:
        raise ValueError(f"{where}: expected a list of {count}, one for each value, got {probabilities!r}")
    for position, probability in enumerate(probabilities):
        _check_number(probability, f"{where}[{position}]", positive=False)
        if probability < 0:
            raise ValueError(f"{where}[{position}]: expected at least 0, got {probability!r}")
    if not math.isclose(sum(probabilities), 1, abs_tol=1e-6):
        raise ValueError(f"{where}: expected a sum of 1, got {sum(probabilities)!r}")


def _check_method(parameter: Parameter, method: str, where: str) -> None:
    """Raise unless a method can search a parameter."""
    distribution = distribution_of(parameter)
    if method == "grid" and distribution not in FINITE:
        raise ValueError(f"{where}: a grid needs a finite set: {', '.join(sorted(FINITE))}; got {distribution}")
    if method == "bayes" and distribution == "categorical_w_probabilities":
        raise ValueError(f"{where}.probabilities: only method random draws by probabilities, got method bayes")


def _is_int(value: Any) -> bool:
    """Whether a value is a whole number and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)
