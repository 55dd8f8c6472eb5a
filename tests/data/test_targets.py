from __future__ import annotations

import pytest
import torch

from scan_lightning.data.targets import collate_evaluation, collate_training, masks_and_labels
from scan_lightning.types import IGNORE_INDEX, Sample


def _sample(height: int, width: int, label: int, *, truth: tuple[int, int] | None = None) -> Sample:
    return Sample(
        image=torch.full((3, height, width), 7, dtype=torch.uint8),
        image_id=f"{height}x{width}",
        label_map=torch.full(truth or (height, width), label),
        original_size=(9, 11),
    )


def test_masks_and_labels_by_hand() -> None:
    masks, labels = masks_and_labels(torch.tensor([[5, 2, IGNORE_INDEX], [2, 5, 5]]))
    assert labels.tolist() == [2, 5]
    assert labels.dtype == torch.int64
    assert masks.dtype == torch.bool
    assert masks.int().tolist() == [[[0, 1, 0], [1, 0, 0]], [[1, 0, 0], [0, 1, 1]]]


def test_masks_and_labels_all_ignored_gives_none() -> None:
    masks, labels = masks_and_labels(torch.full((4, 6), IGNORE_INDEX))
    assert masks.shape == (0, 4, 6)
    assert labels.shape == (0,)


@pytest.mark.parametrize("label_map", [torch.zeros(2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)])
def test_masks_and_labels_wrong_input_raises(label_map: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected int64"):
        masks_and_labels(label_map)


def test_collate_training_pads_right_and_bottom() -> None:
    batch = collate_training([_sample(4, 6, 1), _sample(5, 3, 0)])
    assert batch.images.shape == (2, 3, 5, 6)
    assert batch.images.dtype == torch.uint8
    assert batch.sizes == [(4, 6), (5, 3)]
    assert batch.original_sizes == [(9, 11), (9, 11)]
    assert batch.image_ids == ["4x6", "5x3"]
    for image, masks, (height, width) in zip(batch.images, batch.masks, batch.sizes, strict=True):
        assert masks.shape == (1, 5, 6)
        assert masks.dtype == torch.bool
        assert masks[:, :height, :width].all()
        assert (image[:, :height, :width] == 7).all()
        assert masks.sum() == height * width
        assert image.sum() == 3 * 7 * height * width
    assert [labels.tolist() for labels in batch.labels] == [[1], [0]]
    assert batch.label_maps == []


def test_collate_evaluation_keeps_original_sizes() -> None:
    blind = _sample(5, 3, 0)
    blind.label_map = None
    batch = collate_evaluation([_sample(4, 6, 1, truth=(9, 11)), blind])
    assert batch.label_maps[0] is not None
    assert batch.label_maps[0].shape == (9, 11)
    assert batch.label_maps[1] is None
    assert batch.images.shape == (2, 3, 5, 6)
    assert batch.masks == batch.labels == []


def test_collate_training_without_fitting_truth_raises() -> None:
    blind = _sample(4, 6, 1)
    blind.label_map = None
    with pytest.raises(ValueError, match=r"4x6: expected a label map.*got no label map"):
        collate_training([blind])
    with pytest.raises(ValueError, match=r"size \(4, 6\), got one of \(9, 11\)"):
        collate_training([_sample(4, 6, 1, truth=(9, 11))])


def test_collate_evaluation_with_resized_truth_raises() -> None:
    with pytest.raises(ValueError, match=r"original size \(9, 11\), got \(4, 6\)"):
        collate_evaluation([_sample(4, 6, 1)])


def test_collate_nothing_raises() -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        collate_training([])
