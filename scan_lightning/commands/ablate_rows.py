"""The rows of an ablation on disk: one for each combination and seed, in the order of the ablation's file."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from scan_lightning.callbacks.record import canonical_json
from scan_lightning.files import whole_file

StoredRow = dict[str, str]
"""A row as it was read: every value is text."""
Combination = tuple[str, str]
"""Label of a variant, and parameters as canonical JSON."""
_COLUMNS = {"key", "variant", "parameters", "seed"}


def rows_path(folder: Path, name: str) -> Path:
    """Give the place of an ablation's rows.

    Args:
        folder: Of all rows.
        name: Of the ablation.

    Returns:
        The CSV file.
    """
    return folder / f"{name}.csv"


def read_rows(path: Path) -> list[StoredRow]:
    """Read an ablation's rows.

    Args:
        path: Of the CSV file.

    Returns:
        The rows, in the file's order; none where there is no file.

    Raises:
        ValueError: If the file is not one of rows of ``scan-lightning run``.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[list[str], list[StoredRow]]:
    """Read columns and rows."""
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    if missing := _COLUMNS - set(columns):
        raise ValueError(f"{path}: expected rows of scan-lightning run, found no column {', '.join(sorted(missing))}")
    return columns, rows


def all_rows(folder: Path) -> Iterator[StoredRow]:
    """Read the rows of all ablations.

    Args:
        folder: With one CSV file per ablation; files of other measurements are passed over.

    Yields:
        The rows, file by file in the order of their names.
    """
    for path in sorted(folder.glob("*.csv")):
        if set(_read_columns(path)) >= _COLUMNS:
            yield from read_rows(path)


def _read_columns(path: Path) -> list[str]:
    """Read the columns of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def combination_of(row: Mapping[str, object]) -> Combination:
    """Tell which combination a row is of, whatever its seed.

    Args:
        row: With ``variant``, and ``parameters`` as JSON.

    Returns:
        The variant's label, and the parameters as canonical JSON.

    Raises:
        ValueError: If the parameters are not JSON.
    """
    text = str(row["parameters"])
    try:
        parameters = canonical_json(json.loads(text or "{}"))
    except ValueError as error:
        raise ValueError(f"parameters of a row: expected JSON, got {text!r}") from error
    return str(row["variant"]), parameters


def arrange(path: Path, order: Sequence[Combination], *, drop: Collection[tuple[Combination, str, str]] = ()) -> None:
    """Put an ablation's rows into the order of its combinations, and within one into that of the seeds.

    A file in order is not written. Rows of unknown combinations stand at the end.

    Args:
        path: Of the CSV file.
        order: The combinations of the ablation's file.
        drop: Rows that are left out, by combination, seed and key.
    """
    position = {combination: index for index, combination in enumerate(order)}

    def rank(row: StoredRow) -> tuple[int, int]:
        seed = row["seed"]
        return position.get(combination_of(row), len(position)), int(seed) if seed.isdigit() else -1

    with FileLock(f"{path}.lock"):
        columns, rows = _read(path)
        kept = [row for row in rows if (combination_of(row), row["seed"], row["key"]) not in drop]
        arranged = sorted(kept, key=rank)
        if arranged == rows:
            return
        with whole_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(arranged)
