"""The note that `data prepare` leaves beside label files it has converted: what they are numbered by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from scan_lightning.data.benchmarks import Order
from scan_lightning.data.vocabulary import read_json, write_json

MARKER_NAME = "scan_lightning.json"
"""Name of the note, in the folder of the label files."""


@dataclass(frozen=True, kw_only=True)
class PreparedMarker:
    """What a folder of converted label files holds. It is written when all of them are there.

    Attributes:
        benchmark: Key of the benchmark whose labels the files have.
        split: The split.
        files: Number of label files.
        order: Order of the classes by which labels are numbered.
        shorter_side: What images and labels were reduced to, None if they keep their sizes.
    """

    benchmark: str
    split: str
    files: int
    order: Order = "released"
    shorter_side: int | None = None


def read_marker(folder: Path) -> PreparedMarker | None:
    """Read the note of a folder of label files.

    Args:
        folder: The folder.

    Returns:
        The note, or None where there is none: other tools' files have none.

    Raises:
        ValueError: If the note is damaged; the message names it.
    """
    path = folder / MARKER_NAME
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        marker = PreparedMarker(**content)
    except TypeError as error:
        raise ValueError(f"{path}: expected a note of `data prepare`, got the keys {', '.join(content)}") from error
    if marker.order not in ("released", "alphabetical"):
        raise ValueError(f"{path}: order: expected released or alphabetical, got {marker.order!r}")
    return marker


def write_marker(folder: Path, marker: PreparedMarker) -> None:
    """Write the note of a folder of label files, in one step.

    Args:
        folder: The folder; a note that is there is replaced.
        marker: What to write.
    """
    write_json(asdict(marker), folder / MARKER_NAME)
