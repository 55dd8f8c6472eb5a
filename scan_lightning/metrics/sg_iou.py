"""SG-IoU, the semantic-guided intersection over union of SCAN."""

from __future__ import annotations

from torch import Tensor

from scan_lightning.metrics import functional
from scan_lightning.metrics.confusion import ConfusionMetric
from scan_lightning.metrics.functional import Convention
from scan_lightning.types import ClassHierarchy


class SemanticGuidedIoU(ConfusionMetric):
    """Mean SG-IoU (SCAN, CVPR 2024, section 3.4): predicting a parent of the true class is partly right.

    With C the confusion matrix and ``beta_f = (C[f, c] + C[f, f]) / predicted_f``, class c with parents F(c) has
    ``(C[c, c] + sum over f in F(c) of beta_f C[f, c]) / (truth_c + predicted_c - C[c, c])``. The more of what was
    predicted as the parent is the parent or this child, the more the prediction is worth. The parent's score stays.

    Args:
        hierarchy: Parents of classes; brings the number of classes K.
        convention: ``"any"`` or ``"present"``, the classes that the mean divides by, see `scan_lightning.metrics`.

    Raises:
        ValueError: If the convention is unknown.

    Example:
        >>> import torch
        >>> metric = SemanticGuidedIoU(hierarchy=ClassHierarchy(num_classes=2, parents={1: (0,)}))
        >>> metric.update(torch.tensor([0, 0, 0, 0, 0, 1]), torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> metric.compute().item()
        0.8
    """

    higher_is_better = True

    def __init__(self, *, hierarchy: ClassHierarchy, convention: Convention = "any") -> None:
        super().__init__(num_classes=hierarchy.num_classes)
        functional.check_convention(convention)
        self.hierarchy = hierarchy
        self.convention = convention

    def compute(self) -> Tensor:
        """Return the mean over classes, a float64 scalar in [0, 1], NaN without any pixel."""
        return functional.mean_iou(self.confusion.cpu(), convention=self.convention, hierarchy=self.hierarchy)

    def per_class(self) -> Tensor:
        """Return the SG-IoU of each class, float64 (K,), NaN without a truth pixel; every process must call it."""
        return functional.class_iou(self.synchronized(), self.hierarchy)
