"""CLIP's symmetric contrastive loss over the pairs of all processes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F


def contrastive_loss(image_features: Tensor, text_features: Tensor, *, scale: Tensor, texts: Sequence[str]) -> Tensor:
    """Compute CLIP's symmetric InfoNCE loss; pairs with the same text are not negatives of one another.

    In each row the other pairs of an equal text are left out of the denominator. With all texts different it is plain
    InfoNCE. Where torch.distributed is initialised, the pairs of all processes are one batch: every process computes
    the same loss, and after DDP's mean over processes the gradients are those of one process with the whole batch.

    Args:
        image_features: (B, D), L2-normalised; the same B in every process.
        text_features: (B, D), L2-normalised.
        scale: Scalar that multiplies the cosine similarity.
        texts: The B texts.

    Returns:
        Scalar float32, the mean of both directions.

    Raises:
        ValueError: If the three disagree on B.
    """
    if not len(image_features) == len(text_features) == len(texts):
        raise ValueError(
            f"expected as many images as texts, got {len(image_features)} images, {len(text_features)} text features "
            f"and {len(texts)} texts"
        )
    with torch.autocast(image_features.device.type, enabled=False):
        images, words = _gather(image_features.float()), _gather(text_features.float())
        group = _gather_numbers(torch.tensor([text_number(text) for text in texts], device=images.device))
        others = (group[:, None] == group[None, :]).fill_diagonal_(False)
        logits = scale.float() * images @ words.T  # (all images, all texts)
        logits = logits.masked_fill(others, -math.inf)
        own = torch.arange(len(group), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def text_number(text: str) -> int:
    """Number a text: the same in every process, and different for different texts but for one in 2**63.

    Args:
        text: Any text.

    Returns:
        A number in [0, 2**63).
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _is_distributed() -> bool:
    """Tell whether there are other processes."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _gather(features: Tensor) -> Tensor:
    """Concatenate the rows of all processes; gradients flow back to the process that each row is from."""
    return torch.cat(all_gather(features)) if _is_distributed() else features  # type: ignore[no-untyped-call]


def _gather_numbers(numbers: Tensor) -> Tensor:
    """Concatenate the integers of all processes."""
    if not _is_distributed():
        return numbers
    parts = [torch.empty_like(numbers) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, numbers)
    return torch.cat(parts)
