"""WordNet's parents, through nltk's real reader on a miniature database."""

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from miniature_wordnet import SYNSETS, write_wordnet

from scan_lightning.data.hierarchy_proposals import ProposedParent
from scan_lightning.data.hierarchy_wordnet import WordNetNotFoundError, open_wordnet, parents_by_wordnet
from scan_lightning.data.words import parse_words

needs_nltk = pytest.mark.skipif(importlib.util.find_spec("nltk") is None, reason="nltk is not installed")


@pytest.fixture
def wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    write_wordnet(tmp_path, SYNSETS)
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    return open_wordnet()


def proposals(words: str, reader: Any) -> list[tuple[str, str]]:
    """Pairs of child and parent by name."""
    vocabulary = parse_words(words)
    return [
        (vocabulary.names[pair.child], vocabulary.names[pair.parent]) for pair in parents_by_wordnet(vocabulary, reader)
    ]


@needs_nltk
def test_parents_are_the_hypernyms_among_the_words_near_ones_first(wordnet: Any) -> None:
    expected = [("chair", "seat"), ("armchair", "chair"), ("armchair", "seat")]
    assert proposals("seat, chair, armchair", wordnet) == expected
    assert proposals("armchair, furniture, rack", wordnet) == [("armchair", "furniture")]
    assert proposals("armchair, table", wordnet) == []


@needs_nltk
def test_reason_names_both_senses_and_the_distance(wordnet: Any) -> None:
    found = parents_by_wordnet(parse_words("seat, armchair"), wordnet)
    assert found == [ProposedParent(child=1, parent=0, reason="WordNet: armchair.n.01 is a seat.n.03, 2 up")]


@needs_nltk
def test_hypernyms_far_up_are_left_out(wordnet: Any) -> None:
    assert proposals("machine, four", wordnet) == [("four", "machine")]  # 4 steps
    assert proposals("machine, five", wordnet) == []


@needs_nltk
def test_only_the_first_concrete_senses_count(wordnet: Any) -> None:
    assert proposals("table, furniture", wordnet) == [("table", "furniture")]  # not the array, which stands first
    assert proposals("bicycle seat, seat", wordnet) == []  # the third thing that a seat can be
    assert proposals("seat, furniture", wordnet) == []  # as a child a seat is the first thing that it can be


@needs_nltk
def test_synonyms_choose_the_sense(wordnet: Any) -> None:
    assert proposals("mount, horse", wordnet) == [("mount", "horse")]
    assert proposals("mountain|mount, horse", wordnet) == []


@needs_nltk
def test_person_counts_where_a_word_means_nothing_else(wordnet: Any) -> None:
    assert proposals("cleaner, person, machine", wordnet) == [("cleaner", "machine")]
    assert proposals("worker, person, machine", wordnet) == [("worker", "person")]


@needs_nltk
@pytest.mark.parametrize("name", ["coat rack", "coatrack", "Coat  Rack", "hat rack", "coatracks"])
def test_names_are_found_in_other_spellings_and_in_the_plural(wordnet: Any, name: str) -> None:
    assert proposals(f"{name}, rack", wordnet) == [(" ".join(name.split()), "rack")]


@needs_nltk
def test_irregular_plural_is_found(wordnet: Any) -> None:
    assert proposals("leaves, plant", wordnet) == [("leaves", "plant")]


@needs_nltk
def test_words_that_wordnet_lacks_give_nothing(wordnet: Any) -> None:
    assert proposals("selfie stick, rack", wordnet) == []


@needs_nltk
def test_two_classes_of_one_sense_are_no_parents_of_each_other(wordnet: Any) -> None:
    assert proposals("table, tables, desk", wordnet) == [("desk", "table"), ("desk", "tables")]


@needs_nltk
def test_cycle_in_the_data_ends(wordnet: Any) -> None:
    assert sorted(proposals("egg, hen", wordnet)) == [("egg", "hen"), ("hen", "egg")]


@needs_nltk
def test_zipped_data_is_read_as_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_wordnet(tmp_path, SYNSETS)
    shutil.make_archive(str(root), "zip", root.parent, root.name)
    shutil.rmtree(root)
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    assert proposals("armchair, chair", open_wordnet()) == [("armchair", "chair")]


@needs_nltk
def test_missing_data_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    with pytest.raises(WordNetNotFoundError, match=r"nltk finds no data.*nltk\.downloader wordnet.*NLTK_DATA"):
        open_wordnet()


def test_missing_nltk_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    for name in [name for name in sys.modules if name.startswith("nltk.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(WordNetNotFoundError, match=r"nltk is not installed.*scan-lightning\[wordnet\]"):
        open_wordnet()


@needs_nltk
@pytest.mark.parametrize(
    ("name", "content"),
    [("index.noun", "chair n 2 0 1 0 00000000\n"), ("index.noun", "chair n\n"), ("lexnames", "05\tnoun.animal\t1\n")],
)
def test_damaged_data_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str) -> None:
    root = write_wordnet(tmp_path, SYNSETS)
    (root / name).write_text(content)
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    with pytest.raises(ValueError, match="WordNet: nltk's data is damaged"):
        open_wordnet()


@needs_nltk
def test_missing_file_of_the_data_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (write_wordnet(tmp_path, SYNSETS) / "index.noun").unlink()
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    with pytest.raises((ValueError, WordNetNotFoundError), match="WordNet: nltk"):
        open_wordnet()
