"""Pascal VOC 2012 and Pascal Context."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from scan_lightning.data.benchmark_files import FileLayout
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import FileLabels
from scan_lightning.data.images import ImageFileError

_IMAGES = "JPEGImages"
_CONTEXT_LISTS = ("pascalcontext_{split}.txt", "ImageSets/Main/{split}.txt")
_VOC_LISTS = ("ImageSets/Segmentation/{split}.txt",)


def read_label_map(path: Path) -> NDArray[np.integer[Any]]:
    """Read the variable LabelMap of a MATLAB file, the form of Pascal Context's published labels.

    Args:
        path: A MATLAB file of version 4 to 7.2.

    Returns:
        uint16 (H, W).

    Raises:
        FileNotFoundError: If there is no such file.
        ImageFileError: If the file is damaged, or LabelMap is missing or no matrix of whole numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a label map, found no such file")
    try:
        content = loadmat(str(path), variable_names=["LabelMap"])
    except Exception as error:  # scipy lets errors of any kind through where a file is damaged
        raise ImageFileError(f"{path}: expected a MATLAB file, but it is none or damaged ({error})") from error
    values = content.get("LabelMap")
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size:
        raise ImageFileError(f"{path}: expected a matrix LabelMap, got {getattr(values, 'shape', 'none')}")
    if values.dtype.kind not in "iuf" or (values < 0).any() or (values > 65535).any() or (values % 1).any():
        raise ImageFileError(f"{path}: expected whole numbers from 0 to 65535 in LabelMap, got {values.dtype} values")
    return values.astype(np.uint16)


def _context_layouts(converted: str, suffix: str) -> Mapping[FileLabels, FileLayout]:
    return {
        "original": FileLayout(
            images=_IMAGES,
            labels=("trainval",),
            label_suffix=".mat",
            shared=True,
            lists=_CONTEXT_LISTS,
            may_lack_labels=True,
            reader=read_label_map,
        ),
        "converted": FileLayout(
            images=_IMAGES,
            labels=(f"annotations_detectron2/{converted}_{{split}}",),
            label_suffix=suffix,
            shared=True,
            lists=_CONTEXT_LISTS,
            may_lack_labels=True,
        ),
    }


class PascalContext59DataModule(BenchmarkDataModule):
    """Pascal Context with its 59 most frequent classes (PC-59): train, val and trainval.

    Original: ``trainval/*.mat`` with ids of 459 classes, and ``pascalcontext_<split>.txt``, or VOC2010's
    ``ImageSets/Main/<split>.txt``. Converted: ``annotations_detectron2/pc59_<split>/*.png``, which come in two orders
    of the classes. Images lie in ``JPEGImages/*.jpg``. Arguments are those of `BenchmarkDataModule`.
    """

    key: ClassVar[str] = "pascal_context_59"
    layouts: ClassVar[Mapping[FileLabels, FileLayout]] = _context_layouts("pc59", ".png")


class PascalContext60DataModule(PascalContext59DataModule):
    """Pascal Context with 59 classes and background (PC-60): every other pixel is background, none is ignored.

    It reads the files of `PascalContext59DataModule`. Arguments are those of `BenchmarkDataModule`.
    """

    key: ClassVar[str] = "pascal_context_60"


class PascalContext459DataModule(BenchmarkDataModule):
    """Pascal Context with all 459 classes (PC-459): train, val and trainval.

    Original: the files of `PascalContext59DataModule`. Converted: ``annotations_detectron2/pc459_<split>/*.tif`` with
    16 bits. Arguments are those of `BenchmarkDataModule`.
    """

    key: ClassVar[str] = "pascal_context_459"
    layouts: ClassVar[Mapping[FileLabels, FileLayout]] = _context_layouts("pc459", ".tif")


_VOC_ORIGINAL = FileLayout(
    images=_IMAGES, labels=("SegmentationClassAug", "SegmentationClass"), shared=True, lists=_VOC_LISTS
)


class PascalVoc20DataModule(BenchmarkDataModule):
    """Pascal VOC 2012 with 20 classes (PAS-20): train, val, trainval and train_aug; background is ignored.

    Original: ``SegmentationClassAug/*.png`` or, without that folder, ``SegmentationClass/*.png``, and
    ``ImageSets/Segmentation/<split>.txt``. Converted: ``annotations_detectron2/<split>/*.png``. Images lie in
    ``JPEGImages/*.jpg``. Arguments are those of `BenchmarkDataModule`.
    """

    key: ClassVar[str] = "pascal_voc_20"
    layouts: ClassVar[Mapping[FileLabels, FileLayout]] = {
        "original": _VOC_ORIGINAL,
        "converted": FileLayout(
            images=_IMAGES,
            labels=("annotations_detectron2/{split}",),
            shared=True,
            lists=_VOC_LISTS,
            may_lack_labels=True,
        ),
    }


class PascalVoc21DataModule(BenchmarkDataModule):
    """Pascal VOC 2012 with 20 classes and background (PAS-21).

    It reads the original files of `PascalVoc20DataModule`, which hold the labels; the converted ones have lost the
    difference between background and border. Arguments are those of `BenchmarkDataModule`.
    """

    key: ClassVar[str] = "pascal_voc_21"
    layouts: ClassVar[Mapping[FileLabels, FileLayout]] = {"original": _VOC_ORIGINAL}
