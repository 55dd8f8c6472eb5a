"""Gradient accumulation: each batch is told the targets of all batches of its optimiser step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from lightning.pytorch import LightningDataModule

from scan_lightning.types import Batch


def tell_step_targets(data: LightningDataModule, done: int, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Set ``step_targets`` of each training batch, for losses that are normalised over a whole optimiser step.

    As many batches are loaded ahead as the Trainer accumulates. Without accumulation none is, and nothing is set.

    Args:
        data: The DataModule, whose Trainer says how many batches make a step and an epoch.
        done: Batches of the epoch that training has completed.
        batches: The rest of the epoch.

    Yields:
        The batches.
    """
    trainer = data.trainer
    size = 1 if trainer is None else trainer.accumulate_grad_batches
    if trainer is None or size == 1:
        yield from batches
        return
    while True:
        # A step ends with the epoch too.
        step = list(islice(batches, int(min(size - done % size, trainer.num_training_batches - done))))
        if not step:
            return
        counts = [len(labels) for batch in step for labels in batch.labels]
        for batch in step:
            batch.step_targets = counts
            yield batch
        done += len(step)
