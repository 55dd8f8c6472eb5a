"""All combinations of a grid, each once, in W&B's order."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from scan_lightning.sweeps.parameters import Parameter, distribution_of, leaves, nest
from scan_lightning.sweeps.specification import Sweep


def grid(sweep: Sweep) -> list[dict[str, Any]]:
    """List all combinations of a sweep's parameters.

    Args:
        sweep: Of method grid.

    Returns:
        One mapping per combination, by parameter; nested parameters as mappings. Parameters stand in the order of
        their names and the last one varies fastest, as W&B goes through a grid.

    Raises:
        ValueError: If the method is not grid.
    """
    if sweep.method != "grid":
        raise ValueError(f"{sweep.name}: expected method grid, got {sweep.method}")
    found = list(leaves(sweep.parameters))
    paths = [path for path, _ in found]
    values = [values_of(parameter) for _, parameter in found]
    return [nest(dict(zip(paths, combination, strict=True))) for combination in itertools.product(*values)]


def values_of(parameter: Parameter) -> list[Any]:
    """List the values of a parameter in a grid.

    Args:
        parameter: With a finite set of values.

    Returns:
        The values; those of ``q_uniform`` end before ``max``, as W&B's do.

    Raises:
        ValueError: If the set is not finite.
    """
    distribution = distribution_of(parameter)
    if distribution == "constant":
        return [parameter["value"]]
    if distribution == "categorical":
        return list(parameter["values"])
    if distribution == "int_uniform":
        return list(range(parameter["min"], parameter["max"] + 1))
    if distribution == "q_uniform":
        values: list[Any] = np.arange(parameter["min"], parameter["max"], parameter.get("q", 1)).tolist()
        return values
    raise ValueError(f"expected a finite set of values, got {dict(parameter)!r}")
