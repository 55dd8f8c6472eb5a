"""Open mIoU, the similarity-weighted mean intersection over union of Zhou et al."""

from __future__ import annotations

from torch import Tensor

from scan_lightning.metrics.confusion import ConfusionMetric
from scan_lightning.metrics.functional import Convention, check_convention
from scan_lightning.metrics.similarity import check_similarity, class_open_iou, open_mean_iou


class OpenMeanIoU(ConfusionMetric):
    """Open mIoU (Zhou et al., arXiv 2311.03352): a wrong class counts as right as it is similar to the true one.

    The formula is in `scan_lightning.metrics.similarity.class_open_iou`.

    Args:
        similarity: (K, K), ``[p, c]`` how right p is where c is true, in [0, 1], with 1 on the diagonal.
        convention: ``"any"`` or ``"present"``, the classes that the mean divides by, see `scan_lightning.metrics`.

    Raises:
        ValueError: If the similarity is not such a matrix or the convention is unknown.

    Example:
        >>> import torch
        >>> metric = OpenMeanIoU(similarity=torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> metric.update(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
        >>> round(metric.compute().item(), 3)
        0.708
    """

    higher_is_better = True
    similarity: Tensor

    def __init__(self, *, similarity: Tensor, convention: Convention = "any") -> None:
        check_similarity(similarity, len(similarity))
        check_convention(convention)
        super().__init__(num_classes=len(similarity))
        self.convention = convention
        self.register_buffer("similarity", similarity, persistent=False)

    def compute(self) -> Tensor:
        """Return the mean over classes, a float64 scalar in [0, 1], NaN without any pixel."""
        return open_mean_iou(self.confusion.cpu(), self.similarity.cpu(), convention=self.convention)

    def per_class(self) -> Tensor:
        """Return the Open IoU of each class, float64 (K,), NaN without a truth pixel; every process must call it."""
        return class_open_iou(self.synchronized(), self.similarity.cpu())
