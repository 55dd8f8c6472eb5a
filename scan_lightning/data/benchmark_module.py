"""The DataModule of a published benchmark, which reads its original layout and the field's converted one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from scan_lightning.data.base import (
    SPLITS_OF_STAGE,
    EvaluationDataset,
    SegmentationDataModule,
    Split,
    TrainingDataset,
)
from scan_lightning.data.benchmark_files import TOLERATED_SHARE, FileLayout, find_pairs, what_is_there
from scan_lightning.data.benchmarks import Benchmark, FileLabels, Names, Order, Seen, load_benchmark
from scan_lightning.data.layout import DataLayoutError, ImagePair
from scan_lightning.data.marker import MARKER_NAME, PreparedMarker, read_marker
from scan_lightning.data.source import FolderSource
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.data.vocabulary import load_hierarchy
from scan_lightning.types import ClassHierarchy, Vocabulary


class BenchmarkDataModule(SegmentationDataModule):
    """A published benchmark. A subclass names it and says where its files are.

    With ``layout="auto"`` files that ``scan-lightning data prepare`` has converted come first, then the original ones,
    then files that other tools have converted, which do not say what they hold. Validation, test and prediction share
    one split. Images without any pixel of truth count nothing.

    Args:
        root: The data root, or the data set's own folder, which may be a link. A link inside it that leads out of it is
            refused.
        train_split: Published name of the split to train on; None for the usual one.
        eval_split: Published name of the split to test on; None for the usual one.
        layout: Which files to read.
        names: What CLIP encodes of a class, see `Benchmark.vocabulary`.
        order: How converted label files are numbered (Pascal Context 59 and 60 alone); the words, and so the scores,
            are always in the released order. Files with a note of ``data prepare`` that says otherwise are refused;
            without a note this argument decides, with a warning.
        seen: Which words are seen, and so trained on, see `Benchmark.vocabulary`.
        hierarchy: Parents for SG-IoU: a variant of the package's (see `Benchmark.hierarchy`), a file that
            `load_hierarchy` reads, or None.
        batch_size: Images per training batch and process; the paper's is 32 in all.
        eval_batch_size: Images per batch in validation, test and prediction.
        num_workers: Loading processes per loader.
        seed: Seed of order and augmentation.
        train_transform: Augmentation; None means the paper's.
        eval_transform: Resizing in evaluation; None means the paper's.

    Raises:
        ValueError: If a number is out of range, a split is not a published one, or an order does not exist.
    """

    key: ClassVar[str]
    layouts: ClassVar[Mapping[FileLabels, FileLayout]]

    def __init__(
        self,
        *,
        root: str | Path,
        train_split: str | None = None,
        eval_split: str | None = None,
        layout: Literal["auto", "original", "converted"] = "auto",
        names: Names = "released",
        order: Order = "released",
        seen: Seen = "coco_stuff",
        hierarchy: Literal["released", "cleaned"] | Path | None = "released",
        batch_size: int = 32,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        train_transform: TrainingTransform | None = None,
        eval_transform: EvaluationTransform | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            train_transform=train_transform,
            eval_transform=eval_transform,
        )
        self.root = Path(root)
        self.train_split = self._checked_split("train_split", train_split or self.benchmark.train_split)
        self.eval_split = self._checked_split("eval_split", eval_split or self.benchmark.eval_split)
        if layout not in ("auto", *self.layouts):
            raise ValueError(
                f"layout: {self.benchmark.paper_name} has {' and '.join(self.layouts)} files, or auto, got {layout!r}"
            )
        if order == "alphabetical" and not self.benchmark.ordered_files:
            raise ValueError(f"order: {self.benchmark.paper_name} has no files in alphabetical order")
        self.layout = layout
        self.order: Order = order
        self._vocabulary = self.benchmark.vocabulary(names=names, seen=seen)
        self._hierarchy = hierarchy

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark's facts."""
        return load_benchmark(self.key)

    @property
    def vocabulary(self) -> Vocabulary:
        """All words of the benchmark, in the released order."""
        return self._vocabulary

    @property
    def hierarchy(self) -> ClassHierarchy | None:
        """Parents for SG-IoU; None where the benchmark has none or none are wanted.

        Raises:
            FileNotFoundError: If a file was named that does not exist.
            ValueError: If that file is wrong.
        """
        if isinstance(self._hierarchy, Path):
            return load_hierarchy(self._hierarchy, self.vocabulary)
        return None if self._hierarchy is None else self.benchmark.hierarchy(self._hierarchy)

    @property
    def folder(self) -> Path:
        """The data set's own folder: below the root by its usual name, or the root itself.

        Raises:
            DataLayoutError: If neither is there; the message says what is.
        """
        usual = Path(self.benchmark.folder)
        candidates = [self.root.joinpath(*usual.parts[start:]) for start in range(len(usual.parts))]
        for path in candidates:
            if path.is_dir():
                return path
        tops = {
            top for files in self.layouts.values() for top in files.tops(self.eval_split) | files.tops(self.train_split)
        }
        if any((self.root / top).is_dir() for top in tops):
            return self.root
        raise DataLayoutError(
            f"{self.root}: expected the folder {usual} of {self.benchmark.title}, or that folder itself with "
            f"{', '.join(sorted(tops))}; {what_is_there(self.root)}"
        )

    def found_layout(self, split: str | None = None, *, with_labels: bool = True) -> FileLabels:
        """Tell which layout a split is read from.

        Args:
            split: Published name of a split; None for the one to test on.
            with_labels: Whether labels are wanted.

        Returns:
            "original" or "converted".

        Raises:
            DataLayoutError: If there are no such files.
        """
        split = self._checked_split("split", split or self.eval_split)
        folder = self.folder
        wanted: list[FileLabels] = [name for name in self.layouts if self.layout in ("auto", name)]
        there = [name for name in wanted if self.layouts[name].exists(folder, split, with_labels=with_labels)]
        if len(there) == 2 and self._trusted(self.layouts["converted"].label_folder(folder, split), split):
            return "converted"
        if there:
            return there[0]
        if len(wanted) == 1:  # the search for files says what is missing
            return wanted[0]
        places = " or ".join(
            f"{files.image_folder(folder, split)} and {files.label_folder(folder, split)} ({name})"
            for name, files in self.layouts.items()
        )
        raise DataLayoutError(
            f"{self.benchmark.title}, split {split!r}: expected the folders {places}; {what_is_there(folder)}"
        )

    def files(self, split: str, *, with_labels: bool = True) -> list[ImagePair]:
        """Find the files of a split.

        Args:
            split: Its published name.
            with_labels: Whether labels are wanted; without them they need not exist.

        Returns:
            Images in the order of their names, each with its label file, or with None.

        Raises:
            DataLayoutError: If files are missing or not laid out as published; see `find_pairs`.
            ValueError: If there is no such split.
        """
        layout = self.found_layout(split, with_labels=with_labels)
        if layout == "converted" and with_labels:
            self._check_marker(self.layouts[layout].label_folder(self.folder, split), split)
        return find_pairs(self.folder, self.layouts[layout], split, with_labels=with_labels)

    def source(self, split: str, *, with_labels: bool = True) -> FolderSource:
        """Make random access to the raw samples of a split.

        Args:
            split: Its published name.
            with_labels: Whether labels are wanted.

        Returns:
            The source; its labels are those of the vocabulary.

        Raises:
            DataLayoutError: If files are missing or not laid out as published.
            ValueError: If there is no such split.
        """
        layout = self.found_layout(split, with_labels=with_labels)
        return FolderSource(
            self.files(split, with_labels=with_labels),
            label_table=self.benchmark.label_table(labels=layout, order=self.order),
            reader=self.layouts[layout].reader,
            shorter_side=self._reduced_to(layout),
        )

    def prepare_data(self) -> None:
        """Check that the files of the splits are there, of the Trainer's stage if it has one.

        Raises:
            DataLayoutError: If files are missing or not laid out as published.
        """
        stage = None if self.trainer is None else self.trainer.state.fn
        splits: tuple[Split, ...] = ("train", "val", "test") if stage is None else SPLITS_OF_STAGE[str(stage.value)]
        for name, with_labels in {(self._published(split), split != "predict") for split in splits}:
            found, published = len(self.files(name, with_labels=with_labels)), self.benchmark.splits[name]
            if abs(found - published) > TOLERATED_SHARE * published:
                warnings.warn(
                    f"{self.folder}: found {found} of the {published} images of {self.benchmark.title}, split {name!r}",
                    stacklevel=2,
                )

    def build_dataset(self, split: Split) -> TrainingDataset | EvaluationDataset:
        """Make the dataset of a split.

        Args:
            split: "train", or one of the others, which share the split to test on; "predict" needs no labels.

        Returns:
            The dataset, with labels of the training vocabulary for "train".

        Raises:
            DataLayoutError: If files are missing or not laid out as published.
        """
        source = self.source(self._published(split), with_labels=split != "predict")
        if split != "train":
            return EvaluationDataset(source, transform=self.eval_transform)
        return TrainingDataset(source, transform=self.train_transform, seed=self.seed, relabel=self.training_relabel)

    def _published(self, split: Split) -> str:
        return self.train_split if split == "train" else self.eval_split

    def _checked_split(self, argument: str, split: str) -> str:
        if split not in self.benchmark.splits:
            raise ValueError(f"{argument}: expected one of {', '.join(self.benchmark.splits)}, got {split!r}")
        return split

    def _reduced_to(self, layout: FileLabels) -> int | None:
        """Give the length to which images of a layout still have to be reduced."""
        return None

    def _expected_marker(self, split: str, files: int) -> PreparedMarker:
        """Give the note that fits what is asked for."""
        return PreparedMarker(benchmark=str(self.benchmark.converted_as), split=split, files=files, order=self.order)

    def _trusted(self, place: Path, split: str) -> bool:
        """Tell whether a note says that label files are what is asked for."""
        marker = read_marker(place)
        return marker is not None and marker == self._expected_marker(split, marker.files)

    def _check_unmarked(self, place: Path) -> None:
        """Warn where converted files come in two orders and no note tells in which."""
        if self.benchmark.ordered_files:
            warnings.warn(
                f"{place}: label files of {self.benchmark.paper_name} come in two orders of the classes, and no note "
                f"of `data prepare` tells in which these are: they are read in the {self.order} one",
                stacklevel=4,
            )

    def _check_marker(self, place: Path, split: str) -> None:
        """Raise if a note contradicts what is asked for."""
        marker = read_marker(place)
        if marker is None:
            self._check_unmarked(place)
            return
        expected = self._expected_marker(split, marker.files)
        for name, wanted in vars(expected).items():
            came = getattr(marker, name)
            if came != wanted:
                raise DataLayoutError(
                    f"{place / MARKER_NAME}: {name}: expected {wanted!r}, as asked for, but these files have {came!r}"
                )
