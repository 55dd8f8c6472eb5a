import math

import pytest
import torch
from torch import Tensor

from scan_lightning.metrics import OpenMeanIoU, class_iou, class_open_iou, confusion_matrix, mean_iou, open_mean_iou

from .test_functional import labels

# Not symmetric: similarity[p, c] is how right p is where c is true.
SIMILARITY = torch.tensor([[1.0, 0.5, 0.0], [0.25, 1.0, 0.0], [0.0, 0.75, 1.0]], dtype=torch.float64)
CONFUSION = torch.tensor([[4, 2, 1], [4, 3, 0], [0, 4, 0]])


def similarity_of(size: int, seed: int) -> Tensor:
    matrix = torch.rand(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return matrix.fill_diagonal_(1)


def open_by_loops(confusion: Tensor, similarity: Tensor) -> list[float]:
    """Open IoU of each class by loops over the definition."""
    counts, alike = confusion.tolist(), similarity.tolist()
    size = len(counts)
    found = []
    for c in range(size):
        others = [k for k in range(size) if k != c]
        tp = sum(counts[p][c] * alike[p][c] for p in range(size))
        fp = sum(counts[c][g] * (1 - alike[c][g]) for g in others)
        fn = sum(counts[p][c] * (1 - alike[p][c]) for p in others)
        found.append(tp / (tp + fp + fn) if any(row[c] for row in counts) else math.nan)
    return found


def test_open_iou_by_hand() -> None:
    # class 0: tp 4 + 4/4, fp 2/2 + 1, fn 3; class 1: tp 2/2 + 3 + 3, fp 4 * 3/4, fn 1 + 1; class 2: tp 0
    expected = [5 / 10, 7 / 12, 0.0]
    assert class_open_iou(CONFUSION, SIMILARITY).tolist() == pytest.approx(expected, abs=1e-15)
    assert open_mean_iou(CONFUSION, SIMILARITY).item() == pytest.approx(sum(expected) / 3, abs=1e-15)


def test_open_iou_with_unit_matrix_is_iou() -> None:
    assert torch.equal(class_open_iou(CONFUSION, torch.eye(3)), class_iou(CONFUSION))


def test_open_iou_with_all_classes_alike_is_one() -> None:
    assert class_open_iou(CONFUSION, torch.ones(3, 3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("seed", range(3))
def test_open_iou_equals_loops(seed: int) -> None:
    prediction, target = labels(9, 8, num_classes=30, seed=seed)
    confusion, similarity = confusion_matrix(prediction, target, 30), similarity_of(30, seed)
    expected = open_by_loops(confusion, similarity)
    assert class_open_iou(confusion, similarity).tolist() == pytest.approx(expected, abs=1e-14, nan_ok=True)
    assert any(math.isnan(value) for value in expected)


def test_metric_accumulates_and_averages() -> None:
    prediction, target = labels(5, 6, 7, num_classes=60, seed=1)
    similarity = similarity_of(60, 1)
    confusion = confusion_matrix(prediction, target, 60)
    for convention in ("any", "present"):
        metric = OpenMeanIoU(similarity=similarity, convention=convention)  # type: ignore[arg-type]
        for guess, truth in zip(prediction, target, strict=True):
            metric.update(guess, truth)
        assert torch.equal(metric.compute(), open_mean_iou(confusion, similarity, convention=convention))  # type: ignore[arg-type]
        assert torch.equal(metric.per_class().nan_to_num(), class_open_iou(confusion, similarity).nan_to_num())
    assert metric.compute() > mean_iou(confusion, convention="present")


def test_metric_keeps_similarity_through_casts_and_out_of_checkpoints() -> None:
    similarity = similarity_of(4, 0)
    metric = OpenMeanIoU(similarity=similarity)
    torch.nn.Sequential(metric).half().to(torch.bfloat16).type(torch.float16)
    assert torch.equal(metric.similarity, similarity)
    assert metric.similarity.dtype == torch.float64
    assert metric.state_dict() == {}


def test_metric_single_class_and_empty() -> None:
    metric = OpenMeanIoU(similarity=torch.ones(1, 1))
    nothing = torch.empty(0, 4, dtype=torch.int64)
    metric.update(nothing, nothing)
    assert metric.compute().isnan()
    metric.update(torch.tensor([0]), torch.tensor([0]))
    assert metric.compute().item() == 1


@pytest.mark.parametrize(
    ("similarity", "message"),
    [
        (torch.ones(2, 3), r"expected a floating point \(2, 2\)"),
        (torch.ones(2, 2, dtype=torch.int64), "expected a floating point"),
        (torch.tensor([[1.0, 1.5], [0.0, 1.0]]), r"expected values in \[0, 1\], got 0.0 to 1.5"),
        (torch.tensor([[1.0, -0.1], [0.0, 1.0]]), r"expected values in \[0, 1\]"),
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), r"expected values in \[0, 1\]"),
        (torch.tensor([[1.0, 0.0], [0.0, 0.9]]), "1 on the diagonal"),
    ],
)
def test_similarity_wrong_matrix_raises(similarity: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenMeanIoU(similarity=similarity)


def test_similarity_of_other_size_raises() -> None:
    with pytest.raises(ValueError, match=r"expected a floating point \(3, 3\)"):
        class_open_iou(CONFUSION, torch.eye(2))
