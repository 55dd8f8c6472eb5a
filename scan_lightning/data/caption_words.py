"""Names of things in captions, found by a list of nouns; no tagger is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scan_lightning.types import Vocabulary

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "buses": "bus",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
    "knives": "knife",
    "leaves": "leaf",
    "shelves": "shelf",
    "loaves": "loaf",
    "wolves": "wolf",
    "calves": "calf",
    "halves": "half",
    "scarves": "scarf",
}
_ES_ENDINGS = ("sses", "shes", "ches", "xes", "zes", "oes")


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """An image of COCO's caption file.

    Attributes:
        file_name: Its path below the folder of images.
        captions: Its captions.
    """

    file_name: str
    captions: tuple[str, ...]


def read_captions(path: Path) -> list[CaptionedImage]:
    """Read a file of captions in COCO's format, captions_train2017.json for instance.

    Args:
        path: JSON with "images" (id, file_name) and "annotations" (image_id, caption).

    Returns:
        Images with a caption, in the order of their file names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"captions: no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        captions: dict[str, list[str]] = {}
        for entry in content["annotations"]:
            captions.setdefault(names[entry["image_id"]], []).append(str(entry["caption"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected captions in COCO's format ('images', 'annotations'): {error!r}") from error
    return [CaptionedImage(file_name=name, captions=tuple(captions[name])) for name in sorted(captions)]


@dataclass(frozen=True)
class NounFinder:
    """Finds known nouns in captions: the longest sequence of words that is in the list wins, plurals count.

    "two dogs on a hot dog stand" holds "dog" and "hot dog" if these are in the list, and "stand" if that is. What the
    list lacks is not found, and a word that is also a verb ("a man can park") is taken for the noun.

    Args:
        nouns: From what captions may say to the noun that it counts as.
    """

    nouns: Mapping[str, str]

    @classmethod
    def of_words(cls, words: Iterable[str]) -> NounFinder:
        """Make a finder of plain nouns.

        Args:
            words: Nouns; those that differ in case, hyphens or number alone count as the first of them.

        Returns:
            The finder.
        """
        nouns: dict[str, str] = {}
        for word in words:
            nouns.setdefault(_key(_WORD.findall(word.lower())), word)
        nouns.pop("", None)
        for key, noun in list(nouns.items()):
            nouns.setdefault(_key(f"{key}s".split()), noun)  # "shoes" loses two letters, and would not be a "shoe"
        return cls(nouns)

    @classmethod
    def of_vocabularies(cls, vocabularies: Sequence[Vocabulary]) -> NounFinder:
        """Make a finder of all names and synonyms, each word standing for itself.

        Args:
            vocabularies: Where the words are from.

        Returns:
            The finder.
        """
        return cls.of_words(
            word for vocabulary in vocabularies for synonyms in vocabulary.synonyms for word in synonyms
        )

    @cached_property
    def _longest(self) -> int:
        return max((len(key.split()) for key in self.nouns), default=0)

    def find(self, captions: Iterable[str]) -> tuple[str, ...]:
        """Find the nouns of an image's captions.

        Args:
            captions: Texts.

        Returns:
            Distinct nouns, in the order of their first appearance.

        Example:
            >>> NounFinder.of_words(["dog", "hot dog", "bench"]).find(["Two dogs eat hot dogs."])
            ('dog', 'hot dog')
        """
        found: dict[str, None] = {}
        for caption in captions:
            words = _WORD.findall(caption.lower())
            position = 0
            while position < len(words):
                length = self._match(words, position, found)
                position += max(1, length)
        return tuple(found)

    def _match(self, words: Sequence[str], start: int, found: dict[str, None]) -> int:
        """Add the longest noun that starts here; gives its length in words, 0 for none."""
        for length in range(min(self._longest, len(words) - start), 0, -1):
            piece = words[start : start + length]
            noun = self.nouns.get(_key(piece))
            if noun is not None:
                found.setdefault(noun)
                return length
        return 0


def _key(words: Sequence[str]) -> str:
    """Join words, the last one in the singular."""
    return " ".join([*words[:-1], singular(words[-1])]) if words else ""


def singular(word: str) -> str:
    """Give a noun's singular by rule.

    A noun that ends in s in the singular may lose it, in the list as in captions, so that it is found all the same.

    Args:
        word: A word in lower case.

    Returns:
        The singular.

    Example:
        >>> [singular(word) for word in ("dogs", "benches", "ponies", "people", "grass", "bus")]
        ['dog', 'bench', 'pony', 'person', 'grass', 'bus']
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith(_ES_ENDINGS):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
