"""Scores of a semantic segmentation, all of them functions of one integer confusion matrix.

Every mean over classes follows one of two conventions: ``"any"`` divides by the classes that occur in truth or
prediction, ``"present"`` by those that occur in the truth; see `scan_lightning.metrics.functional`.
"""

from scan_lightning.metrics.confusion import ConfusionMatrix, ConfusionMetric, SegmentationMetrics
from scan_lightning.metrics.evaluator import SplitScores, evaluator_scores, split_scores
from scan_lightning.metrics.flow import GroupFlow, group_flow, seen_to_unseen, unseen_to_seen
from scan_lightning.metrics.functional import (
    ClassCounts,
    Convention,
    class_accuracy,
    class_counts,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_accuracy,
    mean_iou,
    mean_over_classes,
    pixel_accuracy,
    zero_share,
)
from scan_lightning.metrics.open_miou import OpenMeanIoU
from scan_lightning.metrics.sg_iou import SemanticGuidedIoU
from scan_lightning.metrics.similarity import check_similarity, class_open_iou, open_mean_iou

__all__ = [
    "ClassCounts",
    "ConfusionMatrix",
    "ConfusionMetric",
    "Convention",
    "GroupFlow",
    "OpenMeanIoU",
    "SegmentationMetrics",
    "SemanticGuidedIoU",
    "SplitScores",
    "check_similarity",
    "class_accuracy",
    "class_counts",
    "class_iou",
    "class_open_iou",
    "confusion_matrix",
    "evaluator_scores",
    "frequency_weighted_iou",
    "group_flow",
    "mean_accuracy",
    "mean_iou",
    "mean_over_classes",
    "open_mean_iou",
    "pixel_accuracy",
    "seen_to_unseen",
    "split_scores",
    "unseen_to_seen",
    "zero_share",
]
