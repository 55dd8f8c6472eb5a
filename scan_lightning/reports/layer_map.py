"""Which layers each choice uses, beside what it gives: a matrix of layers and a heat map of differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from scan_lightning.reports.figures import FAINT, INK
from scan_lightning.reports.groups import Group, find_group, mean_of, spread_of
from scan_lightning.reports.layout import MetricLayout, PlotLayout
from scan_lightning.reports.rows import parameters_of
from scan_lightning.tables import Column, Spread, cell_text

_ROW = 0.255
_LAYER = 0.24
_METRIC = 1.05
_MARGIN = 1.15
_LEGEND = "purple better, orange worse, scaled by column; pale: within the deviation; italics: what is compared with"
_FULL = 1.35
"""End of the colour scale, in shares of a column's largest difference: its darkest colours would swallow the text."""
_DARK = 0.55
"""Brightness in [0, 1] below which letters are white."""
_PALE = 0.25
"""Factor of a colour whose difference is not larger than its deviation."""


def draw_layers(plot: PlotLayout, groups: Sequence[Group], metrics: Mapping[str, MetricLayout]) -> Figure:
    """Draw choices of layers against metrics, coloured by the difference from one of them, paired by seed.

    Args:
        plot: The layout; names the parameter that holds the layers and the row to compare with.
        groups: From top to bottom.
        metrics: How metrics are shown.

    Returns:
        The figure.

    Raises:
        ValueError: If a row has no list of layers, or there is no such row to compare with.
    """
    used = [layers_of(group, str(plot.layers)) for group in groups]
    number = max((layer for layers in used for layer in layers), default=1)
    baseline = find_group(groups, str(plot.baseline), "baseline")
    shown = [name for name in plot.metrics if any(group.by_seed(name) for group in groups)]
    widths = [number * _LAYER, len(shown) * _METRIC]
    figure = Figure(figsize=(sum(widths) + 1.9, len(groups) * _ROW + _MARGIN), layout="constrained")
    figure.suptitle(plot.title, fontsize=10)
    left, right = figure.subplots(1, 2, width_ratios=widths)
    _draw_matrix(left, groups, used, number)
    _draw_differences(right, groups, baseline, [(name, metrics[name]) for name in shown])
    figure.supxlabel(_LEGEND, fontsize=8)
    return figure


def layers_of(group: Group, parameter: str) -> list[int]:
    """Read which layers a group uses.

    Args:
        group: The group.
        parameter: Dotted key of the list.

    Returns:
        The layers, from 1.

    Raises:
        ValueError: If its rows have no such list of whole numbers.
    """
    layers = parameters_of(next(iter(group.rows.values()))).get(parameter)
    if not isinstance(layers, list) or not all(isinstance(layer, int) for layer in layers):
        raise ValueError(f"{group.label}: {parameter}: expected a list of layers, got {layers!r}")
    return layers


def _draw_matrix(axes: Axes, groups: Sequence[Group], used: Sequence[Sequence[int]], number: int) -> None:
    """Draw a dot for every layer that a row uses."""
    for row, layers in enumerate(used):
        unused = [layer for layer in range(1, number + 1) if layer not in layers]
        axes.scatter(unused, [row] * len(unused), s=26, color=FAINT, linewidths=0)
        axes.scatter(layers, [row] * len(layers), s=34, color=INK, linewidths=0)
    axes.set_xlim(0.4, number + 0.6)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xticks(range(1, number + 1))
    axes.set_yticks(range(len(groups)), [group.label for group in groups])
    axes.set_title("layers")
    _bare(axes)


def _draw_differences(
    axes: Axes, groups: Sequence[Group], baseline: Group, metrics: Sequence[tuple[str, MetricLayout]]
) -> None:
    """Draw the differences as colours, with numbers on them; in the row compared with stand its own values."""
    cells = [[spread_of(list(group.difference(baseline, name).values())) for name, _ in metrics] for group in groups]
    means = [[mean_of(cell) for cell in row] for row in cells]
    values = np.array([[math.nan if mean is None else mean for mean in row] for row in means])
    bounds = [float(np.nanmax(np.abs(column), initial=1e-9)) for column in values.T]
    directions = [-1 if layout.best == "min" else 1 for _, layout in metrics]
    unclear = np.array(
        [[isinstance(cell, Spread) and abs(cell.mean) <= cell.deviation for cell in row] for row in cells]
    )
    shares = values / bounds * directions * np.where(unclear, _PALE, 1.0)
    image = axes.imshow(shares, cmap="PuOr", norm=Normalize(-_FULL, _FULL), aspect="auto", interpolation="nearest")
    for row, group in enumerate(groups):
        own = group is baseline
        for column, (name, layout) in enumerate(metrics):
            cell = baseline.spread(name) if own else cells[row][column]
            text = cell_text(Column(key=name, title="", kind=layout.kind, digits=layout.digits, signed=not own), cell)
            red, green, blue, opacity = image.cmap(image.norm(shares[row, column]))  # transparent without a value
            colour = "white" if opacity and 0.3 * red + 0.6 * green + 0.1 * blue < _DARK else INK
            style = "italic" if own else "normal"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour, style=style)
    axes.set_xticks(range(len(metrics)), [layout.title for _, layout in metrics])
    axes.set_yticks([])
    axes.set_title(f'difference from "{baseline.label}"')
    _bare(axes)


def _bare(axes: Axes) -> None:
    """Leave out what a matrix does not need."""
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
