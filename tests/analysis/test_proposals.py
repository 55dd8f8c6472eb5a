import pytest
import torch

from scan_lightning.analysis import MaskEmbeddings, assign_proposals
from scan_lightning.analysis.truth import images_with_truth, labels_at
from scan_lightning.types import IGNORE_INDEX, Batch

LABELS = torch.tensor([[0, 0, 2, 2], [0, 0, 2, IGNORE_INDEX]])


def test_assignment_by_hand() -> None:
    proposals = torch.zeros(3, 2, 4, dtype=torch.bool)
    proposals[0, :, :3] = True  # class 0: 4 of 6; class 2: 2 of 7
    proposals[1, 0] = True  # class 0: 2 of 6; class 2: 2 of 5
    proposals[2, :, 3] = True  # class 2: 1 of 3, since the ignored pixel does not count
    found = assign_proposals(proposals, torch.eye(3), LABELS)
    assert found.labels.tolist() == [0, 2]
    assert found.ious.tolist() == pytest.approx([4 / 6, 2 / 5])
    assert found.embeddings.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_assignment_ignored_pixels_do_not_count() -> None:
    proposal = torch.zeros(1, 2, 4, dtype=torch.bool)
    proposal[0, :, 2:] = True
    assert assign_proposals(proposal, torch.eye(1), LABELS).ious.tolist() == [0, 1]


def test_assignment_of_an_image_without_truth_is_empty() -> None:
    found = assign_proposals(torch.ones(2, 2, 4, dtype=torch.bool), torch.eye(2), torch.full((2, 4), IGNORE_INDEX))
    assert found.labels.tolist() == []
    assert found.embeddings.shape == (0, 2)


def test_assignment_does_not_depend_on_the_order_of_proposals() -> None:
    generator = torch.Generator().manual_seed(3)
    proposals = torch.rand(6, 8, 9, generator=generator) > 0.5
    labels = torch.randint(-1, 4, (8, 9), generator=generator)
    order = torch.randperm(6, generator=generator)
    first, second = (assign_proposals(proposals[part], torch.eye(6)[part], labels) for part in (torch.arange(6), order))
    assert torch.equal(first.ious, second.ious)
    assert torch.equal(first.embeddings, second.embeddings)


@pytest.mark.parametrize(("masks", "embeddings"), [((0, 2, 4), (0, 2)), ((2, 2, 3), (2, 2)), ((2, 2, 4), (1, 2))])
def test_assignment_of_shapes_that_do_not_fit_raises(masks: tuple[int, ...], embeddings: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected masks \(Q, H, W\)"):
        assign_proposals(torch.zeros(masks, dtype=torch.bool), torch.zeros(embeddings), LABELS)


def test_join_and_select_keep_the_order() -> None:
    parts = [
        MaskEmbeddings(
            embeddings=torch.eye(2)[:1] * index, labels=torch.tensor([index]), ious=torch.tensor([0.1 * index])
        )
        for index in range(3)
    ]
    joined = MaskEmbeddings.join(parts)
    assert joined.labels.tolist() == [0, 1, 2]
    kept = joined.select(joined.labels != 1)
    assert kept.labels.tolist() == [0, 2]
    assert kept.embeddings.tolist() == [[0, 0], [2, 0]]
    assert kept.ious.tolist() == pytest.approx([0, 0.2])


def test_labels_are_resized_by_nearest_neighbour() -> None:
    torch.manual_seed(0)
    labels = torch.randint(-1, 5, (7, 10))
    for size in ((7, 10), (14, 5), (3, 23)):
        expected = torch.nn.functional.interpolate(labels[None, None].float(), size=size, mode="nearest")[0, 0].long()
        assert torch.equal(labels_at(labels, size), expected)


def batch(*label_maps: torch.Tensor | None) -> Batch:
    images = torch.arange(2 * 3 * 4 * 6, dtype=torch.uint8).view(2, 3, 4, 6)
    return Batch(
        images=images,
        sizes=[(4, 6), (2, 3)],
        image_ids=["first", "second"],
        original_sizes=[(8, 12), (2, 3)],
        label_maps=list(label_maps),
    )


def test_images_come_without_padding_and_with_labels_of_their_size() -> None:
    truth = torch.arange(96).view(8, 12)
    (first, second) = images_with_truth(batch(truth, torch.zeros(2, 3, dtype=torch.int64)))
    assert (first[0], second[0]) == (0, 1)
    assert first[1].shape == (3, 4, 6)
    assert torch.equal(first[2], truth[::2, ::2])
    assert second[1].shape == (3, 2, 3)


def test_image_without_truth_raises() -> None:
    with pytest.raises(ValueError, match="second: expected a label map, got none"):
        list(images_with_truth(batch(torch.zeros(8, 12, dtype=torch.int64), None)))
