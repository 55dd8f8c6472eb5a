"""COCO-Stuff, the training set of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from scan_lightning.data.benchmark_files import FileLayout
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import FileLabels


class CocoStuffDataModule(BenchmarkDataModule):
    """COCO-Stuff (164k images), 171 classes: train2017 and val2017. All classes are seen.

    Original: ``stuffthingmaps/<split>/*.png`` with the official ids less 1. Converted:
    ``stuffthingmaps_detectron2/<split>/*.png`` with labels. Images lie in ``<split>/*.jpg``. Arguments are those of
    `BenchmarkDataModule`.
    """

    key: ClassVar[str] = "coco_stuff_171"
    layouts: ClassVar[Mapping[FileLabels, FileLayout]] = {
        "original": FileLayout(images="{split}", labels=("stuffthingmaps/{split}",)),
        "converted": FileLayout(images="{split}", labels=("stuffthingmaps_detectron2/{split}",), may_lack_labels=True),
    }
