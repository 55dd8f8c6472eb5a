"""Rows grouped by what a sweep has set, with one row per seed in each group."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from scan_lightning.reports.layout import GroupLayout, TableLayout
from scan_lightning.reports.rows import ResultRow, number, parameters_of, value_text
from scan_lightning.tables import Cell, Spread


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that differ in nothing but the seed.

    Attributes:
        labels: What the group is called, one text per key that rows are grouped by.
        values: The same as the rows hold it: numbers, texts, lists.
        rows: By seed, in the order of the seeds.
    """

    labels: tuple[str, ...]
    values: tuple[Any, ...]
    rows: Mapping[str, ResultRow]

    @property
    def label(self) -> str:
        """All labels in one text."""
        return ", ".join(self.labels)

    def by_seed(self, metric: str) -> dict[str, float]:
        """Give the values of one metric.

        Args:
            metric: Name of a column.

        Returns:
            Seed to value; seeds without one are left out.

        Raises:
            ValueError: If a value is no number.
        """
        return {seed: value for seed, row in self.rows.items() if (value := number(row, metric)) is not None}

    def spread(self, metric: str) -> Cell:
        """Summarise one metric over the seeds, see `spread_of`.

        Args:
            metric: Name of a column.

        Returns:
            Mean and deviation.
        """
        return spread_of(list(self.by_seed(metric).values()))

    def difference(self, other: Group, metric: str) -> dict[str, float]:
        """Subtract another group's values, seed by seed.

        Args:
            other: What is subtracted.
            metric: Name of a column.

        Returns:
            Seed to difference, for the seeds that both have.
        """
        mine, theirs = self.by_seed(metric), other.by_seed(metric)
        return {seed: value - theirs[seed] for seed, value in mine.items() if seed in theirs}


def spread_of(values: Sequence[float]) -> Cell:
    """Give mean and sample standard deviation (divided by n - 1).

    Args:
        values: Measurements.

    Returns:
        Both; the value alone if there is one, None if there is none.

    Example:
        >>> spread_of([1.0, 2.0, 3.0])
        Spread(mean=2.0, deviation=1.0)
    """
    if len(values) < 2:
        return values[0] if values else None
    return Spread(mean=statistics.fmean(values), deviation=statistics.stdev(values))


def mean_of(cell: Cell) -> float | None:
    """Give the mean of a cell of numbers.

    Args:
        cell: As `spread_of` makes it.

    Returns:
        The mean; None if there is no value.
    """
    if isinstance(cell, Spread):
        return cell.mean
    return None if cell is None or isinstance(cell, str) else float(cell)


def group_rows(rows: Sequence[ResultRow], table: TableLayout) -> list[Group]:
    """Put rows together that differ in nothing but the seed.

    Args:
        rows: Of one table.
        table: Says by what they are grouped, and which are left out, as are those without any of its metrics.

    Returns:
        The groups, in the order of their first rows; seeds ascending.

    Raises:
        ValueError: If a key is in no column and no parameter, no row is left, or a group has a seed twice.
    """
    metrics = table.columns if table.pivot is None else (table.pivot.metric,)
    kept = [row for row in rows if _matches(row, table.where) and any(row.get(metric) for metric in metrics)]
    if not kept:
        wanted = " and ".join(f"{name} {value}" for name, value in table.where.items())
        raise ValueError(f"none of {len(rows)} rows has {' or '.join(metrics)}{f' with {wanted}' if wanted else ''}")
    found: dict[tuple[str, ...], dict[str, ResultRow]] = {}
    values: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for row in kept:
        cells = tuple(value_of(row, group) for group in table.groups)
        labels = tuple(label_of(value, group) for value, group in zip(cells, table.groups, strict=True))
        seed = row.get("seed") or ""
        if seed in found.setdefault(labels, {}):
            raise ValueError(f"{', '.join(labels)}: expected one row per seed, got two of seed {seed or 'unknown'}")
        found[labels][seed] = row
        values[labels] = cells
    return [
        Group(labels=labels, values=values[labels], rows=dict(sorted(rows.items(), key=lambda pair: _seed(pair[0]))))
        for labels, rows in found.items()
    ]


def value_of(row: ResultRow, group: GroupLayout) -> Any:
    """Find what a row is grouped by.

    Args:
        row: The row.
        group: Names a column or a parameter.

    Returns:
        The value: text of a column, or what the sweep has set.

    Raises:
        ValueError: If the row has neither.
    """
    values = [_value(row, key) for key in group.key.split()]
    return values[0] if len(values) == 1 else " ".join(text for text in map(value_text, values) if text)


def label_of(value: Any, group: GroupLayout) -> str:
    """Name a value as the layout wants.

    Args:
        value: From a row or a sweep file.
        group: With its labels.

    Returns:
        The text shown.
    """
    text = value_text(value)
    return group.labels.get(text, text)


def find_group(groups: Sequence[Group], label: str, where: str) -> Group:
    """Find a group by its label.

    Args:
        groups: Of one table.
        label: The label, or a pattern that one label alone matches, such as ``*(recipe)``.
        where: What asks, for the message.

    Returns:
        The group.

    Raises:
        ValueError: If there is none, or several match.
    """
    found = [group for group in groups if group.label == label]
    found = found or [group for group in groups if fnmatchcase(group.label, label)]
    if len(found) != 1:
        labels = ", ".join(group.label for group in found or groups)
        raise ValueError(f"{where}: expected one row {label!r}, there {'are' if found else 'is none, but'} {labels}")
    return found[0]


def _value(row: ResultRow, key: str) -> Any:
    """Find one value in a column or among the parameters."""
    if key in row:
        return row[key]
    parameters = parameters_of(row)
    if key not in parameters:
        raise ValueError(f"{key}: expected a column or a parameter, got rows with parameters {', '.join(parameters)}")
    return parameters[key]


def _matches(row: ResultRow, where: Mapping[str, str]) -> bool:
    """Whether a row has all wanted values; a column that is not there at all is a mistake."""
    for name, value in where.items():
        if name not in row:
            raise ValueError(f"where: no column {name!r} in the rows")
        if row[name] != value and not fnmatchcase(row[name], value):
            return False
    return True


def _seed(text: str) -> tuple[float, str]:
    """Sort seeds as numbers."""
    return (float(text), "") if text.lstrip("-").isdigit() else (math.inf, text)
