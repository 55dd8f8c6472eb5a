"""Running one benchmark of ``evaluate``: Lightning's test, and the row that it leaves."""

from __future__ import annotations

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from scan_lightning.callbacks.record import Row, append_row, canonical_json, run_record
from scan_lightning.callbacks.scores import gather_scores
from scan_lightning.commands.evaluate_plan import Task
from scan_lightning.commands.evaluate_recipe import RecipeParser, Subject
from scan_lightning.files import write_whole
from scan_lightning.types import Batch

ROWS_NAME = "rows.csv"
"""File of all rows, below the output folder."""


class RowCallback(Callback):
    """Adds the scores of a test to a file of rows, Open mIoU by the network's own text features among them.

    Args:
        path: The CSV file.
        record: What else stands in the row.
    """

    def __init__(self, *, path: Path, record: Row) -> None:
        super().__init__()
        self.path = path
        self.record = record
        self._images = 0
        self._started = 0.0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting images and seconds."""
        self._images, self._started = 0, time.perf_counter()

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
        """Gather the scores of all processes; the first one writes the row.

        Args:
            trainer: The run's Trainer.
            pl_module: Holds ``test_metrics``.

        Raises:
            TypeError: If it holds none.
        """
        # Collective: every process computes, though only the first one writes.
        scores, images = gather_scores(trainer, pl_module, self._images)
        if trainer.is_global_zero:
            measured = {"images": images, "processes": trainer.world_size}
            seconds = {"seconds": round(time.perf_counter() - self._started, 1)}
            rounded = {name: round(value, 6) for name, value in scores.items()}
            append_row(self.path, {**self.record, **measured, **seconds, **rounded})


def run_task(task: Task, subject: Subject, parser: RecipeParser, output: Path) -> None:
    """Test the network on one benchmark; its row is added to ``rows.csv``, its configuration to ``configs/``.

    Args:
        task: The benchmark.
        subject: The network.
        parser: Makes model and Trainer from the configuration.
        output: Folder of the results.

    Raises:
        Exception: Whatever the data or the network raise.
    """
    seed_everything(subject.seed, verbose=False)
    model, arguments = parser.model_and_trainer(task.config)
    config = task.config.as_dict()
    record: Row = {
        "benchmark": task.name,
        "title": task.title,
        "key": task.key,
        "settings": task.settings,
        "classes": task.datamodule.vocabulary.num_classes,  # type: ignore[attr-defined]
        "published_images": "" if task.published is None else task.published,
        "limit": "" if task.limit is None else task.limit,
        "precision": str(arguments.get("precision") or "32-true"),
        **run_record(config),
        "checkpoint_hash": subject.checkpoint_hash,
    }
    callback = RowCallback(path=output / ROWS_NAME, record=record)
    given = arguments.get("callbacks") or []
    arguments |= {
        "callbacks": [*(given if isinstance(given, list) else [given]), callback],
        "logger": arguments.get("logger") or False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    trainer = Trainer(**arguments)
    if task.limit is not None:
        _limit_images(trainer, task.datamodule, task.limit)
    if trainer.is_global_zero:
        place = output / "configs" / f"{task.name}-{task.key[:8]}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps(json.loads(canonical_json(config)), indent=1) + "\n", durable=False)
    checkpoint = None if subject.ckpt_path is None else str(subject.ckpt_path)
    trainer.test(model, datamodule=task.datamodule, ckpt_path=checkpoint, weights_only=True, verbose=False)


def _limit_images(trainer: Trainer, datamodule: Any, limit: int) -> None:
    """Stop after some images, with batches of which a whole number makes that many; a last step takes all processes."""
    datamodule.eval_batch_size = math.gcd(limit, getattr(datamodule, "eval_batch_size", 1))
    trainer.limit_test_batches = math.ceil(limit / (datamodule.eval_batch_size * trainer.world_size))


def read_rows(output: Path) -> dict[str, dict[str, str]]:
    """Read the rows of earlier runs.

    Args:
        output: Folder of the results.

    Returns:
        Rows by their key, the latest of each.
    """
    path = output / ROWS_NAME
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["key"]: row for row in csv.DictReader(file)}
