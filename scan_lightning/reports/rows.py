"""Rows of results: read, checked, their values taken apart."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ResultRow = Mapping[str, str]
"""One line of a file of rows: column name to text."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a file of rows.

    Args:
        path: CSV with a header.

    Returns:
        The rows, in the file's order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no row, or a row has more or fewer fields than the header.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file of rows, found none")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {line} has not as many fields as the header")
    if not rows:
        raise ValueError(f"{path}: expected rows, found none")
    return rows


def number(row: ResultRow, metric: str) -> float | None:
    """Read a number from a row.

    Args:
        row: The row.
        metric: Name of a column.

    Returns:
        The number; None if the row has none.

    Raises:
        ValueError: If there is something else.
    """
    text = row.get(metric) or ""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{metric}: expected a number, got {text!r}") from None
    return None if math.isnan(value) else value


def parameters_of(row: ResultRow) -> dict[str, Any]:
    """Read what a sweep has set in a row, the keys of its variant among them.

    Args:
        row: With the columns ``parameters`` (a JSON object).

    Returns:
        Dotted key to value; of a variant, which is a mapping of such keys, each pair as well.

    Raises:
        ValueError: If the column holds anything else.
    """
    text = row.get("parameters") or "{}"
    try:
        parameters = json.loads(text)
    except json.JSONDecodeError:
        parameters = None
    if not isinstance(parameters, dict):
        raise ValueError(f"parameters: expected a JSON object, got {text!r}")
    variant = parameters.get("variant")
    return parameters | (variant if isinstance(variant, dict) else {})


def value_text(value: Any) -> str:
    """Write a parameter's value for a table.

    Args:
        value: Number, text, truth value, None, or a list of these.

    Returns:
        The text.

    Example:
        >>> [value_text(value) for value in ([1, 3, 5], 0.150, True, None, [])]
        ['1, 3, 5', '0.15', 'yes', 'none', 'none']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(value_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {value_text(item)}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
