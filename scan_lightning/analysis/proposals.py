"""Which proposal stands for a true mask, and what its embedding is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scan_lightning.data.targets import masks_and_labels
from scan_lightning.types import IGNORE_INDEX

LEAST_IOU = 0.5
"""A proposal stands for a true mask if their IoU is at least this; above it, no proposal stands for two masks."""


@dataclass(frozen=True, kw_only=True)
class MaskEmbeddings:
    """For each of M true masks the proposal that fits it best. A mask is all pixels of a class in an image.

    Attributes:
        embeddings: float32 (M, D), L2-normalised, of these proposals.
        labels: int64 (M,), classes of the masks.
        ious: float32 (M,), in [0, 1], of mask and proposal.
    """

    embeddings: Tensor
    labels: Tensor
    ious: Tensor

    @classmethod
    def join(cls, parts: Sequence[MaskEmbeddings]) -> MaskEmbeddings:
        """Put the masks of several images together.

        Args:
            parts: At least one.

        Returns:
            All of them, in order.
        """
        return cls(
            embeddings=torch.cat([part.embeddings for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            ious=torch.cat([part.ious for part in parts]),
        )

    def select(self, which: Tensor) -> MaskEmbeddings:
        """Keep some masks.

        Args:
            which: bool (M,).

        Returns:
            Those.
        """
        return MaskEmbeddings(embeddings=self.embeddings[which], labels=self.labels[which], ious=self.ious[which])


def assign_proposals(masks: Tensor, embeddings: Tensor, label_map: Tensor) -> MaskEmbeddings:
    """Find for each class of an image the proposal whose mask has the highest IoU with all its pixels.

    Args:
        masks: bool (Q, H, W), the proposals, Q at least 1.
        embeddings: float (Q, D), L2-normalised.
        label_map: int64 (H, W); pixels with IGNORE_INDEX count nowhere.

    Returns:
        The masks by ascending label; none where everything is ignored.

    Raises:
        ValueError: If the shapes do not fit one another.

    Example:
        >>> proposals = torch.tensor([[[True, True, False]], [[False, False, True]]])
        >>> found = assign_proposals(proposals, torch.eye(2), torch.tensor([[4, 4, 4]]))
        >>> found.labels.tolist(), found.embeddings.tolist(), [round(iou, 3) for iou in found.ious.tolist()]
        ([4], [[1.0, 0.0]], [0.667])
    """
    if masks.ndim != 3 or masks.shape[1:] != label_map.shape or len(embeddings) != len(masks) or not len(masks):
        raise ValueError(
            f"expected masks (Q, H, W), embeddings (Q, D) and labels (H, W), got {tuple(masks.shape)}, "
            f"{tuple(embeddings.shape)} and {tuple(label_map.shape)}"
        )
    truth, labels = masks_and_labels(label_map)
    proposed = (masks & (label_map != IGNORE_INDEX)).flatten(1).float()
    true = truth.flatten(1).float()
    shared = true @ proposed.T
    ious, best = (shared / (true.sum(1, keepdim=True) + proposed.sum(1) - shared)).max(dim=1)
    return MaskEmbeddings(embeddings=embeddings[best].float(), labels=labels, ious=ious)
