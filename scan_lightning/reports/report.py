"""Tables from rows: the layout says what, the files of rows say how much."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from scan_lightning.reports.grouped import Laid, group_table, pivot_table
from scan_lightning.reports.groups import Group, group_rows
from scan_lightning.reports.layout import Layout, TableLayout
from scan_lightning.reports.notes import configurations_note, images_note, meaning_notes, provenance_note, seed_note
from scan_lightning.reports.order import Plan, find_plan, order_groups, unmeasured, without_awaited
from scan_lightning.reports.ranking import Method, distinct_methods, ranking_table, swaps_table
from scan_lightning.reports.rows import read_rows
from scan_lightning.tables import ResultTable, best_cells

Notes = Literal["full", "short", "no"]


class Report:
    """Makes the tables of a layout from the files of rows in a folder.

    Args:
        layout: What stands in the tables.
        folder: Of the files of rows.
    """

    def __init__(self, *, layout: Layout, folder: Path) -> None:
        self.layout = layout
        self.folder = folder

    def files(self, name: str) -> list[Path]:
        """List the files of rows that a table is made from.

        Args:
            name: Of the table.

        Returns:
            The files, whether they are there or not.

        Raises:
            ValueError: If the layout has no such table.
        """
        table = self.layout.table(name)
        names = [file for other in table.combine for file in self._names(other)] or self._names(name)
        return [self._path(file) for file in dict.fromkeys(names)]

    def groups(self, name: str) -> list[Group]:
        """Group the rows of a table.

        Args:
            name: Of the table; of the kind "groups" or "pivot", whose groups have the column's label last.

        Returns:
            The groups, in the order shown.

        Raises:
            FileNotFoundError: If a file of rows is missing.
            ValueError: If rows do not fit the layout.
        """
        try:
            return self._planned(name)[0]
        except ValueError as error:
            raise ValueError(f"table {name}: {error}") from error

    def methods(self, names: Sequence[str], metrics: Sequence[str]) -> list[Method]:
        """Collect the rows of several tables as methods.

        Args:
            names: Of the tables.
            metrics: What a method must have been scored by to count.

        Returns:
            The methods, each run once.

        Raises:
            FileNotFoundError: If a file of rows is missing.
            ValueError: If rows do not fit the layout.
        """
        return distinct_methods({name: self.groups(name) for name in names}, metrics)

    def table(self, name: str, *, notes: Notes = "full") -> ResultTable:
        """Make a table.

        Args:
            name: Of the table.
            notes: "full"; "short" without the meanings of metrics and the list of configurations; or "no".

        Returns:
            The table.

        Raises:
            FileNotFoundError: If a file of rows is missing.
            ValueError: If the layout has no such table, or rows do not fit it.
        """
        table = self.layout.table(name)
        try:
            (body, made), groups, plan = self._laid(name)
        except ValueError as error:
            raise ValueError(f"table {name}: {error}") from error
        columns, rows = body
        result = ResultTable(title=table.title, question=table.question, columns=tuple(columns), rows=tuple(rows))
        if notes == "no":
            return result
        missing = unmeasured(plan, groups)
        seeds = seed_note(groups, marked=bool(best_cells(result)))
        lines = [*table.notes, seeds, *made, *([f"Not measured yet: {missing}."] if missing else [])]
        return replace(result, notes=(*lines, *self._provenance(table, groups, notes)))

    def _laid(self, name: str) -> tuple[Laid, list[Group], Plan | None]:
        """Lay a table out; give what it was made of as well."""
        table, metrics = self.layout.table(name), self.layout.metrics
        if not table.combine:
            groups, plan = self._planned(name)
            if table.pivot is not None:
                return pivot_table(table, table.pivot, groups, metrics), groups, plan
            return group_table(without_awaited(table, plan, groups), groups, metrics), groups, plan
        methods = self.methods(table.combine, table.columns)
        groups = [replace(method.group, labels=(method.label,)) for method in methods]
        if table.kind == "ranking":
            return ranking_table(methods, table.columns, metrics), groups, None
        return swaps_table(methods, table.columns, metrics, limit=table.limit), groups, None

    def _provenance(self, table: TableLayout, groups: Sequence[Group], notes: Notes) -> list[str]:
        """Write the notes on metrics, images and runs."""
        rows = [row for group in groups for row in group.rows.values()]
        names = [table.pivot.metric] if table.pivot else table.columns
        shown = [name for name in names if any(group.by_seed(name) for group in groups)]
        meanings = meaning_notes(shown, self.layout.metrics) if notes == "full" else ()
        lines = [*meanings, *images_note(rows), provenance_note(rows)]
        if notes == "short":
            return lines
        if table.combine:
            return [*lines, f"Configuration hashes: below the tables {', '.join(table.combine)}."]
        return [*lines, configurations_note(groups, by_group=table.pivot is None)]

    def _names(self, name: str) -> list[str]:
        """Name the files of rows of one table."""
        return list(self.layout.table(name).rows) or [name]

    def _path(self, name: str) -> Path:
        """Give a file of rows; a name such as ``../quickstart`` lies beside the folder, which need not be there."""
        return Path(os.path.normpath(self.folder / f"{name}.csv"))

    def _planned(self, name: str) -> tuple[list[Group], Plan | None]:
        """Group the rows of a table, and find the grid that they come from."""
        table = self.layout.table(name)
        if table.pivot is not None:
            table = replace(table, groups=(*table.groups, table.pivot.by))
        names = self._names(name)
        rows = [row for file in names for row in read_rows(self._path(file))]
        groups = group_rows(rows, table)
        plan = find_plan([self._path(file) for file in names], table, self.layout.ablations, groups)
        return order_groups(groups, table, plan), plan
