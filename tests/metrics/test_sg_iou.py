import math

import pytest
import torch
from torch import Tensor

from scan_lightning.metrics import (
    SemanticGuidedIoU,
    class_accuracy,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)
from scan_lightning.types import ClassHierarchy

from .test_functional import labels

# Rows are predictions: 0 chair, 1 armchair, 2 bed. An armchair is a chair.
CONFUSION = torch.tensor([[4, 3, 1], [0, 2, 0], [1, 1, 5]])
ARMCHAIR = ClassHierarchy(num_classes=3, parents={1: (0,)})
# beta = (3 + 4) / 8, credit 7 / 8 * 3 = 21 / 8, unions 9, 6, 8 - 1 + 5
CREDIT = 21 / 8
SG_IOU = [4 / 9, (2 + CREDIT) / 6, 5 / 8]


def guided_by_loops(confusion: Tensor, parents: dict[int, tuple[int, ...]]) -> tuple[list[float], list[float]]:
    """SG-IoU and accuracy of each class by loops over the definition."""
    rows = confusion.tolist()
    size = len(rows)
    iou, accuracy = [], []
    for c in range(size):
        truth = sum(rows[p][c] for p in range(size))
        predicted = sum(rows[c])
        credited = float(rows[c][c])
        for f in parents.get(c, ()):
            beta = (rows[f][c] + rows[f][f]) / sum(rows[f]) if sum(rows[f]) else 1.0
            credited += beta * rows[f][c]
        iou.append(credited / (truth + predicted - rows[c][c]) if truth else math.nan)
        accuracy.append(credited / truth if truth else math.nan)
    return iou, accuracy


def test_sg_iou_by_hand() -> None:
    assert class_iou(CONFUSION, ARMCHAIR).tolist() == pytest.approx(SG_IOU, abs=1e-15)
    assert class_accuracy(CONFUSION, ARMCHAIR).tolist() == pytest.approx([4 / 5, (2 + CREDIT) / 6, 5 / 6], abs=1e-15)
    assert mean_iou(CONFUSION, hierarchy=ARMCHAIR).item() == pytest.approx(sum(SG_IOU) / 3, abs=1e-15)
    assert pixel_accuracy(CONFUSION, ARMCHAIR).item() == pytest.approx((4 + 2 + CREDIT + 5) / 17, abs=1e-15)
    assert mean_accuracy(CONFUSION, ARMCHAIR).item() == pytest.approx((4 / 5 + (2 + CREDIT) / 6 + 5 / 6) / 3, abs=1e-15)
    weighted = (5 * SG_IOU[0] + 6 * SG_IOU[1] + 6 * SG_IOU[2]) / 17
    assert frequency_weighted_iou(CONFUSION, ARMCHAIR).item() == pytest.approx(weighted, abs=1e-15)


def test_sg_iou_goes_from_child_to_parent_only() -> None:
    reverse = ClassHierarchy(num_classes=3, parents={0: (1,)})
    # No chair was predicted as armchair, so nothing is credited.
    assert torch.equal(class_iou(CONFUSION, reverse), class_iou(CONFUSION))


def test_sg_iou_without_parents_is_iou() -> None:
    assert torch.equal(class_iou(CONFUSION, ClassHierarchy(num_classes=3)), class_iou(CONFUSION))


@pytest.mark.parametrize("seed", range(4))
def test_sg_iou_equals_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = 24
    prediction, target = labels(4, 11, 13, num_classes=size, seed=seed)
    prediction = torch.where(prediction == target, prediction, prediction // 3)  # some classes are never predicted
    confusion = confusion_matrix(prediction, target, size)
    parents = {}
    for child in torch.randperm(size, generator=generator)[:15].tolist():
        others = [label for label in torch.randperm(size, generator=generator).tolist() if label != child]
        parents[child] = tuple(others[: 1 + child % 3])
    hierarchy = ClassHierarchy(num_classes=size, parents=parents)
    iou, accuracy = guided_by_loops(confusion, parents)
    assert class_iou(confusion, hierarchy).tolist() == pytest.approx(iou, abs=1e-14, nan_ok=True)
    assert class_accuracy(confusion, hierarchy).tolist() == pytest.approx(accuracy, abs=1e-14, nan_ok=True)
    assert not torch.equal(class_iou(confusion, hierarchy), class_iou(confusion))


def test_sg_iou_never_predicted_parent_adds_nothing() -> None:
    confusion = torch.tensor([[0, 0], [2, 3]])
    hierarchy = ClassHierarchy(num_classes=2, parents={1: (0,)})
    assert guided_by_loops(confusion, {1: (0,)})[0] == class_iou(confusion, hierarchy).tolist() == [0, 0.6]


def test_metric_accumulates_and_averages() -> None:
    parent = ClassHierarchy(num_classes=40, parents={1: (0,), 5: (4, 9)})
    prediction, target = labels(6, 5, 4, num_classes=40, seed=3)
    for convention in ("any", "present"):
        metric = SemanticGuidedIoU(hierarchy=parent, convention=convention)  # type: ignore[arg-type]
        for guess, truth in zip(prediction, target, strict=True):
            metric.update(guess, truth)
        confusion = confusion_matrix(prediction, target, 40)
        expected = mean_iou(confusion, convention=convention, hierarchy=parent)  # type: ignore[arg-type]
        assert torch.equal(metric.compute(), expected)
        assert metric.compute().dtype == torch.float64
        torch.testing.assert_close(metric.per_class(), class_iou(confusion, parent), rtol=0, atol=0, equal_nan=True)
    assert mean_iou(confusion, convention="any") < mean_iou(confusion, convention="present")


def test_metric_unknown_convention_raises() -> None:
    with pytest.raises(ValueError, match="convention"):
        SemanticGuidedIoU(hierarchy=ARMCHAIR, convention="all")  # type: ignore[arg-type]
