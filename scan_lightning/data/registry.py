"""The DataModules of all benchmarks, by key."""

from __future__ import annotations

from scan_lightning.data.ade20k import Ade20k150DataModule, Ade20k847DataModule
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import BENCHMARK_KEYS
from scan_lightning.data.cityscapes import CityscapesDataModule
from scan_lightning.data.coco_stuff import CocoStuffDataModule
from scan_lightning.data.pascal import (
    PascalContext59DataModule,
    PascalContext60DataModule,
    PascalContext459DataModule,
    PascalVoc20DataModule,
    PascalVoc21DataModule,
)

_MODULES: tuple[type[BenchmarkDataModule], ...] = (
    Ade20k150DataModule,
    Ade20k847DataModule,
    PascalContext59DataModule,
    PascalContext459DataModule,
    PascalVoc20DataModule,
    CocoStuffDataModule,
    PascalContext60DataModule,
    PascalVoc21DataModule,
    CityscapesDataModule,
)
DATAMODULES: dict[str, type[BenchmarkDataModule]] = {
    key: next(module for module in _MODULES if module.key == key) for key in BENCHMARK_KEYS
}
"""The class that reads each benchmark, by key, in the order of `BENCHMARK_KEYS`."""
