"""Proposals put together and written."""

import json
from pathlib import Path

import pytest

from scan_lightning.data.hierarchy_proposals import ProposedParent, save_proposals, to_hierarchy, without_cycles
from scan_lightning.data.vocabulary import load_hierarchy
from scan_lightning.types import ClassHierarchy, Vocabulary


def proposed(*pairs: tuple[int, int]) -> list[ProposedParent]:
    return [ProposedParent(child=child, parent=parent, reason=f"{child} < {parent}") for child, parent in pairs]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        ([(0, 1), (1, 0)], [(0, 1)]),
        ([(1, 0), (0, 1)], [(1, 0)]),
        ([(0, 1), (0, 1)], [(0, 1)]),
        ([(2, 2), (0, 1)], [(0, 1)]),
        ([(0, 1), (1, 2), (2, 3), (3, 0), (3, 1), (0, 3)], [(0, 1), (1, 2), (2, 3), (0, 3)]),
        ([(0, 1), (0, 2), (1, 3), (2, 3), (3, 0)], [(0, 1), (0, 2), (1, 3), (2, 3)]),
    ],
)
def test_cycles_and_repeats_are_dropped(given: list[tuple[int, int]], kept: list[tuple[int, int]]) -> None:
    assert without_cycles(proposed(*given)) == proposed(*kept)


def test_first_reason_of_a_pair_stays() -> None:
    twice = [ProposedParent(child=0, parent=1, reason=reason) for reason in ("first", "second")]
    assert [pair.reason for pair in without_cycles(twice)] == ["first"]


def test_hierarchy_has_children_in_order_and_parents_as_proposed() -> None:
    hierarchy = to_hierarchy(proposed((2, 1), (0, 2), (2, 0)), 3)
    assert hierarchy == ClassHierarchy(num_classes=3, parents={0: (2,), 2: (1, 0)})
    assert list(hierarchy.parents) == [0, 2]


def test_label_outside_the_vocabulary_raises() -> None:
    with pytest.raises(ValueError, match=r"class 3 .* outside \[0, 3\)"):
        to_hierarchy(proposed((0, 3)), 3)


def test_saved_file_is_a_hierarchy_with_reasons(tmp_path: Path) -> None:
    words = Vocabulary(names=("Sitz, Stuhl", "Möbel", "armchair"))
    path = tmp_path / "parents.json"
    save_proposals(proposed((2, 0), (2, 1), (0, 1)), words, path)
    assert load_hierarchy(path, words) == ClassHierarchy(num_classes=3, parents={0: (1,), 2: (0, 1)})
    assert json.loads(path.read_text("utf-8"))["reasons"] == {
        "Sitz, Stuhl": {"Möbel": "0 < 1"},
        "armchair": {"Sitz, Stuhl": "2 < 0", "Möbel": "2 < 1"},
    }


def test_edited_file_is_read_whatever_the_reasons_say(tmp_path: Path) -> None:
    words = Vocabulary(names=("a", "b", "c"))
    path = tmp_path / "parents.json"
    save_proposals(proposed((0, 1), (2, 1)), words, path)
    content = json.loads(path.read_text("utf-8"))
    content["parents"] = {"a": ["c"]}
    path.write_text(json.dumps(content), "utf-8")
    assert load_hierarchy(path, words).parents == {0: (2,)}


def test_no_proposal_gives_an_empty_hierarchy(tmp_path: Path) -> None:
    words = Vocabulary(names=("a", "b"))
    save_proposals([], words, tmp_path / "parents.json")
    assert load_hierarchy(tmp_path / "parents.json", words) == ClassHierarchy(num_classes=2)
