"""The confusion matrix as a metric, and every score of an evaluation computed from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torchmetrics import Metric

from scan_lightning.metrics import functional
from scan_lightning.metrics.evaluator import split_scores
from scan_lightning.metrics.flow import seen_to_unseen, unseen_to_seen
from scan_lightning.metrics.similarity import check_similarity, open_mean_iou
from scan_lightning.types import ClassHierarchy


class ConfusionMetric(Metric):
    """Base of the metrics whose only state is one int64 confusion matrix, summed over processes.

    Scores are computed on the CPU in float64, so they have the same bits on every device; casting the metric or the
    module that holds it changes neither the state nor a buffer.

    Args:
        num_classes: K, at least 1.

    Raises:
        ValueError: If K is below 1.
    """

    is_differentiable = False
    full_state_update = False
    confusion: Tensor

    def __init__(self, *, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
        # A cached result would be cast together with the module.
        super().__init__(compute_with_cache=False)
        self.num_classes = num_classes
        empty = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", default=empty, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add label maps of any shape, an image or a batch.

        Args:
            prediction: Integer labels in [0, K).
            target: Integer labels in [0, K) or IGNORE_INDEX, of the same shape and on the same device.

        Raises:
            ValueError: If shapes differ or labels are outside the range.
        """
        counts = functional.confusion_matrix(prediction, target, self.num_classes)
        self.confusion += counts.to(self.confusion.device)

    def synchronized(self) -> Tensor:
        """Return the counts of all processes on the CPU, int64 (K, K); every process must call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self.confusion.cpu().clone()

    def set_dtype(self, dst_type: str | torch.dtype) -> Self:
        """Keep the type: counts stay int64.

        Args:
            dst_type: Ignored.

        Returns:
            The metric itself.
        """
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        """Move to a device without taking over a cast."""
        kept = dict(self.named_buffers(recurse=False))
        super()._apply(fn, exclude_state)
        for name, buffer in kept.items():
            setattr(self, name, buffer.to(self.get_buffer(name).device))
        return self


class ConfusionMatrix(ConfusionMetric):
    """Confusion matrix of label maps: ``[p, c]`` counts pixels predicted p whose truth is c.

    Args:
        num_classes: K, at least 1.

    Example:
        >>> metric = ConfusionMatrix(num_classes=2)
        >>> metric.update(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
        >>> metric.compute().tolist()
        [[1, 0], [1, 0]]
    """

    def compute(self) -> Tensor:
        """Return the counts so far, int64 (K, K)."""
        return self.confusion.clone()


class SegmentationMetrics(ConfusionMetric):
    """All scores of an evaluation from one confusion matrix.

    Args:
        num_classes: K, at least 1.
        seen: For each class whether the training vocabulary holds it; None leaves the split out.
        hierarchy: Parents of classes for SG-IoU; None leaves it out.
        similarity: (K, K) in [0, 1] with 1 on the diagonal, for Open mIoU; None leaves it out.

    Raises:
        ValueError: If an argument does not fit K, or the similarity is outside [0, 1] or has another diagonal.

    Example:
        >>> metric = SegmentationMetrics(num_classes=2)
        >>> metric.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, -1]))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items() if name.startswith("miou")}
        {'miou_any': 0.333, 'miou_present': 0.667}
    """

    higher_is_better = True
    similarity: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int,
        seen: Sequence[bool] | None = None,
        hierarchy: ClassHierarchy | None = None,
        similarity: Tensor | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes)
        if seen is not None and len(seen) != num_classes:
            raise ValueError(f"seen: expected {num_classes} entries, one per class, got {len(seen)}")
        if hierarchy is not None and hierarchy.num_classes != num_classes:
            raise ValueError(f"hierarchy: expected {num_classes} classes, got {hierarchy.num_classes}")
        if similarity is not None:
            check_similarity(similarity, num_classes)
        self.seen = None if seen is None else tuple(seen)
        self.hierarchy = hierarchy
        self.register_buffer("similarity", similarity, persistent=False)

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores of everything added so far.

        Returns:
            float64 scalars in [0, 1], NaN where nothing could be scored: ``miou_any``, ``miou_present``, ``fwiou``,
            ``mean_accuracy``, ``pixel_accuracy``, ``zero_share`` (share of the classes in the truth with IoU 0); with
            ``seen`` also ``miou_seen``, ``miou_unseen``, ``miou_harmonic``, ``unseen_to_seen`` and ``seen_to_unseen``
            (shares of a group's truth pixels that are predicted as a class of the other group), with ``hierarchy``
            ``sg_iou_any``, ``sg_iou_present``, with ``similarity`` ``open_miou``. Mean IoUs without a convention in
            their name use ``"any"``, as the released evaluator does.
        """
        confusion = self.confusion.cpu()
        scores = {
            "miou_any": functional.mean_iou(confusion, convention="any"),
            "miou_present": functional.mean_iou(confusion, convention="present"),
            "fwiou": functional.frequency_weighted_iou(confusion),
            "mean_accuracy": functional.mean_accuracy(confusion),
            "pixel_accuracy": functional.pixel_accuracy(confusion),
            "zero_share": functional.zero_share(confusion),
        }
        if self.seen is not None:
            split = split_scores(confusion, self.seen)
            scores |= {"miou_seen": split.seen, "miou_unseen": split.unseen, "miou_harmonic": split.harmonic}
            scores["unseen_to_seen"] = unseen_to_seen(confusion, self.seen)
            scores["seen_to_unseen"] = seen_to_unseen(confusion, self.seen)
        if self.hierarchy is not None:
            guided = functional.class_iou(confusion, self.hierarchy)
            scores["sg_iou_any"] = functional.mean_over_classes(guided, confusion, "any")
            scores["sg_iou_present"] = functional.mean_over_classes(guided, confusion, "present")
        if self.similarity is not None:
            scores["open_miou"] = open_mean_iou(confusion, self.similarity.cpu())
        return scores

    def per_class(self) -> dict[str, Tensor]:
        """Compute the scores of each class; with several processes every one of them must call it.

        Returns:
            (K,) tensors: float64 ``iou``, ``accuracy`` and, with a hierarchy, ``sg_iou``, NaN for classes without a
            truth pixel; int64 ``truth_pixels`` and ``predicted_pixels``.
        """
        confusion = self.synchronized()
        scores = {"iou": functional.class_iou(confusion), "accuracy": functional.class_accuracy(confusion)}
        if self.hierarchy is not None:
            scores["sg_iou"] = functional.class_iou(confusion, self.hierarchy)
        return scores | {"truth_pixels": confusion.sum(dim=0), "predicted_pixels": confusion.sum(dim=1)}
