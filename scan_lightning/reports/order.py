"""The order of a table's rows, and what is still to be measured: both follow from the ablation file's grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from scan_lightning.reports.groups import Group, label_of
from scan_lightning.reports.layout import TableLayout
from scan_lightning.reports.rows import value_text
from scan_lightning.sweeps import Sweep, grid, load_sweep

Plan = dict[tuple[str, ...], list[str]]
"""Labels of each group that a grid asks for, in its order, with the seeds; none if it leaves them open."""

SEED = "seed_everything"
"""The parameter of a sweep that is the seed."""


def order_groups(groups: Sequence[Group], table: TableLayout, plan: Plan | None) -> list[Group]:
    """Bring groups into the order of the layout, else that of the grid, else that of the rows.

    Args:
        groups: In the order of their first rows.
        table: Its ``order`` names labels of the first key.
        plan: From `find_plan`.

    Returns:
        The same groups; those that the order does not name come last.

    Raises:
        ValueError: If the layout's order names a row that is not there.
    """
    if table.order:
        present = {group.labels[0] for group in groups}
        if absent := [label for label in table.order if label not in present]:
            raise ValueError(f"order: no row {absent[0]!r}, there are {', '.join(sorted(present))}")
        places = {label: place for place, label in enumerate(table.order)}
        return sorted(groups, key=lambda group: places.get(group.labels[0], len(places)))
    wanted = list(plan or ())
    places_by_labels = {labels: place for place, labels in enumerate(wanted)}
    return sorted(groups, key=lambda group: places_by_labels.get(group.labels, len(wanted)))


def find_plan(files: Sequence[Path], table: TableLayout, ablations: Path, groups: Sequence[Group]) -> Plan | None:
    """Find the grid that the rows come from: an ablation file, or one with an overlay of its name in a subfolder.

    The overlay is that of the subfolder that is called as the rows' folder is; where there is none, what fits best.

    Args:
        files: Of rows, called as the ablation files are.
        table: By what its rows are grouped.
        ablations: Folder of the ablation files.
        groups: What has been measured.

    Returns:
        For each group the seeds, of the grids that hold all that was measured and the least beyond; None if a file of
        rows comes from no ablation file, or from one that was changed since.

    Raises:
        ValueError: If an ablation file is wrong.
    """
    merged: Plan = {}
    for file in files:
        path = ablations / f"{file.stem}.yaml"
        if not path.is_file():
            return None
        overlays = [None, *sorted(ablations.glob(f"*/{path.name}"))]
        overlays = [overlay for overlay in overlays if (overlay or path).parent.name == file.parent.name] or overlays
        plans = [_plan(load_sweep(path, overlay), table) for overlay in overlays]
        known = [plan for plan in plans if plan is not None]
        if not known:
            return None
        best: Plan = min(known, key=lambda plan: _fit(plan, groups))
        merged |= best
    return merged if all(group.labels in merged for group in groups) else None


def without_awaited(table: TableLayout, plan: Plan | None, groups: Sequence[Group]) -> TableLayout:
    """Leave out the columns that compare with a row that a grid asks for and that has not been measured yet.

    Args:
        table: Its differences and published scores.
        plan: From `find_plan`.
        groups: What has been measured.

    Returns:
        The layout without them.
    """
    measured = {group.labels for group in groups}
    awaited = [", ".join(labels) for labels in plan or () if labels not in measured]

    def waits(wanted: str) -> bool:
        return any(label == wanted or fnmatchcase(label, wanted) for label in awaited)

    published = table.published
    if published is not None:
        rows = {label: method for label, method in published.rows.items() if not waits(label)}
        published = replace(published, rows=rows) if rows else None
    differences = tuple(one for one in table.differences if not waits(one.baseline))
    return replace(table, differences=differences, published=published)


def unmeasured(plan: Plan | None, groups: Sequence[Group]) -> str:
    """List what a grid asks for and the rows do not have.

    Args:
        plan: From `find_plan`.
        groups: What has been measured.

    Returns:
        One text; empty if nothing is missing or there is no grid.
    """
    found = {group.labels: set(group.rows) for group in groups}
    texts = []
    for labels, seeds in (plan or {}).items():
        absent = [seed for seed in seeds if seed not in found.get(labels, set())]
        if absent or labels not in found:
            some = f" (seed {', '.join(absent)})" if len(absent) < len(seeds) else ""
            texts.append(", ".join(labels) + some)
    return "; ".join(texts)


def _plan(sweep: Sweep, table: TableLayout) -> Plan | None:
    """Read groups and seeds off a grid; None if it does not set what the table groups by."""
    plan: Plan = {}
    for combination in grid(sweep):
        labels = _labels(combination, table)
        if labels is None:
            return None
        plan.setdefault(labels, []).extend([value_text(combination[SEED])] if SEED in combination else [])
    return plan


def _labels(combination: Mapping[str, Any], table: TableLayout) -> tuple[str, ...] | None:
    """Name one combination as its row will be named."""
    variant = combination.get("variant")
    variant = variant if isinstance(variant, dict) else {}
    values = {**combination, **variant, "variant": variant.get("label")}
    if any(values.get(group.key, values) is values for group in table.groups):
        return None
    return tuple(label_of(values[group.key], group) for group in table.groups)


def _fit(plan: Plan, groups: Sequence[Group]) -> tuple[int, int]:
    """Rank grids: first those that hold most of what was measured, then those that ask for least beyond."""
    measured = {group.labels for group in groups}
    return -sum(labels in measured for labels in plan), sum(len(seeds) for seeds in plan.values())
