"""What of the benchmarks is on disk, by the names of files alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scan_lightning.data.benchmark_files import FileLayout, scan_split, what_is_there
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import BENCHMARK_KEYS, Benchmark, FileLabels, load_benchmark
from scan_lightning.data.layout import DataLayoutError, ImagePair
from scan_lightning.data.marker import read_marker
from scan_lightning.data.registry import DATAMODULES


@dataclass(frozen=True, kw_only=True)
class SplitSurvey:
    """What is on disk of one split.

    Attributes:
        benchmark: The benchmark.
        split: Published name of the split.
        layout: Which files would be read; None where there are none.
        layouts: The layouts of which there are label files.
        pairs: Images with their label files.
        missing_images: Images that a list or a label file asks for and that are not there.
        missing_labels: Label files that are not there.
        labels_may_lack: Whether as many missing label files are usual in this layout, see `FileLayout`.
        error: Why the files cannot be read as they are; empty if they can.
    """

    benchmark: Benchmark
    split: str
    layout: FileLabels | None
    layouts: tuple[FileLabels, ...] = ()
    pairs: tuple[ImagePair, ...] = ()
    missing_images: tuple[Path, ...] = ()
    missing_labels: tuple[Path, ...] = ()
    labels_may_lack: bool = False
    error: str = ""

    @property
    def published(self) -> int:
        """Number of images that the split has."""
        return self.benchmark.splits[self.split]


def select_benchmarks(names: Sequence[str], *, root: Path) -> list[Benchmark]:
    """Find the benchmarks that are meant.

    Args:
        names: Keys or short names; none for all that are on disk.
        root: The data root, or one data set's own folder.

    Returns:
        Each benchmark once, those given in the order given.

    Raises:
        ValueError: If a name is unknown.
        DataLayoutError: If none is named and none is on disk.
    """
    if names:
        return list({benchmark.key: benchmark for benchmark in map(load_benchmark, names)}.values())
    found = [load_benchmark(key) for key in BENCHMARK_KEYS if _folder(DATAMODULES[key](root=root)) is not None]
    if not found:
        folders = ", ".join(sorted({load_benchmark(key).folder for key in BENCHMARK_KEYS}))
        raise DataLayoutError(f"{root}: expected at least one of the folders {folders}; {what_is_there(root)}")
    return found


def splits_on_disk(module: BenchmarkDataModule, splits: Sequence[str] | None = None) -> list[str]:
    """Tell which splits have folders on disk, and a list of their images where one is needed.

    Args:
        module: Of the benchmark.
        splits: Published names to look for; None for all.

    Returns:
        Those that are there, in the order published.
    """
    folder = _folder(module)
    if folder is None:
        return []
    layouts = [files for name, files in module.layouts.items() if module.layout in ("auto", name)]
    wanted = module.benchmark.splits if splits is None else splits
    return [split for split in wanted if any(_has_split(folder, files, split) for files in layouts)]


def survey_split(module: BenchmarkDataModule, split: str) -> SplitSurvey:
    """Look for the files of a split.

    Args:
        module: Of the benchmark; its ``layout`` says which files are meant.
        split: Published name of the split.

    Returns:
        What is there and what is missing.

    Raises:
        ValueError: If there is no such split.
    """
    benchmark = module.benchmark
    if split not in benchmark.splits:
        raise ValueError(f"split: expected one of {', '.join(benchmark.splits)}, got {split!r}")
    try:
        layout, folder = module.found_layout(split), module.folder
    except ValueError as error:  # also where a note of `data prepare` is damaged
        return SplitSurvey(benchmark=benchmark, split=split, layout=None, error=str(error))
    present = tuple(name for name, files in module.layouts.items() if _has_labels(folder, files, split))
    survey = SplitSurvey(benchmark=benchmark, split=split, layout=layout, layouts=present)
    files = module.layouts[layout]
    error_text = ""
    try:
        pairs = module.files(split)
        if not files.may_lack_labels:
            return replace(survey, pairs=tuple(pairs))
    except ValueError as error:
        error_text = str(error)
    try:
        found = scan_split(folder, files, split)
    except DataLayoutError as error:
        return replace(survey, error=str(error))
    names, images, labels = sorted(found.names), found.images, found.labels
    image_folder, label_folder = files.image_folder(folder, split), files.label_folder(folder, split)
    return replace(
        survey,
        pairs=tuple(
            ImagePair(image=Path(images[name]), label=Path(labels[name]))
            for name in names
            if name in images and name in labels
        ),
        missing_images=tuple(image_folder / f"{name}{files.image_suffix}" for name in names if name not in images),
        missing_labels=tuple(label_folder / f"{name}{files.label_suffix}" for name in names if name not in labels),
        labels_may_lack=not error_text and _agrees(label_folder, layout, sum(name in labels for name in names)),
        error=error_text,
    )


def _agrees(folder: Path, layout: FileLabels, count: int) -> bool:
    """Tell whether there are as many label files as a note of ``data prepare`` says, if there is one."""
    note = read_marker(folder) if layout == "converted" else None
    return note is None or note.files == count


def _folder(module: BenchmarkDataModule) -> Path | None:
    """Give the data set's own folder, None where there is none."""
    try:
        return module.folder
    except DataLayoutError:
        return None


def _has_split(folder: Path, layout: FileLayout, split: str) -> bool:
    """Tell whether a layout has a split, as far as folders and lists tell."""
    own_labels = "{split}" in layout.labels[0]
    listed = not layout.shared or own_labels or layout.list_file(folder, split) is not None
    return listed and layout.exists(folder, split)


def _has_labels(folder: Path, layout: FileLayout, split: str) -> bool:
    """Tell whether there is at least one label file."""
    place = layout.label_folder(folder, split)
    if not place.is_dir():
        return False
    with os.scandir(place) as entries:
        if any(entry.name.endswith(layout.label_suffix) for entry in entries):
            return True
    return layout.nested and next(place.rglob(f"*{layout.label_suffix}"), None) is not None
