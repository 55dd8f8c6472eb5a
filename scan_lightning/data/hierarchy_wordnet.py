"""Parents from WordNet: a class below another if its meaning is a hyponym of the other's."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from scan_lightning.data.hierarchy_proposals import ProposedParent
from scan_lightning.types import Vocabulary

MAX_STEPS = 4
"""Hypernyms further up are left out: they are words like "structure", below which half of a large vocabulary stands."""
PARENT_SENSES = 2
"""Senses of a word that count where it is the parent: "seat" is furniture in its third, after a place to sit."""

CONCRETE = frozenset(
    f"noun.{kind}"
    for kind in ("animal", "artifact", "body", "communication", "food", "object", "plant", "substance", "Tops")
)
"""WordNet's files of nouns for what can be seen; persons count only where a word means nothing else."""

HOW_TO_GET = (
    "install nltk (pip install 'scan-lightning[wordnet]') and its data (python -m nltk.downloader wordnet, or unpack "
    "wordnet.zip into corpora/ of a folder that the environment variable NLTK_DATA names)"
)


class WordNetNotFoundError(FileNotFoundError):
    """WordNet is not on disk, or nltk, which reads it, is not installed."""


def open_wordnet() -> Any:
    """Open the WordNet of nltk's data folders; nothing is downloaded.

    Returns:
        nltk's ``WordNetCorpusReader``.

    Raises:
        WordNetNotFoundError: If nltk or the data is missing; the message says how to get them.
        ValueError: If the data is damaged.
    """
    try:
        from nltk.corpus.reader.wordnet import WordNetCorpusReader, WordNetError
        from nltk.corpus.util import LazyCorpusLoader
    except ImportError as error:
        raise WordNetNotFoundError(f"WordNet: nltk is not installed; {HOW_TO_GET}") from error
    # Not the one that nltk.corpus shares: this one looks where nltk.data.path says now. The second reader is for other
    # languages and never opened.
    reader = LazyCorpusLoader("wordnet", WordNetCorpusReader, LazyCorpusLoader("omw-1.4", WordNetCorpusReader))
    try:
        reader.ensure_loaded()
    except LookupError as error:
        raise WordNetNotFoundError(f"WordNet: nltk finds no data; {HOW_TO_GET}") from error
    except (WordNetError, OSError, ValueError, AssertionError, zipfile.BadZipFile, StopIteration) as error:
        raise ValueError(f"WordNet: nltk's data is damaged: {type(error).__name__}: {error}") from error
    return reader


def parents_by_wordnet(vocabulary: Vocabulary, reader: Any) -> list[ProposedParent]:
    """Propose every class whose meaning is at most `MAX_STEPS` hypernyms above a class's own.

    A class means the noun sense that most of its synonyms share ("mountain, mount" is no horse); of equals the one that
    WordNet lists first for the first synonym. Senses of things that can be seen are preferred. A child is taken in one
    sense, a parent in any of `PARENT_SENSES`. A name that WordNet lacks gives nothing. A single word may still be
    taken in a wrong sense, and WordNet's own opinions can surprise (its wheeled vehicle is a container).

    Args:
        vocabulary: The words, English.
        reader: From `open_wordnet`.

    Returns:
        The proposals, fewest steps first, then by child.
    """
    senses = [_class_senses(synonyms, reader) for synonyms in vocabulary.synonyms]
    holders: dict[Any, list[int]] = {}
    for label, found in enumerate(senses):
        for sense in found:
            holders.setdefault(sense, []).append(label)
    proposals: dict[tuple[int, int], tuple[int, ProposedParent]] = {}
    for child, found in enumerate(senses):
        for sense, steps in _hypernyms(found[:1]):
            for parent in holders.get(sense, []):
                if parent != child and (child, parent) not in proposals:
                    reason = f"WordNet: {found[0].name()} is a {sense.name()}, {steps} up"
                    proposals[child, parent] = steps, ProposedParent(child=child, parent=parent, reason=reason)
    return [proposal for _, proposal in sorted(proposals.values(), key=lambda entry: (entry[0], entry[1].child))]


def _class_senses(synonyms: Sequence[str], reader: Any) -> list[Any]:
    """Give the senses that a class may have, the likeliest first, at most `PARENT_SENSES`."""
    votes: Counter[Any] = Counter()
    for word in synonyms:
        votes.update(_word_senses(word, reader))
    concrete = [sense for sense in votes if sense.lexname() in CONCRETE]
    persons = [sense for sense in votes if sense.lexname() == "noun.person"]
    senses = concrete or persons or list(votes)
    shared = max((votes[sense] for sense in senses), default=0)
    return [sense for sense in senses if votes[sense] == shared][:PARENT_SENSES]


def _word_senses(word: str, reader: Any) -> list[Any]:
    """Look a word up as a noun, the frequent senses first: "coat rack" also as "coat-rack" and "coatrack"."""
    parts = word.lower().split()
    for joint in ("_", "-", ""):
        if senses := reader.synsets(joint.join(parts), "n"):
            return list(senses)
    return []


def _hypernyms(senses: Sequence[Any]) -> Iterator[tuple[Any, int]]:
    """Walk up from senses: each hypernym once, with its distance, the near ones first."""
    seen = set(senses)
    level = list(senses)
    for steps in range(1, MAX_STEPS + 1):
        above = (hypernym for sense in level for hypernym in sense.hypernyms() + sense.instance_hypernyms())
        level = [sense for sense in dict.fromkeys(above) if sense not in seen]
        seen.update(level)
        yield from ((sense, steps) for sense in level)
