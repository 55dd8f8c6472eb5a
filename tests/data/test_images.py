from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scan_lightning.data.images import ImageFileError, read_image, read_label


def _save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    result = read_image(_save(Image.fromarray(pixels), tmp_path / "a.png"))
    assert result.dtype == np.uint8
    assert (result == pixels).all()
    assert (read_image(str(tmp_path / "a.png")) == pixels).all()
    result[0, 0] = 1  # the result may be written to


def test_grey_and_bilevel_get_three_channels(tmp_path: Path) -> None:
    grey = np.array([[0, 100, 255]], np.uint8)
    assert read_image(_save(Image.fromarray(grey), tmp_path / "g.png"))[0, :, 1].tolist() == [0, 100, 255]
    bilevel = Image.fromarray(grey > 50)
    assert read_image(_save(bilevel, tmp_path / "b.png"))[0, :, 2].tolist() == [0, 255, 255]


def test_16_bit_is_divided_by_256(tmp_path: Path) -> None:
    deep = np.array([[0, 300, 65535]], np.uint16)
    for name in ("d.png", "d.tif"):
        assert read_image(_save(Image.fromarray(deep), tmp_path / name)).tolist() == [[[0] * 3, [1] * 3, [255] * 3]]


def test_transparency_is_laid_over_black(tmp_path: Path) -> None:
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0]]], np.uint8)
    assert read_image(_save(Image.fromarray(rgba), tmp_path / "a.png")).tolist() == [[[200, 100, 50], [0, 0, 0]]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert read_image(_save(palette, tmp_path / "p.png")).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    clear = _save(palette, tmp_path / "t.png", transparency=0)
    assert read_image(clear).tolist() == [[[0, 0, 0], [40, 50, 60]]]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    result = read_image(_save(cmyk, tmp_path / "c.jpg"))
    assert result.shape == (8, 8, 3)
    assert (result[..., 0] > 200).all()
    assert (result[..., 1:] < 60).all()


def test_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    result = read_image(_save(Image.fromarray(pixels), tmp_path / "r.png", exif=exif))
    assert result.shape == (3, 2, 3)
    assert result[0, 1].tolist() == [255, 255, 255]


def test_labels_keep_palette_indices_and_depth(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 5]], np.uint8)
    palette = Image.fromarray(indices, mode="P")
    palette.putpalette([9, 9, 9] * 6)
    assert read_label(_save(palette, tmp_path / "p.png")).tolist() == [[0, 1, 5]]
    assert read_label(_save(Image.fromarray(indices), tmp_path / "l.png")).tolist() == [[0, 1, 5]]
    deep = np.array([[0, 846, 65535]], np.uint16)
    for name in ("d.png", "d.tif"):
        assert read_label(_save(Image.fromarray(deep), tmp_path / name)).tolist() == [[0, 846, 65535]]
    wide = np.array([[0, -1, 70000]], np.int32)
    assert read_label(_save(Image.fromarray(wide), tmp_path / "i.tif")).tolist() == [[0, -1, 70000]]
    bilevel = Image.fromarray(indices > 0)
    assert read_label(_save(bilevel, tmp_path / "b.png")).tolist() == [[0, 1, 1]]


def test_colour_label_raises(tmp_path: Path) -> None:
    path = _save(Image.new("RGB", (2, 2)), tmp_path / "colour.png")
    with pytest.raises(ImageFileError, match=r"colour\.png: expected a label map with one channel.*got mode RGB"):
        read_label(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_file_raises(tmp_path: Path, suffix: str, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = _save(Image.fromarray(pixels), tmp_path / f"cut.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageFileError, match=rf"cut\.{suffix}: expected an image"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_other_file_raises(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match=r"text\.jpg: expected an image"):
        read_image(path)
    with pytest.raises(ImageFileError, match=r"text\.jpg: expected a label map"):
        read_label(path)


def test_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png: expected an image, found no such file"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize("side", [12000, 30000])
def test_decompression_bomb_raises(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)))
    file.write(chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))
    path = tmp_path / "bomb.png"
    path.write_bytes(file.getvalue())
    with pytest.raises(ImageFileError, match=r"bomb\.png: expected an image of at most \d+ pixels"):
        read_image(path)


def test_content_is_read_in_place_of_a_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    content = _save(Image.fromarray(pixels), tmp_path / "a.png").read_bytes()
    assert (read_label("row 3", content) == pixels).all()
    assert (read_image("row 3", content)[..., 1] == pixels).all()
    with pytest.raises(ImageFileError, match=r"row 3: expected a label map, got a file that is none"):
        read_label("row 3", b"")
