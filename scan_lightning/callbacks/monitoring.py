"""What a training costs and whether it is healthy: gradient norm, images per second, memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer

from scan_lightning.callbacks.plan import peak_memory


class MonitorCallback(Callback):
    """Log gradient norm, images per second and peak memory of a training; stop it when gradients are not finite.

    ``train/grad_norm`` is the L2 norm over all trained parameters before clipping, ``system/images_per_second`` counts
    all processes, ``system/memory_gib`` is the most that the first process has held: of its GPU, else of the machine.
    They go to every logger, each ``log_every_n_steps`` steps.

    Args:
        window: Batches over which the rate is a mean.

    Raises:
        ValueError: If ``window`` is below 1.
    """

    def __init__(self, *, window: int = 20) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window: expected at least 1 batch, got {window}")
        self._times: deque[tuple[float, int]] = deque(maxlen=window + 1)
        self._names: list[str] = []
        self._skipped = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._times.clear()
        self._times.append((time.monotonic(), 0))
        self._names, self._skipped = [], 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again: validation is not training."""
        self._times.clear()
        self._times.append((time.monotonic(), 0))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember which images a step is made of."""
        self._names += getattr(batch, "image_ids", ())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the gradient norm; stop when it is not finite.

        Under fp16, whose scale is found by trial, the scaler leaves out such a step; how many it left out is logged.

        Args:
            trainer: The run's trainer.
            pl_module: The module that is trained.
            optimizer: Holds the parameters, with gradients that are unscaled.

        Raises:
            FloatingPointError: Names step, parameters and images.
        """
        names, self._names = self._names, []
        norm = gradient_norm([parameter for group in optimizer.param_groups for parameter in group["params"]])
        plugin = trainer.precision_plugin
        scaled = isinstance(plugin, MixedPrecision) and plugin.scaler is not None
        if torch.isfinite(norm):
            pl_module.log("train/grad_norm", norm)
        elif not scaled:
            raise FloatingPointError(
                f"non-finite gradient norm {norm.item()} at step {trainer.global_step} in "
                f"{_some(_not_finite(pl_module))}, images: {', '.join(names) or 'not named'}"
            )
        else:
            self._skipped += 1
        if scaled:
            pl_module.log("train/skipped_steps", float(self._skipped))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log rate and memory.

        Args:
            trainer: Knows the number of processes.
            pl_module: Knows the device.
            outputs: Not used.
            batch: Counted by its ``images``.
            batch_idx: Not used.
        """
        images = getattr(batch, "images", ())
        self._times.append((time.monotonic(), len(images) * trainer.world_size))
        seconds = self._times[-1][0] - self._times[0][0]
        # The first entry is the beginning of the second one.
        count = sum(number for _, number in list(self._times)[1:])
        if seconds > 0:
            pl_module.log("system/images_per_second", count / seconds, batch_size=1)
        memory = peak_memory(pl_module.device)
        if memory is not None:
            pl_module.log("system/memory_gib", memory / 2**30, batch_size=1)


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Compute the L2 norm of all gradients together.

    Args:
        parameters: Those without a gradient count as zero.

    Returns:
        float32 scalar.
    """
    gradients = [parameter.grad.float() for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())


def _not_finite(module: LightningModule) -> list[str]:
    """Name the parameters whose gradient holds an infinity or NaN."""
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]


def _some(names: Sequence[str]) -> str:
    """Name the first of many."""
    if not names:
        return "the sum"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} other parameters"
