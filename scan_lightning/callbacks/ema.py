"""An exponential moving average of the weights, which validation, test and checkpoints use."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialAverage(WeightAveraging):
    """Average the weights over the steps of training, beginning with those after the first step.

    Validation within fit sees the average, the end of fit leaves it in the network, and so test and export use it. A
    checkpoint holds the average as the network's weights and what training goes on with beside it. Lightning's own
    `EMAWeightAveraging` rounds integer buffers and moves frozen weights by rounding; here buffers are not averaged,
    and what is frozen stays as it is and is not kept twice.

    Args:
        decay: Share of the old average that a step leaves, in [0, 1).

    Raises:
        ValueError: If ``decay`` is outside [0, 1).
    """

    def __init__(self, *, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a share in [0, 1), got {decay}")
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the average to the network's device, which it did not have yet in setup, and share what is frozen.

        Args:
            trainer: Not used.
            pl_module: The network.
        """
        if self._average_model is None:
            raise RuntimeError("ExponentialAverage: expected setup before fit")
        self._average_model.to(pl_module.device)
        pairs = zip(self._average_model.module.parameters(), pl_module.parameters(), strict=True)
        for average, current in pairs:
            if not current.requires_grad:
                average.data = current.data
