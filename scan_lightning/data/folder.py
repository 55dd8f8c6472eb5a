"""Any data set on disk: a folder of images, a folder of label maps and a list of classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scan_lightning.data.base import (
    SPLITS_OF_STAGE,
    EvaluationDataset,
    SegmentationDataModule,
    Split,
    TrainingDataset,
)
from scan_lightning.data.benchmarks import INVALID_LABEL
from scan_lightning.data.layout import FolderLayout, ImagePair
from scan_lightning.data.source import FolderSource
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.data.vocabulary import hierarchy_by_name, parse_vocabulary, read_json, with_seen
from scan_lightning.types import IGNORE_INDEX, ClassHierarchy, Vocabulary

_IGNORE_KEYS = ("ignore_value_in_files", "ignore_value")


@dataclass(frozen=True, kw_only=True)
class _Classes:
    """What classes.json says."""

    vocabulary: Vocabulary
    hierarchy: ClassHierarchy | None
    ignore_value: int


class FolderDataModule(SegmentationDataModule):
    """A data set in folders: ``images/<split>/*.jpg``, ``labels/<split>/<same name>.png`` and ``classes.json``.

    Without folders for splits, ``images/*.jpg`` and ``labels/<same name>.png`` serve all of them; a file
    ``splits/<split>.txt`` with one name per line, if there is a folder ``splits``, says which images a split has.

    ``classes.json`` is a vocabulary file (see `load_vocabulary`); a class may also list its ``parents`` by name for
    SG-IoU, and ``ignore_value`` (or ``ignore_value_in_files``, which comes first) is the value of ignored pixels in
    label maps, by default 255, with more classes 65535. Other values in label maps are the ids of the classes.

    Args:
        root: The data set's folder. Files outside it, also those that a link inside it points to, are refused.
        batch_size: Images per training batch and process; the paper's is 32 in all.
        train_split: Name of the training split.
        val_split: Name of the validation split; None for none.
        test_split: Name of the test split; None for none.
        predict_split: Name of the split to predict, which needs no labels; None for the images of the test split.
        seen: Names of the classes to train on; None takes the flags in ``classes.json``.
        unseen_in_training: What becomes of other classes in training: "ignore" leaves their pixels out of the loss,
            "skip" leaves out every image that has some.
        eval_batch_size: Images per batch in validation, test and prediction.
        num_workers: Loading processes per loader.
        seed: Seed of order and augmentation.
        train_transform: Augmentation; None means the paper's.
        eval_transform: Resizing in evaluation; None means the paper's.

    Raises:
        ValueError: If a batch size is below 1, or ``num_workers`` or ``seed`` is negative.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        batch_size: int = 32,
        train_split: str = "train",
        val_split: str | None = "val",
        test_split: str | None = "test",
        predict_split: str | None = None,
        seen: list[str] | None = None,
        unseen_in_training: Literal["ignore", "skip"] = "ignore",
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
        self._layout = FolderLayout(self.root)
        self.seen = seen
        self.unseen_in_training = unseen_in_training
        self._names: dict[Split, str | None] = {
            "train": train_split,
            "val": val_split,
            "test": test_split,
            "predict": predict_split or test_split,
        }

    @property
    def vocabulary(self) -> Vocabulary:
        """All classes of ``classes.json``, with the seen flags in force.

        Raises:
            FileNotFoundError: If there is no ``classes.json``.
            ValueError: If it is wrong, or ``seen`` has a name that it lacks.
        """
        return self._classes.vocabulary

    @property
    def hierarchy(self) -> ClassHierarchy | None:
        """The parents listed in ``classes.json``; None if it lists none."""
        return self._classes.hierarchy

    def prepare_data(self) -> None:
        """Check that ``classes.json`` and the files of the splits are there, of the Trainer's stage if it has one.

        Raises:
            FileNotFoundError: If a folder or file is missing.
            ValueError: If a folder is empty, a path leaves the root or ``classes.json`` is wrong.
        """
        stage = None if self.trainer is None else self.trainer.state.fn
        splits: tuple[Split, ...] = ("train", "val", "test") if stage is None else SPLITS_OF_STAGE[str(stage.value)]
        self._label_table()
        for split in splits:
            self.list_pairs(split)

    def build_dataset(self, split: Split) -> TrainingDataset | EvaluationDataset | None:
        """Make the dataset of a split.

        Args:
            split: Which one.

        Returns:
            The dataset, or None where the split was switched off.

        Raises:
            FileNotFoundError: If a folder or file is missing.
            ValueError: If a folder is empty or a path leaves the root.
        """
        if self._names[split] is None:
            return None
        source = FolderSource(self.list_pairs(split), label_table=self._label_table())
        if split != "train":
            return EvaluationDataset(source, transform=self.eval_transform)
        if self.unseen_in_training == "skip":
            source = self._without_unseen(source)
        return TrainingDataset(source, transform=self.train_transform, seed=self.seed, relabel=self.training_relabel)

    def list_pairs(self, split: Split) -> list[ImagePair]:
        """Find the files of a split.

        Args:
            split: Which one.

        Returns:
            Images in the order of their names, each with its label map but for "predict"; empty if the split was
            switched off.

        Raises:
            FileNotFoundError: If a folder or a label map is missing.
            ValueError: If a folder has no image or two of one name, or a path leaves the root.
        """
        name = self._names[split]
        return [] if name is None else self._layout.list_pairs(name, with_labels=split != "predict")

    @cached_property
    def _classes(self) -> _Classes:
        """Read classes.json once."""
        path = self.root / "classes.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected the list of classes, found no such file")
        content = read_json(self._layout.inside(path))
        vocabulary = parse_vocabulary(content, where=str(path))
        if self.seen is not None:
            vocabulary = with_seen(vocabulary, self.seen, where=f"classes in {path}")
        parents = {entry["name"]: entry["parents"] for entry in content["classes"] if "parents" in entry}
        return _Classes(
            vocabulary=vocabulary,
            hierarchy=hierarchy_by_name(parents, vocabulary, where=str(path)) if parents else None,
            ignore_value=_ignore_value(content, vocabulary.num_classes, where=str(path)),
        )

    def _label_table(self) -> NDArray[np.int64]:
        """Make the table from values in files to labels."""
        num_classes, ignored = self._classes.vocabulary.num_classes, self._classes.ignore_value
        table = np.full(max(num_classes, ignored + 1), INVALID_LABEL, dtype=np.int64)
        table[:num_classes] = np.arange(num_classes)
        table[ignored] = IGNORE_INDEX
        return table

    def _without_unseen(self, source: FolderSource) -> FolderSource:
        """Leave out the images in which a class occurs that is not trained on."""
        unseen = np.flatnonzero(self.training_relabel.numpy() == IGNORE_INDEX)
        kept = [
            pair
            for pair in source.pairs
            if pair.label is not None and not np.isin(source.read_labels(pair.label), unseen).any()
        ]
        return FolderSource(kept, label_table=source.label_table)


def _ignore_value(content: dict[str, Any], num_classes: int, *, where: str) -> int:
    """Find the value of ignored pixels in label maps."""
    for key in _IGNORE_KEYS:
        if key in content:
            value = content[key]
            if type(value) is not int or not num_classes <= value < 2**16:
                raise ValueError(f"{where}: {key}: expected an integer from {num_classes} to 65535, got {value!r}")
            return value
    return 255 if num_classes <= 255 else 65535
