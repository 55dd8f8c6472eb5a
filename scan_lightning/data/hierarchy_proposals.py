"""Proposed parents of classes: put together without a cycle, and written as a hierarchy that people can edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scan_lightning.data.vocabulary import write_json
from scan_lightning.types import ClassHierarchy, Vocabulary


@dataclass(frozen=True, kw_only=True)
class ProposedParent:
    """One class proposed as a parent of another.

    Args:
        child: Label of the more special class.
        parent: Label of the more general class.
        reason: Why, in a few words for the person who edits the file.
    """

    child: int
    parent: int
    reason: str


def without_cycles(proposals: Iterable[ProposedParent]) -> list[ProposedParent]:
    """Keep each pair once, and none that closes a cycle with those kept before it.

    Args:
        proposals: The most trusted first.

    Returns:
        The proposals that are kept, in the order given. Of "a below b" and "b below a" the first remains.

    Example:
        >>> pairs = [(0, 1), (1, 2), (2, 0), (0, 1), (0, 2)]
        >>> kept = without_cycles(ProposedParent(child=c, parent=p, reason="") for c, p in pairs)
        >>> [(pair.child, pair.parent) for pair in kept]
        [(0, 1), (1, 2), (0, 2)]
    """
    kept: dict[tuple[int, int], ProposedParent] = {}
    parents: dict[int, list[int]] = {}
    for proposal in proposals:
        child, parent = proposal.child, proposal.parent
        if (child, parent) in kept or child in _with_ancestors(parent, parents):
            continue
        kept[child, parent] = proposal
        parents.setdefault(child, []).append(parent)
    return list(kept.values())


def _with_ancestors(label: int, parents: dict[int, list[int]]) -> set[int]:
    """Collect a class and all classes above it."""
    found: set[int] = set()
    waiting = [label]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += parents.get(current, [])
    return found


def to_hierarchy(proposals: Sequence[ProposedParent], num_classes: int) -> ClassHierarchy:
    """Turn proposals into the hierarchy that SG-IoU takes.

    Args:
        proposals: From `without_cycles`.
        num_classes: K of the vocabulary.

    Returns:
        The hierarchy, children ascending, parents of a child in the order of the proposals.

    Raises:
        ValueError: If a label is outside [0, K), or a pair is given twice or leads from a class to itself.
    """
    parents: dict[int, tuple[int, ...]] = {}
    for proposal in sorted(proposals, key=lambda proposal: proposal.child):
        parents[proposal.child] = (*parents.get(proposal.child, ()), proposal.parent)
    return ClassHierarchy(num_classes=num_classes, parents=parents)


def save_proposals(proposals: Sequence[ProposedParent], vocabulary: Vocabulary, path: Path) -> None:
    """Write proposals as a hierarchy that `load_hierarchy` reads, with the reason for each pair beside it.

    The file holds ``{"parents": {child: [parent, ...]}, "reasons": {child: {parent: reason}}}``. Only "parents" counts:
    pairs may be taken out or added there by hand, whatever "reasons" says.

    Args:
        proposals: From `without_cycles`.
        vocabulary: The words that the labels stand for.
        path: The JSON file; one that exists is replaced, in one step.

    Raises:
        ValueError: As `to_hierarchy`.
    """
    names = vocabulary.names
    hierarchy = to_hierarchy(proposals, vocabulary.num_classes)
    reasons: dict[str, dict[str, str]] = {names[child]: {} for child in hierarchy.parents}
    for proposal in proposals:
        reasons[names[proposal.child]][names[proposal.parent]] = proposal.reason
    parents = {names[child]: [names[label] for label in labels] for child, labels in hierarchy.parents.items()}
    write_json({"parents": parents, "reasons": reasons}, path)
