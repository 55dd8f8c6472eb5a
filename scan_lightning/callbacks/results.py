"""The record that a test run leaves: tables on the terminal, one CSV row, the same row in the loggers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor

from scan_lightning.callbacks.record import Row, append_row, file_hash, run_record
from scan_lightning.callbacks.scores import SegmentationScores, gather_scores
from scan_lightning.types import Batch, Vocabulary

# What each score means, and over which classes a mean runs.
MEANINGS = {
    "miou_any": "mean IoU, classes in truth or prediction (SCAN, OVSeg)",
    "miou_present": "mean IoU, classes in the truth (FC-CLIP, CAT-Seg)",
    "fwiou": "IoU weighted by the classes' truth pixels",
    "mean_accuracy": "mean accuracy, classes in the truth",
    "pixel_accuracy": "share of all truth pixels that are right",
    "zero_share": "share of the classes in the truth with IoU 0",
    "miou_seen": 'mean IoU of seen classes, "any"',
    "miou_unseen": 'mean IoU of unseen classes, "any"',
    "miou_harmonic": "harmonic mean of the means of seen and of unseen classes",
    "unseen_to_seen": "share of the truth pixels of unseen classes that go to seen ones",
    "seen_to_unseen": "share of the truth pixels of seen classes that go to unseen ones",
    "sg_iou_any": "mean SG-IoU, classes in truth or prediction (SCAN)",
    "sg_iou_present": "mean SG-IoU, classes in the truth",
    "open_miou": 'mean Open IoU, "any"',
}


def _percent(value: float) -> str:
    """A fraction as percent with two decimals, a dash for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def metric_table(scores: Mapping[str, float], title: str) -> Table:
    """Lay out an evaluation's scores in percent, each with what it is a mean of.

    Args:
        scores: Name to fraction.
        title: Above the table.

    Returns:
        The table.
    """
    table = Table(title=escape(title), title_justify="left")
    table.add_column("metric")
    table.add_column("%", justify="right")
    table.add_column("what it is")
    for name, value in scores.items():
        table.add_row(name, _percent(value), MEANINGS.get(name, ""))
    return table


def class_table(per_class: Mapping[str, Tensor], vocabulary: Vocabulary) -> Table:
    """Lay out the scores of the classes that occur in truth or prediction, those with most truth pixels first.

    Args:
        per_class: (K,) tensors by name: fractions, shown in percent, and int64 counts.
        vocabulary: K classes.

    Returns:
        The table; unseen classes are marked.
    """
    table = Table(title="per class, floating point columns in %", title_justify="left")
    table.add_column("class")
    for name in per_class:
        table.add_column(name, justify="right")
    occurs = per_class["truth_pixels"] + per_class["predicted_pixels"] > 0
    for index in per_class["truth_pixels"].argsort(descending=True, stable=True).tolist():
        if occurs[index]:
            cells = [
                _percent(values[index].item()) if values.is_floating_point() else f"{values[index]:,}"
                for values in per_class.values()
            ]
            table.add_row(Text(vocabulary.names[index] + ("" if vocabulary.seen[index] else " (unseen)")), *cells)
    return table


class ResultsCallback(Callback):
    """Print an evaluation's tables after ``test``, add its row to a CSV file and hand it to the loggers.

    The module must hold ``test_metrics`` (`SegmentationScores`) and ``vocabulary``. Scores are fractions in the row and
    percent in the tables.

    Args:
        path: Of the CSV file.
        name: Of the evaluation, for example ``a847``, first column of the row. Defaults to the datamodule's class.
        columns: More columns of the row, behind the name.
        config: The run's full configuration, for its hash. The command line sets it; without it the hyperparameters of
            module and datamodule stand in.
        per_class: Whether the table of classes is printed.
    """

    def __init__(
        self,
        *,
        path: str | Path = "outputs/results.csv",
        name: str | None = None,
        columns: dict[str, str | int | float] | None = None,
        config: dict[str, Any] | None = None,
        per_class: bool = True,
    ) -> None:
        super().__init__()
        self.path = Path(path)
        self.name = name
        self.columns = columns or {}
        self.config = config
        self.per_class = per_class
        self._images = 0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting images."""
        self._images = 0

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch's images."""
        if isinstance(batch, Batch):
            self._images += len(batch.image_ids)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the scores of all processes; the first one prints, writes and logs them.

        Args:
            trainer: The run's trainer.
            pl_module: Holds ``test_metrics`` and ``vocabulary``.

        Raises:
            TypeError: If the module lacks one of them.
        """
        vocabulary = getattr(pl_module, "vocabulary", None)
        if not isinstance(vocabulary, Vocabulary):
            raise TypeError(
                f"ResultsCallback: expected {type(pl_module).__name__} to hold vocabulary (Vocabulary), got "
                f"{type(vocabulary).__name__}"
            )
        # Collective: every process computes, though only the first one reports.
        scores, images = gather_scores(trainer, pl_module, self._images)
        per_class = cast(SegmentationScores, pl_module.test_metrics).per_class()
        if trainer.is_global_zero:
            row = self._row(trainer, pl_module, scores, images)
            console = Console()
            console.print(metric_table(scores, f"{row['name']}: {row['images']} images"))
            if self.per_class:
                console.print(class_table(per_class, vocabulary))
            append_row(self.path, row)
            console.print(f"row added to {self.path}", markup=False)
            self._log(trainer, row, scores)

    def _row(self, trainer: Trainer, pl_module: LightningModule, scores: Mapping[str, float], images: int) -> Row:
        """Put the row together: what was tested, on what, with which result."""
        datamodule = getattr(trainer, "datamodule", None)
        name = self.name or (type(datamodule).__name__ if datamodule is not None else type(pl_module).__name__)
        checkpoint = Path(trainer.ckpt_path) if trainer.ckpt_path else None
        config = self.config
        if config is None:
            config = {
                "model": {"class": type(pl_module), **pl_module.hparams},
                "data": {"class": type(datamodule), **getattr(datamodule, "hparams", {})},
                "precision": trainer.precision,
            }
        return {
            "name": name,
            **self.columns,
            **run_record(config),
            "checkpoint_hash": file_hash(checkpoint) if checkpoint is not None and checkpoint.is_file() else "",
            "images": images,
            **{metric: round(value, 6) for metric, value in scores.items()},
        }

    def _log(self, trainer: Trainer, row: Row, scores: Mapping[str, float]) -> None:
        """Hand the row to the loggers: numbers as metrics, the rest as hyperparameters."""
        numbers = {f"results/{name}": value for name, value in scores.items() if not math.isnan(value)}
        record = {f"results/{name}": value for name, value in row.items() if name not in scores}
        for logger in trainer.loggers:
            logger.log_hyperparams(record)
            logger.log_metrics({**numbers, "results/images": float(row["images"])}, step=trainer.global_step)
