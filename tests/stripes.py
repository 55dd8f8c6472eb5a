"""A tiny benchmark of striped images, and short runs of a `ScanModule` on it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from scan_lightning.data.base import EvaluationDataset, RawSample, SegmentationDataModule, Split, TrainingDataset
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.module import ScanModule
from scan_lightning.types import IGNORE_INDEX, Batch, ClassHierarchy, Vocabulary

SIDE = 32


class Stripes:
    """Images of coloured stripes; the colour tells the class of 4."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> RawSample:
        rng = np.random.default_rng(index)
        height, width = SIDE, 2 * SIDE if index % 2 else SIDE
        labels = np.repeat(rng.integers(0, 4, 4), height // 4)[:, None].repeat(width, 1)
        colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]])
        image = np.clip(colours[labels] + rng.integers(-20, 20, (height, width, 3)), 0, 255).astype(np.uint8)
        labels[0, :5] = IGNORE_INDEX
        return RawSample(image=image, image_id=f"stripes_{index}", label_map=labels)


class StripesModule(SegmentationDataModule):
    """Three of four words are seen."""

    vocabulary = Vocabulary(names=("sky", "car", "tree", "road"), seen=(True, False, True, True))
    hierarchy = ClassHierarchy(num_classes=4, parents={1: (3,)})

    def __init__(self, *, size: int = 7, **kwargs: Any) -> None:
        transform = TrainingTransform(shortest_sides=(SIDE,), crop_size=SIDE, colour_jitter=False)
        options = {"batch_size": 2, "eval_batch_size": 2} | kwargs
        super().__init__(train_transform=transform, eval_transform=EvaluationTransform(min_size=None), **options)
        self.size = size

    def build_dataset(self, split: Split) -> TrainingDataset | EvaluationDataset:
        source = Stripes(self.size)
        if split == "train":
            return TrainingDataset(
                source, transform=self.train_transform, seed=self.seed, relabel=self.training_relabel
            )
        return EvaluationDataset(source, transform=self.eval_transform)


def trainer(folder: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {"max_epochs": 2, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    callbacks = options.get("callbacks", [])
    return Trainer(
        **(defaults | options),
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        use_distributed_sampler=False,
    )


def states_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


class _Losses(Callback):
    """Collects the training losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


def fit(module: ScanModule, folder: Path, ckpt: Path | None = None, **options: Any) -> list[float]:
    recorder = _Losses()
    callbacks = [recorder, *options.pop("callbacks", [])]
    data = options.pop("data", None) or StripesModule()
    trainer(folder, callbacks=callbacks, **options).fit(module, datamodule=data, ckpt_path=ckpt)
    return recorder.losses


def checkpoint_of(module: ScanModule, folder: Path) -> Path:
    save = ModelCheckpoint(dirpath=folder, filename="last", every_n_train_steps=1)
    fit(module, folder, max_steps=1, callbacks=[save])
    return folder / "last.ckpt"
