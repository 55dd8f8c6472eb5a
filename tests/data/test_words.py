"""Tests of words as people give them; the command line's own errors are in tests/commands/test_segment.py."""

from pathlib import Path

import pytest

from scan_lightning.data.vocabulary import save_vocabulary
from scan_lightning.data.words import load_words, parse_words
from scan_lightning.types import Vocabulary


def test_load_words_from_json(tmp_path: Path) -> None:
    vocabulary = Vocabulary(names=("sky", "car"), synonyms=(("sky",), ("car", "auto")), seen=(True, False))
    save_vocabulary(vocabulary, tmp_path / "words.json")
    assert load_words(tmp_path / "words.json") == vocabulary


def test_parse_words_white_space_and_unicode_forms() -> None:
    assert parse_words(" sky ,  cafe\u0301 |  coffee   house").synonyms == (("sky",), ("caf\u00e9", "coffee house"))


def test_parse_words_repeated_in_another_case_is_named() -> None:
    with pytest.raises(ValueError, match="class 2: 'Sky' is given twice, before as 'sky'"):
        parse_words("sky, Sky")
