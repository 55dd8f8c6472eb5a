"""What a run tells the sweep that started it: its scores as they come, as lines of JSON."""

from __future__ import annotations

import json
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class ReportCallback(Callback):
    """Add ``{"step": ..., "metrics": {...}}`` to a file after each validation and test.

    Only the first of several processes writes, and a line is written in one go, so that whoever reads the file sees
    whole lines.

    Args:
        path: The file; it is made if it is missing.
    """

    def __init__(self, *, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the scores of a validation.

        Args:
            trainer: With what was logged.
            pl_module: Not used.
        """
        if not trainer.sanity_checking:
            self._report(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the scores of a test.

        Args:
            trainer: With what was logged.
            pl_module: Not used.
        """
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        """Write a line, in the first process."""
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": trainer.global_step, "metrics": metrics}) + "\n")
