"""Agreement of hierarchies."""

import math

import pytest

from scan_lightning.metrics.hierarchy_agreement import HierarchyAgreement, hierarchy_agreement
from scan_lightning.types import ClassHierarchy


def hierarchy(*pairs: tuple[int, int], num_classes: int = 6) -> ClassHierarchy:
    parents: dict[int, tuple[int, ...]] = {}
    for child, parent in pairs:
        parents[child] = (*parents.get(child, ()), parent)
    return ClassHierarchy(num_classes=num_classes, parents=parents)


def test_counts_and_shares_by_hand() -> None:
    proposed = hierarchy((0, 1), (0, 2), (3, 4), (5, 4))
    released = hierarchy((0, 1), (4, 3), (5, 4), (2, 1), (1, 5))
    agreement = hierarchy_agreement(proposed, released)
    assert agreement == HierarchyAgreement(proposed=4, released=5, shared=2, reversed=1)
    assert agreement.precision == 2 / 4
    assert agreement.recall == 2 / 5
    assert agreement.f1 == pytest.approx(2 * 0.5 * 0.4 / 0.9)


def test_one_half_of_a_mutual_pair_is_shared_and_not_reversed() -> None:
    agreement = hierarchy_agreement(hierarchy((0, 1)), hierarchy((0, 1), (1, 0)))
    assert (agreement.shared, agreement.reversed) == (1, 0)
    assert agreement.recall == 0.5


def test_hierarchy_agrees_with_itself() -> None:
    agreement = hierarchy_agreement(hierarchy((0, 1), (2, 1)), hierarchy((2, 1), (0, 1)))
    assert (agreement.precision, agreement.recall, agreement.f1) == (1, 1, 1)


def test_shares_without_pairs() -> None:
    nothing = hierarchy_agreement(hierarchy(), hierarchy((0, 1)))
    assert math.isnan(nothing.precision)
    assert (nothing.recall, nothing.f1) == (0, 0)
    empty = hierarchy_agreement(hierarchy(), hierarchy())
    assert math.isnan(empty.recall)
    assert math.isnan(empty.f1)


def test_other_number_of_classes_raises() -> None:
    with pytest.raises(ValueError, match="expected 5 classes, got 6"):
        hierarchy_agreement(hierarchy((0, 1)), hierarchy((0, 1), num_classes=5))
