"""ADE20K with 150 and with 847 classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scan_lightning.data.benchmark_files import FileLayout
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import FileLabels
from scan_lightning.data.images import ImageFileError, read_image
from scan_lightning.data.layout import DataLayoutError
from scan_lightning.data.marker import PreparedMarker

CONVERTED_SHORTER_SIDE = 512
"""Length to which the field's preparation of ADE20K-847 reduces shorter sides."""


def read_object_ids(path: Path) -> NDArray[np.integer[Any]]:
    """Read the object ids of an ADE20K ``_seg.png`` file: (R // 10) * 256 + G; B tells instances apart.

    Args:
        path: The file.

    Returns:
        uint16 (H, W), 0 to 6655, 0 where nothing is labelled.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageFileError: If the file is damaged or grey.
    """
    image = read_image(path)
    if image.any() and (image[..., :1] == image[..., 1:]).all():
        raise ImageFileError(f"{path}: expected object ids in the colours of an RGB image, got a grey one")
    return (image[..., 0] // 10).astype(np.uint16) * 256 + image[..., 1]


class Ade20k150DataModule(BenchmarkDataModule):
    """ADE20K's scene parsing benchmark, 150 classes (A-150): training and validation.

    Original: ``annotations/<split>/*.png``, 0 for other objects. Converted: ``annotations_detectron2/<split>/*.png``.
    Images lie in ``images/<split>/*.jpg``. Arguments are those of `BenchmarkDataModule`.
    """

    key: ClassVar[str] = "ade20k_150"
    layouts: ClassVar[Mapping[FileLabels, FileLayout]] = {
        "original": FileLayout(images="images/{split}", labels=("annotations/{split}",)),
        "converted": FileLayout(images="images/{split}", labels=("annotations_detectron2/{split}",)),
    }


class Ade20k847DataModule(BenchmarkDataModule):
    """ADE20K of 2021 in full, 847 classes (A-847): training and validation.

    Original: ``images/ADE/<split>/<scene group>/<scene>/*.jpg`` with ``*_seg.png`` beside them. The folders are walked;
    the index is a pickle, which may hold code, and is never opened. Converted: ``images_detectron2/<split>/*.jpg`` and
    ``annotations_detectron2/<split>/*.tif`` with 16 bits.

    Args:
        shorter_side: Original images and labels whose shorter side is longer are reduced to it while they are read, as
            the field's preparation does, so that scores compare; None keeps them as they are. Converted files have
            been reduced already and are read only where this is what they were reduced to.
        arguments: Those of `BenchmarkDataModule`.

    Raises:
        ValueError: As `BenchmarkDataModule`, or if ``shorter_side`` is not positive.
    """

    key: ClassVar[str] = "ade20k_847"
    layouts: ClassVar[Mapping[FileLabels, FileLayout]] = {
        "original": FileLayout(
            images="images/ADE/{split}",
            labels=("images/ADE/{split}",),
            label_suffix="_seg.png",
            nested=True,
            reader=read_object_ids,
        ),
        "converted": FileLayout(
            images="images_detectron2/{split}", labels=("annotations_detectron2/{split}",), label_suffix=".tif"
        ),
    }

    def __init__(self, *, shorter_side: int | None = CONVERTED_SHORTER_SIDE, **arguments: Any) -> None:
        super().__init__(**arguments)
        if shorter_side is not None and shorter_side < 1:
            raise ValueError(f"shorter_side: expected at least 1, got {shorter_side}")
        self.shorter_side = shorter_side

    def _reduced_to(self, layout: FileLabels) -> int | None:
        return self.shorter_side if layout == "original" else None

    def _expected_marker(self, split: str, files: int) -> PreparedMarker:
        return PreparedMarker(benchmark=self.key, split=split, files=files, shorter_side=self.shorter_side)

    def _check_unmarked(self, place: Path) -> None:
        if self.shorter_side != CONVERTED_SHORTER_SIDE:
            raise DataLayoutError(
                f"{place}: shorter_side: expected {CONVERTED_SHORTER_SIDE}, to which the field's preparation reduces "
                f"images, got {self.shorter_side}; original files can have any"
            )
