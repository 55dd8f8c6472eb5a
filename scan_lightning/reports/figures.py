"""What all plots share: their look, and files that are the same whenever they are drawn from the same rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from scan_lightning.callbacks.record import canonical_json
from scan_lightning.files import whole_file
from scan_lightning.reports.groups import Group
from scan_lightning.reports.layout import Layout, PlotLayout

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5e4fa2", "#6b6b6b")
"""Of Okabe and Ito (2008), told apart by colour-blind readers, yellow left out on white; then violet and grey."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK = "#333333"
FAINT = "#d9d9d9"
STYLE: Mapping[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "scan-lightning",
    "path.simplify": False,
}
_DOTS_PER_INCH = 150
_KEY = "Description"
_WRITTEN = "rows sha256 "


def drawing_style() -> Any:
    """Set the look of all plots, inside a ``with`` statement.

    Returns:
        The context.
    """
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **STYLE, "backend": "agg"}
    return mpl.rc_context(settings)


def fingerprint(plot: PlotLayout, tables: Mapping[str, Sequence[Group]], layout: Layout, shown: Sequence[str]) -> str:
    """Identify what a plot is drawn from: its layout and the numbers.

    Args:
        plot: The layout.
        tables: Groups by table.
        layout: How metrics are shown, and what tables are called.
        shown: The metrics that are drawn.

    Returns:
        sha256, hexadecimal.
    """
    content = {
        "plot": asdict(plot),
        "metrics": {name: asdict(layout.metrics[name]) for name in shown},
        "headings": {
            name: [table.title, [asdict(group) for group in table.groups], table.pivot and asdict(table.pivot)]
            for name, table in layout.tables.items()
            if name in tables
        },
        "tables": {
            name: [
                [group.labels, group.values, {metric: group.by_seed(metric) for metric in shown}] for group in groups
            ]
            for name, groups in tables.items()
        },
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def save_figure(figure: Figure, path: Path, source: str) -> None:
    """Write a figure; the same figure gives the same bytes.

    Args:
        figure: The figure.
        path: Ends in .png or .svg.
        source: From `fingerprint`, kept in the file.
    """
    kind = path.suffix.removeprefix(".")
    metadata = {_KEY: f"{_WRITTEN}{source}", **({"Date": None} if kind == "svg" else {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, durable=False) as unfinished, drawing_style():
        figure.savefig(unfinished, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata)


def read_source(path: Path) -> str:
    """Read what a figure was drawn from.

    Args:
        path: Of a file that `save_figure` wrote.

    Returns:
        The fingerprint; empty if the file has none.

    Raises:
        OSError: If the file cannot be read.
    """
    if path.suffix == ".png":
        with Image.open(path) as image:
            text = str(image.info.get(_KEY, ""))
    else:
        text = path.read_text(encoding="utf-8")
    found = re.search(rf"{_WRITTEN}([0-9a-f]{{64}})", text)
    return found[1] if found else ""
