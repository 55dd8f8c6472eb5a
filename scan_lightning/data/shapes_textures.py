"""Procedural textures of the generated benchmark `shapes`, one function per kind of stuff.

Each takes the side of a square image in pixels and a random generator and returns float32 (S, S, 3), RGB 0 to 255,
before lighting and noise. One unit is 1/128 of the side, so that a texture looks alike at every size.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Colour = tuple[float, float, float]


def _smooth_noise(size: int, rng: Generator, *, rows: int, columns: int) -> FloatArray:
    """Return smooth noise of about unit variance, (S, S): a coarse grid of normal draws, interpolated."""
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _grain(size: int, rng: Generator) -> FloatArray:
    """Return independent normal noise, (S, S)."""
    return rng.standard_normal((size, size), dtype=np.float32)


def _mix(weight: FloatArray, low: Colour, high: Colour) -> FloatArray:
    """Blend two colours by ``weight`` in [0, 1], (S, S) -> (S, S, 3)."""
    start = np.asarray(low, dtype=np.float32)
    return start + weight[..., None] * (np.asarray(high, dtype=np.float32) - start)


def _axes(size: int) -> tuple[FloatArray, FloatArray]:
    """Return rows (S, 1) and columns (1, S) in units of 1/128 of the side."""
    axis = np.arange(size, dtype=np.float32) * np.float32(128 / size)
    return axis[:, None], axis[None, :]


def _sky(size: int, rng: Generator) -> FloatArray:
    """Blue, paler towards the bottom, with soft white clouds."""
    rows, _ = _axes(size)
    image = _mix(np.broadcast_to(rows / 128, (size, size)), (75, 150, 235), (170, 212, 250))
    clouds = _smooth_noise(size, rng, rows=9, columns=5) + 0.5 * _smooth_noise(size, rng, rows=16, columns=10)
    cover = np.clip((clouds - rng.uniform(0.3, 1.1)) * 0.7, 0, 0.8)[..., None]
    return np.asarray(image + cover * (np.float32(250) - image), dtype=np.float32)


def _water(size: int, rng: Generator) -> FloatArray:
    """Dark teal with horizontal waves and highlights on their crests."""
    rows, columns = _axes(size)
    bend = 2.2 * _smooth_noise(size, rng, rows=10, columns=7)
    wave = np.sin(rows * rng.uniform(0.7, 0.95) + bend + 0.05 * columns).astype(np.float32)
    image = _mix(0.5 + 0.5 * wave, (8, 62, 98), (28, 118, 148))
    crests = np.clip(wave + 0.6 * _smooth_noise(size, rng, rows=40, columns=14) - 1.15, 0, 0.9)[..., None]
    return np.asarray(image + crests * (np.float32(225) - image), dtype=np.float32)


def _grass(size: int, rng: Generator) -> FloatArray:
    """Mid green with short upright blades."""
    blades = _smooth_noise(size, rng, rows=26, columns=90)
    patches = _smooth_noise(size, rng, rows=6, columns=6)
    weight = np.clip(0.5 + 0.3 * blades + 0.1 * patches, 0, 1)
    return _mix(weight, (48, 112, 34), (142, 196, 84))


def _sand(size: int, rng: Generator) -> FloatArray:
    """Yellowish tan with fine grains and faint slanted ripples."""
    rows, columns = _axes(size)
    bend = 1.5 * _smooth_noise(size, rng, rows=5, columns=5)
    ripples = np.sin(rows * 0.55 + columns * rng.uniform(-0.25, 0.25) + bend).astype(np.float32)
    return _mix(np.clip(0.55 + 0.17 * ripples + 0.16 * _grain(size, rng), 0, 1), (196, 164, 100), (248, 226, 166))


def _road(size: int, rng: Generator) -> FloatArray:
    """Dark asphalt with speckles and dashed white lane markings."""
    rows, columns = _axes(size)
    weight = np.clip(0.4 + 0.2 * _grain(size, rng) + 0.1 * _smooth_noise(size, rng, rows=5, columns=5), 0, 1)
    image = _mix(weight, (44, 44, 50), (96, 96, 100))
    lane = rng.uniform(34, 46)
    across = (rows + columns * rng.uniform(-0.2, 0.2) + rng.uniform(0, lane)) % lane
    along = (columns + rng.uniform(0, 24)) % 26
    dashes = ((across < 2.6) & (along < 14)).astype(np.float32)[..., None]
    return np.asarray(image + 0.85 * dashes * (np.float32(232) - image), dtype=np.float32)


def _wall(size: int, rng: Generator) -> FloatArray:
    """Salmon plaster, almost plain, with faint smears."""
    smears = _smooth_noise(size, rng, rows=7, columns=7) + 0.4 * _grain(size, rng)
    return _mix(np.clip(0.5 + 0.16 * smears, 0, 1), (202, 142, 126), (240, 190, 174))


def _brick_wall(size: int, rng: Generator) -> FloatArray:
    """Reddish bricks in running bond with pale mortar."""
    rows, columns = _axes(size)
    height = rng.uniform(9, 12)
    width = 2.1 * height
    course = np.floor((rows + rng.uniform(0, height)) / height)
    shifted = columns + rng.uniform(0, width) + width / 2 * (course % 2)
    brick = np.floor(shifted / width)
    shade = (np.sin(course * 12.9898 + brick * 78.233) * 43758.5453) % 1.0
    image = _mix((0.2 + 0.6 * shade + 0.1 * _grain(size, rng)).astype(np.float32), (122, 48, 36), (190, 98, 72))
    mortar = ((rows + 0 * columns - course * height) % height < 1.7) | (shifted - brick * width < 1.7)
    return np.where(mortar[..., None], np.array([206, 196, 184], dtype=np.float32), image).astype(np.float32)


def _snow(size: int, rng: Generator) -> FloatArray:
    """White with soft bluish drifts and sparkles."""
    drifts = _smooth_noise(size, rng, rows=8, columns=4) + 0.5 * _smooth_noise(size, rng, rows=20, columns=8)
    weight = np.clip(0.72 + 0.24 * drifts + 0.06 * _grain(size, rng), 0, 1)
    return _mix(weight, (158, 182, 222), (240, 244, 251))


TEXTURES: dict[str, Callable[[int, Generator], FloatArray]] = {
    "sky": _sky,
    "water": _water,
    "grass": _grass,
    "sand": _sand,
    "road": _road,
    "wall": _wall,
    "brick wall": _brick_wall,
    "snow": _snow,
}
"""Drawing function of each kind of stuff, by category name."""
