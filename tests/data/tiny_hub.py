"""Tiny data sets of Hugging Face `datasets` for the tests: three words, images in one colour."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scan_lightning.data.base import Split
from scan_lightning.data.hub import HubDataModule
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.types import IGNORE_INDEX, Sample

WORDS = ["sky", "car", "road"]
LABELS = np.repeat(np.repeat(np.array([[0, 1], [2, 255]], np.uint8), 8, axis=0), 16, axis=1)  # 16 x 32
TRUTH = np.where(LABELS == 255, IGNORE_INDEX, LABELS.astype(np.int64))
FILES = datasets.Features({"image": datasets.Image(), "label": datasets.Image(), "name": datasets.Value("string")})


def png(pixels: NDArray[Any], palette: list[int] | None = None) -> bytes:
    """Encode an image, with a palette as one of indices."""
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def shade(value: int) -> NDArray[np.uint8]:
    """An image of the labels' size in one colour."""
    return np.full((*LABELS.shape, 3), value, np.uint8)


def rows(first: int, number: int) -> datasets.Dataset:
    """Rows whose images are told apart by their grey."""
    content = {
        "image": [{"bytes": png(shade(10 * i)), "path": None} for i in range(first, first + number)],
        "label": [{"bytes": png(LABELS), "path": None}] * number,
        "name": [f"n{i}" for i in range(first, first + number)],
    }
    return datasets.Dataset.from_dict(content, features=FILES)


def make(path: Path, cache: Path, **options: Any) -> HubDataModule:
    defaults = {
        "vocabulary": WORDS,
        "batch_size": 1,
        "val_split": None,
        "train_transform": TrainingTransform(shortest_sides=(16,), crop_size=32, flip=False, colour_jitter=False),
        "eval_transform": EvaluationTransform(min_size=None),
    }
    return HubDataModule(path=str(path), cache_dir=cache, **{**defaults, **options})


def samples(data: HubDataModule, split: Split = "test") -> list[Sample]:
    dataset: Any = data.build_dataset(split)
    return list(dataset) if data.dataset.streaming else [dataset[index] for index in range(len(dataset))]


def table(tmp_path: Path, **columns: Any) -> Path:
    """Write one Parquet file of rows whose columns are taken as they are."""
    folder = tmp_path / "table"
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(columns).to_parquet(folder / "test.parquet")
    return folder
