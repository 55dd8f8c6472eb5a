"""Scores of a semantic segmentation as pure functions of one confusion matrix.

``confusion[p, c]`` counts the pixels that were predicted as class p and are class c in the truth; pixels without truth
are not in it. All counts are int64 and every score is computed from them in float64, so a score does not depend on
batches, processes or their order. Scores are fractions in [0, 1]; NaN means that nothing could be scored.

Two conventions for the mean over classes are in use, and tables must name theirs. Both sum over the classes that occur
in the truth:

- ``"any"`` divides by the number of classes in truth or prediction (SCAN, OVSeg, detectron2 before July 2022);
- ``"present"`` divides by the number of classes in the truth (FC-CLIP, CAT-Seg).

Functions with a ``hierarchy`` give the plain score without one and the semantic-guided score (SG-IoU, SCAN section 3.4)
with one: a pixel of class c predicted as a parent f of c is worth
``beta = (confusion[f, c] + confusion[f, f]) / predicted_f`` of a true positive of c, and the union stays the plain one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from scan_lightning.types import IGNORE_INDEX, ClassHierarchy

Convention = Literal["any", "present"]
"""Which classes the mean over classes divides by, see the module's docstring."""


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Pixels per class, float64 (K,).

    Attributes:
        truth: Pixels that are the class in the truth.
        predicted: Pixels that are predicted as the class and have a truth.
        exact: Pixels that are both, the true positives.
        credited: ``exact`` plus what a hierarchy adds for pixels predicted as a parent.
    """

    truth: Tensor
    predicted: Tensor
    exact: Tensor
    credited: Tensor


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Count the pairs of predicted and true labels.

    Args:
        prediction: Integer labels of any shape, in [0, K) wherever the target counts.
        target: Integer labels of the same shape, in [0, K) or IGNORE_INDEX.
        num_classes: K, at least 1.

    Returns:
        int64 (K, K), ``[p, c]`` the number of pixels predicted p whose truth is c. Ignored truth is left out.

    Raises:
        ValueError: If the shapes differ, labels are not integers, a counted label is outside [0, K), or K is below 1.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, -1]), 2).tolist()
        [[1, 0], [1, 0]]
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    for name, labels in (("prediction", prediction), ("target", target)):
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"{name}: expected integer labels, got {labels.dtype}")
    # Widened before the comparison: as uint8, 255 equals -1.
    target = target.long()
    counted = target != IGNORE_INDEX
    truth, predicted = target[counted], prediction[counted].long()
    for name, labels in (("prediction", predicted), ("target", truth)):
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            low, high = int(labels.min()), int(labels.max())
            raise ValueError(f"{name}: expected labels in [0, {num_classes}), got labels from {low} to {high}")
    return torch.bincount(predicted * num_classes + truth, minlength=num_classes**2).view(num_classes, num_classes)


def class_counts(confusion: Tensor, hierarchy: ClassHierarchy | None = None) -> ClassCounts:
    """Sum rows and columns and credit predictions of a parent.

    Args:
        confusion: int64 (K, K).
        hierarchy: Parents of classes; without one ``credited`` equals ``exact``.

    Returns:
        The pixels of each class.

    Raises:
        ValueError: If the matrix is not int64 (K, K) or the hierarchy has another number of classes.
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or confusion.dtype != torch.int64:
        raise ValueError(f"confusion: expected int64 (K, K), got {confusion.dtype} {tuple(confusion.shape)}")
    exact = confusion.diagonal().double()
    predicted = confusion.sum(dim=1).double()
    credited = exact
    if hierarchy is not None:
        if hierarchy.num_classes != confusion.shape[0]:
            raise ValueError(f"hierarchy: expected {confusion.shape[0]} classes, got {hierarchy.num_classes}")
        pairs = [(child, parent) for child, parents in hierarchy.parents.items() for parent in parents]
        child, parent = torch.tensor(pairs, dtype=torch.int64, device=confusion.device).reshape(-1, 2).unbind(dim=1)
        shared = confusion[parent, child].double()
        # A parent that was never predicted shares no pixel, so its beta, 1 in the released code, does not matter.
        beta = (shared + exact[parent]) / predicted[parent].clamp(min=1)
        credited = exact.index_add(0, child, beta * shared)
    return ClassCounts(truth=confusion.sum(dim=0).double(), predicted=predicted, exact=exact, credited=credited)


def class_iou(confusion: Tensor, hierarchy: ClassHierarchy | None = None) -> Tensor:
    """Compute each class's intersection over union, or its SG-IoU.

    Args:
        confusion: int64 (K, K).
        hierarchy: Parents of classes; None for the plain IoU.

    Returns:
        float64 (K,), in [0, 1], NaN for classes without a truth pixel.

    Raises:
        ValueError: If the matrix is not int64 (K, K) or the hierarchy has another number of classes.

    Example:
        >>> confusion = torch.tensor([[3, 2], [0, 1]])
        >>> class_iou(confusion).tolist()
        [0.6, 0.3333333333333333]
        >>> class_iou(confusion, ClassHierarchy(num_classes=2, parents={1: (0,)})).tolist()
        [0.6, 1.0]
    """
    counts = class_counts(confusion, hierarchy)
    return _over_truth(counts.credited, counts.truth + counts.predicted - counts.exact, counts)


def class_accuracy(confusion: Tensor, hierarchy: ClassHierarchy | None = None) -> Tensor:
    """Compute the share of each class's truth pixels that are right.

    Args:
        confusion: int64 (K, K).
        hierarchy: Parents of classes, whose prediction is partly right; None for the plain accuracy.

    Returns:
        float64 (K,), in [0, 1], NaN for classes without a truth pixel.

    Raises:
        ValueError: As `class_iou`.
    """
    counts = class_counts(confusion, hierarchy)
    return _over_truth(counts.credited, counts.truth, counts)


def check_convention(convention: str) -> None:
    """Check the name of a convention.

    Args:
        convention: The name.

    Raises:
        ValueError: Unless it is ``"any"`` or ``"present"``.
    """
    if convention not in get_args(Convention):
        raise ValueError(f"convention: expected one of {get_args(Convention)}, got {convention!r}")


def mean_over_classes(
    values: Tensor, confusion: Tensor, convention: Convention = "any", *, part: Tensor | None = None
) -> Tensor:
    """Average a score over the classes, by one of the two conventions of the module's docstring.

    Args:
        values: (K,), a score of each class; those of classes without a truth pixel are not read.
        confusion: int64 (K, K), says which classes occur.
        convention: ``"any"`` or ``"present"``.
        part: bool (K,), restricts both sum and divisor to some classes; None takes all.

    Returns:
        float64 scalar, NaN if no class is left to divide by.

    Raises:
        ValueError: If the convention is unknown or the matrix is not int64 (K, K).
    """
    check_convention(convention)
    counts = class_counts(confusion)
    summed = counts.truth > 0
    divided = summed | (counts.predicted > 0) if convention == "any" else summed
    if part is not None:
        summed, divided = summed & part, divided & part
    return values.double()[summed].sum() / divided.sum()


def mean_iou(confusion: Tensor, *, convention: Convention = "any", hierarchy: ClassHierarchy | None = None) -> Tensor:
    """Average the IoU, or with a hierarchy the SG-IoU, over the classes.

    Args:
        confusion: int64 (K, K).
        convention: ``"any"`` or ``"present"``, see the module's docstring.
        hierarchy: Parents of classes; None for the plain IoU.

    Returns:
        float64 scalar in [0, 1], NaN without any pixel.

    Raises:
        ValueError: If the convention is unknown, or as `class_iou`.

    Example:
        >>> confusion = torch.tensor([[3, 0, 0], [1, 0, 0], [0, 0, 0]])
        >>> [mean_iou(confusion, convention=name).item() for name in ("any", "present")]
        [0.375, 0.75]
    """
    return mean_over_classes(class_iou(confusion, hierarchy), confusion, convention)


def frequency_weighted_iou(confusion: Tensor, hierarchy: ClassHierarchy | None = None) -> Tensor:
    """Average the IoU over the classes, weighted by their share of the truth pixels.

    Args:
        confusion: int64 (K, K).
        hierarchy: Parents of classes; None for the plain IoU.

    Returns:
        float64 scalar in [0, 1], NaN without any pixel.

    Raises:
        ValueError: As `class_iou`.
    """
    truth = class_counts(confusion, hierarchy).truth
    return (class_iou(confusion, hierarchy).nan_to_num() * truth).sum() / truth.sum()


def mean_accuracy(confusion: Tensor, hierarchy: ClassHierarchy | None = None) -> Tensor:
    """Average the accuracy over the classes that occur in the truth.

    Args:
        confusion: int64 (K, K).
        hierarchy: Parents of classes; None for the plain accuracy.

    Returns:
        float64 scalar in [0, 1], NaN without any pixel.

    Raises:
        ValueError: As `class_iou`.
    """
    return mean_over_classes(class_accuracy(confusion, hierarchy), confusion, "present")


def pixel_accuracy(confusion: Tensor, hierarchy: ClassHierarchy | None = None) -> Tensor:
    """Compute the share of the truth pixels that are right.

    Args:
        confusion: int64 (K, K).
        hierarchy: Parents of classes; None for the plain accuracy.

    Returns:
        float64 scalar in [0, 1], NaN without any pixel.

    Raises:
        ValueError: As `class_iou`.
    """
    counts = class_counts(confusion, hierarchy)
    return counts.credited.sum() / counts.truth.sum()


def zero_share(confusion: Tensor) -> Tensor:
    """Compute the share of the classes in the truth whose IoU is 0.

    Args:
        confusion: int64 (K, K).

    Returns:
        float64 scalar in [0, 1], NaN without any pixel.

    Raises:
        ValueError: If the matrix is not int64 (K, K).
    """
    return mean_over_classes(class_counts(confusion).exact == 0, confusion, "present")


def _over_truth(numerator: Tensor, denominator: Tensor, counts: ClassCounts) -> Tensor:
    """Divide, with NaN for the classes that have no truth pixel."""
    return torch.where(counts.truth > 0, numerator / denominator, torch.nan)
