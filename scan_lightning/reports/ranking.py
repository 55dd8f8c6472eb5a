"""How metrics rank the same methods: ranks side by side, and the pairs that two metrics order differently."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import kendalltau, rankdata

from scan_lightning.reports.grouped import Laid, metric_column
from scan_lightning.reports.groups import Group, mean_of, spread_of
from scan_lightning.reports.layout import MetricLayout
from scan_lightning.tables import Cell, Column, Spread, TableRow


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of some table, as a method among those of other tables.

    Attributes:
        source: Name of the table.
        group: Its rows.
    """

    source: str
    group: Group

    @property
    def label(self) -> str:
        """Table and row."""
        return f"{self.source}: {self.group.label}"


def distinct_methods(tables: Mapping[str, Sequence[Group]], metrics: Sequence[str]) -> list[Method]:
    """Collect the groups of several tables, each run once.

    Args:
        tables: Groups by the name of their table.
        metrics: What a method must have been scored by to count.

    Returns:
        The methods. What several tables have, such as the paper's setting, is taken from the first one.
    """
    found: dict[tuple[str, ...], Method] = {}
    for name, groups in tables.items():
        for group in groups:
            if all(group.by_seed(metric) for metric in metrics):
                found.setdefault(_identity(group, name), Method(source=name, group=group))
    return list(found.values())


def ranking_table(methods: Sequence[Method], columns: Sequence[str], metrics: Mapping[str, MetricLayout]) -> Laid:
    """Rank methods by each metric's mean over seeds.

    Args:
        methods: At least two.
        columns: Metrics; rows are sorted by the first one.
        metrics: How metrics are shown.

    Returns:
        Columns and rows, and notes: Kendall's tau between the first metric and each other one, pairs that swap.

    Raises:
        ValueError: If there are fewer than two methods.
    """
    _check_several(methods)
    means = {name: [_good(method.group, name, metrics) for method in methods] for name in columns}
    ranks = {name: rankdata([-value for value in values], method="min") for name, values in means.items()}
    shown: list[Column] = [Column(key="method", title="method")]
    for name in columns:
        shown += [metric_column(name, metrics), Column(key=f"rank {name}", title="rank", kind="count")]
    rows = []
    for index in sorted(range(len(methods)), key=lambda index: int(ranks[columns[0]][index])):
        cells: dict[str, Cell] = {"method": methods[index].label}
        for name in columns:
            cells |= {name: methods[index].group.spread(name), f"rank {name}": int(ranks[name][index])}
        rows.append(TableRow(cells=cells))
    notes = []
    for name in columns[1:]:
        tau = float(kendalltau(means[columns[0]], means[name]).statistic)
        pairs = itertools.combinations(zip(means[columns[0]], means[name], strict=True), 2)
        swapped = sum(_signs_differ(*pair) for pair in pairs)
        notes.append(
            f"{metrics[name].title} against {metrics[columns[0]].title}: Kendall's tau {tau:.2f}, "
            f"{swapped} of {len(methods) * (len(methods) - 1) // 2} pairs of methods change order."
        )
    return (shown, rows), notes


def swaps_table(
    methods: Sequence[Method], columns: Sequence[str], metrics: Mapping[str, MetricLayout], *, limit: int
) -> Laid:
    """List the pairs of methods that another metric orders differently than the first one.

    Args:
        methods: At least two.
        columns: Metrics; a pair is listed with the method in front that the first one puts ahead.
        metrics: How metrics are shown.
        limit: The largest number of pairs listed: first those in which both differences exceed their deviation over
            seeds, then those where the smaller of both is largest.

    Returns:
        Columns and rows, and notes. Differences are of runs of the same seed, then averaged.

    Raises:
        ValueError: If there are fewer than two methods.
    """
    _check_several(methods)
    found: list[tuple[bool, float, TableRow]] = []
    for one, other in itertools.combinations(methods, 2):
        ahead, behind = (one, other) if _lead(one, other, columns[0], metrics) >= 0 else (other, one)
        leads = {name: _lead(ahead, behind, name, metrics) for name in columns}
        swapped = [name for name in columns[1:] if leads[columns[0]] > 0 > leads[name]]
        if not swapped:
            continue
        spreads = {name: spread_of(list(ahead.group.difference(behind.group, name).values())) for name in columns}
        size = max(min(leads[columns[0]], -leads[name]) for name in swapped)
        clear = _is_clear(spreads[columns[0]]) and any(_is_clear(spreads[name]) for name in swapped)
        cells: dict[str, Cell] = {"ahead": ahead.label, "behind": behind.label, "clear": "yes" if clear else "no"}
        found.append((not clear, -size, TableRow(cells=cells | spreads)))
    found.sort(key=lambda entry: entry[:2])
    first = metrics[columns[0]].title
    shown = [Column(key="ahead", title=f"ahead by {first}"), Column(key="behind", title=f"behind by {first}")]
    for name in columns:
        kind, digits = metrics[name].kind, max(2, metrics[name].digits)
        shown.append(Column(key=name, title=f"Δ {metrics[name].title}", kind=kind, digits=digits, signed=True))
    clear_count = sum(not unclear for unclear, _, _ in found)
    shown.append(Column(key="clear", title="clear"))
    pairs = len(methods) * (len(methods) - 1) // 2
    notes = [
        f"{len(found)} of {pairs} pairs of methods change order, {clear_count} of them clearly: both differences are "
        "larger than their own deviation over seeds. "
        f"Listed: {min(limit, len(found))}, clear ones first, then those where the smaller difference is largest.",
        "Differences: the method ahead minus the one behind, run by run of the same seed.",
    ]
    return (shown, [row for _, _, row in found[:limit]]), notes


def _identity(group: Group, table: str) -> tuple[str, ...]:
    """Give what is the same for equal runs: the keys of the rows, without keys the name."""
    keys = sorted(row.get("key", "") for row in group.rows.values())
    return tuple(keys) if all(keys) else (table, *group.labels)


def _good(group: Group, metric: str, metrics: Mapping[str, MetricLayout]) -> float:
    """Give the mean of a metric, larger for what is better."""
    mean = mean_of(group.spread(metric))
    if mean is None:
        raise ValueError(f"{group.label}: no value of {metric}")
    return -mean if metrics[metric].best == "min" else mean


def _lead(one: Method, other: Method, metric: str, metrics: Mapping[str, MetricLayout]) -> float:
    """Say by how much one method is better than another, over the seeds that both have; 0 without any."""
    differences = list(one.group.difference(other.group, metric).values())
    mean = mean_of(spread_of(differences)) or 0.0
    return -mean if metrics[metric].best == "min" else mean


def _signs_differ(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two metrics order two methods differently."""
    return (one[0] - other[0]) * (one[1] - other[1]) < 0


def _is_clear(cell: Cell) -> bool:
    """Whether a difference is larger than its deviation over seeds."""
    return isinstance(cell, Spread) and abs(cell.mean) > cell.deviation


def _check_several(methods: Sequence[Method]) -> None:
    """Raise ValueError unless there is something to rank."""
    if len(methods) < 2:
        raise ValueError(f"combine: expected at least two methods with all metrics, got {len(methods)}")
