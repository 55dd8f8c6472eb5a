"""From the values in label maps to labels, and from files of classes to vocabularies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.tiny_hub import WORDS
from scan_lightning.data.hub_labels import LabelTable, read_classes, read_label_map
from scan_lightning.data.images import ImageFileError

SCENE = np.array([[0, 1], [2, 255]], np.uint8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0, 1], [2, -1]]),
        ({"label_map": {0: 2, 1: 2, 2: 0}}, [[2, 2], [0, -1]]),
        ({"label_map": {0: -1, 1: 1, 2: 1, 255: 0}}, [[-1, 1], [1, 0]]),
        ({"label_offset": -1, "ignore_values": [0, 255]}, [[-1, 0], [1, -1]]),
        ({"label_offset": 1, "ignore_values": [1, 2, 255]}, [[1, -1], [-1, -1]]),
        ({"num_classes": 256}, [[0, 1], [2, 255]]),
    ],
)
def test_values_become_labels(options: dict[str, Any], expected: list[list[int]]) -> None:
    labels = LabelTable(**{"num_classes": 3, **options})(SCENE, where="here")
    assert labels.dtype == np.int64
    assert labels.tolist() == expected


def test_deep_and_negative_values() -> None:
    table = LabelTable(num_classes=300)
    assert table(np.array([[299, 65535]], np.uint16), where="here").tolist() == [[299, -1]]
    table = LabelTable(num_classes=2, ignore_values=[-100])
    assert table(np.array([[-100, 1]]), where="here").tolist() == [[-1, 1]]
    with pytest.raises(
        ImageFileError, match=r"here: expected values from 0 to 1 or -100 for ignored pixels, got \[-1, 2\]"
    ):
        table(np.array([[-1, 2]]), where="here")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_offset": -252, "ignore_values": [0]}, r"expected values from 252 to 254 or 0 for ignored pixels, got"),
        ({"ignore_values": []}, r"here: expected values from 0 to 2, got \[255\]; name these in label_map or ignore_v"),
        ({"label_map": {0: 0, 2: 1}}, r"expected one of the values 0, 2 or 255 for ignored pixels, got \[1\]"),
        ({"label_map": {0: 3}}, r"label_map: value 0: expected a label from 0 to 2 or -1, got 3"),
        ({"label_map": {0: 0}, "ignore_values": [0]}, r"ignore_values: .* that label_map gives no label, got \[0\]"),
        ({"label_map": {0: 0}, "label_offset": 1}, "label_offset: expected 0 beside a label_map"),
        ({"label_map": {0: -1}}, "label_map: expected at least one value with a label"),
        ({"label_map": {0: 0, 2**31: 1}}, "label_map: expected values at most"),
    ],
)
def test_wrong_values_or_table_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelTable(num_classes=3, **options)(SCENE, where="here")


@pytest.mark.parametrize(
    ("content", "names", "ids"),
    [
        ({"classes": [{"name": "sky", "synonyms": ["air"]}, {"name": "car"}]}, ("sky", "car"), None),
        ({"names": WORDS, "_type": "ClassLabel"}, tuple(WORDS), None),
        ({"0": "sky", "2": "road ", "1": "car"}, tuple(WORDS), None),
        ({"10": "road", "9": "car"}, ("car", "road"), {9: 0, 10: 1}),
        ({"id2label": {"2": "road", "0": "sky"}, "label2id": {}}, ("sky", "road"), {0: 0, 2: 1}),
    ],
)
def test_classes_from_files(tmp_path: Path, content: Any, names: tuple[str, ...], ids: dict[int, int] | None) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content), "utf-8")
    for source in (path, str(path)):
        vocabulary, found = read_classes(source)
        assert vocabulary.names == names
        assert found == ids


def test_classes_from_words(tmp_path: Path) -> None:
    assert read_classes([" sky", "car"])[0].names == ("sky", "car")
    (tmp_path / "words.txt").write_text("sky,air\ncar", "utf-8")
    assert read_classes(tmp_path / "words.txt")[0].synonyms == (("sky", "air"), ("car",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"words": ["sky"]}', r'classes\.json: expected "classes", "names" or names by id'),
        ("{}", r'classes\.json: expected "classes", "names" or names by id'),
        ('{"0": 3}', r"classes\.json: expected a name for each id, got 3"),
        ('{"0": "sky", "1": "sky"}', r"classes\.json: names: 'sky' is given twice"),
        ('{"names": []}', r'classes\.json: expected "classes", "names" or'),
    ],
)
def test_wrong_classes_raise(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "classes.json").write_text(content, "utf-8")
    with pytest.raises(ValueError, match=message):
        read_classes(tmp_path / "classes.json")


def test_label_map_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text('{"7": 0, "-1": -1}', "utf-8")
    assert read_label_map(path) == read_label_map({7: 0, -1: -1}) == {7: 0, -1: -1}
    assert read_label_map(None) is None
    for wrong in ('{"sky": 1}', '{"1": "sky"}', '{"1": true}'):
        path.write_text(wrong, "utf-8")
        with pytest.raises(ValueError, match=r"map\.json: expected pairs of integers such as"):
            read_label_map(str(path))
