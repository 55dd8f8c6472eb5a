"""Plots from rows: the layout says what, the files of rows say how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from scan_lightning.reports.curves import draw_curves
from scan_lightning.reports.figures import drawing_style, fingerprint
from scan_lightning.reports.groups import Group
from scan_lightning.reports.layer_map import draw_layers
from scan_lightning.reports.layout import PlotLayout
from scan_lightning.reports.report import Report
from scan_lightning.reports.scatter import SEEN, UNSEEN, draw_scatter


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A plot, ready to be drawn.

    Attributes:
        plot: Its layout.
        tables: Groups by table.
        shown: The metrics that are drawn.
    """

    plot: PlotLayout
    tables: Mapping[str, Sequence[Group]]
    shown: Sequence[str]


def read_drawing(name: str, report: Report) -> Drawing:
    """Read what a plot is drawn from.

    Args:
        name: Of the plot.
        report: Has layout and rows.

    Returns:
        The layout and the groups.

    Raises:
        FileNotFoundError: If a file of rows is missing.
        ValueError: If the layout has no such plot, or rows do not fit it.
    """
    plots = report.layout.plots
    if name not in plots:
        raise ValueError(f"plot {name!r}: not in the layout, which has {', '.join(plots)}")
    plot = plots[name]
    pivot = report.layout.tables[plot.tables[0]].pivot
    metrics = (SEEN, UNSEEN) if plot.kind == "scatter" else plot.metrics
    shown = metrics if pivot is None else (pivot.metric,)
    return Drawing(plot=plot, tables={table: report.groups(table) for table in plot.tables}, shown=shown)


def make_figure(drawing: Drawing, report: Report) -> Figure:
    """Draw a plot.

    Args:
        drawing: From `read_drawing`.
        report: Has the layout.

    Returns:
        The figure.

    Raises:
        ValueError: If rows cannot be drawn so.
    """
    plot, layout = drawing.plot, report.layout
    groups = drawing.tables[plot.tables[0]]
    with drawing_style():
        if plot.kind == "curve":
            return draw_curves(plot, layout.tables[plot.tables[0]], groups, layout.metrics)
        if plot.kind == "layers":
            return draw_layers(plot, groups, layout.metrics)
        methods = report.methods(plot.tables, drawing.shown)
        return draw_scatter(plot, methods, {name: layout.tables[name].title for name in plot.tables})


def source_of(drawing: Drawing, report: Report) -> str:
    """Identify what a plot is drawn from, see `fingerprint`.

    Args:
        drawing: From `read_drawing`.
        report: Has the layout.

    Returns:
        sha256, hexadecimal.
    """
    return fingerprint(drawing.plot, drawing.tables, report.layout, drawing.shown)
