import numpy as np
import pytest

from scan_lightning.callbacks import legend
from scan_lightning.callbacks.legend import LegendEntry, draw_legend, legend_entries, shorten, writable
from scan_lightning.types import Vocabulary

PALETTE = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=np.uint8)
WORDS = Vocabulary(names=("sky", "grass", "ball"), seen=(True, True, False))


@pytest.fixture
def no_system_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legend, "SYSTEM_FONTS", ())


def test_legend_entries_largest_first_and_ignored_last() -> None:
    label_map = np.array([[2, 2, -1, -1], [2, 0, -1, -1]])
    entries = legend_entries([label_map, np.zeros((1, 1), dtype=np.int64)], WORDS, PALETTE)
    assert [(entry.text, entry.color, entry.unseen) for entry in entries] == [
        ("ball", (0, 0, 200), True),
        ("sky", (200, 0, 0), False),
        ("ignored", None, False),
    ]


@pytest.mark.usefixtures("no_system_font")
@pytest.mark.parametrize(
    ("text", "written"),
    [("sky, blue", "sky, blue"), ("café", "cafe"), ("Brücke", "Brucke"), ("天空 sky", "?? sky")],
)
def test_writable_without_a_font_drops_accents_then_letters(text: str, written: str) -> None:
    assert writable(text, 16)[0] == written


def test_writable_keeps_what_pillows_font_can_write() -> None:
    text, font = writable("red car (parked)", 16)
    assert text == "red car (parked)"
    assert font.getname()[0] == "Aileron"


def test_writable_leaves_no_letter_without_a_glyph() -> None:
    for word in ("Straße", "天空", "дом", "🚗"):
        text, font = writable(word, 16)
        unknown = bytes(font.getmask("\uffff"))
        assert all(bytes(font.getmask(char)) != unknown for char in text)


def test_shorten_fits_the_width() -> None:
    _, font = writable("x", 16)
    text = "a very long class name, with synonyms, and more of them"
    short = shorten(text, font, 120)
    assert font.getlength(short) <= 120
    assert short.endswith("...")
    assert text.startswith(short[:-3])
    assert shorten("sky", font, 120) == "sky"


def test_shorten_without_room_leaves_the_ellipsis() -> None:
    _, font = writable("x", 16)
    assert shorten("sky", font, 1) == "..."


def test_draw_legend_keeps_width_and_shows_colors() -> None:
    entries = [LegendEntry(text=f"class {index}", color=(10 * index, 200, 3)) for index in range(20)]
    picture = draw_legend(entries, 480, 16)
    assert picture.width == 480
    shown = {tuple(color) for color in np.array(picture).reshape(-1, 3).tolist()}
    assert all(entry.color in shown for entry in entries)


def test_draw_legend_long_words_leave_the_next_column_free() -> None:
    entries = [LegendEntry(text="w" * 200, color=(255, 0, 0), unseen=True), LegendEntry(text="sky", color=(0, 255, 0))]
    pixels = np.array(draw_legend(entries, 700, 16))
    green = np.argwhere((pixels == (0, 255, 0)).all(axis=-1))
    assert green[:, 1].min() == 351  # the second of two columns, inside its outline
    assert (pixels[:26, 340:350] == 255).all()


def test_draw_legend_marks_and_explains_unseen() -> None:
    seen = draw_legend([LegendEntry(text="sky", color=(1, 2, 3))], 480, 16)
    unseen = draw_legend([LegendEntry(text="sky", color=(1, 2, 3), unseen=True)], 480, 16)
    assert unseen.height == 2 * seen.height
    assert not np.array_equal(np.array(unseen)[: seen.height], np.array(seen))


def test_draw_legend_ignored_is_hatched() -> None:
    pixels = np.array(draw_legend([LegendEntry(text="ignored", color=None)], 480, 16))
    swatch = pixels[6:20, 2:16].reshape(-1, 3)
    assert {tuple(color) for color in swatch.tolist()} == {legend.HATCH_DARK, legend.HATCH_LIGHT}
