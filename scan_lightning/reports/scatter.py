"""Seen against unseen classes, one point per method, with lines of equal harmonic mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from scan_lightning.reports.figures import COLOURS, FAINT, MARKERS
from scan_lightning.reports.groups import mean_of
from scan_lightning.reports.layout import PlotLayout
from scan_lightning.reports.ranking import Method
from scan_lightning.tables import Spread

SEEN, UNSEEN = "miou_seen", "miou_unseen"
_SIZE = (7.4, 6.0)
_LETTER = 7.5
_RADII = (7.0, 11.0, 16.0, 22.0, 30.0, 40.0, 52.0, 66.0, 82.0, 100.0)
_ANGLES = 16
_MARKER = 3.5
_FAINT_TEXT: dict[str, Any] = {"fontsize": 7, "color": "#9a9a9a"}
_Point = tuple[float, float]


def draw_scatter(plot: PlotLayout, methods: Sequence[Method], titles: Mapping[str, str]) -> Figure:
    """Draw all methods, those of one table in one colour, with deviations over seeds as thin bars.

    Args:
        plot: The layout.
        methods: With mIoU of seen and of unseen classes.
        titles: What the tables are called in the legend.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no method.
    """
    if not methods:
        raise ValueError(f"a scatter needs rows with {SEEN} and {UNSEEN}, there are none")
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_title(plot.title, fontsize=10)
    axes.set_xlabel("mIoU (any) of seen classes, %")
    axes.set_ylabel("mIoU (any) of unseen classes, %")
    points = []
    sources = list(dict.fromkeys(method.source for method in methods))
    for index, source in enumerate(sources):
        members = [method for method in methods if method.source == source]
        own = [_place(method) for method in members]
        colour = COLOURS[index % len(COLOURS)]
        xs, ys, x_bars, y_bars = (list(values) for values in zip(*own, strict=True))
        axes.errorbar(xs, ys, xerr=x_bars, yerr=y_bars, fmt="none", ecolor=colour, alpha=0.3, elinewidth=0.8)
        axes.plot(
            xs, ys, linestyle="", marker=MARKERS[index % len(MARKERS)], markersize=6, color=colour,
            markeredgecolor="white", markeredgewidth=0.6, label=titles[source],
        )  # fmt: skip
        points += [(x, y, one.group.label, colour) for x, y, one in zip(xs, ys, members, strict=True)]
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    _level_lines(axes)
    _label(figure, axes, points)
    return figure


def _darker(colour: str) -> tuple[float, float, float]:
    """Give a shade of a colour that small letters on white can have."""
    red, green, blue = to_rgb(colour)
    return 0.7 * red, 0.7 * green, 0.7 * blue


def _place(method: Method) -> tuple[float, float, float, float]:
    """Give a method's position and deviations in percent."""
    values = []
    for metric in (SEEN, UNSEEN):
        spread = method.group.spread(metric)
        deviation = spread.deviation if isinstance(spread, Spread) else 0.0
        values.append((100 * (mean_of(spread) or 0.0), 100 * deviation))
    return values[0][0], values[1][0], values[0][1], values[1][1]


def _level_lines(axes: Axes) -> None:
    """Draw where the harmonic mean of both is the same, within the axes' limits as they are."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    ends = [_harmonic(left, low), _harmonic(right, high)]
    step = next(size for size in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if (ends[1] - ends[0]) / size <= 8 or size == 20)
    xs = np.linspace(max(left, 1e-6), right, 400)
    for level in np.arange(math.ceil(ends[0] / step) * step, ends[1], step):
        with np.errstate(divide="ignore", invalid="ignore"):
            ys = np.where(xs > level / 2, level * xs / (2 * xs - level), np.nan)
        axes.plot(xs, ys, color=FAINT, linewidth=0.8, zorder=0, scalex=False, scaley=False)
        inside = [(x, y) for x, y in zip(xs, ys, strict=True) if low < y < high]
        if inside:
            x, y = inside[-1]
            axes.annotate(f"{level:g}", (x, y), ha="right", va="bottom", **_FAINT_TEXT)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.text(0.99, 0.99, "grey: harmonic mean", transform=axes.transAxes, ha="right", va="top", **_FAINT_TEXT)


def _harmonic(one: float, other: float) -> float:
    """Compute a harmonic mean; 0 where one of both is not positive."""
    return 2 * one * other / (one + other) if one > 0 and other > 0 else 0.0


def _label(figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each point's name where it covers no other name and no point, with a line to it where it is far off."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw(renderer)  # gives the axes their place
    unit = figure.dpi / 72
    centres = [tuple(axes.transData.transform((x, y))) for x, y, _, _ in points]
    margin = _MARKER * unit
    taken = [Bbox.from_extents(x - margin, y - margin, x + margin, y + margin) for x, y in centres]
    frame = axes.get_window_extent(renderer)
    for (x, y, name, colour), centre in zip(points, centres, strict=True):
        text = axes.annotate(
            name,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=_LETTER,
            color=_darker(colour),
            ha="center",
            va="center",
            bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkB": 2},
        )
        box = text.get_window_extent(renderer)
        right, up, radius = _free_offset(centre, (box.width, box.height), taken, frame, unit)
        text.set_position((right / unit, up / unit))
        if text.arrow_patch is not None:
            text.arrow_patch.set_visible(radius > _RADII[0])
        taken.append(_box(centre[0] + right, centre[1] + up, box.width, box.height))


def _free_offset(
    centre: _Point, size: _Point, taken: Sequence[Bbox], frame: Bbox, unit: float
) -> tuple[float, float, float]:
    """Find the nearest place for a name: pixels from its point to the right and up, and the gap; else above it."""
    for radius in _RADII:
        for step in range(_ANGLES):
            angle = 2 * math.pi * step / _ANGLES
            x = math.cos(angle) * (radius * unit + size[0] / 2)
            y = math.sin(angle) * (radius * unit + size[1] / 2)
            box = _box(centre[0] + x, centre[1] + y, *size)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                return x, y, radius
    return 0.0, _RADII[0] * unit + size[1] / 2, _RADII[0]


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    """Give the box around a centre."""
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)
