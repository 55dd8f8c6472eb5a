"""The scores of a finished test over all processes, Open mIoU by the network's own text features among them."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from scan_lightning.metrics import SegmentationMetrics
from scan_lightning.metrics.similarity import open_mean_iou, text_similarity
from scan_lightning.models.text import TextFeatures


@runtime_checkable
class SegmentationScores(Protocol):
    """What is needed of a module's ``test_metrics``, see `scan_lightning.metrics`."""

    def compute(self) -> dict[str, Tensor]:
        """Return the scores as scalars in [0, 1]."""

    def per_class(self) -> dict[str, Tensor]:
        """Return the scores of each class, (K,) tensors."""


def gather_scores(trainer: Trainer, module: LightningModule, images: int) -> tuple[dict[str, float], int]:
    """Compute the scores of a test. Collective: every process must call it.

    Args:
        trainer: The run's Trainer.
        module: Holds ``test_metrics``; with ``text_features`` and ``vocabulary`` Open mIoU is computed as well.
        images: How many this process has tested.

    Returns:
        Scores by name, fractions, and the number of images of all processes.

    Raises:
        TypeError: If the module holds no ``test_metrics``.
    """
    metrics = getattr(module, "test_metrics", None)
    if not isinstance(metrics, SegmentationScores):
        raise TypeError(
            f"expected {type(module).__name__} to hold test_metrics (SegmentationMetrics), got {type(metrics).__name__}"
        )
    scores = {name: value.item() for name, value in metrics.compute().items()}
    text = _text_features(module)
    if text is not None and isinstance(metrics, SegmentationMetrics):
        similarity = text_similarity(text.features.cpu(), text.owners.cpu(), text.num_classes)
        scores["open_miou"] = open_mean_iou(metrics.synchronized(), similarity).item()
    count = cast(Any, trainer.strategy.reduce(torch.tensor(images, device=module.device), reduce_op="sum"))
    return scores, int(count)


def _text_features(module: LightningModule) -> TextFeatures | None:
    """Give the text features of the tested words; None for a model without text."""
    encode, vocabulary = getattr(module, "text_features", None), getattr(module, "vocabulary", None)
    found = encode(vocabulary) if callable(encode) and vocabulary is not None else None
    return found if isinstance(found, TextFeatures) else None
