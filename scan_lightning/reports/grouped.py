"""Tables of groups: one row per group, one column per metric or per value of another key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scan_lightning.data.benchmarks import load_benchmark
from scan_lightning.data.published import PublishedRow, load_published
from scan_lightning.reports.groups import Group, find_group, mean_of, spread_of
from scan_lightning.reports.layout import DifferenceLayout, MetricLayout, PivotLayout, PublishedLayout, TableLayout
from scan_lightning.tables import Cell, Column, TableRow

_SEEDS = "seeds"
_PUBLISHED = "published"
Body = tuple[list[Column], list[TableRow]]
"""Columns and rows."""
Laid = tuple[Body, list[str]]
"""Columns and rows, and the notes that explain them."""


def metric_column(name: str, layouts: Mapping[str, MetricLayout]) -> Column:
    """Make the column of a metric.

    Args:
        name: Of the metric.
        layouts: How metrics are shown.

    Returns:
        The column; its key is the name.
    """
    layout = layouts[name]
    return Column(key=name, title=layout.title, kind=layout.kind, digits=layout.digits, best=layout.best)


def group_table(table: TableLayout, groups: Sequence[Group], metrics: Mapping[str, MetricLayout]) -> Laid:
    """Lay groups out, one row each, one column per metric that any of them has.

    Args:
        table: Its columns, differences and published scores.
        groups: In the order shown.
        metrics: How metrics are shown.

    Returns:
        Columns and rows, and the notes that explain them.

    Raises:
        ValueError: If a difference's or a published row is not there.
    """
    shown = [name for name in table.columns if any(group.by_seed(name) for group in groups)]
    cells: list[dict[str, Cell]] = [{name: group.spread(name) for name in shown} for group in groups]
    columns = [metric_column(name, metrics) for name in shown]
    subtracted: dict[str, list[str]] = {}
    for index, difference in enumerate(one for one in table.differences if one.metric in shown):
        column, baseline = _add_difference(difference, f"difference {index}", groups, metrics, cells)
        columns.insert([other.key for other in columns].index(difference.metric) + 1, column)
        subtracted.setdefault(baseline, []).append(column.title)
    notes = [
        f"{', '.join(titles)}: difference from {baseline}, run by run of the same seed, then mean ± deviation of these."
        for baseline, titles in subtracted.items()
    ]
    if table.published is not None:
        column, note = _add_published(table.published, groups, cells)
        columns.append(column)
        notes.append(note)
    labels = [group.labels for group in groups]
    return _with_labels(table, labels, columns, cells, [len(group.rows) for group in groups]), notes


def pivot_table(
    table: TableLayout, pivot: PivotLayout, groups: Sequence[Group], metrics: Mapping[str, MetricLayout]
) -> Laid:
    """Lay one metric out, a row per value of the first keys and a column per value of the last one.

    Args:
        table: By what its rows are grouped.
        pivot: What the columns are.
        groups: Grouped by the table's keys and then by the pivot's.
        metrics: How metrics are shown.

    Returns:
        Columns and rows, and the notes that explain them.

    Raises:
        ValueError: If the layout's order names a column that is not there.
    """
    names = list(dict.fromkeys(group.labels[-1] for group in groups))
    if absent := [name for name in pivot.order if name not in names]:
        raise ValueError(f"pivot: no column {absent[0]!r}, there are {', '.join(names)}")
    ordered = [*pivot.order, *(name for name in names if name not in pivot.order)]
    metric = metrics[pivot.metric]
    columns = [Column(key=name, title=name, kind=metric.kind, digits=metric.digits) for name in ordered]
    if pivot.count is not None:
        columns.insert(0, Column(key=pivot.count, title=metrics[pivot.count].title, kind="count"))
    cells: dict[tuple[str, ...], dict[str, Cell]] = {}
    counts: dict[tuple[str, ...], int] = {}
    for group in groups:
        labels, count = group.labels[:-1], len(group.rows)
        line = cells.setdefault(labels, {})
        line[group.labels[-1]] = group.spread(pivot.metric)
        if pivot.count is not None:
            line.setdefault(pivot.count, mean_of(group.spread(pivot.count)))
        counts[labels] = min(count, counts.get(labels, count))
    notes = [f"Columns: {pivot.by.title}. Shown: {metric.title}."]
    return _with_labels(table, list(cells), columns, list(cells.values()), list(counts.values())), notes


def _with_labels(
    table: TableLayout,
    labels: Sequence[tuple[str, ...]],
    columns: Sequence[Column],
    cells: Sequence[dict[str, Cell]],
    counts: Sequence[int],
) -> Body:
    """Put the columns of labels before the others, and the number of seeds behind where it differs."""
    texts = [Column(key=f"group {index}", title=group.title) for index, group in enumerate(table.groups)]
    seeds = [Column(key=_SEEDS, title="seeds", kind="count")] if len(set(counts)) > 1 else []
    rows = []
    for names, line, count in zip(labels, cells, counts, strict=True):
        named = {f"group {index}": label for index, label in enumerate(names)}
        rows.append(TableRow(cells={**named, **line, _SEEDS: count}))
    return [*texts, *columns, *seeds], rows


def _add_difference(
    layout: DifferenceLayout,
    key: str,
    groups: Sequence[Group],
    metrics: Mapping[str, MetricLayout],
    cells: Sequence[dict[str, Cell]],
) -> tuple[Column, str]:
    """Add the differences from one group to the cells; give their column and the group's label."""
    baseline = find_group(groups, layout.baseline, "differences")
    for group, line in zip(groups, cells, strict=True):
        differences = [] if group is baseline else list(group.difference(baseline, layout.metric).values())
        line[key] = spread_of(differences)
    metric = metrics[layout.metric]
    title = layout.title or f"Δ {metric.title}"
    return Column(key=key, title=title, kind=metric.kind, digits=metric.digits, signed=True), baseline.label


def _add_published(
    layout: PublishedLayout, groups: Sequence[Group], cells: Sequence[dict[str, Cell]]
) -> tuple[Column, str]:
    """Add published scores to the cells."""
    published = {
        find_group(groups, label, "published").labels: _published(method, layout)
        for label, method in layout.rows.items()
    }
    for group, line in zip(groups, cells, strict=True):
        if group.labels in published:
            line[_PUBLISHED] = published[group.labels].scores[layout.benchmark]
    first = next(iter(published.values()))
    benchmark = load_benchmark(layout.benchmark).paper_name
    title = f"mIoU on {benchmark}, {first.model}"
    note = f'"(paper)": published, mIoU (any) on {benchmark}, {first.publication}; not measured here.'
    return Column(key=_PUBLISHED, title=title, kind="percent", published=True), note


def _published(method: str, layout: PublishedLayout) -> PublishedRow:
    """Find a method's published scores."""
    for row in load_published():
        if row.method == method and row.backbone == layout.backbone and layout.benchmark in row.scores:
            return row
    raise ValueError(f"published: no score of {method} with {layout.backbone} on {layout.benchmark} is known")
