"""Vocabularies and hierarchies as JSON files."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scan_lightning.files import write_whole
from scan_lightning.types import ClassHierarchy, Vocabulary

_ALIAS_KEYS = ("synonyms", "aliases")


def load_vocabulary(path: Path) -> Vocabulary:
    """Read the words of a benchmark.

    The file holds ``{"classes": [{"id": 0, "name": "sky", "synonyms": ["sky"], "seen": true, "color": [0, 0, 255]},
    ...]}``; only ``name`` is required. Ids are 0, 1, ... in any order, given for all classes or for none.
    ``synonyms`` may be called ``aliases``.

    Args:
        path: The JSON file.

    Returns:
        The vocabulary, in the order of the ids.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no JSON or an entry is wrong; the message names file and entry.
    """
    return parse_vocabulary(read_json(path), where=str(path))


def parse_vocabulary(content: Mapping[str, Any], *, where: str) -> Vocabulary:
    """Make a vocabulary of what a vocabulary file holds.

    Args:
        content: The decoded file, see `load_vocabulary`.
        where: Name of the file, for messages.

    Returns:
        The vocabulary, in the order of the ids.

    Raises:
        ValueError: If an entry is wrong.
    """
    classes = _classes(content, where)
    palette = tuple(_colour(entry, f"{where}: class {entry['name']!r}") for entry in classes if "color" in entry)
    if palette and len(palette) != len(classes):
        raise ValueError(f"{where}: expected a color for all {len(classes)} classes or for none, got {len(palette)}")
    try:
        return Vocabulary(
            names=tuple(entry["name"] for entry in classes),
            synonyms=tuple(_synonyms(entry, f"{where}: class {entry['name']!r}") for entry in classes),
            seen=tuple(_seen(entry, f"{where}: class {entry['name']!r}") for entry in classes),
            palette=palette,
        )
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(where) else f"{where}: {message}") from error


def with_seen(vocabulary: Vocabulary, seen: Collection[str], *, where: str = "the vocabulary") -> Vocabulary:
    """Replace the seen flags.

    Args:
        vocabulary: The classes.
        seen: Names of those to train on.
        where: What holds the names, for messages.

    Returns:
        The vocabulary with new flags.

    Raises:
        ValueError: If there is no name, or one that is no class.
    """
    if unknown := [name for name in seen if name not in vocabulary.names]:
        raise ValueError(f"seen: expected names of {where}, got {unknown[0]!r}")
    if not seen:
        raise ValueError("seen: expected at least one name, got none")
    return replace(vocabulary, seen=tuple(name in seen for name in vocabulary.names))


def save_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """Write a vocabulary in the form that `load_vocabulary` reads, in one step.

    Args:
        vocabulary: What to write.
        path: The JSON file; one that exists is replaced.
    """
    entries: list[dict[str, Any]] = []
    for label, name in enumerate(vocabulary.names):
        entry = {"id": label, "name": name, "synonyms": vocabulary.synonyms[label], "seen": vocabulary.seen[label]}
        entries.append(entry | ({"color": vocabulary.palette[label]} if vocabulary.palette else {}))
    write_json({"classes": entries}, path)


def load_hierarchy(path: Path, vocabulary: Vocabulary) -> ClassHierarchy:
    """Read the parents of classes.

    The file holds ``{"parents": {"armchair": ["chair", "seat"], ...}}``, children and parents by name.

    Args:
        path: The JSON file.
        vocabulary: The words, whose labels the result speaks of.

    Returns:
        The hierarchy over the vocabulary's labels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no JSON, a name is not in the vocabulary or a class is its own parent.
    """
    content = read_json(path)
    parents = content.get("parents")
    if not isinstance(parents, dict):
        raise ValueError(f'{path}: expected an object "parents" from names to lists of names, got {parents!r}')
    return hierarchy_by_name(parents, vocabulary, where=str(path))


def hierarchy_by_name(parents: Mapping[str, Any], vocabulary: Vocabulary, *, where: str) -> ClassHierarchy:
    """Turn parents given by name into labels.

    Args:
        parents: For a child's name the names of its parents.
        vocabulary: The words, whose labels the result speaks of.
        where: Name of the file, for messages.

    Returns:
        The hierarchy; children without parents are left out.

    Raises:
        ValueError: If a name is not in the vocabulary, or a class is its own parent or has one twice.
    """
    labels = {name: label for label, name in enumerate(vocabulary.names)}
    found: dict[int, tuple[int, ...]] = {}
    for child, names in parents.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{where}: parents of {child!r}: expected a list of names, got {names!r}")
        for name in (child, *names):
            if name not in labels:
                raise ValueError(f"{where}: parents of {child!r}: {name!r} is not in the vocabulary")
        if names:
            found[labels[child]] = tuple(labels[name] for name in names)
    try:
        return ClassHierarchy(num_classes=vocabulary.num_classes, parents=found)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def save_hierarchy(hierarchy: ClassHierarchy, vocabulary: Vocabulary, path: Path) -> None:
    """Write a hierarchy in the form that `load_hierarchy` reads, in one step.

    Args:
        hierarchy: What to write.
        vocabulary: The words that its labels stand for.
        path: The JSON file; one that exists is replaced.

    Raises:
        ValueError: If the hierarchy was made for another number of classes.
    """
    if hierarchy.num_classes != vocabulary.num_classes:
        raise ValueError(f"hierarchy: expected {vocabulary.num_classes} classes, got {hierarchy.num_classes}")
    names = vocabulary.names
    parents = {names[child]: [names[label] for label in labels] for child, labels in hierarchy.parents.items()}
    write_json({"parents": parents}, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file, UTF-8.

    Returns:
        The object.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no JSON object or has a key twice in one object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a JSON file, found no such file")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
        return content

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"{path}: expected valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file in one step: a reader sees the old file or the whole new one.

    Args:
        content: The object.
        path: The file; its folder must exist.
    """
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _classes(content: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Give the entries in the order of their ids, each known to be an object with a name."""
    classes = content.get("classes")
    if not isinstance(classes, list) or not classes:
        raise ValueError(f'{where}: expected a list "classes" with at least one entry, got {classes!r}')
    for position, entry in enumerate(classes):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ValueError(f'{where}: entry {position}: expected an object with a "name", got {entry!r}')
    ids = [entry.get("id") for entry in classes]
    if all(value is None for value in ids):
        return classes
    for position, value in enumerate(ids):
        if type(value) is not int or not 0 <= value < len(ids) or value in ids[:position]:
            raise ValueError(
                f"{where}: class {classes[position]['name']!r}: expected a unique id from 0 to {len(ids) - 1}, "
                f"got {value!r}"
            )
    return sorted(classes, key=lambda entry: int(entry["id"]))


def _synonyms(entry: dict[str, Any], where: str) -> tuple[str, ...]:
    """Give the texts of a class, the name alone where none are listed."""
    given = [key for key in _ALIAS_KEYS if key in entry]
    if len(given) > 1:
        raise ValueError(f"{where}: expected synonyms or aliases, got both")
    words = entry[given[0]] if given else [entry["name"]]
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{where}: {given[0]}: expected a list of at least one text, got {words!r}")
    return tuple(words)


def _seen(entry: dict[str, Any], where: str) -> bool:
    seen = entry.get("seen", True)
    if not isinstance(seen, bool):
        raise ValueError(f"{where}: seen: expected true or false, got {seen!r}")
    return seen


def _colour(entry: dict[str, Any], where: str) -> tuple[int, int, int]:
    colour = entry["color"]
    if not (
        isinstance(colour, list)
        and len(colour) == 3
        and all(type(value) is int and 0 <= value <= 255 for value in colour)
    ):
        raise ValueError(f"{where}: color: expected three integers from 0 to 255, got {colour!r}")
    return colour[0], colour[1], colour[2]
