"""How much training a recipe asks for, said when ``fit`` begins, and what it took, said at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

DEFAULT_EPOCHS = 1000
"""Lightning's bound where neither steps nor epochs are given."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How training data are consumed.

    Args:
        images: Images of the training split; None where they are not counted, as in a stream.
        batch: Images per process and pass.
        processes: Processes that train together.
        accumulation: Passes whose gradients are added up for one step.
        max_steps: Bound of the optimiser's steps, -1 for none.
        max_epochs: Bound of the epochs, -1 for none; None as Lightning takes it: 1000 without a bound of steps.
        limit: The Trainer's ``limit_train_batches``: passes of an epoch, or as a float the share of them.

    Raises:
        ValueError: If a count is below 1.
    """

    images: int | None
    batch: int
    processes: int = 1
    accumulation: int = 1
    max_steps: int = -1
    max_epochs: int | None = None
    limit: int | float = 1.0

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("batch", "processes", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def effective_batch(self) -> int:
        """Images per optimiser step, over all processes."""
        return self.batch * self.processes * self.accumulation

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimiser steps of an epoch; what does not fill a batch is left out, the last step may have fewer passes."""
        if self.images is None:
            return None
        passes = self.images // self.processes // self.batch
        passes = min(passes, self.limit) if isinstance(self.limit, int) else int(passes * self.limit)
        return -(-passes // self.accumulation)

    @property
    def steps(self) -> int | None:
        """Optimiser steps of the whole training, None where nothing bounds them."""
        bounds = [] if self.max_steps < 0 else [self.max_steps]
        epochs = self.max_epochs
        if epochs is None:
            epochs = DEFAULT_EPOCHS if self.max_steps < 0 else -1
        if epochs >= 0 and self.steps_per_epoch is not None:
            bounds.append(epochs * self.steps_per_epoch)
        return min(bounds, default=None)

    @property
    def epochs(self) -> float | None:
        """Passes over the training split, None where images or steps are not known."""
        if not self.steps_per_epoch or self.steps is None:
            return None
        return self.steps / self.steps_per_epoch

    def lines(self) -> list[str]:
        """Tell the schedule in words.

        Returns:
            Two lines: the effective batch, and steps and epochs.

        Example:
            >>> for line in Schedule(images=1000, batch=4, processes=2, accumulation=4, max_steps=310).lines():
            ...     print(line)
            effective batch 32 = 4 images x 2 processes x 4 accumulated passes
            310 steps, 9.7 epochs of 1,000 images (32 steps each)
        """
        batch = (
            f"effective batch {self.effective_batch:,} = {_count(self.batch, 'image')} x "
            f"{_count(self.processes, 'process', 'es')} x {_count(self.accumulation, 'accumulated pass', 'es')}"
        )
        steps = "no bound of steps" if self.steps is None else _count(self.steps, "step")
        if self.images is None:
            return [batch, f"{steps}, images of an epoch not counted"]
        epochs = "" if self.epochs is None else f"{self.epochs:.1f} "
        each = _count(self.steps_per_epoch or 0, "step")
        return [batch, f"{steps}, {epochs}epochs of {_count(self.images, 'image')} ({each} each)"]


def _count(number: int, noun: str, plural: str = "s") -> str:
    """Write a number of things."""
    return f"{number:,} {noun}{'' if number == 1 else plural}"


class PlanCallback(Callback):
    """Say in the log what ``fit`` trains and how much, and at its end what that took.

    At the beginning: parameters, effective batch, steps and epochs. At the end: time and the peak of memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self._began = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the plan, in the first process alone.

        Args:
            trainer: Knows processes, accumulation and bounds.
            pl_module: Whose parameters are counted.
        """
        sizes = {True: 0, False: 0}
        for parameter in pl_module.parameters():
            sizes[parameter.requires_grad] += parameter.numel()
        rank_zero_info(f"plan: {sizes[True] / 1e6:,.1f} M trainable and {sizes[False] / 1e6:,.1f} M frozen parameters")
        for line in schedule_of(trainer).lines():
            rank_zero_info(f"plan: {line}")
        self._began, self._first_step = time.monotonic(), trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the steps took, in the first process alone.

        Args:
            trainer: Knows the steps that were taken.
            pl_module: Knows the device.
        """
        steps = trainer.global_step - self._first_step
        seconds = time.monotonic() - self._began
        if steps:
            peak = peak_memory(pl_module.device)
            memory = "" if peak is None else f"; peak memory of a process {peak / 2**30:.2f} GiB"
            rank_zero_info(f"done: {_count(steps, 'step')} in {seconds:,.1f} s, {seconds / steps:.2f} s each{memory}")


def peak_memory(device: torch.device) -> int | None:
    """Tell the most memory that this process has held.

    Args:
        device: Of the tensors: a CUDA device's own memory, otherwise the process's.

    Returns:
        Bytes, or None on Windows, whose processes do not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource  # Windows has no such module

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def schedule_of(trainer: Trainer) -> Schedule:
    """Read the schedule from a Trainer that has its training loader.

    Args:
        trainer: In ``fit``.

    Returns:
        The schedule.
    """
    loader: Any = trainer.train_dataloader
    dataset = loader.dataset
    return Schedule(
        images=len(dataset) if isinstance(dataset, Sized) else None,
        batch=int(loader.batch_size),
        processes=trainer.world_size,
        accumulation=trainer.accumulate_grad_batches,
        max_steps=trainer.max_steps,
        max_epochs=trainer.max_epochs,
        limit=trainer.limit_train_batches,
    )
