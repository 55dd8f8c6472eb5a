"""The record that training of CLIP leaves: its zero-shot accuracies as one CSV row, the same row in the loggers."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scan_lightning.callbacks.record import append_row
from scan_lightning.callbacks.results import ResultsCallback
from scan_lightning.types import MaskTextBatch, RegionTextBatch

_PREFIX = "val/"


class AccuracyCallback(ResultsCallback):
    """Add a row of the validation's accuracies to a CSV file: after ``validate``, and once at the end of ``fit``.

    Accuracies are fractions in the row and percent in the table; ``regions`` says on how many they were measured,
    ``steps`` after how many steps of training, 0 for the original CLIP. Arguments are those of `ResultsCallback`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._regions = 0
        self._scores: dict[str, float] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting regions."""
        self._regions = 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch's regions; with several loaders those of the first."""
        if isinstance(batch, MaskTextBatch | RegionTextBatch) and dataloader_idx == 0:
            self._regions += len(batch.texts)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the accuracies and the number of regions of all processes, and report those of ``validate``."""
        if trainer.sanity_checking:
            return
        # Not at the end of fit: by then the module has left the device by which the processes reach one another.
        regions = torch.tensor(self._regions, device=pl_module.device)
        self._regions = int(cast(Tensor, trainer.strategy.reduce(regions, reduce_op="sum")))
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(_PREFIX)}
        self._scores = {name.removeprefix(_PREFIX): value for name, value in values.items()}
        if trainer.state.fn == "validate":
            self._report(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the last validation of ``fit``, if there was one."""
        if self._scores:
            self._report(trainer, pl_module)

    def _report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table and write the row, in the first process."""
        if not trainer.is_global_zero:
            return
        row = self._row(trainer, pl_module, {}, 0) | {"regions": self._regions, "steps": trainer.global_step}
        row |= {name: round(value, 6) for name, value in self._scores.items()}
        row.pop("images")
        table = Table(title=f"{row['name']}: {row['steps']} steps, mean over classes in %", title_justify="left")
        table.add_column("regions")
        table.add_column("zero-shot accuracy", justify="right")
        for name, value in self._scores.items():
            table.add_row(name.removeprefix("accuracy_"), f"{100 * value:.2f}")
        console = Console()
        console.print(table)
        append_row(self.path, row)
        console.print(f"row added to {self.path}")
        for logger in trainer.loggers:
            logger.log_hyperparams(
                {f"results/{name}": value for name, value in row.items() if name not in self._scores}
            )
            logger.log_metrics(
                {f"results/{name}": value for name, value in self._scores.items()}, step=trainer.global_step
            )
