"""Where the pixels of seen and of unseen classes go: shares of the truth pixels, from one confusion matrix.

An unseen class whose pixels are predicted as seen ones is what the in-vocabulary bias of SCAN (CVPR 2024, section 1)
looks like in a label map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scan_lightning.metrics.functional import class_counts


class GroupFlow(NamedTuple):
    """Shares of the truth pixels of a group of classes, float64 scalars that add up to 1; NaN without such a pixel.

    Attributes:
        right: Predicted as their class.
        within: Predicted as another class of the group.
        across: Predicted as a class outside the group.
    """

    right: Tensor
    within: Tensor
    across: Tensor


def group_flow(confusion: Tensor, group: Sequence[bool]) -> GroupFlow:
    """Tell as what the pixels of a group of classes are predicted.

    Args:
        confusion: int64 (K, K), ``[p, c]`` the number of pixels predicted p whose truth is c.
        group: For each class whether it belongs to the group.

    Returns:
        The three shares.

    Raises:
        ValueError: If ``group`` has another length than K or the matrix is not int64 (K, K).

    Example:
        >>> [share.item() for share in group_flow(torch.tensor([[5, 2, 1], [0, 1, 0], [0, 1, 3]]), [False, True, True])]
        [0.5, 0.125, 0.375]
    """
    counts = class_counts(confusion)
    if len(group) != len(counts.truth):
        raise ValueError(f"group: expected {len(counts.truth)} entries, one per class, got {len(group)}")
    part = torch.tensor(list(group), dtype=torch.bool, device=confusion.device)
    total = counts.truth[part].sum()
    right = counts.exact[part].sum()
    inside = confusion[part][:, part].sum()
    return GroupFlow(right=right / total, within=(inside - right) / total, across=(total - inside) / total)


def unseen_to_seen(confusion: Tensor, seen: Sequence[bool]) -> Tensor:
    """Compute the share of the truth pixels of unseen classes that are predicted as a seen class.

    Args:
        confusion: int64 (K, K).
        seen: For each class whether the training vocabulary holds it.

    Returns:
        float64 scalar in [0, 1], NaN without a truth pixel of an unseen class.

    Raises:
        ValueError: As `group_flow`.
    """
    return group_flow(confusion, [not flag for flag in seen]).across


def seen_to_unseen(confusion: Tensor, seen: Sequence[bool]) -> Tensor:
    """Compute the share of the truth pixels of seen classes that are predicted as an unseen class.

    Args:
        confusion: int64 (K, K).
        seen: For each class whether the training vocabulary holds it.

    Returns:
        float64 scalar in [0, 1], NaN without a truth pixel of a seen class.

    Raises:
        ValueError: As `group_flow`.
    """
    return group_flow(confusion, seen).across
