"""Nouns of captions."""

import json
from pathlib import Path

import pytest

from scan_lightning.data.caption_words import NounFinder, read_captions, singular
from scan_lightning.types import Vocabulary

FINDER = NounFinder.of_words(["dog", "hot dog", "tennis racket", "bench", "person", "grass", "Dog", "traffic lights"])


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("Two dogs on a bench.", ("dog", "bench")),
        ("A person eats a hot dog; another hot dog waits", ("person", "hot dog")),
        ("PEOPLE with tennis rackets on the grass", ("person", "tennis racket", "grass")),
        ("a hotdog and a doghouse", ()),
        ("one traffic light", ("traffic lights",)),
        ("", ()),
    ],
)
def test_find_takes_the_longest_noun_in_any_number(caption: str, nouns: tuple[str, ...]) -> None:
    assert FINDER.find([caption]) == nouns


def test_find_takes_every_regular_plural_for_its_noun() -> None:
    nouns = ["shoe", "cookie", "tree", "axe", "box", "suitcase", "vase", "tie", "glass", "bus"]
    plurals = "shoes, cookies, trees, axes, boxes, suitcases, vases, ties, glasses, buses"
    assert NounFinder.of_words(nouns).find([plurals]) == tuple(nouns)
    assert NounFinder.of_words(nouns).find([" ".join(nouns)]) == tuple(nouns)


def test_find_prefers_a_listed_noun_to_the_plural_of_another() -> None:
    assert NounFinder.of_words(["axe", "ax"]).find(["an ax, an axe"]) == ("ax", "axe")


def test_find_joins_captions_without_repeating() -> None:
    assert FINDER.find(["a dog", "a bench and a dog"]) == ("dog", "bench")


def test_vocabularies_give_names_and_synonyms() -> None:
    vocabulary = Vocabulary(names=("car", "sky"), synonyms=(("car", "motor car"), ("sky",)))
    assert NounFinder.of_vocabularies([vocabulary]).find(["motor cars under a sky, a car"]) == (
        "motor car",
        "sky",
        "car",
    )


@pytest.mark.parametrize(
    ("plural", "expected"),
    [("boxes", "box"), ("buses", "bus"), ("cities", "city"), ("glass", "glass"), ("men", "man")],
)
def test_singular(plural: str, expected: str) -> None:
    assert singular(plural) == expected


def test_read_captions_groups_by_image(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    images = [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}, {"id": 4, "file_name": "c.jpg"}]
    annotations = [{"image_id": 7, "caption": "x"}, {"image_id": 3, "caption": "y"}, {"image_id": 7, "caption": "z"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    found = read_captions(path)
    assert [(image.file_name, image.captions) for image in found] == [("a.jpg", ("y",)), ("b.jpg", ("x", "z"))]
    path.write_text(json.dumps({"images": images, "annotations": [{"image_id": 9, "caption": "x"}]}))
    with pytest.raises(ValueError, match="captions in COCO's format"):
        read_captions(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_captions(tmp_path / "none.json")
