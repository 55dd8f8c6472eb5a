"""The table of overlays that a run shows in Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

COLUMNS = ("image", "overlay")


def log_overlays(trainer: Trainer, files: Mapping[str, Path]) -> None:
    """Add a table of images to the Weights & Biases loggers of a Trainer, online or offline; others have no tables.

    Args:
        trainer: Whose first process has such loggers.
        files: Name of the image to the picture that was drawn of it; nothing is logged where there is none.
    """
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    if not loggers or not files or not trainer.is_global_zero:
        return
    import wandb  # only where a logger has it

    for logger in loggers:
        rows = [[name, wandb.Image(str(path))] for name, path in files.items()]
        logger.log_table("overlays", columns=list(COLUMNS), data=rows, step=trainer.global_step)
