"""Reading images and label maps safely, with errors that name the file."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""File name endings, in lower case, that are taken for images."""
_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


class ImageFileError(ValueError):
    """A file is no image that can be read, or not of the kind expected; the message names it."""


def read_image(path: str | Path, content: bytes | None = None, *, upright: bool = True) -> NDArray[np.uint8]:
    """Read an image of any common kind as RGB.

    The orientation tag is applied, unless told otherwise. Palettes are expanded, transparency is laid over black, CMYK
    converted, and 16-bit images are divided by 256.

    Args:
        path: An image file that Pillow reads.
        content: The file's content, where it does not lie on disk; ``path`` then only names it in errors.
        upright: Whether to apply the orientation tag; without, pixels come as they are stored.

    Returns:
        uint8 (H, W, 3), RGB 0 to 255.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageFileError: If the file is truncated, no image, or has more pixels than Pillow's limit for
            decompression bombs.
    """
    with _opened(path, content, "an image") as image:
        turned = _turned(image) if upright else image
        if turned.mode.startswith(("I", "F")):
            return _grey_to_rgb(np.asarray(turned), turned.mode)
        if turned.has_transparency_data:
            layer = turned.convert("RGBA")
            turned = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
        return np.array(turned if turned.mode == "RGB" else turned.convert("RGB"))


def read_image_of(path: str | Path, size: tuple[int, ...], content: bytes | None = None) -> NDArray[np.uint8]:
    """Read an image turned as its label map or mask is: some were drawn on the stored pixels.

    Args:
        path: As for `read_image`.
        size: (H, W) of the label map.
        content: As for `read_image`.

    Returns:
        uint8 (H', W', 3), RGB: the image as it is shown, unless only the stored pixels have the size.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageFileError: As `read_image`.
    """
    image = read_image(path, content)
    if image.shape[:2] == size:
        return image
    stored = read_image(path, content, upright=False)
    return stored if stored.shape[:2] == size else image


def read_label(path: str | Path, content: bytes | None = None) -> NDArray[np.integer[Any]]:
    """Read a label map; palette images give their indices.

    Args:
        path: A single-channel image file of 1, 8, 16 or 32 bits, or a palette image.
        content: The file's content, where it does not lie on disk; ``path`` then only names it in errors.

    Returns:
        Integers (H, W), the values in the file: uint8, uint16 or int32.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageFileError: If the file is truncated, no image, too large or has colour channels.
    """
    with _opened(path, content, "a label map") as image:
        if image.mode not in _LABEL_MODES:
            raise ImageFileError(
                f"{path}: expected a label map with one channel (palette or grey, 8 to 32 bits), got mode {image.mode}"
            )
        values = np.array(image)
        return values.astype(np.uint8) if values.dtype == bool else values


@contextmanager
def _opened(path: str | Path, content: bytes | None, expected: str) -> Iterator[Image.Image]:
    """Open and decode an image; whatever Pillow raises about a bad file becomes an ImageFileError."""
    if content is None and not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected {expected}, found no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path if content is None else io.BytesIO(content)) as image:
                image.load()
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageFileError(
            f"{path}: expected {expected} of at most {Image.MAX_IMAGE_PIXELS} pixels (Pillow's limit), got a larger one"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageFileError(f"{path}: expected {expected}, got a file that is none or of an unknown format") from error
    except ImageFileError:
        raise
    except (OSError, SyntaxError, EOFError, ValueError, IndexError, struct.error, zlib.error) as error:
        raise ImageFileError(f"{path}: expected {expected}, but the file is truncated or damaged ({error})") from error


def _turned(image: Image.Image) -> Image.Image:
    """Apply the orientation tag; an image without one is not copied."""
    return image if image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else ImageOps.exif_transpose(image)


def _grey_to_rgb(values: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    """Reduce a deep grey image to 8 bits: 16-bit values by 256; floats are taken as 0 to 255."""
    if mode != "F":
        values = values // 256
    grey = np.clip(values, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
