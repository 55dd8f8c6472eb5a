"""Turning one published label file, and where needed its image, into converted ones."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scan_lightning.data.images import ImageFileError, read_label
from scan_lightning.data.layout import ImagePair
from scan_lightning.data.source import FolderSource, LabelReader
from scan_lightning.files import write_whole
from scan_lightning.types import IGNORE_INDEX

JPEG_QUALITY = 95
"""Of images that were made smaller; the others are copied byte by byte."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One label file to make.

    Attributes:
        pair: The published files.
        label: The label file to write.
        image: The image to write, or None where both layouts share the images.
        compare: Whether the label file is there already, made by something else, and only has to be compared.
    """

    pair: ImagePair
    label: Path
    image: Path | None = None
    compare: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job.

    Attributes:
        written: Whether a label file was written.
        problem: What was wrong with a file, empty if nothing.
    """

    written: bool = False
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Does jobs; it can be sent to other processes.

    Attributes:
        label_table: For each published value its label, see `FolderSource`.
        reader: Reads a published label file.
        shorter_side: What images and labels are reduced to, or None.
        ignore_value: What pixels without label are in converted files; above 255 these have 16 bits.
        alphabetical_table: For each value in a file of the other class order its label; None where there is one order.
    """

    label_table: NDArray[np.int64]
    reader: LabelReader
    shorter_side: int | None
    ignore_value: int
    alphabetical_table: NDArray[np.int64] | None = None

    def __call__(self, job: Job) -> Outcome:
        """Do a job.

        Args:
            job: Its label file has a suffix that tells the format, ``.png`` or ``.tif``.

        Returns:
            What became of it; a published file that cannot be read is a problem, not an error.

        Raises:
            OSError: If a file cannot be written; no part of it remains.
        """
        try:
            image, labels = self._read(job)
            if job.compare:
                return Outcome(problem=self._difference(job.label, labels))
        except (ImageFileError, FileNotFoundError) as error:
            return Outcome(problem=str(error))
        if job.image is not None:
            write_whole(job.image, image)
        write_whole(job.label, encode_labels(labels, ignore_value=self.ignore_value, suffix=job.label.suffix))
        return Outcome(written=True)

    def _read(self, job: Job) -> tuple[bytes, NDArray[np.int64]]:
        """Give the content of the image file to write, empty if there is none to write, and the labels."""
        source = FolderSource(
            [job.pair], label_table=self.label_table, reader=self.reader, shorter_side=self.shorter_side
        )
        if job.image is None:
            return b"", source.read_labels(_label_of(job.pair))
        sample = source[0]
        labels = np.asarray(sample.label_map, dtype=np.int64)
        with Image.open(job.pair.image) as header:
            reduced = self.shorter_side is not None and min(header.size) > self.shorter_side
        if not reduced:
            return job.pair.image.read_bytes(), labels
        content = BytesIO()
        Image.fromarray(sample.image).save(content, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return content.getvalue(), labels

    def _difference(self, path: Path, labels: NDArray[np.int64]) -> str:
        """Say how a converted label file differs from what would be written, empty if it does not."""
        values = read_label(path)
        expected = to_file_values(labels, ignore_value=self.ignore_value)
        if values.shape != expected.shape:
            return f"{path}: expected the size {expected.shape}, got {values.shape}; another tool wrote it"
        differing = int((values != expected).sum())
        if not differing:
            return ""
        table = self.alphabetical_table
        if table is not None and values.max() < len(table) and (table[values] == labels).all():
            return f"{path}: expected the released order of the classes, got the alphabetical one, of another tool"
        return f"{path}: {differing} of {values.size} pixels differ from the published labels; another tool wrote it"


def to_file_values(labels: NDArray[np.int64], *, ignore_value: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Turn labels into the values of a converted label file.

    Args:
        labels: Labels from 0 to below ``ignore_value``, or IGNORE_INDEX.
        ignore_value: What IGNORE_INDEX becomes.

    Returns:
        The values, uint8 if all fit, else uint16.
    """
    values = np.where(labels == IGNORE_INDEX, ignore_value, labels)
    return values.astype(np.uint8) if ignore_value <= 255 else values.astype(np.uint16)


def encode_labels(labels: NDArray[np.int64], *, ignore_value: int, suffix: str) -> bytes:
    """Make a label file, without loss.

    Args:
        labels: int64 (H, W), as for `to_file_values`.
        ignore_value: What IGNORE_INDEX becomes.
        suffix: ".png" or ".tif" (compressed without loss, by deflate).

    Returns:
        The file's content.

    Raises:
        ValueError: If the suffix is another.
    """
    if suffix not in (".png", ".tif"):
        raise ValueError(f"suffix: expected .png or .tif, got {suffix!r}")
    content = BytesIO()
    picture = Image.fromarray(to_file_values(labels, ignore_value=ignore_value))
    if suffix == ".png":
        picture.save(content, "PNG")
    else:
        picture.save(content, "TIFF", compression="tiff_adobe_deflate")
    return content.getvalue()


def _label_of(pair: ImagePair) -> Path:
    if pair.label is None:
        raise ValueError(f"{pair.image}: expected an image with a label file, got one without")
    return pair.label
