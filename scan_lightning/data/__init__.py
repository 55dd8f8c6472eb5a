"""Benchmarks and data sets: reading, augmenting, batching."""

from scan_lightning.data.base import (
    EvaluationDataset,
    RawSample,
    SegmentationDataModule,
    Source,
    Split,
    TrainingDataset,
)
from scan_lightning.data.folder import FolderDataModule
from scan_lightning.data.hub import HubDataModule
from scan_lightning.data.images import ImageFileError, read_image, read_label
from scan_lightning.data.sampling import Draw, EvaluationSampler, ResumableLoader, TrainingSampler
from scan_lightning.data.targets import collate_evaluation, collate_training, masks_and_labels
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.data.vocabulary import load_hierarchy, load_vocabulary, save_hierarchy, save_vocabulary

__all__ = [
    "Draw",
    "EvaluationDataset",
    "EvaluationSampler",
    "EvaluationTransform",
    "FolderDataModule",
    "HubDataModule",
    "ImageFileError",
    "RawSample",
    "ResumableLoader",
    "SegmentationDataModule",
    "Source",
    "Split",
    "TrainingDataset",
    "TrainingSampler",
    "TrainingTransform",
    "collate_evaluation",
    "collate_training",
    "load_hierarchy",
    "load_vocabulary",
    "masks_and_labels",
    "read_image",
    "read_label",
    "save_hierarchy",
    "save_vocabulary",
]
