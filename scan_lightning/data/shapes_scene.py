"""Scenes of the generated benchmark `shapes`: coloured shapes on textured stuff, a pure function of three numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from scan_lightning.data.shapes_textures import TEXTURES, FloatArray
from scan_lightning.data.shapes_words import CATEGORIES, COLOURS, Category

SPLITS = ("train", "val", "test", "clip")
"""Splits in the order of their random streams; "train" holds seen categories only, the others all of them."""

_UPPER = ("sky", "wall", "brick wall")
_LOWER = ("water", "grass", "sand", "road", "snow")
_LABELS = {category.name: label for label, category in enumerate(CATEGORIES)}
_SUPERSAMPLING = 4
_LOOK_ALIKE_WEIGHT = 3.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One generated image with its truth.

    Attributes:
        image: uint8 (S, S, 3), RGB.
        label_map: uint8 (S, S), labels of `CATEGORIES`; every pixel has one.
    """

    image: NDArray[np.uint8]
    label_map: NDArray[np.uint8]


def make_scene(*, seed: int, split: str, index: int, size: int = 128) -> Scene:
    """Generate a scene of one to three kinds of stuff and two to five things.

    Look-alike things stand wholly on the stuff that names them: the same white disc is a balloon in the sky, a buoy on
    water and a ball on grass.

    Args:
        seed: Seed of the data set, at least 0.
        split: One of `SPLITS`.
        index: Number of the scene in its split, at least 0.
        size: Side in pixels, at least 32.

    Returns:
        The scene; equal arguments give equal bits.

    Raises:
        ValueError: If the split is unknown or ``size`` is below 32.

    Example:
        >>> scene = make_scene(seed=0, split="val", index=3)
        >>> scene.image.shape, scene.label_map.shape
        ((128, 128, 3), (128, 128))
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
    if size < 32:
        raise ValueError(f"size: expected at least 32 pixels, got {size}")
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    categories = [category for category in CATEGORIES if category.seen or split != "train"]
    image, label_map = _paint_stuff(rng, [category.name for category in categories if category.is_stuff], size)
    _place_things(rng, [category for category in categories if not category.is_stuff], image, label_map)
    return Scene(image=_light(rng, image), label_map=label_map)


def _paint_stuff(rng: Generator, names: Sequence[str], size: int) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Fill the image with one to three kinds of stuff, parted by slanted or wavy borders."""
    regions = _layout(rng, size)
    upper = [name for name in _UPPER if name in names]
    lower = [name for name in _LOWER if name in names]
    first = str(rng.choice(upper if regions else names))
    image = TEXTURES[first](size, rng)
    label_map = np.full((size, size), _LABELS[first], dtype=np.uint8)
    for region, name in zip(regions, rng.choice(lower, size=len(regions), replace=False), strict=True):
        image += region[..., None] * (TEXTURES[str(name)](size, rng) - image)
        label_map[region > 0.5] = _LABELS[str(name)]
    return image, label_map


def _layout(rng: Generator, size: int) -> list[FloatArray]:
    """Draw where the second and third kind of stuff lie: coverages in [0, 1], (S, S), painted one over the other."""
    kind = rng.choice(4, p=(0.15, 0.4, 0.2, 0.25))
    if kind == 0:
        return []
    if kind == 1:
        return [_below_border(rng, size, level=rng.uniform(0.35, 0.65))]
    if kind == 2:
        return [_below_border(rng, size, level=level + rng.uniform(-0.05, 0.05)) for level in (0.34, 0.68)]
    ground = _below_border(rng, size, level=rng.uniform(0.3, 0.45))
    right = _below_border(rng, size, level=rng.uniform(0.4, 0.6)).T
    return [ground, np.minimum(ground, right)]


def _below_border(rng: Generator, size: int, *, level: float) -> FloatArray:
    """Return the coverage of what lies below a slanted, wavy border at about ``level`` of the height, (S, S)."""
    position = np.linspace(0, 1, size, dtype=np.float32)
    phases = rng.uniform(0, 2 * math.pi, size=2)
    wave = np.sin(position * rng.uniform(4, 12) + phases[0]) * rng.uniform(0, 0.03)
    slant = rng.uniform(-0.15, 0.15) * (position - 0.5)
    border = (level + slant + wave) * size
    rows = np.arange(size, dtype=np.float32)[:, None]
    return np.asarray(np.clip(rows + 0.5 - border[None, :], 0, 1), dtype=np.float32)


def _place_things(rng: Generator, things: Sequence[Category], image: FloatArray, label_map: NDArray[np.uint8]) -> None:
    """Draw two to five things at free places, in place on the image and the label map."""
    stuff_map = label_map.copy()
    present = {CATEGORIES[label].name for label in np.unique(stuff_map)}
    things = [thing for thing in things if not thing.surroundings or present.intersection(thing.surroundings)]
    weights = np.array([_LOOK_ALIKE_WEIGHT if thing.surroundings else 1.0 for thing in things])
    placed: list[tuple[float, float, float]] = []
    for chosen in rng.choice(len(things), size=rng.integers(2, 6), p=weights / weights.sum()):
        place = _free_place(rng, things[chosen], stuff_map, placed)
        if place is not None:
            placed.append(place)
            _draw_thing(rng, things[chosen], place, image, label_map)


def _free_place(
    rng: Generator, thing: Category, stuff_map: NDArray[np.uint8], placed: Sequence[tuple[float, float, float]]
) -> tuple[float, float, float] | None:
    """Search a centre (x, y) and radius in pixels that is free of other things and on the thing's surroundings."""
    size = len(stuff_map)
    allowed = np.isin(stuff_map, [_LABELS[name] for name in thing.surroundings]) if thing.surroundings else None
    for trial in range(40):
        radius = rng.uniform(10, 28 - 0.4 * trial) * size / 128
        x, y = rng.uniform(radius, size - radius, size=2)
        if any(math.hypot(x - a, y - b) < 0.95 * (radius + c) for a, b, c in placed):
            continue
        low, high = (max(0, int(value - 1.1 * radius)) for value in (y, x))
        box = slice(low, int(y + 1.1 * radius) + 1), slice(high, int(x + 1.1 * radius) + 1)
        if allowed is None or bool(allowed[box].all()):
            return float(x), float(y), float(radius)
    return None


def _draw_thing(
    rng: Generator,
    thing: Category,
    place: tuple[float, float, float],
    image: FloatArray,
    label_map: NDArray[np.uint8],
) -> None:
    """Draw one thing with rotation, shading and a darker rim, in place."""
    x, y, radius = place
    size = len(label_map)
    top, left = max(0, int(y - radius) - 2), max(0, int(x - radius) - 2)
    rows, columns = min(size, int(y + radius) + 3) - top, min(size, int(x + radius) + 3) - left
    angle = rng.uniform(-0.3, 0.3)
    outer = _coverage(thing.shape, (x - left, y - top), radius, angle, (rows, columns))
    inner = _coverage(thing.shape, (x - left, y - top), radius, angle, (rows, columns), rim=1.6 * size / 128)
    paint = np.asarray(COLOURS[thing.colour], dtype=np.float32) + rng.uniform(-8, 8, size=3).astype(np.float32)
    across = (np.arange(columns, dtype=np.float32) + left - x) / radius
    down = (np.arange(rows, dtype=np.float32)[:, None] + top - y) / radius
    light = 1.0 - 0.1 * (across + down)
    body = paint * (light * (0.62 + 0.38 * inner))[..., None]
    window = slice(top, top + rows), slice(left, left + columns)
    image[window] += outer[..., None] * (body - image[window])
    label_map[window][outer > 0.5] = _LABELS[thing.name]


def _coverage(
    shape: str,
    centre: tuple[float, float],
    radius: float,
    angle: float,
    window: tuple[int, int],
    *,
    rim: float = 0.0,
) -> FloatArray:
    """Return the share of each pixel that a shape covers, (rows, columns) in [0, 1], less a rim of that many pixels."""
    rows, columns = window
    canvas = np.zeros((rows * _SUPERSAMPLING, columns * _SUPERSAMPLING), dtype=np.uint8)
    middle = (round(centre[0] * _SUPERSAMPLING), round(centre[1] * _SUPERSAMPLING))
    if shape in ("disc", "ring"):
        cv2.circle(canvas, middle, round(radius * _SUPERSAMPLING), 255, -1)
    if shape == "ring":
        cv2.circle(canvas, middle, round(0.52 * radius * _SUPERSAMPLING), 0, -1)
    if shape in _OUTLINES:
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        points = (_OUTLINES[shape] @ turn * radius + centre) * _SUPERSAMPLING
        cv2.fillPoly(canvas, [np.round(points).astype(np.int32)], 255)
    if rim:
        width = 2 * round(rim * _SUPERSAMPLING) + 1
        canvas = cv2.erode(canvas, np.ones((width, width), dtype=np.uint8)).astype(np.uint8)
    small = cv2.resize(canvas, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _light(rng: Generator, image: FloatArray) -> NDArray[np.uint8]:
    """Vary brightness over the image, add noise and round."""
    size = len(image)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    slope = rng.uniform(-0.1, 0.1, size=2).astype(np.float32)
    light = np.float32(rng.uniform(0.84, 1.14)) + slope[0] * axis[:, None] + slope[1] * axis
    image = image * light[..., None]
    image += np.float32(rng.uniform(1.5, 6)) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _regular(count: int, radii: Sequence[float], start: float) -> NDArray[np.float64]:
    """Return ``count`` points around the origin, evenly turned from ``start``, at radii taken in rotation."""
    angles = start + 2 * math.pi * np.arange(count) / count
    lengths = np.resize(np.asarray(radii), count)
    return np.stack([np.cos(angles) * lengths, np.sin(angles) * lengths], axis=1)


_ARM = 0.32
_CROSS = [(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM), (_ARM, 1), (-_ARM, 1)]
_CROSS += [(-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)]
_OUTLINES: dict[str, NDArray[np.float64]] = {
    "square": _regular(4, (1.0,), math.pi / 4),
    "triangle": _regular(3, (1.0,), -math.pi / 2),
    "star": _regular(10, (1.0, 0.45), -math.pi / 2),
    "cross": np.array(_CROSS) / math.hypot(1, _ARM),
}
