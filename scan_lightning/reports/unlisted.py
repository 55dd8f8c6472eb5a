"""A table for rows that the layout does not list, such as those of an ablation of one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scan_lightning.reports.layout import GroupLayout, Layout, TableLayout
from scan_lightning.reports.order import SEED
from scan_lightning.reports.rows import ResultRow, number, parameters_of, read_rows

USUAL = ("miou_any", "miou_seen", "miou_unseen", "miou_harmonic", "sg_iou_any", "open_miou")
"""Metrics that a table shows where nothing names any."""


def with_unlisted(layout: Layout, names: Sequence[str], folder: Path) -> Layout:
    """Add a table for each name that the layout lacks and that there are rows for.

    Args:
        layout: The layout.
        names: Of tables.
        folder: Of the files of rows.

    Returns:
        The layout with a table more for each: rows grouped by their variant, else by the parameters that differ, the
        usual metrics in columns.

    Raises:
        ValueError: If rows cannot be read, or have none of the layout's metrics.
    """
    paths = {name: folder / f"{name}.csv" for name in names if name not in layout.tables}
    new = {name: _table(name, read_rows(path), layout) for name, path in paths.items() if path.is_file()}
    return replace(layout, tables={**layout.tables, **new})


def _table(name: str, rows: Sequence[ResultRow], layout: Layout) -> TableLayout:
    """Lay a table of these rows out."""
    measured = [metric for metric in layout.metrics if any(number(row, metric) is not None for row in rows)]
    columns = [metric for metric in USUAL if metric in measured] or measured
    if not columns:
        raise ValueError(f"{name}: the rows have none of the metrics {', '.join(layout.metrics)}")
    keys = _keys(rows)
    return TableLayout(
        title=name,
        question=f"Rows of {name}.",
        groups=tuple(GroupLayout(key=key, title=key.rpartition(".")[2]) for key in keys),
        columns=tuple(columns),
    )


def _keys(rows: Sequence[ResultRow]) -> list[str]:
    """Give what rows differ in: their variant, and parameters that take several values within one."""
    variants = any(row.get("variant") for row in rows)
    values: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        for key, value in parameters_of(row).items():
            if key not in (SEED, "variant"):
                within = values.setdefault(key, {}).setdefault(row.get("variant", ""), set())
                within.add(json.dumps(value))
    several = [key for key, by_variant in values.items() if max(map(len, by_variant.values())) > 1]
    return ["variant"] * variants + several or ["name"]
