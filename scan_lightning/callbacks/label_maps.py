"""Write predicted label maps to disk, as ``predict`` makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from scan_lightning.callbacks.visualization import file_name, print_place, save_png
from scan_lightning.files import write_whole
from scan_lightning.types import Segmentation


class LabelMapCallback(Callback):
    """Write every label map of ``predict`` as a PNG of class ids, and the words beside them as words.json.

    Every process writes its own images; the first one tells at the end how many there are and where.

    Args:
        directory: Where to write. Defaults to ``label_maps`` in the Trainer's log folder.
    """

    def __init__(self, *, directory: str | Path | None = None) -> None:
        super().__init__()
        self.directory = None if directory is None else Path(directory)
        self._folder = Path()
        self._words: tuple[str, ...] = ()
        self._images = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle the folder."""
        # Every process must ask for the log folder: the first one sends it to the others.
        self._folder = self.directory or Path(trainer.log_dir or trainer.default_root_dir) / "label_maps"
        self._words = ()
        self._images = 0

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the batch's label maps.

        Args:
            trainer: Not used.
            pl_module: Not used.
            outputs: The step's result, a mapping with a list of `Segmentation` under ``segmentations``.
            batch: Not used.
            batch_idx: Not used.
            dataloader_idx: Not used.
        """
        segmentations: Sequence[Segmentation] = outputs["segmentations"] if isinstance(outputs, Mapping) else ()
        for segmentation in segmentations:
            depth = np.uint8 if len(segmentation.words) <= 256 else np.uint16
            picture = Image.fromarray(segmentation.label_map.numpy().astype(depth))
            save_png(picture, self._folder / file_name(segmentation.image_id))
            self._words = segmentation.words
            self._images += 1

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the words, whose places in the list are the ids, and tell where everything is.

        Args:
            trainer: Tells which process is the first.
            pl_module: Knows the device.
        """
        # Collective: every process must call it, though only the first one prints.
        images: Any = trainer.strategy.reduce(torch.tensor(self._images, device=pl_module.device), reduce_op="sum")
        if trainer.is_global_zero and self._words:
            text = json.dumps(list(self._words), indent=1, ensure_ascii=False) + "\n"
            write_whole(self._folder / "words.json", text)
            print_place("label maps", int(images), self._folder)
