import pytest
import torch

from scan_lightning.metrics import SegmentationMetrics, group_flow, seen_to_unseen, split_scores, unseen_to_seen

# Rows are predictions, columns truth: classes 0 and 1 are seen, 2 and 3 unseen.
CONFUSION = torch.tensor([[6, 1, 3, 0], [2, 7, 0, 1], [0, 1, 4, 2], [2, 1, 1, 5]])
SEEN = [True, True, False, False]


def test_flow_by_hand() -> None:
    unseen = group_flow(CONFUSION, [False, False, True, True])
    # 16 pixels: classes 2 and 3 are right 4 + 5 times, taken for one another 1 + 2, for a seen class 3 + 1.
    assert [share.item() for share in unseen] == [9 / 16, 3 / 16, 4 / 16]
    seen = group_flow(CONFUSION, SEEN)
    assert [share.item() for share in seen] == [13 / 20, 3 / 20, 4 / 20]
    assert unseen_to_seen(CONFUSION, SEEN).item() == 4 / 16
    assert seen_to_unseen(CONFUSION, SEEN).item() == 4 / 20


def test_flow_adds_up_and_agrees_with_the_accuracy() -> None:
    confusion = torch.randint(0, 50, (9, 9), generator=torch.Generator().manual_seed(0))
    group = [label % 3 == 0 for label in range(9)]
    flow = group_flow(confusion, group)
    assert sum(flow).item() == pytest.approx(1, abs=1e-15)
    assert flow.right == split_scores(confusion, group).seen_accuracy
    assert flow.right.dtype == torch.float64


def test_flow_does_not_depend_on_the_order_of_classes() -> None:
    order = torch.tensor([2, 0, 3, 1])
    shuffled = CONFUSION[order][:, order]
    assert group_flow(shuffled, [SEEN[label] for label in order]) == group_flow(CONFUSION, SEEN)


def test_flow_without_a_class_or_a_pixel_of_the_group() -> None:
    assert unseen_to_seen(CONFUSION, [True] * 4).isnan()
    assert seen_to_unseen(CONFUSION, [True] * 4) == 0
    assert all(share.isnan() for share in group_flow(CONFUSION, [False] * 4))
    assert unseen_to_seen(torch.tensor([[3, 0], [1, 0]]), [True, False]).isnan()


def test_flow_is_a_score_only_where_classes_are_split() -> None:
    prediction, truth = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    split = SegmentationMetrics(num_classes=2, seen=[True, False])
    split.update(prediction, truth)
    scores = split.compute()
    assert scores["unseen_to_seen"].item() == pytest.approx(1 / 3, abs=1e-15)
    assert scores["seen_to_unseen"] == 0
    plain = SegmentationMetrics(num_classes=2)
    plain.update(prediction, truth)
    assert "unseen_to_seen" not in plain.compute()


def test_flow_group_of_another_length_raises() -> None:
    with pytest.raises(ValueError, match="group: expected 4 entries, one per class, got 1"):
        group_flow(CONFUSION, [True])
