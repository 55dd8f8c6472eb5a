"""How far one class hierarchy agrees with another, pair by pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scan_lightning.types import ClassHierarchy


@dataclass(frozen=True, kw_only=True)
class HierarchyAgreement:
    """Counts of the pairs of child and parent of two hierarchies.

    Args:
        proposed: Pairs of the hierarchy that is judged.
        released: Pairs of the hierarchy that it is compared with.
        shared: Pairs of both.
        reversed: Pairs of which the other hierarchy has only the reverse, parent as child.
    """

    proposed: int
    released: int
    shared: int
    reversed: int

    @property
    def precision(self) -> float:
        """Share of the proposed pairs that are released, in [0, 1]; NaN if none is proposed."""
        return self.shared / self.proposed if self.proposed else math.nan

    @property
    def recall(self) -> float:
        """Share of the released pairs that are proposed, in [0, 1]; NaN if none is released."""
        return self.shared / self.released if self.released else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, in [0, 1]; NaN if neither hierarchy has a pair."""
        total = self.proposed + self.released
        return 2 * self.shared / total if total else math.nan


def hierarchy_agreement(proposed: ClassHierarchy, released: ClassHierarchy) -> HierarchyAgreement:
    """Count the pairs that two hierarchies of the same classes share.

    Args:
        proposed: The hierarchy that is judged.
        released: What it is compared with.

    Returns:
        The counts.

    Raises:
        ValueError: If the hierarchies speak of different numbers of classes.

    Example:
        >>> proposed = ClassHierarchy(num_classes=4, parents={0: (1,), 2: (3,), 3: (1,)})
        >>> released = ClassHierarchy(num_classes=4, parents={0: (1,), 3: (2,)})
        >>> hierarchy_agreement(proposed, released)
        HierarchyAgreement(proposed=3, released=2, shared=1, reversed=1)
    """
    if proposed.num_classes != released.num_classes:
        raise ValueError(f"agreement: expected {released.num_classes} classes, got {proposed.num_classes}")
    ours, theirs = _pairs(proposed), _pairs(released)
    backward = {(parent, child) for child, parent in ours - theirs} & theirs
    return HierarchyAgreement(
        proposed=len(ours), released=len(theirs), shared=len(ours & theirs), reversed=len(backward)
    )


def _pairs(hierarchy: ClassHierarchy) -> set[tuple[int, int]]:
    """List the pairs of child and parent."""
    return {(child, parent) for child, parents in hierarchy.parents.items() for parent in parents}
