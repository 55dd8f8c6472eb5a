"""Words as people give them, on the command line or in a file, to a vocabulary."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from scan_lightning.data.vocabulary import load_vocabulary
from scan_lightning.types import Vocabulary


def parse_words(text: str) -> Vocabulary:
    """Read the words of the command line: commas between classes, ``|`` between synonyms of a class.

    Args:
        text: For example "sky, car|automobile, road".

    Returns:
        The vocabulary; the first synonym names the class.

    Raises:
        ValueError: If there is no word, an empty one, or one given twice; the message names it.

    Example:
        >>> parse_words("sky, car|automobile").synonyms
        (('sky',), ('car', 'automobile'))
    """
    if not text.strip():
        raise ValueError("words: expected at least one word, got none")
    return _vocabulary([entry.split("|") for entry in text.split(",")], "words: class")


def load_words(path: Path) -> Vocabulary:
    """Read words from a file: one class per line with commas between its synonyms, or a vocabulary in JSON.

    Args:
        path: A text file in UTF-8, or one that ends in ``.json`` and that `load_vocabulary` reads.

    Returns:
        The vocabulary; the first synonym names the class.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not as above, has no word, an empty one, or one given twice; the message names it.
    """
    if path.suffix.lower() == ".json":
        return load_vocabulary(path)
    if not path.is_file():
        raise FileNotFoundError(f"words-file: no file {path}")
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected words in UTF-8: {error}") from error
    if not text:
        raise ValueError(f"{path}: expected at least one word, got none")
    return _vocabulary([line.split(",") for line in text.split("\n")], f"{path}: line")


def _vocabulary(classes: list[list[str]], place: str) -> Vocabulary:
    """Clean and check words; ``place`` and a class's number say where it stands."""
    cleaned = [tuple(" ".join(unicodedata.normalize("NFC", word).split()) for word in words) for words in classes]
    known: dict[str, str] = {}
    for number, words in enumerate(cleaned, start=1):
        for word in words:
            if not word:
                among = f" in {', '.join(words)!r}" if any(words) else ""
                raise ValueError(f"{place} {number}: expected a word, got an empty one{among}")
            key = word.lower()  # CLIP's tokenizer does not tell upper from lower case
            if key in known:
                before = "" if known[key] == word else f", before as {known[key]!r}"
                raise ValueError(f"{place} {number}: {word!r} is given twice{before}")
            known[key] = word
    return Vocabulary(names=tuple(words[0] for words in cleaned), synonyms=tuple(cleaned))
