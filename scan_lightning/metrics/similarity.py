"""Open IoU, a score in which similar classes count as partly right, as a pure function of one confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from scan_lightning.metrics.functional import Convention, class_counts, mean_over_classes


def check_similarity(similarity: Tensor, num_classes: int) -> None:
    """Check a similarity matrix for Open mIoU.

    Args:
        similarity: The matrix.
        num_classes: K.

    Raises:
        ValueError: Unless it is a floating point (K, K) in [0, 1] with exactly 1 on the diagonal.
    """
    if similarity.shape != (num_classes, num_classes) or not similarity.is_floating_point():
        raise ValueError(
            f"similarity: expected a floating point ({num_classes}, {num_classes}), "
            f"got {similarity.dtype} {tuple(similarity.shape)}"
        )
    if not bool(((similarity >= 0) & (similarity <= 1)).all()):
        low, high = float(similarity.min()), float(similarity.max())
        raise ValueError(f"similarity: expected values in [0, 1], got {low} to {high}; clamp them first")
    if not bool((similarity.diagonal() == 1).all()):
        raise ValueError("similarity: expected exactly 1 on the diagonal; set it with fill_diagonal_(1)")


def text_similarity(features: Tensor, owners: Tensor, num_classes: int) -> Tensor:
    """Compare classes by text features, for Open mIoU where no other similarity is at hand.

    CLIP's texts all lie close together (about 0.8 between unrelated words of ViT-B/16), so plain cosines would make
    every confusion nearly right. Here the mean cosine of two different classes of the vocabulary counts 0 and equal
    features count 1, linearly between; lower cosines count 0. This is a choice of this project: Zhou et al. compare
    several similarities, and their numbers must not be set beside these.

    Args:
        features: float (words, D), L2-normalised.
        owners: int64 (words,), the class of each word; every class has at least one.
        num_classes: K. Two classes are as similar as their most similar words.

    Returns:
        float64 (K, K) in [0, 1], symmetric, 1 on the diagonal.

    Example:
        >>> half = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> similarity = text_similarity(half, torch.arange(3), 3)  # of cosines 0.6, 0.8 and 0, whose mean is 0.467
        >>> [round(value, 3) for value in similarity[0].tolist()]
        [1.0, 0.25, 0.0]
    """
    words = features.double() @ features.double().T
    empty = words.new_full((num_classes, len(owners)), -1.0)
    rows = empty.scatter_reduce(0, owners[:, None].expand_as(words), words, reduce="amax")
    empty = words.new_full((num_classes, num_classes), -1.0)
    cosines = empty.scatter_reduce(1, owners.expand(num_classes, -1), rows, reduce="amax")
    different = ~torch.eye(num_classes, dtype=torch.bool, device=cosines.device)
    floor = cosines[different].mean() if num_classes > 1 else cosines.new_zeros(())
    scaled = (cosines - floor) / (1 - floor).clamp(min=1e-6)
    return scaled.clamp(0, 1).fill_diagonal_(1)


def class_open_iou(confusion: Tensor, similarity: Tensor) -> Tensor:
    """Compute each class's Open IoU (Zhou et al., arXiv 2311.03352).

    With S the similarity matrix and C the confusion matrix,

    - ``tp_c = sum_p C[p, c] S[p, c]`` over all predictions p, the class itself included;
    - ``fp_c = sum_{g != c} C[c, g] (1 - S[c, g])`` over the other true classes g;
    - ``fn_c = sum_{p != c} C[p, c] (1 - S[p, c])`` over the other predictions p;
    - ``IoU_c = tp_c / (tp_c + fp_c + fn_c)``.

    So ``tp_c + fn_c`` is the number of truth pixels, and with the unit matrix for S this is the plain IoU. It has not
    been compared with the numbers of the authors' code.

    Args:
        confusion: int64 (K, K).
        similarity: (K, K), ``[p, c]`` how right p is where c is true, in [0, 1], with 1 on the diagonal.

    Returns:
        float64 (K,), in [0, 1], NaN for classes without a truth pixel.

    Raises:
        ValueError: If the matrix is not int64 (K, K) or `check_similarity` refuses the similarity.

    Example:
        >>> similarity = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
        >>> class_open_iou(torch.tensor([[3, 2], [0, 1]]), similarity).tolist()
        [0.75, 0.6666666666666666]
    """
    truth = class_counts(confusion).truth
    check_similarity(similarity, confusion.shape[0])
    weight = similarity.to(device=confusion.device, dtype=torch.float64)
    true_positive = (confusion * weight).sum(dim=0)
    false_positive = (confusion * (1 - weight)).sum(dim=1)
    return torch.where(truth > 0, true_positive / (truth + false_positive), torch.nan)


def open_mean_iou(confusion: Tensor, similarity: Tensor, *, convention: Convention = "any") -> Tensor:
    """Average the Open IoU of `class_open_iou` over the classes.

    Args:
        confusion: int64 (K, K).
        similarity: (K, K) in [0, 1] with 1 on the diagonal.
        convention: ``"any"`` or ``"present"``, see `scan_lightning.metrics.functional`.

    Returns:
        float64 scalar in [0, 1], NaN without any pixel.

    Raises:
        ValueError: If the convention is unknown, or as `class_open_iou`.
    """
    return mean_over_classes(class_open_iou(confusion, similarity), confusion, convention)
