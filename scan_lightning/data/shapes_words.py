"""The words of the generated benchmark `shapes`: categories, which of them are seen, synonyms, colours and parents."""

from __future__ import annotations

from dataclasses import dataclass

from scan_lightning.types import ClassHierarchy, Vocabulary

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (205, 30, 35),
    "orange": (245, 130, 20),
    "yellow": (248, 220, 40),
    "green": (20, 145, 60),
    "blue": (35, 70, 205),
    "purple": (130, 45, 170),
    "grey": (120, 120, 124),
    "white": (240, 240, 242),
}
"""Paint of the things, RGB before lighting."""

SHAPE_NAMES = ("square", "triangle", "star", "cross", "ring", "disc")
"""Outlines that the scene generator can draw."""


@dataclass(frozen=True, kw_only=True)
class Category:
    """One category of `shapes`.

    Args:
        name: Display name.
        seen: Whether the training vocabulary holds it.
        synonyms: Further names.
        colour: For things a key of `COLOURS`; empty for stuff.
        shape: For things one of `SHAPE_NAMES`; empty for stuff.
        surroundings: Names of the stuff that the thing must stand on; empty means any. Categories of equal colour and
            shape are told apart by this alone.
        parents: Names of categories that are more general, for SG-IoU.
        paint: Colour of the category in drawings, RGB; None takes it from ``colour`` and ``shape``.
    """

    name: str
    seen: bool
    synonyms: tuple[str, ...] = ()
    colour: str = ""
    shape: str = ""
    surroundings: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    paint: RGB | None = None

    @property
    def is_stuff(self) -> bool:
        """Whether the category is a texture rather than a countable thing."""
        return not self.shape

    @property
    def words(self) -> tuple[str, ...]:
        """The name and its synonyms."""
        return (self.name, *self.synonyms)

    def drawing_colour(self) -> RGB:
        """Return the category's colour in label map drawings: things of one colour differ in brightness by shape."""
        if self.paint is not None:
            return self.paint
        factor = 1.0 - 0.11 * SHAPE_NAMES.index(self.shape)
        red, green, blue = COLOURS[self.colour]
        return (round(red * factor), round(green * factor), round(blue * factor))


def _painted(colour: str, shape: str, *, seen: bool) -> Category:
    """Return the category of one colour and shape, "red star" for instance."""
    synonyms = (f"{colour} plus sign",) if shape == "cross" else (f"{colour} hoop",) if shape == "ring" else ()
    parents = ("star",) if shape == "star" else ()
    return Category(name=f"{colour} {shape}", seen=seen, synonyms=synonyms, colour=colour, shape=shape, parents=parents)


_STUFF = (
    Category(name="sky", seen=True, synonyms=("clouds",), paint=(120, 180, 240)),
    Category(name="water", seen=True, synonyms=("sea",), paint=(20, 90, 130)),
    Category(name="grass", seen=True, synonyms=("lawn",), paint=(90, 170, 70)),
    Category(name="sand", seen=True, synonyms=("beach",), paint=(225, 200, 140)),
    Category(name="road", seen=True, synonyms=("street",), paint=(70, 70, 75)),
    Category(name="wall", seen=True, synonyms=("plaster wall",), paint=(225, 165, 150)),
    Category(name="brick wall", seen=False, synonyms=("bricks",), parents=("wall",), paint=(150, 75, 60)),
    Category(name="snow", seen=False, synonyms=("snow field",), paint=(235, 240, 255)),
)

_LOOK_ALIKES = (
    Category(name="buoy", seen=True, colour="white", shape="disc", surroundings=("water",), paint=(255, 0, 128)),
    Category(name="ball", seen=True, colour="white", shape="disc", surroundings=("grass",), paint=(200, 0, 255)),
    Category(name="balloon", seen=False, colour="white", shape="disc", surroundings=("sky",), paint=(255, 120, 255)),
    Category(
        name="sail",
        seen=True,
        synonyms=("sailing boat",),
        colour="white",
        shape="triangle",
        surroundings=("water",),
        paint=(0, 255, 255),
    ),
    Category(
        name="tent", seen=False, colour="white", shape="triangle", surroundings=("grass", "sand"), paint=(0, 180, 180)
    ),
)

_SEEN_PAINTED = (
    ("red", "square"),
    ("blue", "square"),
    ("green", "triangle"),
    ("orange", "triangle"),
    ("yellow", "star"),
    ("purple", "star"),
    ("red", "cross"),
    ("green", "cross"),
    ("blue", "ring"),
    ("yellow", "ring"),
)
_UNSEEN_PAINTED = (
    ("green", "square"),
    ("purple", "square"),
    ("yellow", "triangle"),
    ("blue", "triangle"),
    ("red", "star"),
    ("yellow", "cross"),
    ("orange", "ring"),
    ("purple", "ring"),
)

CATEGORIES: tuple[Category, ...] = (
    *_STUFF,
    *_LOOK_ALIKES,
    Category(name="star", seen=True, colour="grey", shape="star", paint=(120, 120, 124)),
    *(_painted(colour, shape, seen=True) for colour, shape in _SEEN_PAINTED),
    *(_painted(colour, shape, seen=False) for colour, shape in _UNSEEN_PAINTED),
)
"""All categories of `shapes` in label order."""


def shapes_vocabulary() -> Vocabulary:
    """Return the words of `shapes`: 32 categories, 20 of them seen.

    Every colour and every shape of an unseen thing occurs among the seen things, so that unseen categories lie close to
    seen ones.

    Example:
        >>> vocabulary = shapes_vocabulary()
        >>> vocabulary.num_classes, len(vocabulary.seen_indices)
        (32, 20)
    """
    return Vocabulary(
        names=tuple(category.name for category in CATEGORIES),
        synonyms=tuple(category.words for category in CATEGORIES),
        seen=tuple(category.seen for category in CATEGORIES),
        palette=tuple(category.drawing_colour() for category in CATEGORIES),
    )


def shapes_hierarchy() -> ClassHierarchy:
    """Return the parents for SG-IoU: a plain grey "star" is parent of the painted stars, "wall" of "brick wall".

    Example:
        >>> names = shapes_vocabulary().names
        >>> {names[child]: [names[p] for p in parents] for child, parents in shapes_hierarchy().parents.items()}
        {'brick wall': ['wall'], 'yellow star': ['star'], 'purple star': ['star'], 'red star': ['star']}
    """
    labels = {category.name: label for label, category in enumerate(CATEGORIES)}
    parents = {
        labels[category.name]: tuple(labels[parent] for parent in category.parents)
        for category in CATEGORIES
        if category.parents
    }
    return ClassHierarchy(num_classes=len(CATEGORIES), parents=parents)


def look_alike_groups() -> tuple[tuple[int, ...], ...]:
    """Return the labels of categories that are drawn alike and differ by their surroundings alone, group by group.

    Example:
        >>> names = shapes_vocabulary().names
        >>> [[names[label] for label in group] for group in look_alike_groups()]
        [['buoy', 'ball', 'balloon'], ['sail', 'tent']]
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for label, category in enumerate(CATEGORIES):
        if category.surroundings:
            groups.setdefault((category.colour, category.shape), []).append(label)
    return tuple(tuple(group) for group in groups.values())
