"""Any data set that Hugging Face `datasets` opens: on the hub, in Parquet or Arrow files, or saved to disk."""

from __future__ import annotations

import re
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from scan_lightning.data.accumulation import tell_step_targets
from scan_lightning.data.base import (
    SPLITS_OF_STAGE,
    EvaluationDataset,
    SegmentationDataModule,
    Split,
    TrainingDataset,
)
from scan_lightning.data.hub_labels import LabelTable, read_classes, read_label_map
from scan_lightning.data.hub_loading import HubDataset
from scan_lightning.data.hub_rows import HubSource, RowReader
from scan_lightning.data.sampling import batches_done
from scan_lightning.data.streaming import StreamedEvaluation, StreamedTraining, StreamLoader
from scan_lightning.data.targets import collate_evaluation, collate_training
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.data.vocabulary import load_hierarchy, with_seen
from scan_lightning.types import ClassHierarchy, Sample, Vocabulary


class HubDataModule(SegmentationDataModule):
    """A data set with a column of images and one of label maps.

    Images are encoded files of any kind that `read_image` reads. Label maps are single-channel images (palette images
    give their indices) or integers, in rows or all H x W in one list. No code of a data set is ever run.

    Without an ``id_column`` an image's id is its split and row number, for example ``validation_000012``, in streams a
    hash of its content.

    With ``streaming`` nothing is copied to disk, and what holds for other data sets holds with two limits: the order of
    training samples depends also on the number of processes and workers, and a run resumed in the middle of an epoch
    reads the rows before once more (see `StreamedTraining`).

    Args:
        path: Id on the hub, a ``.parquet`` or ``.arrow`` file, a folder of data files, or a folder written by
            ``save_to_disk``.
        vocabulary: The classes: a list of words or a file (see `read_classes`).
        batch_size: Images per training batch and process; the paper's is 32 in all.
        image_column: Name of the column of images.
        label_column: Name of the column of label maps.
        id_column: Name of the column of ids, unique in each split; None for none.
        train_split: Name of the training split; slices such as ``train[:90%]`` are names too.
        val_split: Name of the validation split; None for none.
        test_split: Name of the test split; None for none.
        predict_split: Name of the split to predict, which needs no labels; None for the images of the test split.
        config_name: Configuration (also called subset) of the data set.
        revision: Branch, tag or commit on the hub.
        data_files: For each split the names or patterns of its files; None lets `datasets` find them.
        label_map: For each value in label maps its label, -1 for ignored pixels, or a JSON file with that. None takes
            the ids of ``vocabulary`` where it has some, else the values themselves with ``label_offset`` added.
        label_offset: With -1 and ``ignore_values: [0, 255]`` label maps count classes from 1 (``reduce_zero_label``).
        ignore_values: Values of ignored pixels. None means 255, or 65535 where 255 is a class.
        hierarchy: JSON file with the parents of classes for SG-IoU (see `load_hierarchy`).
        seen: Names of the classes to train on; None takes the flags of ``vocabulary``.
        image_root: Folder of the images whose paths a column holds; None means the data set's own folder.
        streaming: Whether to read rows as they come.
        train_size: Images in an epoch of a streamed training split, over all processes. None takes the split's size
            where the data set tells it. With less, each epoch sees only what comes first in its order.
        shuffle_buffer: Rows that each worker holds to draw from when training is streamed.
        cache_dir: Where `datasets` keeps its copy; None means its own default.
        hub_timeout: Seconds to wait for the hub's first answer.
        eval_batch_size: Images per batch in validation, test and prediction.
        num_workers: Loading processes per loader.
        seed: Seed of order and augmentation.
        train_transform: Augmentation; None means the paper's.
        eval_transform: Resizing in evaluation; None means the paper's.

    Raises:
        ValueError: If a batch size, ``train_size`` or ``shuffle_buffer`` is below 1, or ``num_workers`` or ``seed``
            negative.
    """

    def __init__(
        self,
        *,
        path: str,
        vocabulary: list[str] | str | Path,
        batch_size: int = 32,
        image_column: str = "image",
        label_column: str = "label",
        id_column: str | None = None,
        train_split: str = "train",
        val_split: str | None = "validation",
        test_split: str | None = "test",
        predict_split: str | None = None,
        config_name: str | None = None,
        revision: str | None = None,
        data_files: dict[str, str | list[str]] | None = None,
        label_map: dict[int, int] | str | Path | None = None,
        label_offset: int = 0,
        ignore_values: list[int] | None = None,
        hierarchy: str | Path | None = None,
        seen: list[str] | None = None,
        image_root: str | Path | None = None,
        streaming: bool = False,
        train_size: int | None = None,
        shuffle_buffer: int = 256,
        cache_dir: str | Path | None = None,
        hub_timeout: float = 10.0,
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
        for name, value in (("train_size", train_size), ("shuffle_buffer", shuffle_buffer)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.dataset = HubDataset(
            path=path,
            config_name=config_name,
            revision=revision,
            data_files=data_files,
            streaming=streaming,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            timeout=hub_timeout,
        )
        self.image_column = image_column
        self.label_column = label_column
        self.id_column = id_column
        self.seen = seen
        self.image_root = None if image_root is None else Path(image_root)
        self.train_size = train_size
        self.shuffle_buffer = shuffle_buffer
        self._classes = vocabulary
        self._hierarchy = None if hierarchy is None else Path(hierarchy)
        self._label_map = label_map
        self._label_offset = label_offset
        self._ignore_values = ignore_values
        self._names: dict[Split, tuple[str, str | None]] = {
            "train": ("train_split", train_split),
            "val": ("val_split", val_split),
            "test": ("test_split", test_split),
            "predict": ("predict_split" if predict_split else "test_split", predict_split or test_split),
        }

    @property
    def vocabulary(self) -> Vocabulary:
        """All classes, with the seen flags in force.

        Raises:
            FileNotFoundError: If it is a file that does not exist.
            ValueError: If it is wrong, or ``seen`` has a name that it lacks.
        """
        return self._vocabulary_and_ids[0]

    @cached_property
    def hierarchy(self) -> ClassHierarchy | None:
        """The parents of classes; None without a file."""
        return None if self._hierarchy is None else load_hierarchy(self._hierarchy, self.vocabulary)

    def prepare_data(self) -> None:
        """Load the data set and check splits and columns, of the Trainer's stage if it has one.

        Raises:
            FileNotFoundError: If there is no such data set.
            HubError: If the hub cannot be reached.
            ValueError: If a split, a column, the vocabulary or the label map is wrong.
        """
        stage = None if self.trainer is None else self.trainer.state.fn
        splits: tuple[Split, ...] = ("train", "val", "test") if stage is None else SPLITS_OF_STAGE[str(stage.value)]
        for split in splits:
            if self._names[split][1] is not None:
                self._open(split)

    def build_dataset(self, split: Split) -> Dataset[Sample] | None:
        """Make the dataset of a split.

        Args:
            split: Which one.

        Returns:
            The dataset, with ``streaming`` an iterable one; None where the split was switched off.

        Raises:
            FileNotFoundError: If there is no such data set.
            HubError: If the hub cannot be reached.
            ValueError: If a split, a column, an id, the vocabulary or the label map is wrong.
        """
        name = self._names[split][1]
        if name is None:
            return None
        rows, reader = self._open(split)
        where = self._where(split)
        if self.dataset.streaming:
            if split == "train":
                return self._streamed_training(rows, reader)
            return StreamedEvaluation(rows, reader=reader, where=where, transform=self.eval_transform)
        source = HubSource(rows, reader=reader, split=re.sub(r"[^\w.-]+", "_", name).strip("_"), where=where)
        if split == "train":
            return TrainingDataset(
                source, transform=self.train_transform, seed=self.seed, relabel=self.training_relabel
            )
        return EvaluationDataset(source, transform=self.eval_transform)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Make the training loader.

        Raises:
            ValueError: If there are too few samples for one batch.
        """
        dataset = self._dataset("train")
        if not isinstance(dataset, StreamedTraining):
            return super().train_dataloader()
        if not dataset.batches:
            raise ValueError(f"batch_size: expected at most {dataset.size} over all processes, got {self.batch_size}")
        options = self._loader_options(collate_training) | {"prepare": partial(tell_step_targets, self)}
        return StreamLoader(dataset, epoch=self._current_epoch, progress=partial(batches_done, self), **options)

    def _evaluation_loader(self, split: Split) -> DataLoader[Sample] | list[Any]:
        dataset = self._dataset(split)
        if not isinstance(dataset, StreamedEvaluation):
            return super()._evaluation_loader(split)
        return DataLoader(dataset, batch_size=self.eval_batch_size, **self._loader_options(collate_evaluation))

    @cached_property
    def _vocabulary_and_ids(self) -> tuple[Vocabulary, dict[int, int] | None]:
        """Read the classes once."""
        vocabulary, ids = read_classes(self._classes)
        return (vocabulary if self.seen is None else with_seen(vocabulary, self.seen)), ids

    def _where(self, split: Split) -> str:
        return f"{self.dataset.path}, split {self._names[split][1]}"

    def _open(self, split: Split) -> tuple[Any, RowReader]:
        """Open a split and check that it has the columns."""
        argument, name = self._names[split]
        rows = self.dataset.open_split(str(name), argument=argument)
        reader = RowReader(
            image_column=self.image_column,
            label_column=None if split == "predict" else self.label_column,
            id_column=self.id_column,
            labels=self._label_table(),
            roots=self.dataset.roots if self.image_root is None else (self.image_root,),
        )
        present = rows.column_names if rows.column_names is not None else next(iter(rows)).column_names
        for setting in ("image_column", "label_column", "id_column"):
            column = getattr(reader, setting)
            if column is not None and column not in present:
                raise ValueError(
                    f"{setting}: expected one of the columns {present} of {self._where(split)}, got {column!r}"
                )
        return rows, reader

    def _label_table(self) -> LabelTable:
        """Make the table from values to labels."""
        vocabulary, ids = self._vocabulary_and_ids
        return LabelTable(
            num_classes=vocabulary.num_classes,
            label_map=ids if self._label_map is None else read_label_map(self._label_map),
            label_offset=self._label_offset,
            ignore_values=self._ignore_values,
        )

    def _streamed_training(self, rows: Any, reader: RowReader) -> StreamedTraining:
        """Make the streamed training dataset."""
        size = self.train_size
        if size is None:
            known = (rows.info.splits or {}).get(self._names["train"][1])
            if known is None or not known.num_examples:
                raise ValueError(f"train_size: expected a number, since {self._where('train')} does not tell its size")
            size = int(known.num_examples)
        return StreamedTraining(
            rows,
            reader=reader,
            where=self._where("train"),
            transform=self.train_transform,
            size=size,
            batch_size=self.batch_size,
            shuffle_buffer=self.shuffle_buffer,
            seed=self.seed,
            relabel=self.training_relabel,
        )

    def _current_epoch(self) -> int:
        return 0 if self.trainer is None else int(self.trainer.current_epoch)
