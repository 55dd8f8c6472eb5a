"""Write words and legends into pictures: fonts that have the letters, words cut to a width, colour swatches."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from scan_lightning.types import IGNORE_INDEX, Vocabulary

INK, PAPER, MUTED = (28, 30, 34), (255, 255, 255), (110, 114, 122)
HATCH_DARK, HATCH_LIGHT = (0, 0, 0), (70, 70, 70)
UNSEEN_MARK, UNSEEN_NOTE, IGNORED = "*", "* not in the training vocabulary", "ignored"
# Tried in order for words that Pillow's own font cannot write; the first that the system has and that can wins.
SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc", "arial.ttf")

Font = ImageFont.FreeTypeFont


@dataclass(frozen=True, kw_only=True)
class LegendEntry:
    """A line of a legend.

    Args:
        text: What it says.
        color: RGB, 0 to 255; None for the hatching of ignored pixels.
        unseen: Whether the class is not in the training vocabulary.
    """

    text: str
    color: tuple[int, int, int] | None
    unseen: bool = False


def hatch(height: int, width: int) -> NDArray[np.uint8]:
    """Draw the dark diagonal stripes that stand for ignored pixels.

    Args:
        height: H.
        width: W.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    rows, columns = np.indices((height, width))
    return np.where(((rows + columns) // 4 % 2 == 0)[..., None], HATCH_DARK, HATCH_LIGHT).astype(np.uint8)


@lru_cache
def _font(size: int, name: str | None = None) -> Font | None:
    """Load Pillow's own font, or one of the system's by file name; None where the system has no such font."""
    try:
        font = ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)
    except OSError:
        return None
    return font if isinstance(font, Font) else None


def _writes(font: Font, text: str) -> bool:
    """Whether a font has a glyph for every character, by comparison with the one that it draws for unknown ones."""
    unknown = bytes(font.getmask("\uffff"))
    return all(char.isspace() or bytes(font.getmask(char)) != unknown for char in text)


def writable(text: str, size: int) -> tuple[str, Font]:
    """Find a font that has a text's letters; where none has, drop accents and put "?" for what is left.

    Args:
        text: One line.
        size: Of the font, in pixels.

    Returns:
        The text as it can be written, and the font.

    Raises:
        RuntimeError: If Pillow was built without FreeType.
    """
    default = _font(size)
    if default is None:
        raise RuntimeError("Pillow was built without FreeType, which writing words needs")
    for font in (default, *(_font(size, name) for name in SYSTEM_FONTS)):
        if font is not None and _writes(font, text):
            return text, font
    letters = (char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return "".join(char if _writes(default, char) else "?" for char in letters), default


def shorten(text: str, font: Font, width: float) -> str:
    """Cut a text to a width, with an ellipsis where something is missing.

    Args:
        text: One line.
        font: That writes it.
        width: In pixels.

    Returns:
        The text or its beginning; never wider than ``width`` unless the ellipsis alone is.
    """
    if font.getlength(text) <= width:
        return text
    fits = bisect_right(range(len(text)), width, key=lambda end: font.getlength(text[: end + 1].rstrip() + "..."))
    return text[:fits].rstrip() + "..."


def legend_entries(
    label_maps: Sequence[NDArray[np.int64]], vocabulary: Vocabulary, palette: NDArray[np.uint8]
) -> list[LegendEntry]:
    """List the classes that occur, those with the most pixels first, and ignored pixels last.

    Args:
        label_maps: At least one; labels in [0, K) or IGNORE_INDEX.
        vocabulary: K classes.
        palette: uint8 (K, 3).

    Returns:
        One entry for each class that occurs, and one for ignored pixels if there are any.
    """
    present, counts = np.unique(np.concatenate([labels.ravel() for labels in label_maps]), return_counts=True)
    entries = []
    for label in present[np.argsort(-counts, kind="stable")]:
        if label != IGNORE_INDEX:
            red, green, blue = (int(value) for value in palette[label])
            unseen = not vocabulary.seen[label]
            entries.append(LegendEntry(text=vocabulary.names[label], color=(red, green, blue), unseen=unseen))
    if IGNORE_INDEX in present:
        entries.append(LegendEntry(text=IGNORED, color=None))
    return entries


def draw_legend(entries: Sequence[LegendEntry], width: int, size: int) -> Image.Image:
    """Write entries in columns of equal width, down each column, and below what the mark of unseen classes means.

    Args:
        entries: At least one.
        width: Of the picture, in pixels. Words that do not fit are cut.
        size: Of the font, in pixels.

    Returns:
        An RGB picture, as high as it must be.
    """
    swatch, gap, line = size + 2, size // 2, round(size * 1.6)
    written = [writable(entry.text, size) for entry in entries]
    widest = min(max(font.getlength(text) for text, font in written), 16 * size)
    columns = max(1, min(len(entries), width // round(widest + swatch + 4 * gap)))
    rows = -(-len(entries) // columns)
    room = width // columns - swatch - 4 * gap
    any_unseen = any(entry.unseen for entry in entries)
    picture = Image.new("RGB", (width, (rows + any_unseen) * line), PAPER)
    draw = ImageDraw.Draw(picture)
    for index, (entry, (text, font)) in enumerate(zip(entries, written, strict=True)):
        left, middle = index // rows * (width // columns), index % rows * line + line // 2
        box = (left, middle - swatch // 2, left + swatch, middle - swatch // 2 + swatch)
        if entry.color is None:
            picture.paste(Image.fromarray(hatch(swatch, swatch)), box[:2])
        draw.rectangle(box, fill=entry.color, outline=INK)
        words = shorten(text, font, room) + (f" {UNSEEN_MARK}" if entry.unseen else "")
        draw.text((left + swatch + gap, middle), words, INK, font, "lm")
    if any_unseen:
        note, font = writable(UNSEEN_NOTE, max(10, size - 2))
        draw.text((0, rows * line + line // 2), shorten(note, font, width), MUTED, font, "lm")
    return picture
