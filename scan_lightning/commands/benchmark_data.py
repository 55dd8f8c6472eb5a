"""``scan-lightning benchmark data``: training crops per second and worker, beside a plain PIL and NumPy loop."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scan_lightning.data.base import TrainingDataset
from scan_lightning.data.layout import ImagePair
from scan_lightning.data.source import FolderSource
from scan_lightning.data.transforms import PADDING_GREY, TrainingTransform, resized_shape
from scan_lightning.data.worker_memory import keep_freed_memory
from scan_lightning.types import IGNORE_INDEX

NAME = "data"
HELP = "Images per second and worker: our reading and augmentation beside a plain PIL and NumPy loop."
DESCRIPTION = (
    "Make JPEGs and label maps of COCO's size (640x480) in a temporary folder and time how fast 640x640 training crops "
    "of them load: by our reading and augmentation, and by a plain loop that does the same with PIL and NumPy. Both "
    "take turns within one run; the table gives medians over the turns."
)
CLASSES = 171
SIZE = (480, 640)
LABEL_TABLE = np.where(np.arange(256) < CLASSES, np.arange(256), IGNORE_INDEX)
"""For each value in a label file the label, as the benchmarks have such tables."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the measurement's options.

    Args:
        parser: Of the measurement.
    """
    add = parser.add_argument
    add(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="loading processes of each loop; 0 loads in the main one (1)",
    )
    add("--images", type=int, default=64, metavar="N", help="images per turn (64)")
    add("--repeats", type=int, default=5, metavar="N", help="turns of each loop (5)")
    add("--no-colour-jitter", action="store_true", help="leave the colours alone in both loops")


def run(options: argparse.Namespace) -> None:
    """Measure and print.

    Args:
        options: As `add_options` describes them.

    Raises:
        ValueError: If a number is too small.
    """
    for name, least in (("workers", 0), ("images", 1), ("repeats", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"{name}: expected at least {least}, got {getattr(options, name)}")
    transform = TrainingTransform(colour_jitter=not options.no_colour_jitter)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # per worker means per core: PIL and NumPy have no threads either
    try:
        with tempfile.TemporaryDirectory(prefix="scan-lightning-benchmark-") as folder:
            files = write_samples(Path(folder), options.images)
            size = statistics.mean(image.stat().st_size for image, _ in files)
            pairs = [ImagePair(image=image, label=label) for image, label in files]
            ours = TrainingDataset(FolderSource(pairs, label_table=LABEL_TABLE), transform=transform)
            plain = PlainDataset(files, transform)
            rates = measure([ours, plain], workers=options.workers, repeats=options.repeats)
    finally:
        cv2.setNumThreads(threads)
    title = f"{transform.crop_size}x{transform.crop_size} training crops, JPEGs of {size / 1000:.0f} kB on average"
    _report(rates[0], rates[1], title)


def write_samples(folder: Path, count: int) -> list[tuple[Path, Path]]:
    """Write made-up images of COCO's size with label maps of COCO-Stuff's classes.

    Smooth colours with noise, which as JPEG take about as many bytes as COCO's images do (155 kB on average).

    Args:
        folder: Where to.
        count: How many.

    Returns:
        Image and label file of each.
    """
    rng = np.random.default_rng(0)
    height, width = SIZE
    files = []
    for number in range(count):
        colours = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        noise = rng.integers(-28, 29, (height, width, 3), dtype=np.int16)
        labels = Image.fromarray(rng.integers(0, CLASSES, (6, 8), dtype=np.uint8))
        image, label = folder / f"{number:06d}.jpg", folder / f"{number:06d}.png"
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(image, quality=90)
        labels.resize((width, height), Image.Resampling.NEAREST).save(label)
        files.append((image, label))
    return files


def measure(datasets: Sequence[Dataset[Any]], *, workers: int, repeats: int) -> list[list[float]]:
    """Time datasets in turn, after one turn each that does not count.

    Args:
        datasets: Sized datasets, all of one length.
        workers: Loading processes, 0 for none.
        repeats: Turns of each dataset.

    Returns:
        For each dataset the samples per second and worker of every turn.
    """
    loaders = []
    for dataset in datasets:
        prepare = keep_freed_memory if isinstance(dataset, TrainingDataset) else None  # as in our DataModules
        options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
        loaders.append(DataLoader(dataset, batch_size=None, worker_init_fn=prepare, **options))
    rates: list[list[float]] = [[] for _ in loaders]
    for turn in range(repeats + 1):
        order = range(len(loaders)) if turn % 2 else reversed(range(len(loaders)))
        for index in order:
            start = time.perf_counter()
            samples = sum(1 for _ in loaders[index])
            seconds = time.perf_counter() - start
            if turn:
                rates[index].append(samples / seconds / max(1, workers))
    return rates


class PlainDataset(Dataset[tuple[Tensor, Tensor]]):
    """The same augmentation as one writes it with PIL and NumPy: resize the whole image, then cut.

    Scale and window are the same draws as in `TrainingDataset`; colours and flip are drawn from the same distribution.

    Args:
        files: Image and label file of each sample.
        transform: What to do.
    """

    def __init__(self, files: Sequence[tuple[Path, Path]], transform: TrainingTransform) -> None:
        self._files = files
        self._transform = transform

    def __len__(self) -> int:
        """Count the samples."""
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Load and augment one sample: image uint8 (3, S, S) and label map int64 (S, S)."""
        options = self._transform
        rng = np.random.default_rng([0, 0, index])
        image_file, label_file = self._files[index]
        image, label = Image.open(image_file).convert("RGB"), Image.open(label_file)
        shortest = int(rng.choice(options.shortest_sides))
        height, width = resized_shape(image.height, image.width, shortest=shortest, longest=options.longest_side)
        side = options.crop_size
        rows, columns = min(height, side), min(width, side)
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        box = (left, top, left + columns, top + rows)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR).crop(box))
        target = np.asarray(label.resize((width, height), Image.Resampling.NEAREST).crop(box))
        if options.colour_jitter:
            pixels = plain_jitter(pixels, rng)
        if options.flip and rng.random() < 0.5:
            pixels, target = pixels[:, ::-1], target[:, ::-1]
        padded = np.full((3, side, side), PADDING_GREY, dtype=np.uint8)
        padded[:, :rows, :columns] = pixels.transpose(2, 0, 1)
        labels = np.full((side, side), IGNORE_INDEX, dtype=np.int64)
        labels[:rows, :columns] = LABEL_TABLE[target]
        return torch.from_numpy(padded), torch.from_numpy(labels)


def plain_jitter(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Jitter colours as SSD does, with PIL and NumPy (see `ssd_colour_jitter`).

    Args:
        pixels: uint8 (H, W, 3), RGB.
        rng: Source of the draws.

    Returns:
        uint8 (H, W, 3).
    """
    if rng.random() < 0.5:
        pixels = _linear(pixels, 1.0, float(rng.uniform(-32, 32)))
    contrast_first = rng.random() < 0.5
    if contrast_first and rng.random() < 0.5:
        pixels = _linear(pixels, float(rng.uniform(0.5, 1.5)), 0.0)
    factor = float(rng.uniform(0.5, 1.5)) if rng.random() < 0.5 else 1.0
    degrees = float(rng.uniform(-36, 36)) if rng.random() < 0.5 else 0.0  # 18 of OpenCV's 180
    if factor != 1 or degrees:
        hsv = np.array(Image.fromarray(pixels).convert("HSV"))
        if factor != 1:
            hsv[..., 1] = np.clip(hsv[..., 1] * np.float32(factor), 0, 255).astype(np.uint8)
        hsv[..., 0] += np.uint8(round(degrees / 360 * 256) % 256)
        pixels = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    if not contrast_first and rng.random() < 0.5:
        pixels = _linear(pixels, float(rng.uniform(0.5, 1.5)), 0.0)
    return pixels


def _linear(pixels: NDArray[np.uint8], factor: float, shift: float) -> NDArray[np.uint8]:
    """Multiply and add in float32, clipped."""
    values = np.clip(pixels.astype(np.float32) * np.float32(factor) + np.float32(shift), 0, 255)
    return np.asarray(values, dtype=np.uint8)


def _report(ours: Sequence[float], plain: Sequence[float], title: str) -> None:
    """Print the table."""
    table = Table(title=title)
    for column in ("loop", "images/s per worker (median)", "from", "to", "ratio"):
        table.add_column(column, justify="left" if column == "loop" else "right")
    base = statistics.median(plain)
    for name, rates in (("scan-lightning", ours), ("plain PIL + NumPy", plain)):
        middle = statistics.median(rates)
        table.add_row(name, f"{middle:.1f}", f"{min(rates):.1f}", f"{max(rates):.1f}", f"{middle / base:.2f}")
    Console().print(table)
