"""Scores of seen and unseen classes, and the report of the released SCAN evaluators, from one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scan_lightning.metrics.functional import (
    Convention,
    class_accuracy,
    class_counts,
    class_iou,
    frequency_weighted_iou,
    mean_accuracy,
    mean_iou,
    mean_over_classes,
    pixel_accuracy,
)
from scan_lightning.types import ClassHierarchy


class SplitScores(NamedTuple):
    """Scores of the seen and the unseen classes, float64 scalars.

    Attributes:
        seen: Mean IoU over the seen classes.
        unseen: Mean IoU over the unseen classes.
        harmonic: Harmonic mean of the two; 0 if both are 0.
        seen_accuracy: Share of the pixels of seen classes that are right.
        unseen_accuracy: Share of the pixels of unseen classes that are right.
    """

    seen: Tensor
    unseen: Tensor
    harmonic: Tensor
    seen_accuracy: Tensor
    unseen_accuracy: Tensor


def split_scores(
    confusion: Tensor,
    seen: Sequence[bool],
    *,
    convention: Convention = "any",
    hierarchy: ClassHierarchy | None = None,
) -> SplitScores:
    """Score the seen and the unseen classes apart.

    IoU and accuracy of a class are those of the whole matrix; only the mean runs over a part of the classes. With the
    default convention these are the values of the released evaluator. By ``"any"``, a group that occurs only in the
    prediction has mean IoU 0, by ``"present"`` NaN.

    Args:
        confusion: int64 (K, K).
        seen: For each class whether the training vocabulary holds it.
        convention: ``"any"`` or ``"present"``, applied within each group.
        hierarchy: Parents of classes; None for the plain scores.

    Returns:
        The scores of both groups; NaN for a group that nothing can be said of, and then for the harmonic mean too.

    Raises:
        ValueError: If ``seen`` has another length than K or the convention is unknown, or as `class_iou`.
    """
    counts, iou = class_counts(confusion, hierarchy), class_iou(confusion, hierarchy)
    if len(seen) != len(iou):
        raise ValueError(f"seen: expected {len(iou)} entries, one per class, got {len(seen)}")
    group = torch.tensor(list(seen), dtype=torch.bool, device=confusion.device)
    known, novel = (mean_over_classes(iou, confusion, convention, part=part) for part in (group, ~group))
    total = known + novel
    known_accuracy, novel_accuracy = (
        counts.credited[part].sum() / counts.truth[part].sum() for part in (group, ~group)
    )
    return SplitScores(
        seen=known,
        unseen=novel,
        harmonic=torch.where(total == 0, 0.0, 2 * known * novel / total),
        seen_accuracy=known_accuracy,
        unseen_accuracy=novel_accuracy,
    )


def evaluator_scores(
    confusion: Tensor, *, hierarchy: ClassHierarchy | None = None, seen: Sequence[bool] | None = None
) -> dict[str, Tensor]:
    """Compute what the released SCAN evaluators report, under their names and in percent.

    For comparing with their output; everything else in this package uses fractions.

    Args:
        confusion: int64 (K, K), see `confusion_matrix`.
        hierarchy: Parents of classes for the SG-IoU evaluator; None for the ordinary one.
        seen: For each class whether it was trained on; adds the entries with ``-seen`` and ``-unseen``.

    Returns:
        float64, in percent: scalars ``mIoU`` (convention ``"any"``), ``fwIoU``, ``mACC``, ``pACC`` and (K,) ``iou``,
        ``acc`` with NaN for classes without a truth pixel. With ``seen`` also ``mIoU-seen``, ``mIoU-unseen``,
        ``pAcc-seen``, ``pAcc-unseen`` and the harmonic mean of the two IoUs, there called ``hIoU-seen``.

    Raises:
        ValueError: As `class_iou` and `split_scores`.
    """
    scores = {
        "mIoU": mean_iou(confusion, hierarchy=hierarchy),
        "fwIoU": frequency_weighted_iou(confusion, hierarchy),
        "mACC": mean_accuracy(confusion, hierarchy),
        "pACC": pixel_accuracy(confusion, hierarchy),
        "iou": class_iou(confusion, hierarchy),
        "acc": class_accuracy(confusion, hierarchy),
    }
    if seen is not None:
        split = split_scores(confusion, seen, hierarchy=hierarchy)
        scores |= {"mIoU-seen": split.seen, "mIoU-unseen": split.unseen, "hIoU-seen": split.harmonic}
        scores |= {"pAcc-seen": split.seen_accuracy, "pAcc-unseen": split.unseen_accuracy}
    return {name: 100 * value for name, value in scores.items()}
