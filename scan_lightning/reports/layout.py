"""The layout of tables and plots (experiments/results/tables.yaml), read and checked."""

from __future__ import annotations

import os
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from jsonargparse import ArgumentParser

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, kw_only=True)
class MetricLayout:
    """How a column of the rows is shown wherever it occurs.

    Args:
        title: Heading.
        axis: What a plot's axis or panel is called; None takes the heading.
        kind: "percent" for fractions in [0, 1], shown times 100; "number" or "count" for what is shown as it is.
        digits: Decimals.
        best: Which value is marked; None marks none.
        meaning: One line for the notes; None takes the one that a test prints, if it knows the metric.
    """

    title: str
    axis: str | None = None
    kind: Literal["percent", "number", "count"] = "percent"
    digits: int = 1
    best: Literal["max", "min"] | None = "max"
    meaning: str | None = None


@dataclass(frozen=True, kw_only=True)
class GroupLayout:
    """One value by which rows are grouped, a text column of its own.

    Args:
        key: Name of a column of the rows, such as ``variant``, or of a parameter that a sweep has set, such as
            ``model.init_args.inference.replace_ratio``. Several names, separated by spaces, join their texts.
        title: Heading.
        labels: Other texts for values, by the text that is shown without it.
    """

    key: str
    title: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DifferenceLayout:
    """A column of differences from one row, paired by seed.

    Args:
        metric: Whose values are subtracted.
        baseline: Label of the row that is subtracted, or a pattern that it alone matches, such as ``*(recipe)``.
        title: Heading; None makes one of metric and baseline.
    """

    metric: str
    baseline: str
    title: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedLayout:
    """A column of published scores, beside the rows that set up what was published.

    Args:
        benchmark: Short name of the benchmark that they were measured on, "a150".
        backbone: Which model, "vit_b16".
        rows: For a label of the table, or a pattern, the published method, such as ``{SIM and CS: SCAN}``.
    """

    benchmark: str
    backbone: str
    rows: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class PivotLayout:
    """Values of one metric side by side, one column for each value of another column of the rows.

    Args:
        metric: What is shown.
        by: What the columns differ in.
        order: Labels of the columns in the order shown; those not named follow as the rows have them.
        count: A number that the rows of one line share, shown first, such as how many regions were looked at.
    """

    metric: str
    by: GroupLayout
    order: tuple[str, ...] = ()
    count: str | None = None


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """One table.

    Args:
        title: Above it.
        question: What it answers.
        kind: "groups": one row per group and one column per metric; "pivot": one row per group and one column per value
            of another key; "ranking": the rows of other tables ranked by each metric; "swaps": the pairs of these that
            two metrics order differently.
        rows: Names of files of rows, without ending; none takes the table's own name.
        where: Values, or patterns such as ``*_test``, that rows must have in a column to be shown.
        groups: What the rows of the table differ in.
        order: Labels of the first group, in the order shown; empty takes the order of the ablation file's grid.
        columns: Metrics.
        differences: Further columns.
        published: A further column.
        pivot: For the kind "pivot".
        combine: For the kinds "ranking" and "swaps": the tables whose rows are ranked.
        limit: For the kind "swaps": how many pairs are listed.
        notes: Lines below the table, before those that are made.
    """

    title: str
    question: str
    kind: Literal["groups", "pivot", "ranking", "swaps"] = "groups"
    rows: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[GroupLayout, ...] = ()
    order: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    differences: tuple[DifferenceLayout, ...] = ()
    published: PublishedLayout | None = None
    pivot: PivotLayout | None = None
    combine: tuple[str, ...] = ()
    limit: int = 10
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlotLayout:
    """One plot.

    Args:
        title: Above it.
        kind: "curve": metrics against what groups the rows of a table, or for a table of kind "pivot" its metric, one
            line per column; "layers": which layers each row uses, beside its metrics; "scatter": seen against unseen
            classes, one point per row of the tables.
        tables: Whose rows; curves and layers take one.
        metrics: For curves and layers.
        x_title: For curves: below the axis; None takes the heading of the table's last group.
        leave_out: For curves: labels of rows of the table that are not drawn.
        layers: For layers: the parameter that holds the list of layers.
        baseline: For layers: label of the row that colours are relative to, or a pattern.
    """

    title: str
    kind: Literal["curve", "layers", "scatter"]
    tables: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    x_title: str | None = None
    leave_out: tuple[str, ...] = ()
    layers: str | None = None
    baseline: str | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All tables and plots of a file.

    Args:
        metrics: By the column's name in the rows.
        tables: By name.
        plots: By name.
        ablations: Folder of the ablation files, which give rows their order.
    """

    metrics: Mapping[str, MetricLayout]
    tables: Mapping[str, TableLayout]
    plots: Mapping[str, PlotLayout]
    ablations: Path

    def table(self, name: str) -> TableLayout:
        """Give one table.

        Args:
            name: As in the file.

        Returns:
            Its layout.

        Raises:
            ValueError: If there is none of that name.
        """
        if name not in self.tables:
            raise ValueError(f"table {name!r}: not in the layout, which has {', '.join(self.tables)}")
        return self.tables[name]


def load_layout(path: Path) -> Layout:
    """Read a layout file.

    Args:
        path: A YAML file of three mappings, ``metrics``, ``tables`` and ``plots``, and of ``ablations``: the folder of
            the ablation files, relative to the file's own, which it is if not given.

    Returns:
        The layout.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not YAML, or an entry is unknown, missing or of the wrong kind; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a layout of tables, found no file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    parts = ("metrics", "tables", "plots", "ablations")
    if not isinstance(content, dict) or not set(content) <= set(parts):
        found = list(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: expected a mapping of {', '.join(parts)}, got {found}")
    layout = Layout(
        metrics=_load_all(content.get("metrics") or {}, MetricLayout, f"{path}: metrics"),
        tables=_load_all(content.get("tables") or {}, TableLayout, f"{path}: tables"),
        plots=_load_all(content.get("plots") or {}, PlotLayout, f"{path}: plots"),
        ablations=Path(os.path.normpath(path.parent / str(content.get("ablations") or "."))),
    )
    for name, table in layout.tables.items():
        _check_table(table, layout, f"{path}: tables.{name}")
    for name, plot in layout.plots.items():
        _check_plot(plot, layout, f"{path}: plots.{name}")
    return layout


def _load_all(entries: Any, kind: type[Loaded], where: str) -> dict[str, Loaded]:
    """Read the entries of one mapping."""
    if not isinstance(entries, dict):
        raise ValueError(f"{where}: expected a mapping, got {type(entries).__name__}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--entry", type=kind, required=True)
    loaded: dict[str, Loaded] = {}
    for name, entry in entries.items():
        try:
            loaded[str(name)] = parser.instantiate(parser.parse_object({"entry": entry})).entry
        except ArgumentError as error:
            raise ValueError(f"{where}.{name}: {error}") from error
    return loaded


def _check_table(table: TableLayout, layout: Layout, where: str) -> None:
    """Raise ValueError unless a table has what its kind needs and names what there is."""
    needed: dict[str, tuple[str, ...]] = {
        "groups": ("groups", "columns"),
        "pivot": ("groups", "pivot"),
        "ranking": ("combine", "columns"),
        "swaps": ("combine", "columns"),
    }
    missing = [name for name in needed[table.kind] if not getattr(table, name)]
    if missing:
        raise ValueError(f"{where}: kind {table.kind!r} needs {' and '.join(missing)}")
    for name, kinds in {"pivot": ("pivot",), "combine": ("ranking", "swaps")}.items():
        if getattr(table, name) and table.kind not in kinds:
            raise ValueError(f"{where}: {name} belongs to the kind {' or '.join(kinds)}, got {table.kind!r}")
    if table.kind == "swaps" and len(table.columns) < 2:
        raise ValueError(f"{where}: kind 'swaps' needs two metrics to compare, got {list(table.columns)}")
    pivoted = [name for name in (table.pivot.metric, table.pivot.count) if name] if table.pivot else []
    _check_names([*table.columns, *pivoted], layout.metrics, f"{where}: metric")
    _check_names([one.metric for one in table.differences], table.columns, f"{where}: differences: metric")
    grouped = [name for name, other in layout.tables.items() if other.kind == "groups"]
    _check_names(table.combine, grouped, f"{where}: combine")


def _check_plot(plot: PlotLayout, layout: Layout, where: str) -> None:
    """Raise ValueError unless a plot has what its kind needs and names what there is."""
    _check_names(plot.tables, layout.tables, f"{where}: table")
    _check_names(plot.metrics, layout.metrics, f"{where}: metric")
    if not plot.tables or (plot.kind != "scatter" and len(plot.tables) > 1):
        wanted = "at least one table" if plot.kind == "scatter" else "one table"
        raise ValueError(f"{where}: kind {plot.kind!r} needs {wanted}, got {list(plot.tables)}")
    pivoted = layout.tables[plot.tables[0]].kind == "pivot"
    if not plot.metrics and (plot.kind == "layers" or (plot.kind == "curve" and not pivoted)):
        raise ValueError(f"{where}: kind {plot.kind!r} needs metrics")
    if plot.kind == "layers" and (plot.layers is None or plot.baseline is None):
        raise ValueError(f"{where}: kind 'layers' needs layers and baseline")


def _check_names(names: Any, known: Any, where: str) -> None:
    """Raise ValueError unless all names are known."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{where}: expected some of {', '.join(known)}, got {', '.join(unknown)}")
