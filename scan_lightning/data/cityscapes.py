"""Cityscapes, an extra test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from scan_lightning.data.benchmark_files import FileLayout
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import FileLabels

_IMAGES = "leftImg8bit/{split}"
_LABELS = ("gtFine/{split}",)


class CityscapesDataModule(BenchmarkDataModule):
    """Cityscapes with fine annotations, 19 classes: train and val; the labels of test are not published.

    Original: ``gtFine/<split>/<city>/*_gtFine_labelIds.png``. Converted: ``*_gtFine_labelTrainIds.png`` beside them.
    Images lie in ``leftImg8bit/<split>/<city>/*_leftImg8bit.png``. Arguments are those of `BenchmarkDataModule`.
    """

    key: ClassVar[str] = "cityscapes_19"
    layouts: ClassVar[Mapping[FileLabels, FileLayout]] = {
        "original": FileLayout(
            images=_IMAGES,
            labels=_LABELS,
            image_suffix="_leftImg8bit.png",
            label_suffix="_gtFine_labelIds.png",
            nested=True,
        ),
        "converted": FileLayout(
            images=_IMAGES,
            labels=_LABELS,
            image_suffix="_leftImg8bit.png",
            label_suffix="_gtFine_labelTrainIds.png",
            nested=True,
        ),
    }
