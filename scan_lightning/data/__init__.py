"""Benchmarks and data sets: reading, augmenting, batching."""

from scan_lightning.data.ade20k import Ade20k150DataModule, Ade20k847DataModule
from scan_lightning.data.base import (
    EvaluationDataset,
    RawSample,
    SegmentationDataModule,
    Source,
    Split,
    TrainingDataset,
)
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import BENCHMARK_KEYS, Benchmark, load_benchmark
from scan_lightning.data.cityscapes import CityscapesDataModule
from scan_lightning.data.coco_stuff import CocoStuffDataModule
from scan_lightning.data.folder import FolderDataModule
from scan_lightning.data.hub import HubDataModule
from scan_lightning.data.images import ImageFileError, read_image, read_label
from scan_lightning.data.layout import DataLayoutError
from scan_lightning.data.pascal import (
    PascalContext59DataModule,
    PascalContext60DataModule,
    PascalContext459DataModule,
    PascalVoc20DataModule,
    PascalVoc21DataModule,
)
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.data.sampling import Draw, EvaluationSampler, ResumableLoader, TrainingSampler
from scan_lightning.data.targets import collate_evaluation, collate_training, masks_and_labels
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.data.vocabulary import load_hierarchy, load_vocabulary, save_hierarchy, save_vocabulary

__all__ = [
    "BENCHMARK_KEYS",
    "DATAMODULES",
    "Ade20k150DataModule",
    "Ade20k847DataModule",
    "Benchmark",
    "BenchmarkDataModule",
    "CityscapesDataModule",
    "CocoStuffDataModule",
    "DataLayoutError",
    "Draw",
    "EvaluationDataset",
    "EvaluationSampler",
    "EvaluationTransform",
    "FolderDataModule",
    "HubDataModule",
    "ImageFileError",
    "PascalContext59DataModule",
    "PascalContext60DataModule",
    "PascalContext459DataModule",
    "PascalVoc20DataModule",
    "PascalVoc21DataModule",
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
    "load_benchmark",
    "load_hierarchy",
    "load_vocabulary",
    "masks_and_labels",
    "read_image",
    "read_label",
    "save_hierarchy",
    "save_vocabulary",
]
