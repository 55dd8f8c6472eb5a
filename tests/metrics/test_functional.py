import math

import pytest
import torch
from torch import Tensor

from scan_lightning.metrics import (
    class_accuracy,
    class_counts,
    class_iou,
    confusion_matrix,
    evaluator_scores,
    frequency_weighted_iou,
    mean_accuracy,
    mean_iou,
    mean_over_classes,
    pixel_accuracy,
    split_scores,
    zero_share,
)
from scan_lightning.types import IGNORE_INDEX, ClassHierarchy

# Rows are predictions, columns truth. Class 2 is predicted but never true, class 3 true but never hit, class 4 absent.
CONFUSION = torch.tensor([[6, 1, 0, 2, 0], [2, 3, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
# truth 8, 5, 0, 2, 0; predicted 9, 5, 1, 0, 0; unions 11, 7, 1, 2, 0
IOU = [6 / 11, 3 / 7, math.nan, 0.0, math.nan]
ACCURACY = [6 / 8, 3 / 5, math.nan, 0.0, math.nan]


def labels(*shape: int, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random prediction and truth, the truth with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, num_classes, shape, generator=generator)
    return prediction, torch.randint(IGNORE_INDEX, num_classes, shape, generator=generator)


def iou_by_pixel_sets(prediction: Tensor, target: Tensor, num_classes: int) -> list[float]:
    """IoU from the definition: sets of pixels, without a confusion matrix."""
    pixels = [(p, t) for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True) if t >= 0]
    found = []
    for label in range(num_classes):
        guessed = {i for i, (p, _) in enumerate(pixels) if p == label}
        true = {i for i, (_, t) in enumerate(pixels) if t == label}
        found.append(len(guessed & true) / len(guessed | true) if true else math.nan)
    return found


def test_confusion_matrix_counts_by_hand() -> None:
    prediction = torch.tensor([[0, 1, 2], [2, 2, 0]])
    target = torch.tensor([[0, 0, 2], [IGNORE_INDEX, 1, IGNORE_INDEX]])
    counts = confusion_matrix(prediction, target, 3)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_confusion_matrix_other_integer_types_agree(dtype: torch.dtype) -> None:
    prediction, target = labels(7, 5, num_classes=9, seed=0)
    target = target.clamp(min=0)
    expected = confusion_matrix(prediction, target, 9)
    assert torch.equal(confusion_matrix(prediction.to(dtype), target.to(dtype), 9), expected)


def test_confusion_matrix_label_255_is_not_ignored_in_uint8() -> None:
    target = torch.tensor([0, 255], dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"target: expected labels in \[0, 3\), got labels from 0 to 255"):
        confusion_matrix(torch.tensor([0, 0]), target, 3)


def test_confusion_matrix_prediction_where_truth_is_ignored_is_free() -> None:
    counts = confusion_matrix(torch.tensor([-7, 1]), torch.tensor([IGNORE_INDEX, 0]), 2)
    assert counts.tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("prediction", "target", "num_classes", "message"),
    [
        (torch.tensor([0, 3]), torch.tensor([0, 0]), 3, "prediction: expected labels"),
        (torch.tensor([0, -1]), torch.tensor([0, 0]), 3, "prediction: expected labels"),
        (torch.tensor([0, 0]), torch.tensor([3, 0]), 3, "target: expected labels"),
        (torch.tensor([0, 0]), torch.tensor([-2, 0]), 3, "target: expected labels"),
        (torch.tensor([0]), torch.tensor([0, 0]), 3, "differ in shape"),
        (torch.tensor([0.0]), torch.tensor([0]), 3, "prediction: expected integer labels"),
        (torch.tensor([0]), torch.tensor([True]), 3, "target: expected integer labels"),
        (torch.tensor([0]), torch.tensor([0]), 0, "num_classes"),
    ],
)
def test_confusion_matrix_wrong_input_raises(
    prediction: Tensor, target: Tensor, num_classes: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(prediction, target, num_classes)


def test_class_scores_by_hand() -> None:
    counts = class_counts(CONFUSION)
    assert counts.truth.tolist() == [8, 5, 0, 2, 0]
    assert counts.predicted.tolist() == [9, 5, 1, 0, 0]
    assert counts.exact.tolist() == counts.credited.tolist() == [6, 3, 0, 0, 0]
    assert class_iou(CONFUSION).tolist() == pytest.approx(IOU, abs=1e-15, nan_ok=True)
    assert class_accuracy(CONFUSION).tolist() == pytest.approx(ACCURACY, abs=1e-15, nan_ok=True)


def test_means_by_hand() -> None:
    total = 6 / 11 + 3 / 7
    assert mean_iou(CONFUSION).item() == pytest.approx(total / 4, abs=1e-15)
    assert mean_iou(CONFUSION, convention="any").item() == pytest.approx(total / 4, abs=1e-15)
    assert mean_iou(CONFUSION, convention="present").item() == pytest.approx(total / 3, abs=1e-15)
    assert frequency_weighted_iou(CONFUSION).item() == pytest.approx((8 * 6 / 11 + 5 * 3 / 7) / 15, abs=1e-15)
    assert mean_accuracy(CONFUSION).item() == pytest.approx((6 / 8 + 3 / 5) / 3, abs=1e-15)
    assert pixel_accuracy(CONFUSION).item() == pytest.approx(9 / 15, abs=1e-15)
    assert zero_share(CONFUSION).item() == pytest.approx(1 / 3, abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_class_iou_equals_pixel_sets(seed: int) -> None:
    prediction, target = labels(3, 6, 8, num_classes=40, seed=seed)
    confusion = confusion_matrix(prediction, target, 40)
    expected = iou_by_pixel_sets(prediction, target, 40)
    assert any(math.isnan(value) for value in expected)
    assert class_iou(confusion).tolist() == pytest.approx(expected, abs=1e-15, nan_ok=True)


def test_split_by_hand() -> None:
    scores = split_scores(CONFUSION, [True, False, False, True, True])
    seen, unseen = 6 / 11 / 2, 3 / 7 / 2  # classes 0 and 3; classes 1 and 2, the latter only predicted
    assert scores.seen.item() == pytest.approx(seen, abs=1e-15)
    assert scores.unseen.item() == pytest.approx(unseen, abs=1e-15)
    assert scores.harmonic.item() == pytest.approx(2 / (1 / seen + 1 / unseen), abs=1e-15)
    assert scores.seen_accuracy.item() == pytest.approx(6 / 10, abs=1e-15)
    assert scores.unseen_accuracy.item() == pytest.approx(3 / 5, abs=1e-15)
    present = split_scores(CONFUSION, [True, False, False, True, True], convention="present")
    assert present.unseen.item() == pytest.approx(3 / 7, abs=1e-15)


def test_split_of_a_group_without_truth() -> None:
    only_predicted = [True, True, False, True, True]
    assert split_scores(CONFUSION, only_predicted).unseen.item() == 0
    assert split_scores(CONFUSION, only_predicted).harmonic.item() == 0
    assert split_scores(CONFUSION, only_predicted, convention="present").unseen.isnan()
    absent = split_scores(CONFUSION, [True, True, True, True, False])
    assert absent.unseen.isnan()
    assert absent.harmonic.isnan()
    assert absent.unseen_accuracy.isnan()


def test_split_harmonic_of_two_zeros_is_zero() -> None:
    assert split_scores(torch.tensor([[0, 2], [3, 0]]), [True, False]).harmonic.item() == 0


def test_evaluator_scores_are_percent() -> None:
    hierarchy = ClassHierarchy(num_classes=5, parents={1: (0,)})
    for table in (None, hierarchy):
        scores = evaluator_scores(CONFUSION, hierarchy=table)
        assert set(scores) == {"mIoU", "fwIoU", "mACC", "pACC", "iou", "acc"}
        assert scores["mIoU"].item() == pytest.approx(100 * mean_iou(CONFUSION, hierarchy=table).item())
        assert scores["acc"][1].item() == pytest.approx(100 * class_accuracy(CONFUSION, table)[1].item())
    assert evaluator_scores(CONFUSION)["pACC"].item() == pytest.approx(60)


def test_no_pixel_gives_nan() -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    confusion = confusion_matrix(nothing, nothing, 3)
    hierarchy = ClassHierarchy(num_classes=3, parents={1: (0,)})
    scores = evaluator_scores(confusion, hierarchy=hierarchy, seen=[True, False, False])
    assert len(scores) == 11
    assert all(value.isnan().all() for value in scores.values())
    assert zero_share(confusion).isnan()


def test_single_class() -> None:
    confusion = confusion_matrix(torch.tensor([0, 0]), torch.tensor([0, IGNORE_INDEX]), 1)
    assert confusion.tolist() == [[1]]
    assert mean_iou(confusion).item() == mean_iou(confusion, hierarchy=ClassHierarchy(num_classes=1)).item() == 1


def test_two_thousand_classes_equal_the_sum_of_their_parts() -> None:
    prediction, target = labels(64, 64, num_classes=2000, seed=5)
    confusion = confusion_matrix(prediction, target, 2000)
    counted = (target >= 0).sum().item()
    assert confusion.sum().item() == counted
    assert pixel_accuracy(confusion).item() == (prediction == target).sum().item() / counted
    hits = target[prediction == target].unique().numel()
    assert hits > 0
    present = target[target >= 0].unique().numel()
    assert zero_share(confusion).item() == pytest.approx(1 - hits / present, abs=1e-12)


def test_counts_above_float32_stay_exact() -> None:
    big = 2**40 + 1
    assert pixel_accuracy(torch.tensor([[big, 0], [1, 0]])).item() == big / (big + 1)


def test_wrong_arguments_raise() -> None:
    with pytest.raises(ValueError, match="convention: expected one of"):
        mean_iou(CONFUSION, convention="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="confusion: expected int64"):
        class_iou(CONFUSION.double())
    with pytest.raises(ValueError, match="confusion: expected int64"):
        mean_over_classes(torch.ones(5), CONFUSION[:4])
    with pytest.raises(ValueError, match="hierarchy: expected 5 classes, got 3"):
        class_iou(CONFUSION, ClassHierarchy(num_classes=3))
    with pytest.raises(ValueError, match="seen: expected 5 entries"):
        split_scores(CONFUSION, [True])
