"""Where embeddings lie among the text embeddings of seen and unseen classes, and how far they have collapsed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.analysis.proposals import LEAST_IOU, MaskEmbeddings
from scan_lightning.models.text import TextFeatures


@dataclass(frozen=True, kw_only=True)
class GroupGeometry:
    """Embeddings of the true masks of seen or of unseen classes; means over masks, NaN where there is none.

    The cosine with a class is the highest with any of its words, as in the classifier. Only masks for which a proposal
    stands count (IoU of at least `LEAST_IOU`), except in the first two numbers.

    Attributes:
        masks: True masks, whatever proposals there are.
        matched: Share of them for which a proposal stands.
        own_distance: 1 - cosine with the mask's own class, in [0, 2].
        seen_distance: 1 - cosine with the nearest seen class, which may be its own.
        margin: Cosine with its own class minus that with the nearest other seen class, in [-2, 2]; above 0 if it is
            nearer to its own. NaN if no other class is seen.
        nearest_seen: Share of the masks whose nearest class of the whole vocabulary is a seen one.
        accuracy: Share of the masks whose nearest class of the whole vocabulary is their own.
    """

    masks: int
    matched: float
    own_distance: float
    seen_distance: float
    margin: float
    nearest_seen: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far the centroids of classes lie apart; NaN where there are too few of them.

    Attributes:
        classes: C, the number of centroids.
        cosine: Mean cosine of two different classes' centroids; near 1 when everything has collapsed onto one point.
        rank: Effective rank of the (C, D) matrix of centroids, see `effective_rank`.
        cosine_unseen_seen: Mean over unseen classes of the cosine with the nearest seen class's centroid; near 1 when
            unseen classes have collapsed onto seen ones.
    """

    classes: int
    cosine: float
    rank: float
    cosine_unseen_seen: float


@dataclass(frozen=True, kw_only=True)
class EmbeddingGeometry:
    """What the embeddings of true masks look like beside the text.

    Attributes:
        seen: Masks of seen classes.
        unseen: Masks of unseen classes.
        centroids: Spread of the classes' mean embeddings.
        text: Spread of the text features of the same classes, what perfect embeddings would have.
    """

    seen: GroupGeometry
    unseen: GroupGeometry
    centroids: Spread
    text: Spread


def measure_geometry(found: MaskEmbeddings, text: TextFeatures, seen: Sequence[bool]) -> EmbeddingGeometry:
    """Compare the embeddings of true masks with the text features.

    Args:
        found: M true masks and the proposals that fit them best, of all images.
        text: Features of K classes.
        seen: For each class whether the training vocabulary holds it.

    Returns:
        The numbers.

    Raises:
        ValueError: If ``seen`` has another length than K.
    """
    if len(seen) != text.num_classes:
        raise ValueError(f"seen: expected {text.num_classes} entries, one per class, got {len(seen)}")
    flags = torch.tensor(list(seen), device=found.labels.device)
    groups = [_group(found.select(flags[found.labels] == flag), text, flags) for flag in (True, False)]
    matched = found.select(found.ious >= LEAST_IOU)
    centroids, labels = class_centroids(matched.embeddings, matched.labels)
    words, classes = class_centroids(text.features, text.owners)
    return EmbeddingGeometry(
        seen=groups[0],
        unseen=groups[1],
        centroids=measure_spread(centroids, flags[labels]),
        text=measure_spread(words[torch.isin(classes, labels)], flags[labels]),
    )


def _group(found: MaskEmbeddings, text: TextFeatures, seen: Tensor) -> GroupGeometry:
    """Measure the masks of one group; ``seen`` is bool (K,)."""
    matched = found.select(found.ious >= LEAST_IOU)
    cosines = text.similarities(matched.embeddings)  # (M, K)
    own = cosines.gather(1, matched.labels[:, None])[:, 0]
    among_seen = cosines.masked_fill(~seen, -math.inf)
    others = among_seen.scatter(1, matched.labels[:, None], -math.inf).amax(1)
    best = cosines.argmax(1)
    return GroupGeometry(
        masks=len(found.labels),
        matched=_mean(found.ious >= LEAST_IOU),
        own_distance=_mean(1 - own),
        seen_distance=_mean(_finite(1 - among_seen.amax(1))),
        margin=_mean(_finite(own - others)),
        nearest_seen=_mean(seen[best]),
        accuracy=_mean(best == matched.labels),
    )


def class_centroids(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Average the embeddings of each class.

    Args:
        embeddings: float (M, D), L2-normalised.
        labels: int64 (M,).

    Returns:
        float (C, D), means, L2-normalised, and int64 (C,), their labels, ascending: the classes that occur.

    Example:
        >>> class_centroids(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), torch.tensor([7, 2, 2]))[1].tolist()
        [2, 7]
    """
    classes, positions = torch.unique(labels, return_inverse=True)
    sums = embeddings.new_zeros(len(classes), embeddings.shape[1]).index_add(0, positions, embeddings)
    return F.normalize(sums, dim=-1), classes


def measure_spread(centroids: Tensor, seen: Tensor) -> Spread:
    """Measure how far centroids lie apart.

    Args:
        centroids: float (C, D), L2-normalised.
        seen: bool (C,), which of them are of seen classes.

    Returns:
        The numbers.
    """
    count = len(centroids)
    cosines = (centroids @ centroids.T).double()
    pairs = cosines[~torch.eye(count, dtype=torch.bool, device=cosines.device)]
    across = cosines[~seen][:, seen]
    return Spread(
        classes=count,
        cosine=_mean(pairs),
        rank=effective_rank(centroids),
        cosine_unseen_seen=_mean(across.amax(1)) if across.numel() else math.nan,
    )


def effective_rank(vectors: Tensor) -> float:
    """Compute the effective rank (Roy and Vetterli, 2007): exp of the entropy of the normalised singular values.

    Args:
        vectors: float (C, D), not centred.

    Returns:
        In [1, min(C, D)], 1 if all rows are multiples of one vector; NaN without a row that is not 0.

    Example:
        >>> round(effective_rank(torch.eye(3)), 6), round(effective_rank(torch.ones(3, 3)), 6)
        (3.0, 1.0)
    """
    values = torch.linalg.svdvals(vectors.double())
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp()) if len(values) else math.nan


def _mean(values: Tensor) -> float:
    """Average, NaN of nothing."""
    return float(values.double().mean())


def _finite(values: Tensor) -> Tensor:
    """Put NaN where nothing could be compared."""
    return values.masked_fill(values.isinf(), math.nan)
