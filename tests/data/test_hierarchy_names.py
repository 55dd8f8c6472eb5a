"""Parents that names show."""

import pytest

from scan_lightning.data.hierarchy_names import parents_by_name
from scan_lightning.data.words import parse_words
from scan_lightning.types import Vocabulary


def proposals(words: str) -> list[tuple[str, str]]:
    """Pairs of child and parent by name."""
    vocabulary = parse_words(words)
    return [(vocabulary.names[pair.child], vocabulary.names[pair.parent]) for pair in parents_by_name(vocabulary)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("table, pool table", [("pool table", "table")]),
        ("Table, Pool Table", [("Pool Table", "Table")]),
        ("table, pool table, old pool table", [("pool table", "table"), ("old pool table", "pool table")]),
        ("chest, drawers, chest of drawers", [("chest of drawers", "chest")]),
        ("on, man on a horse, horse", []),  # the head "man" is no word of the list
        ("pot, plant pots", [("plant pots", "pot")]),
        ("hangers, suit hanger", [("suit hanger", "hangers")]),
        ("hanger, hangers, suit hanger", [("hangers", "hanger"), ("suit hanger", "hanger")]),
        ("table, armchair, tablecloth, chair", []),
        ("glass, wall-glass, wall", []),
        ("table, table football", []),
    ],
)
def test_head_noun(words: str, expected: list[tuple[str, str]]) -> None:
    assert proposals(words) == expected


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("tables", "table"),
        ("boxes", "box"),
        ("berries", "berry"),
        ("leaves", "leaf"),
        ("knives", "knife"),
        ("firemen", "fireman"),
        ("washing machines", "washing machine"),
    ],
)
def test_plural_is_below_singular(plural: str, singular: str) -> None:
    assert proposals(f"{singular}, {plural}") == [(plural, singular)]


@pytest.mark.parametrize("words", ["glass, glas", "bus, bu", "grass, gras", "as, a", "s, x"])
def test_words_that_only_end_like_plurals_are_left_alone(words: str) -> None:
    assert ("glass", "glas") not in proposals(words)
    if words != "bus, bu":  # a list that holds "bu" gets what it asks for
        assert proposals(words) == []


def test_first_name_of_the_child_counts() -> None:
    assert proposals("ashcan|trash can, can") == []
    assert proposals("trash can|ashcan, can") == [("trash can", "can")]


def test_parent_with_the_earliest_such_name_is_taken() -> None:
    words = "car|automobile|machine, machine|device, slot machine"
    assert proposals(words.replace("machine|device", "device")) == [("slot machine", "car")]
    vocabulary = Vocabulary(
        names=("car", "machine", "slot machine"),
        synonyms=(("car", "automobile", "machine"), ("machine", "device"), ("slot machine",)),
    )
    assert [(pair.child, pair.parent) for pair in parents_by_name(vocabulary)] == [(2, 1)]


def test_classes_of_equal_rank_are_all_parents() -> None:
    vocabulary = Vocabulary(
        names=("bag, purse", "bag, suitcase", "golf bag"),
        synonyms=(("bag", "purse"), ("bag", "suitcase"), ("golf bag",)),
    )
    assert [(pair.child, pair.parent) for pair in parents_by_name(vocabulary)] == [(2, 0), (2, 1)]


def test_own_synonym_is_no_head() -> None:
    vocabulary = Vocabulary(
        names=("swimming pool", "pool"), synonyms=(("swimming pool", "pool"), ("pool",))
    )  # two classes called "pool": which is more general is not in the names
    assert parents_by_name(vocabulary) == []


def test_reasons_quote_the_names() -> None:
    found = parents_by_name(parse_words("table, pool table, tables"))
    assert [pair.reason for pair in found] == ["head noun: 'table' of 'pool table'", "plural: 'tables' of 'table'"]
