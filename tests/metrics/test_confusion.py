import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from scan_lightning.metrics import (
    ConfusionMatrix,
    SegmentationMetrics,
    class_accuracy,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_accuracy,
    mean_iou,
    open_mean_iou,
    pixel_accuracy,
    seen_to_unseen,
    split_scores,
    unseen_to_seen,
    zero_share,
)
from scan_lightning.types import IGNORE_INDEX, ClassHierarchy

from .test_functional import labels
from .test_open_miou import similarity_of

K = 30
SEEN = [label % 2 == 0 for label in range(K)]
HIERARCHY = ClassHierarchy(num_classes=K, parents={3: (1, 2), 7: (6,), 8: (7,)})
BASE_KEYS = {"miou_any", "miou_present", "fwiou", "mean_accuracy", "pixel_accuracy", "zero_share"}


def images(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Pairs of prediction and truth, each image of another size."""
    return [labels(3 + index, 9 - index, num_classes=K, seed=seed + index) for index in range(count)]


def total_of(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([confusion_matrix(*pair, K) for pair in pairs]).sum(dim=0)


def full_metric() -> SegmentationMetrics:
    return SegmentationMetrics(num_classes=K, seen=SEEN, hierarchy=HIERARCHY, similarity=similarity_of(K, 0))


def test_confusion_matrix_sums_images_of_any_size() -> None:
    metric = ConfusionMatrix(num_classes=K)
    pairs = images(4)
    for pair in pairs:
        metric.update(*pair)
    result = metric.compute()
    assert result.dtype == torch.int64
    assert torch.equal(result, total_of(pairs))
    metric.update(*pairs[0])
    assert torch.equal(result, total_of(pairs)), "a result must not change with later updates"
    metric.reset()
    assert metric.confusion.sum() == 0


def test_confusion_matrix_forward_gives_the_batch_and_keeps_the_total() -> None:
    metric = ConfusionMatrix(num_classes=K)
    pairs = images(3)
    for pair in pairs:
        assert torch.equal(metric(*pair), confusion_matrix(*pair, K))
    assert torch.equal(metric.compute(), total_of(pairs))


def test_scores_equal_the_functions_of_the_total() -> None:
    metric, pairs = full_metric(), images(5)
    for pair in pairs:
        metric.update(*pair)
    total = total_of(pairs)
    split = split_scores(total, SEEN)
    expected = {
        "miou_any": mean_iou(total, convention="any"),
        "miou_present": mean_iou(total, convention="present"),
        "fwiou": frequency_weighted_iou(total),
        "mean_accuracy": mean_accuracy(total),
        "pixel_accuracy": pixel_accuracy(total),
        "zero_share": zero_share(total),
        "miou_seen": split.seen,
        "miou_unseen": split.unseen,
        "miou_harmonic": split.harmonic,
        "unseen_to_seen": unseen_to_seen(total, SEEN),
        "seen_to_unseen": seen_to_unseen(total, SEEN),
        "sg_iou_any": mean_iou(total, convention="any", hierarchy=HIERARCHY),
        "sg_iou_present": mean_iou(total, convention="present", hierarchy=HIERARCHY),
        "open_miou": open_mean_iou(total, similarity_of(K, 0)),
    }
    scores = metric.compute()
    assert scores == expected
    assert all(value.dtype == torch.float64 and value.shape == () for value in scores.values())
    assert set(BASE_KEYS) < set(scores)


def test_scores_forward_gives_the_batch() -> None:
    metric, pairs = full_metric(), images(2)
    for pair in pairs:
        single = full_metric()
        single.update(*pair)
        assert metric(*pair) == single.compute()
    both = full_metric()
    for pair in pairs:
        both.update(*pair)
    assert metric.compute() == both.compute()


def test_scores_order_and_batching_do_not_matter() -> None:
    prediction, target = labels(6, 5, 5, num_classes=K, seed=9)
    at_once, one_by_one = full_metric(), full_metric()
    at_once.update(prediction, target)
    for index in torch.randperm(6).tolist():
        one_by_one.update(prediction[index], target[index])
    assert at_once.compute() == one_by_one.compute()


def test_scores_without_options_have_the_base_keys() -> None:
    metric = SegmentationMetrics(num_classes=K)
    metric.update(*images(1)[0])
    assert set(metric.compute()) == BASE_KEYS
    assert set(metric.per_class()) == {"iou", "accuracy", "truth_pixels", "predicted_pixels"}


def test_per_class_equals_the_functions() -> None:
    metric, pairs = full_metric(), images(2)
    for pair in pairs:
        metric.update(*pair)
    total, found = total_of(pairs), metric.per_class()
    expected = {
        "iou": class_iou(total),
        "accuracy": class_accuracy(total),
        "sg_iou": class_iou(total, HIERARCHY),
        "truth_pixels": total.sum(dim=0),
        "predicted_pixels": total.sum(dim=1),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)
    assert found["iou"].isnan().any() == (total.sum(dim=0) == 0).any()


def test_no_pixel_gives_nan_for_every_score() -> None:
    metric = full_metric()
    metric.update(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), IGNORE_INDEX))
    scores = metric.compute()
    assert len(scores) == 14
    assert all(value.isnan() for value in scores.values())
    assert metric.per_class()["iou"].isnan().all()


def test_single_class() -> None:
    metric = SegmentationMetrics(
        num_classes=1, seen=[True], hierarchy=ClassHierarchy(num_classes=1), similarity=torch.ones(1, 1)
    )
    metric.update(torch.zeros(3, dtype=torch.int64), torch.tensor([0, 0, IGNORE_INDEX]))
    scores = metric.compute()
    assert scores.pop("miou_unseen").isnan()
    assert scores.pop("miou_harmonic").isnan()
    assert scores.pop("unseen_to_seen").isnan()
    assert scores.pop("seen_to_unseen") == 0
    assert scores.pop("zero_share") == 0
    assert all(value == 1 for value in scores.values())


def test_two_thousand_classes() -> None:
    size = 2000
    hierarchy = ClassHierarchy(num_classes=size, parents={label: (label - 1,) for label in range(1, size)})
    metric = SegmentationMetrics(num_classes=size, hierarchy=hierarchy, similarity=torch.eye(size))
    prediction, target = labels(80, 80, num_classes=size, seed=0)
    metric.update(target.clamp(min=1) - 1, target)  # always one class below, its parent, except for class 0
    metric.update(prediction, target)
    scores = metric.compute()
    assert scores["open_miou"] == scores["miou_any"]
    assert scores["sg_iou_any"] > 10 * scores["miou_any"] > 0


@pytest.mark.parametrize(
    "cast",
    [
        lambda module: module.half(),
        lambda module: module.to(torch.bfloat16),
        lambda module: module.to(dtype=torch.float16),
        lambda module: module.float(),
        lambda module: module.type(torch.float16),
        lambda module: module[0].set_dtype(torch.float16),
        lambda module: module[0].half(),
    ],
    ids=["half", "to", "to-dtype", "float", "type", "set_dtype", "metric-half"],
)
def test_casts_change_nothing(cast) -> None:
    metric = full_metric()
    similarity = similarity_of(K, 0)
    pairs = images(2)
    metric.update(*pairs[0])
    before = metric.compute()
    cast(nn.Sequential(metric))
    assert metric.confusion.dtype == torch.int64
    assert metric.similarity is not None
    assert torch.equal(metric.similarity, similarity)
    assert metric.compute() == before
    metric.reset()
    metric.update(*pairs[1])
    assert metric.confusion.dtype == torch.int64


def test_moving_devices_takes_state_and_similarity_along() -> None:
    metric = full_metric().to("meta")
    assert metric.confusion.is_meta
    assert metric.similarity is not None
    assert metric.similarity.is_meta


def test_state_stays_out_of_checkpoints() -> None:
    assert full_metric().state_dict() == {}


def test_copies_are_equal_and_independent() -> None:
    metric = full_metric()
    metric.update(*images(1)[0])
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):  # noqa: S301
        assert twin.compute() == metric.compute()
        twin.update(*images(1, seed=4)[0])
        assert not torch.equal(twin.confusion, metric.confusion)


def test_wrong_arguments_raise() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        ConfusionMatrix(num_classes=0)
    with pytest.raises(ValueError, match="seen: expected 30 entries"):
        SegmentationMetrics(num_classes=K, seen=[True])
    with pytest.raises(ValueError, match="hierarchy: expected 4 classes, got 30"):
        SegmentationMetrics(num_classes=4, hierarchy=HIERARCHY)
    with pytest.raises(ValueError, match="similarity"):
        SegmentationMetrics(num_classes=K, similarity=torch.eye(4))
    metric = ConfusionMatrix(num_classes=2)
    with pytest.raises(ValueError, match="prediction: expected labels"):
        metric.update(torch.tensor([2]), torch.tensor([0]))
    assert metric.confusion.sum() == 0


@pytest.mark.gpu
def test_cuda_gives_the_same_bits() -> None:
    on_cpu, on_gpu = full_metric(), full_metric().cuda()
    for prediction, target in images(5):
        on_cpu.update(prediction, target)
        on_gpu.update(prediction.cuda(), target.cuda())
    assert on_gpu.confusion.is_cuda
    assert torch.equal(on_gpu.confusion.cpu(), on_cpu.confusion)
    assert on_gpu.compute() == on_cpu.compute()
