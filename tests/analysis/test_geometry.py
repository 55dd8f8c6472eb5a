import math

import pytest
import torch
from torch import Tensor

from scan_lightning.analysis import (
    MaskEmbeddings,
    class_centroids,
    effective_rank,
    measure_geometry,
    measure_spread,
)
from scan_lightning.models.text import TextFeatures


def at(*degrees: float) -> Tensor:
    """Unit vectors in the plane."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def cosine(degrees: float) -> float:
    return math.cos(math.radians(degrees))


# Classes 0 (at 0 degrees) and 1 (at 90) are seen, class 2 (at 30) is unseen.
TEXT = TextFeatures(at(0, 90, 30), torch.tensor([0, 1, 2]), 3)
SEEN = [True, True, False]


def masks(degrees: list[float], labels: list[int], ious: list[float] | None = None) -> MaskEmbeddings:
    found = torch.tensor(ious or [1.0] * len(labels))
    return MaskEmbeddings(embeddings=at(*degrees), labels=torch.tensor(labels), ious=found)


def test_geometry_by_hand() -> None:
    # One mask of class 0, on its text; two of class 2, of which one lies on its text and one has gone to class 0.
    geometry = measure_geometry(masks([0, 30, 10], [0, 2, 2]), TEXT, SEEN)
    unseen, seen = geometry.unseen, geometry.seen
    assert (unseen.masks, unseen.matched) == (2, 1.0)
    assert unseen.own_distance == pytest.approx((0 + 1 - cosine(20)) / 2, abs=1e-6)
    assert unseen.seen_distance == pytest.approx((1 - cosine(30) + 1 - cosine(10)) / 2, abs=1e-6)
    assert unseen.margin == pytest.approx((1 - cosine(30) + cosine(20) - cosine(10)) / 2, abs=1e-6)
    assert (unseen.nearest_seen, unseen.accuracy) == (0.5, 0.5)
    assert (seen.masks, seen.nearest_seen, seen.accuracy) == (1, 1.0, 1.0)
    assert seen.own_distance == pytest.approx(0, abs=1e-6)
    assert seen.seen_distance == pytest.approx(0, abs=1e-6)
    assert seen.margin == pytest.approx(1 - cosine(90), abs=1e-6)


def test_geometry_spread_by_hand() -> None:
    geometry = measure_geometry(masks([0, 30, 10], [0, 2, 2]), TEXT, SEEN)
    # The centroid of class 2 lies at 20 degrees; class 1 has no mask and takes no part, in the text neither.
    assert (geometry.centroids.classes, geometry.text.classes) == (2, 2)
    assert geometry.centroids.cosine == pytest.approx(cosine(20), abs=1e-6)
    assert geometry.centroids.cosine_unseen_seen == pytest.approx(cosine(20), abs=1e-6)
    assert geometry.text.cosine == pytest.approx(cosine(30), abs=1e-6)
    # Singular values of two unit vectors at an angle: the roots of 1 + cosine and 1 - cosine.
    values = [math.sqrt(1 + cosine(20)), math.sqrt(1 - cosine(20))]
    entropy = -sum(value / sum(values) * math.log(value / sum(values)) for value in values)
    assert geometry.centroids.rank == pytest.approx(math.exp(entropy), abs=1e-6)


def test_geometry_counts_only_masks_that_a_proposal_stands_for() -> None:
    found = measure_geometry(masks([0, 30, 200], [0, 2, 2], [0.5, 0.9, 0.49]), TEXT, SEEN)
    assert (found.unseen.masks, found.unseen.matched, found.unseen.accuracy) == (2, 0.5, 1.0)
    assert found.unseen.own_distance == pytest.approx(0, abs=1e-6)
    assert found.seen.matched == 1.0
    assert found.centroids.cosine == pytest.approx(cosine(30), abs=1e-6)


def test_geometry_without_a_matched_mask_is_nan() -> None:
    found = measure_geometry(masks([0, 30], [0, 2], [0.1, 0.2]), TEXT, SEEN)
    assert (found.unseen.masks, found.unseen.matched) == (1, 0.0)
    for value in (found.unseen.own_distance, found.unseen.margin, found.unseen.nearest_seen, found.centroids.rank):
        assert math.isnan(value)
    assert found.centroids.classes == 0
    assert math.isnan(found.centroids.cosine)


def test_geometry_without_an_unseen_class() -> None:
    found = measure_geometry(masks([0, 80], [0, 1]), TEXT, [True] * 3)
    assert found.unseen.masks == 0
    assert math.isnan(found.unseen.matched)
    assert math.isnan(found.centroids.cosine_unseen_seen)
    assert found.seen.accuracy == 1.0


def test_geometry_margin_needs_another_seen_class() -> None:
    found = measure_geometry(masks([0, 30], [0, 2]), TEXT, [True, False, False])
    assert math.isnan(found.seen.margin)
    assert found.unseen.margin == pytest.approx(1 - cosine(30), abs=1e-6)
    nothing_seen = measure_geometry(masks([0, 30], [0, 2]), TEXT, [False] * 3)
    assert math.isnan(nothing_seen.unseen.seen_distance)
    assert nothing_seen.unseen.nearest_seen == 0


def test_geometry_takes_the_best_word_of_a_class() -> None:
    text = TextFeatures(at(0, 90, 30, 60), torch.tensor([0, 1, 2, 2]), 3)
    found = measure_geometry(masks([60], [2]), text, SEEN)
    assert found.unseen.own_distance == pytest.approx(0, abs=1e-6)
    assert found.unseen.accuracy == 1.0


def test_geometry_does_not_change_with_a_rotation_or_the_order_of_masks() -> None:
    degrees, labels = [5.0, 40.0, 100.0, 20.0, 95.0], [0, 2, 1, 2, 1]
    expected = measure_geometry(masks(degrees, labels), TEXT, SEEN)
    turned = TextFeatures(at(77, 167, 107), torch.tensor([0, 1, 2]), 3)
    order = [3, 0, 4, 2, 1]
    found = measure_geometry(masks([degrees[i] + 77 for i in order], [labels[i] for i in order]), turned, SEEN)
    for part in ("seen", "unseen", "centroids", "text"):
        assert vars(getattr(found, part)) == pytest.approx(vars(getattr(expected, part)), abs=1e-6)


def test_geometry_flags_of_another_length_raise() -> None:
    with pytest.raises(ValueError, match="seen: expected 3 entries, one per class, got 2"):
        measure_geometry(masks([0], [0]), TEXT, [True, False])


def test_centroids_are_normalised_means_by_class() -> None:
    vectors, labels = class_centroids(at(10, 50, 200), torch.tensor([4, 4, 1]))
    assert labels.tolist() == [1, 4]
    torch.testing.assert_close(vectors, at(200, 30), rtol=0, atol=1e-6)


def test_spread_of_collapsed_and_of_orthogonal_centroids() -> None:
    flags = torch.tensor([True, True, False])
    collapsed = measure_spread(at(40, 40, 40), flags)
    assert collapsed.cosine == pytest.approx(1, abs=1e-6)
    assert collapsed.rank == pytest.approx(1, abs=1e-5)
    assert collapsed.cosine_unseen_seen == pytest.approx(1, abs=1e-6)
    apart = measure_spread(torch.eye(3), flags)
    assert (apart.cosine, apart.cosine_unseen_seen) == (0, 0)
    assert apart.rank == pytest.approx(3, abs=1e-9)


def test_effective_rank_ignores_length_and_repetition_of_the_whole() -> None:
    vectors = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert effective_rank(4 * vectors) == pytest.approx(effective_rank(vectors), abs=1e-9)
    assert effective_rank(torch.cat([vectors, vectors])) == pytest.approx(effective_rank(vectors), abs=1e-5)
    assert 1 < effective_rank(vectors) <= 4
    assert math.isnan(effective_rank(torch.zeros(0, 6)))
