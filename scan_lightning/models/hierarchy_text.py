"""Parents by what CLIP's text tower holds of the words, for vocabularies without a WordNet at hand."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.text import TextFeatures

DEFAULT_THRESHOLD = 0.35
"""Least similarity of child and parent. With CLIP ViT-B/16, on the 68 to 109 words that ADE20K and Pascal Context share
with COCO-Stuff, values from 0.3 to 0.45 agree about equally with the released tables, and none agrees well."""


class SimilarParent(NamedTuple):
    """A class proposed as a parent of another.

    Attributes:
        child: Label of the more special class.
        parent: Label of the more general class.
        similarity: Cosine of their features around the vocabulary's mean, in [-1, 1].
    """

    child: int
    parent: int
    similarity: float


def parents_by_similarity(features: TextFeatures, *, threshold: float = DEFAULT_THRESHOLD) -> list[SimilarParent]:
    """Propose for each class the most similar one of those that look more general, if it is similar enough.

    All words of a vocabulary point the same way in CLIP's space (cosines of 0.7 to 0.9 between any two), so similarity
    is the cosine after subtracting the mean of the classes. Similarity has no direction: of two classes the one nearer
    to the mean counts as the more general. With CLIP ViT-B/16 that is right for 27 of the 30 one-way pairs of the
    released tables whose two words are in COCO-Stuff too; "the shorter name" is right for 11. It is a guess all the
    same, and siblings (cup, bowl) pass as parent and child. Of few words the mean says little; of two it says nothing.

    Args:
        features: From `TextBank`; a class counts with the mean of its words.
        threshold: Least similarity, in [-1, 1].

    Returns:
        At most one proposal per class, the most similar first.

    Raises:
        ValueError: If the threshold is outside [-1, 1].
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold: expected a cosine in [-1, 1], got {threshold}")
    classes = _class_features(features)
    mean = classes.mean(dim=0)
    centred = F.normalize(classes - mean, dim=1)
    similarity = centred @ centred.T
    generality = classes @ mean
    more_general = generality[None, :] > generality[:, None]
    best, parents = similarity.masked_fill(~more_general, -torch.inf).max(dim=1)
    found = [
        SimilarParent(child, int(parent), float(value))
        for child, (parent, value) in enumerate(zip(parents.tolist(), best.tolist(), strict=True))
        if value >= threshold
    ]
    return sorted(found, key=lambda pair: (-pair.similarity, pair.child))


def _class_features(features: TextFeatures) -> Tensor:
    """Average the words of each class: float64 (K, D), normalised, on the CPU."""
    words = features.features.double().cpu()
    total = words.new_zeros(features.num_classes, words.shape[1]).index_add_(0, features.owners.cpu(), words)
    return F.normalize(total, dim=1)
