"""From rows of a Hugging Face data set to raw samples. Rows are Arrow tables, so that nothing is decoded twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scan_lightning.data.base import RawSample
from scan_lightning.data.hub_labels import LabelTable
from scan_lightning.data.images import ImageFileError, read_image, read_image_of, read_label


@dataclass(frozen=True, kw_only=True)
class RowReader:
    """Reads the image, the label map and the id of a row.

    Images are encoded files: bytes, a path, or both as `datasets` stores them. Label maps are such files too, or
    integers: rows of rows, or all H x W in one list. Paths must lie inside ``roots``; nothing is downloaded.

    Args:
        image_column: Name of the column of images.
        label_column: Name of the column of label maps; None reads none.
        id_column: Name of the column of ids; None for none.
        labels: From values to labels.
        roots: Folders that may hold files; relative paths start at the first.
    """

    image_column: str
    label_column: str | None
    id_column: str | None
    labels: LabelTable
    roots: tuple[Path, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are read."""
        return [name for name in (self.image_column, self.label_column, self.id_column) if name is not None]

    def read(self, row: Any, *, where: str, image_id: str | None = None) -> RawSample:
        """Read one row.

        Args:
            row: Arrow table of one row.
            where: Data set, split and number of the row, for messages.
            image_id: The image's id where there is no ``id_column``. None takes a hash of the image.

        Returns:
            The image, its labels and its id.

        Raises:
            FileNotFoundError: If a file that is named does not exist.
            ImageFileError: If an image or label map is missing or damaged, their sizes differ, a path leaves the roots
                or a value is no label.
        """
        name, content = self._file(row[self.image_column], where=f"{where}, column {self.image_column!r}")
        if self.id_column is not None:
            image_id = _id(row[self.id_column][0].as_py(), where=f"{where}, column {self.id_column!r}")
        elif image_id is None:
            image_id = hashlib.blake2b(name.encode() if content is None else content, digest_size=8).hexdigest()
        image = read_image(name, content)
        if self.label_column is None:
            return RawSample(image=image, image_id=image_id)
        where = f"{where}, column {self.label_column!r}"
        values = self._values(row, where, image.shape[:2])
        if values.shape != image.shape[:2]:
            image = read_image_of(name, values.shape, content)
        if values.shape != image.shape[:2]:
            raise ImageFileError(f"{where}: expected labels of the image's size {image.shape[:2]}, got {values.shape}")
        return RawSample(image=image, image_id=image_id, label_map=self.labels(values, where=where))

    def _values(self, row: Any, where: str, size: tuple[int, ...]) -> NDArray[np.integer[Any]]:
        """Read the values of a label map; a list without rows gets the image's size."""
        column = row[self.label_column]
        values = _integers(column, size, where=where)
        return read_label(*self._file(column, where=where)) if values is None else values

    def _file(self, column: Any, *, where: str) -> tuple[str, bytes | None]:
        """Give an encoded image: a name and its content, or a path without."""
        value = column[0].as_py()
        if isinstance(value, bytes):
            return where, value
        path = value
        if isinstance(value, dict) and set(value) == {"bytes", "path"}:
            if value["bytes"] is not None:
                return where, value["bytes"]
            path = value["path"]
        if path is None:
            raise ImageFileError(f"{where}: expected an encoded image, got none")
        if not isinstance(path, str):
            raise ImageFileError(f"{where}: expected an encoded image (bytes or a path), got {column.type}")
        return str(self._inside(path, where)), None

    def _inside(self, name: str, where: str) -> Path:
        """Find the file of a path, which has to stay inside the roots."""
        if "://" in name:
            raise ImageFileError(f"{where}: expected bytes or a local file, got {name}; it is there without streaming")
        path = self.roots[0] / name  # an absolute path stays what it is
        if not any(path.resolve().is_relative_to(root.resolve()) for root in self.roots):
            raise ImageFileError(
                f"{where}: expected a file inside {self.roots[0]}, got {name}; image_root names another folder"
            )
        return path


class HubSource:
    """Raw samples of a data set on disk.

    Args:
        rows: A `datasets.Dataset` that gives Arrow tables.
        reader: Reads a row.
        split: Name of the split; ids are made of it and the row's number where there is no column of ids.
        where: Data set and split, for messages.

    Raises:
        ValueError: If two rows have the same id.
    """

    def __init__(self, rows: Any, *, reader: RowReader, split: str, where: str) -> None:
        self.rows = rows.select_columns(reader.columns)
        self.reader = reader
        self.split = split
        self.where = where
        if reader.id_column is not None:
            _check_unique(self.rows.data.column(reader.id_column).to_pylist(), f"{where}, column {reader.id_column!r}")

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> RawSample:
        """Read one row.

        Raises:
            FileNotFoundError: If a file that is named does not exist.
            ImageFileError: If it is wrong, see `RowReader.read`.
        """
        image_id = f"{self.split}_{index:06d}"
        return self.reader.read(self.rows[index], where=f"{self.where}, row {index}", image_id=image_id)


def _id(value: Any, *, where: str) -> str:
    if not isinstance(value, str | int) or value == "":
        raise ImageFileError(f"{where}: expected a name or number as id, got {value!r}")
    return str(value)


def _check_unique(ids: Sequence[Any], where: str) -> None:
    """Raise unless every id is given once."""
    (first, count), *_ = Counter(map(str, ids)).most_common(1) or [("", 0)]
    if count > 1:
        raise ValueError(f"{where}: expected an id of its own for each row, got {first!r} {count} times")


def _integers(column: Any, size: tuple[int, ...], *, where: str) -> NDArray[np.integer[Any]] | None:
    """Read a label map of integers in lists; None where the column holds something else than lists."""
    import pyarrow as pa
    from pyarrow import compute

    row = column.chunk(0)
    if isinstance(row.type, pa.ExtensionType):  # Array2D
        row = row.storage
    depth = 0
    lengths: list[int] = []
    while pa.types.is_list(row.type) or pa.types.is_large_list(row.type) or pa.types.is_fixed_size_list(row.type):
        if row.null_count:
            raise ImageFileError(f"{where}: expected a label map, got none")
        found = set(compute.unique(compute.list_value_length(row)).to_pylist())
        if len(found) > 1:
            raise ImageFileError(f"{where}: expected rows of one length, got {sorted(found)[:10]}")
        lengths.append(found.pop() if found else 0)
        row = row.flatten()
        depth += 1
    if not depth:
        return None
    if not (pa.types.is_integer(row.type) or pa.types.is_boolean(row.type)) or row.null_count:
        kind = f"{row.null_count} without value" if row.null_count else str(row.type)
        raise ImageFileError(f"{where}: expected integers, got {kind}")
    values = row.to_numpy(zero_copy_only=False)
    values = values.astype(np.uint8) if values.dtype == bool else values
    if depth == 1 and len(values) == size[0] * size[1]:
        lengths = list(size)
    return np.asarray(values).reshape(lengths)
