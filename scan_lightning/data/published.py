"""Scores that were published, for tables that mark them as such. Nothing here was measured by this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from scan_lightning.data.benchmarks import load_benchmark
from scan_lightning.data.vocabulary import read_json

_FOLDER = Path(str(files("scan_lightning"))) / "data" / "published"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One method's published scores.

    Attributes:
        method: Its name, "SCAN".
        model: The CLIP it stands on, "ViT-B/16".
        backbone: The same as the name of a folder of settings, "vit_b16".
        scores: Fractions in [0, 1] by the benchmark's short name.
        metric: What they are, by the name that this project's rows use, "miou_any".
        publication: Where they stand.
    """

    method: str
    model: str
    backbone: str
    scores: Mapping[str, float]
    metric: str
    publication: str

    @property
    def title(self) -> str:
        """Method and model."""
        return f"{self.method} {self.model}"


@cache
def load_published() -> tuple[PublishedRow, ...]:
    """Read all published scores that the package knows.

    Returns:
        The rows, in the order of the files.

    Raises:
        ValueError: If a benchmark is unknown or a score is outside [0, 100] percent.

    Example:
        >>> [row.scores["a150"] for row in load_published() if row.title == "SCAN ViT-B/16"]
        [0.308]
    """
    rows = []
    for path in sorted(_FOLDER.glob("*.json")):
        content = read_json(path)
        for entry in content["rows"]:
            for short, value in entry["scores"].items():
                if load_benchmark(short).short != short or not 0 <= value <= 100:
                    raise ValueError(f"{path}: expected percent by a benchmark's short name, got {short}: {value}")
            rows.append(
                PublishedRow(
                    method=entry["method"],
                    model=entry["model"],
                    backbone=entry["backbone"],
                    scores={short: round(value / 100, 6) for short, value in entry["scores"].items()},
                    metric=content["metric"],
                    publication=content["publication"],
                )
            )
    return tuple(rows)
