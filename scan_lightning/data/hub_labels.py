"""What the values in a hub data set's label maps mean: its classes, and the table from values to labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scan_lightning.data.benchmarks import INVALID_LABEL
from scan_lightning.data.images import ImageFileError
from scan_lightning.data.vocabulary import parse_vocabulary, read_json
from scan_lightning.data.words import load_words
from scan_lightning.types import IGNORE_INDEX, Vocabulary

_WIDEST = 2**20
"""Bound of the table's length, far above what 16-bit label maps need."""


class LabelTable:
    """Turns the values in label maps into labels.

    Args:
        num_classes: K.
        label_map: For each value its label in [0, K), or -1 for ignored pixels. None means ``value + label_offset``.
        label_offset: Added to values where there is no ``label_map``; -1 for label maps that count classes from 1.
        ignore_values: Values of ignored pixels. None means 255, or 65535 where 255 is a class.

    Raises:
        ValueError: If a label is outside [0, K), ``label_map`` comes with an offset or names an ignored value, or the
            values lie too far apart.

    Example:
        >>> table = LabelTable(num_classes=2, label_map={7: 0, 8: 1}, ignore_values=[0])
        >>> table(np.array([[7, 8, 0]], np.uint8), where="row 0").tolist()
        [[0, 1, -1]]
    """

    def __init__(
        self,
        *,
        num_classes: int,
        label_map: Mapping[int, int] | None = None,
        label_offset: int = 0,
        ignore_values: Collection[int] | None = None,
    ) -> None:
        labels = _labels(num_classes, label_map, label_offset)
        ignored = _default_ignored(labels) if ignore_values is None else ignore_values
        if label_map is not None and (both := [value for value in ignored if labels.get(value, -1) >= 0]):
            raise ValueError(f"ignore_values: expected values that label_map gives no label, got {both}")
        labels |= dict.fromkeys(ignored, IGNORE_INDEX)
        self._low = min(labels)
        length = max(labels) - self._low + 1
        if length > _WIDEST:
            raise ValueError(f"label_map: expected values at most {_WIDEST} apart, got {self._low} to {max(labels)}")
        self._table = np.full(length, INVALID_LABEL, dtype=np.int64)
        for value, label in labels.items():
            self._table[value - self._low] = label

    def __call__(self, values: NDArray[np.integer[Any]], *, where: str) -> NDArray[np.int64]:
        """Look labels up.

        Args:
            values: Integers of any shape.
            where: Where they come from, for messages.

        Returns:
            int64 of the same shape, labels or IGNORE_INDEX.

        Raises:
            ImageFileError: If a value is neither a label nor ignored.
        """
        places = values.astype(np.int64) - self._low
        inside = (places >= 0) & (places < len(self._table))
        labels = np.where(inside, self._table[np.where(inside, places, 0)], INVALID_LABEL)
        if (labels == INVALID_LABEL).any():
            wrong = np.unique(values[labels == INVALID_LABEL]).tolist()
            raise ImageFileError(
                f"{where}: expected {self._describe()}, got {wrong[:10]}; name these in label_map or ignore_values"
            )
        return labels

    def _describe(self) -> str:
        """Say which values are allowed."""
        known = (np.flatnonzero(self._table >= 0) + self._low).tolist()
        ignored = (np.flatnonzero(self._table == IGNORE_INDEX) + self._low).tolist()
        full = len(known) == known[-1] - known[0] + 1
        text = f"values from {known[0]} to {known[-1]}" if full else f"one of the values {_shortened(known)}"
        return f"{text} or {_shortened(ignored)} for ignored pixels" if ignored else text


def read_classes(source: Sequence[str] | str | Path) -> tuple[Vocabulary, dict[int, int] | None]:
    """Read the classes of a data set.

    Args:
        source: A list of words; or a file: a vocabulary (see `load_vocabulary`), words in a text file (see
            `load_words`), ``id2label`` as on the hub (``{"0": "wall", ...}``, alone or under that key of a model's
            config.json), or the ``names`` of a ``ClassLabel``.

    Returns:
        The vocabulary, and for ids that are not 0, 1, ... the label of each id, else None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no classes or wrong ones.
    """
    if not isinstance(source, str | Path):
        return Vocabulary.from_words(source), None
    path = Path(source)
    if path.suffix.lower() != ".json":
        return load_words(path), None
    content = read_json(path)
    if "classes" in content:
        return parse_vocabulary(content, where=str(path)), None
    return _named_ids(content, where=str(path))


def read_label_map(source: Mapping[int, int] | str | Path | None) -> dict[int, int] | None:
    """Read the table from values to labels.

    Args:
        source: The table; or a JSON file with it, ``{"7": 0, "8": 1, "0": -1}``; or None.

    Returns:
        For each value its label, or None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is not a pair of integers.
    """
    if source is None or isinstance(source, Mapping):
        return None if source is None else dict(source)
    table: dict[int, int] = {}
    for value, label in read_json(Path(source)).items():
        if not _is_integer(value) or type(label) is not int:
            raise ValueError(f"{source}: expected pairs of integers such as {{'7': 0}}, got {value!r}: {label!r}")
        table[int(value)] = label
    return table


def _labels(num_classes: int, label_map: Mapping[int, int] | None, label_offset: int) -> dict[int, int]:
    """Give the label of each value, without ignored ones."""
    if label_map is None:
        return {label - label_offset: label for label in range(num_classes)}
    if label_offset:
        raise ValueError(f"label_offset: expected 0 beside a label_map or an id2label, got {label_offset}")
    for value, label in label_map.items():
        if label != IGNORE_INDEX and not 0 <= label < num_classes:
            raise ValueError(
                f"label_map: value {value}: expected a label from 0 to {num_classes - 1} or -1, got {label}"
            )
    if not any(label >= 0 for label in label_map.values()):
        raise ValueError("label_map: expected at least one value with a label, got none")
    return dict(label_map)


def _default_ignored(labels: Mapping[int, int]) -> tuple[int, ...]:
    """Choose the usual value of ignored pixels."""
    return (65535 if labels.get(255, IGNORE_INDEX) >= 0 else 255,)


def _named_ids(content: Mapping[str, Any], *, where: str) -> tuple[Vocabulary, dict[int, int] | None]:
    """Read ``id2label`` or the names of a ClassLabel."""
    names = content.get("names")
    if isinstance(names, list):
        content = {str(number): name for number, name in enumerate(names)}
    named = content.get("id2label", content)
    if not isinstance(named, dict) or not named or not all(_is_integer(key) for key in named):
        raise ValueError(f'{where}: expected "classes", "names" or names by id such as {{"0": "wall"}}, got neither')
    if wrong := [name for name in named.values() if not isinstance(name, str)]:
        raise ValueError(f"{where}: expected a name for each id, got {wrong[0]!r}")
    ids = sorted(int(key) for key in named)
    by_id = {int(key): name for key, name in named.items()}
    try:
        vocabulary = Vocabulary.from_words(by_id[number] for number in ids)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return vocabulary, None if ids == list(range(len(ids))) else {number: label for label, number in enumerate(ids)}


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _shortened(values: list[int]) -> str:
    """List values, at most ten of them."""
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
