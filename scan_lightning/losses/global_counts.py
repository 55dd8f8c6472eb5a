"""What sums of losses are divided by: counts over all processes and all batches of an optimiser step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StepTargets:
    """The targets of all batches whose gradients one optimiser step adds up.

    Args:
        counts: Number of masks of each image of these batches, in this process.
        passes: Number of batches by which the Trainer divides the sum of their losses.
    """

    counts: Sequence[int]
    passes: int

    def matched(self, queries: int) -> float:
        """Count the masks that queries are matched with, as the mean over batches.

        Args:
            queries: Queries Q per image.
        """
        return sum(min(queries, count) for count in self.counts) / self.passes

    def class_weight(self, queries: int, no_object_weight: float) -> float:
        """Add up the weights of all queries in the class loss, as the mean over batches.

        Args:
            queries: Queries Q per image.
            no_object_weight: Weight of a query without a mask; one with a mask has weight 1.
        """
        matched = self.matched(queries)
        return matched + no_object_weight * (len(self.counts) * queries / self.passes - matched)


def mean_over_processes(value: Tensor) -> Tensor:
    """Average a number over all processes.

    Args:
        value: A scalar, without gradient.

    Returns:
        The mean; the value itself where there is one process. Gradients of sums that are divided by it average, over
        processes, to those of one process with the whole batch.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()
