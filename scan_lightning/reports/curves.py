"""Curves of metrics against what a sweep has set: mean line, deviation band, every seed as a dot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scan_lightning.reports.figures import COLOURS, MARKERS
from scan_lightning.reports.layout import MetricLayout, PlotLayout, TableLayout
from scan_lightning.reports.rows import Group, mean_of
from scan_lightning.tables import Spread

_HEIGHT = 3.3
_PANEL = 3.1
_SINGLE = 6.2


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


def draw_curves(
    plot: PlotLayout, table: TableLayout, groups: Sequence[Group], metrics: Mapping[str, MetricLayout]
) -> Figure:
    """Draw the curves of a table: one panel per metric; for a table of kind "pivot" one panel, a line per column.

    Panels span equally many units, so that slopes compare.

    Args:
        plot: The layout.
        table: Whose groups.
        groups: In any order.
        metrics: How metrics are shown.

    Returns:
        The figure.

    Raises:
        ValueError: If what groups the rows is no number.
    """
    if table.pivot is not None:
        layout = metrics[table.pivot.metric]
        names = list(dict.fromkeys([*table.pivot.order, *(group.labels[-1] for group in groups)]))
        lines = [
            Line(
                label=name,
                points=_points([group for group in groups if group.labels[-1] == name]),
                metric=table.pivot.metric,
                layout=layout,
            )
            for name in names
        ]
        panels = [(_with_unit(layout), lines)]
    else:
        points = _points(groups)
        panels = [
            (_with_unit(metrics[name]), [Line(label="", points=points, metric=name, layout=metrics[name])])
            for name in plot.metrics
            if any(group.by_seed(name) for group in groups)
        ]
    width = _SINGLE if len(panels) == 1 else _PANEL * len(panels)
    figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
    figure.suptitle(plot.title, fontsize=10)
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, lines) in zip(drawn, panels, strict=True):
        axes.set_title(title)
        axes.set_xlabel(plot.x_title or table.groups[0].title)
        _draw_lines(axes, lines)
    _equal_spans(list(drawn))
    for axes, (_, lines) in zip(drawn, panels, strict=True):
        if len(lines) > 1:
            _name_lines(axes, lines)
    return figure


def _points(groups: Sequence[Group]) -> list[tuple[float, Group]]:
    """Order groups by the number that their first key holds."""
    found = []
    for group in groups:
        try:
            found.append((float(group.values[0]), group))
        except (TypeError, ValueError):
            raise ValueError(f"a curve needs numbers, got {group.labels[0]!r}") from None
    return sorted(found, key=lambda point: point[0])


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
        axes.plot(positions, means, color=colour, linewidth=1.8, marker=marker if several else "", markersize=4.5)


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
    return f"{layout.title}, %" if layout.kind == "percent" else layout.title
