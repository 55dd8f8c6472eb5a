from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scan_lightning.data.vocabulary import (
    load_hierarchy,
    load_vocabulary,
    save_hierarchy,
    save_vocabulary,
    with_seen,
    write_json,
)
from scan_lightning.types import ClassHierarchy, Vocabulary


def _write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_vocabulary_survives_saving(tmp_path: Path) -> None:
    vocabulary = Vocabulary(
        names=("sky", "Straße"),
        synonyms=(("sky", "clouds"), ("road",)),
        seen=(True, False),
        palette=((0, 0, 255), (1, 2, 3)),
    )
    save_vocabulary(vocabulary, tmp_path / "v.json")
    assert load_vocabulary(tmp_path / "v.json") == vocabulary


def test_hierarchy_survives_saving(tmp_path: Path) -> None:
    words = Vocabulary.from_words(["chair", "armchair", "seat"])
    hierarchy = ClassHierarchy(num_classes=3, parents={1: (0, 2)})
    save_hierarchy(hierarchy, words, tmp_path / "h.json")
    assert load_hierarchy(tmp_path / "h.json", words) == hierarchy


def test_defaults_and_order_of_ids(tmp_path: Path) -> None:
    classes = [{"id": 1, "name": "road"}, {"id": 0, "name": "sky", "aliases": ["sky", "heaven"]}]
    vocabulary = load_vocabulary(_write(tmp_path / "v.json", {"classes": classes}))
    assert vocabulary.names == ("sky", "road")
    assert vocabulary.synonyms == (("sky", "heaven"), ("road",))
    assert vocabulary.seen == (True, True)
    assert vocabulary.palette == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a JSON object, got list"),
        ({}, 'expected a list "classes"'),
        ({"classes": []}, 'expected a list "classes"'),
        ({"classes": ["sky"]}, "entry 0: expected an object"),
        ({"classes": [{"name": "sky"}, {"id": 1}]}, "entry 1: expected an object"),
        ({"classes": [{"name": "sky"}, {"name": "sky"}]}, "'sky' is given twice"),
        ({"classes": [{"name": " sky"}]}, "without surrounding white space"),
        ({"classes": [{"id": 1, "name": "sky"}]}, "'sky': expected a unique id from 0 to 0, got 1"),
        ({"classes": [{"id": 0, "name": "sky"}, {"id": 0, "name": "car"}]}, "'car': expected a unique id"),
        ({"classes": [{"id": 0, "name": "sky"}, {"name": "car"}]}, "'car': expected a unique id .* got None"),
        ({"classes": [{"id": True, "name": "sky"}]}, "'sky': expected a unique id"),
        ({"classes": [{"name": "sky", "synonyms": []}]}, "'sky': synonyms: expected a list"),
        ({"classes": [{"name": "sky", "aliases": "sky"}]}, "'sky': aliases: expected a list"),
        ({"classes": [{"name": "sky", "aliases": ["a"], "synonyms": ["b"]}]}, "'sky': expected synonyms or aliases"),
        ({"classes": [{"name": "sky", "seen": 1}]}, "'sky': seen: expected true or false, got 1"),
        ({"classes": [{"name": "sky", "color": [0, 0]}]}, "'sky': color: expected three integers"),
        ({"classes": [{"name": "sky", "color": [0, 0, 256]}]}, "'sky': color: expected three integers"),
        ({"classes": [{"name": "sky", "color": [0, 0, 0]}, {"name": "car"}]}, "a color for all 2 classes or for none"),
    ],
)
def test_wrong_vocabulary_raises_with_file_and_entry(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"words\.json: .*{message}"):
        load_vocabulary(_write(tmp_path / "words.json", content))


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        (None, 'expected an object "parents"'),
        ({"stool": ["chair"]}, "'stool' is not in the vocabulary"),
        ({"chair": ["stool"]}, "parents of 'chair': 'stool' is not in the vocabulary"),
        ({"chair": "seat"}, "parents of 'chair': expected a list of names"),
        ({"chair": ["chair"]}, "own parent"),
        ({"chair": ["seat", "seat"]}, "given twice"),
    ],
)
def test_wrong_hierarchy_raises_with_file_and_entry(tmp_path: Path, parents: Any, message: str) -> None:
    path = _write(tmp_path / "parents.json", {"parents": parents})
    with pytest.raises(ValueError, match=rf"parents\.json: .*{message}"):
        load_hierarchy(path, Vocabulary.from_words(["chair", "seat"]))


def test_key_given_twice_raises(tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    path.write_text('{"parents": {"a": ["b"], "a": ["c"]}}')
    with pytest.raises(ValueError, match=r"twice\.json: .*key 'a' is given twice"):
        load_hierarchy(path, Vocabulary.from_words(["a", "b", "c"]))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b""])
def test_broken_json_raises(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.json: expected valid JSON"):
        load_vocabulary(path)


def test_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        load_vocabulary(tmp_path / "none.json")


def test_hierarchy_of_another_vocabulary_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 1 classes, got 2"):
        save_hierarchy(ClassHierarchy(num_classes=2), Vocabulary.from_words(["a"]), tmp_path / "h.json")


def test_failed_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    write_json({"a": 1}, path)
    with pytest.raises(TypeError):
        write_json({"a": object()}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_seen_names() -> None:
    vocabulary = Vocabulary.from_words(["sky", "tree", "road"])
    assert with_seen(vocabulary, ["road", "sky"]).seen == (True, False, True)
    with pytest.raises(ValueError, match="seen: expected names of the vocabulary, got 'boat'"):
        with_seen(vocabulary, ["sky", "boat"])
    with pytest.raises(ValueError, match="seen: expected at least one name, got none"):
        with_seen(vocabulary, [])
