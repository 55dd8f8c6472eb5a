"""Notes beside converted label files, and the two class orders of Pascal Context."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.miniature import check_split, labels_of, open_module, read_split, write_converted, write_original
from scan_lightning.data.layout import DataLayoutError
from scan_lightning.data.marker import MARKER_NAME, PreparedMarker, read_marker, write_marker

pytestmark = pytest.mark.filterwarnings("ignore:.*come in two orders")


def note(folder: Path, **changes: Any) -> Path:
    """Leave a note as `data prepare` does beside the converted test files of Pascal Context 59."""
    place = folder / "annotations_detectron2" / "pc59_val"
    write_marker(place, PreparedMarker(**{"benchmark": "pascal_context_59", "split": "val", "files": 3, **changes}))
    return place


def test_auto_prefers_files_with_a_fitting_note(tmp_path: Path) -> None:
    write_original("pascal_context_59", tmp_path)
    folder = write_converted("pascal_context_59", tmp_path, order="alphabetical")
    data = open_module("pascal_context_59", tmp_path)
    assert data.found_layout() == "original"  # other tools' files do not say what they hold
    place = note(folder)
    assert data.found_layout() == "converted"
    assert data.found_layout("train") == "original"
    assert open_module("pascal_context_60", tmp_path).found_layout() == "converted"
    note(folder, order="alphabetical")
    assert data.found_layout() == "original"
    check_split(data, "val")
    alphabetical = open_module("pascal_context_59", tmp_path, order="alphabetical")
    assert alphabetical.found_layout() == "converted"
    check_split(alphabetical, "val")
    (place / MARKER_NAME).unlink()
    assert read_marker(place) is None


@pytest.mark.parametrize("key", ["pascal_context_59", "pascal_context_60"])
@pytest.mark.parametrize("order", ["released", "alphabetical"])
def test_class_orders_are_told_apart(tmp_path: Path, key: str, order: str) -> None:
    folder = write_converted(key, tmp_path, order=order)
    other = "alphabetical" if order == "released" else "released"
    with pytest.warns(UserWarning, match=f"come in two orders.*they are read in the {order} one"):
        check_split(open_module(key, tmp_path, order=order), "val")
    with pytest.warns(UserWarning, match="come in two orders"):
        swapped = read_split(open_module(key, tmp_path, order=other), "val")
    assert not np.array_equal(swapped[0].label_map, labels_of(key, "val", 0))
    note(folder, order=order)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_split(open_module(key, tmp_path, order=order), "val")
    with pytest.raises(
        DataLayoutError, match=f"order: expected '{other}', as asked for, but these files have '{order}'"
    ):
        open_module(key, tmp_path, order=other).files("val")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": "pascal_context_459"}, "benchmark: expected 'pascal_context_59'"),
        ({"split": "train"}, "split: expected 'val'"),
        ({"shorter_side": 512}, "shorter_side: expected None"),
    ],
)
def test_note_of_other_files_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    note(write_converted("pascal_context_59", tmp_path), **changes)
    with pytest.raises(DataLayoutError, match=message):
        open_module("pascal_context_59", tmp_path).files("val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"benchmark": "x"}', "expected a note"),
        ("{", "expected valid JSON"),
        ('{"benchmark": "b", "split": "s", "files": 1, "order": "mine"}', "order: expected released or alphabetical"),
    ],
)
def test_damaged_note_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / MARKER_NAME).write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_marker(tmp_path)
    assert str(tmp_path / MARKER_NAME) in str(error.value)
