"""Curves of metrics against what a sweep has set: mean line, deviation band, every seed as a dot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scan_lightning.reports.figures import COLOURS, MARKERS
from scan_lightning.reports.groups import Group, mean_of
from scan_lightning.reports.layout import MetricLayout, PivotLayout, PlotLayout, TableLayout
from scan_lightning.tables import Spread

_HEIGHT = 3.3
_PANEL = 3.1
_SINGLE = 6.2
_LEGEND = "line: mean; band: ± sample standard deviation; dots: each seed"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 2)), (0, (5, 2, 1, 2)))
"""A line that covers another one lets it be seen."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a panel.

    Attributes:
        label: Its name.
        points: Position and group, by ascending position.
        metric: What is drawn.
        layout: How the metric is shown.
    """

    label: str
    points: Sequence[tuple[float, Group]]
    metric: str
    layout: MetricLayout

    def summary(self) -> tuple[list[float], list[float], list[float]]:
        """Give positions, means and deviations (0 for one seed), on the scale shown."""
        positions, means, deviations = [], [], []
        for position, group in self.points:
            spread = group.spread(self.metric)
            mean = mean_of(spread)
            if mean is not None:
                positions.append(position)
                means.append(mean * self.scale)
                deviations.append(spread.deviation * self.scale if isinstance(spread, Spread) else 0.0)
        return positions, means, deviations

    def seeds(self) -> dict[str, tuple[list[float], list[float]]]:
        """Give positions and values of each seed, on the scale shown."""
        lines: dict[str, tuple[list[float], list[float]]] = {}
        for position, group in self.points:
            for seed, value in group.by_seed(self.metric).items():
                positions, values = lines.setdefault(seed, ([], []))
                positions.append(position)
                values.append(value * self.scale)
        return lines

    @property
    def scale(self) -> float:
        """Factor from values to what is shown."""
        return 100.0 if self.layout.kind == "percent" else 1.0


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        title: Above it.
        lines: What is drawn.
    """

    title: str
    lines: Sequence[Line]


def draw_curves(
    plot: PlotLayout, table: TableLayout, groups: Sequence[Group], metrics: Mapping[str, MetricLayout]
) -> Figure:
    """Draw the curves of a table against its last key, numbers to scale, texts side by side.

    There is one panel per metric, with a line for each value of the keys before; for a table of kind "pivot" a panel
    for each such value, with a line for each column. Panels span equally many units, so that slopes compare.

    Args:
        plot: The layout.
        table: Whose groups.
        groups: In the order of the table.
        metrics: How metrics are shown.

    Returns:
        The figure.

    Raises:
        ValueError: If nothing is left to draw.
    """
    at = len(table.groups) - 1
    kept = [group for group in groups if group.labels[at] not in plot.leave_out]
    positions, ticks = _positions(kept, at)
    if table.pivot is not None:
        panels = _pivot_panels(table.pivot, kept, positions, at, metrics[table.pivot.metric])
    else:
        panels = [
            Panel(title=_with_unit(metrics[name]), lines=_lines(kept, positions, at, name, metrics[name]))
            for name in plot.metrics
            if any(group.by_seed(name) for group in kept)
        ]
    if not panels:
        raise ValueError("nothing to draw: no row has any of the metrics")
    width = _SINGLE if len(panels) == 1 else _PANEL * len(panels)
    figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
    figure.suptitle(plot.title, fontsize=10)
    figure.supxlabel(_LEGEND, fontsize=8)
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(drawn, panels, strict=True):
        axes.set_title(panel.title)
        axes.set_xlabel(plot.x_title or table.groups[at].title)
        if ticks:
            axes.set_xticks(range(len(ticks)), ticks)
        _draw_lines(axes, panel.lines)
    _equal_spans(list(drawn))
    for axes, panel in zip(drawn, panels, strict=True):
        if len(panel.lines) > 1:
            _name_lines(axes, panel.lines)
    return figure


def _positions(groups: Sequence[Group], at: int) -> tuple[dict[str, float], list[str]]:
    """Give the place of each label on the axis, and the labels to write there: none if they are numbers."""
    values = {group.labels[at]: group.values[at] for group in groups}
    try:
        return {label: float(value) for label, value in values.items()}, []
    except (TypeError, ValueError):
        return {label: float(place) for place, label in enumerate(values)}, list(values)


def _lines(
    groups: Sequence[Group], positions: Mapping[str, float], at: int, metric: str, layout: MetricLayout
) -> list[Line]:
    """Make a line of the groups that share all labels but the one on the axis."""
    members: dict[str, list[tuple[float, Group]]] = {}
    for group in groups:
        name = ", ".join(label for index, label in enumerate(group.labels) if index != at)
        members.setdefault(name, []).append((positions[group.labels[at]], group))
    return [
        Line(label=name, points=sorted(points, key=lambda point: point[0]), metric=metric, layout=layout)
        for name, points in members.items()
    ]


def _pivot_panels(
    pivot: PivotLayout, groups: Sequence[Group], positions: Mapping[str, float], at: int, layout: MetricLayout
) -> list[Panel]:
    """Make a panel of the groups that share the labels before the one on the axis."""
    members: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        members.setdefault(group.labels[:at], []).append(group)
    panels = []
    for labels, found in members.items():
        lines = _lines(
            [replace(group, labels=group.labels[at:]) for group in found], positions, 0, pivot.metric, layout
        )
        places = {name: place for place, name in enumerate(pivot.order)}
        lines.sort(key=lambda line: places.get(line.label, len(places)))
        panels.append(Panel(title=", ".join([*labels, _with_unit(layout)]), lines=lines))
    return panels


def _draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw lines, bands and dots."""
    several = len(lines) > 1
    for index, line in enumerate(lines):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        positions, means, deviations = line.summary()
        low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
        high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
        axes.fill_between(positions, low, high, color=colour, alpha=0.15, linewidth=0)
        for where, values in line.seeds().values():
            if not several:
                axes.plot(where, values, color=colour, alpha=0.35, linewidth=0.7)
            axes.plot(where, values, linestyle="", marker="o", markersize=2.2, color=colour, alpha=0.6)
        style = _DASHES[index % len(_DASHES)]
        mark = marker if several else ""
        axes.plot(positions, means, color=colour, linewidth=1.8, linestyle=style, marker=mark, markersize=4.5)


def _equal_spans(drawn: Sequence[Axes]) -> None:
    """Give all panels limits of the same span."""
    limits = [axes.get_ylim() for axes in drawn]
    span = max(high - low for low, high in limits)
    for axes, (low, high) in zip(drawn, limits, strict=True):
        middle = (low + high) / 2
        axes.set_ylim(middle - span / 2, middle + span / 2)


def _name_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Write each line's name beside its end, names apart from one another."""
    low, high = axes.get_ylim()
    step = 0.065 * (high - low)
    ends = [(line.summary()[1][-1], index) for index, line in enumerate(lines) if line.summary()[1]]
    last = low - step
    for height, index in sorted(ends):
        last = max(height, last + step)
        axes.annotate(
            lines[index].label,
            (1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(1.03, last),
            textcoords=("axes fraction", "data"),
            color=COLOURS[index % len(COLOURS)],
            va="center",
            fontsize=8,
            annotation_clip=False,
        )


def _with_unit(layout: MetricLayout) -> str:
    """Name a metric with its unit."""
    name = layout.axis or layout.title
    return f"{name}, %" if layout.kind == "percent" else name
