"""Streamed training is shared, shuffled, augmented and resumed the same way every time."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image
from torch import Tensor

from scan_lightning.data import streaming
from scan_lightning.data.hub import HubDataModule
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.types import Batch

SIZE = 12
FILES = 4


def encode(pixels: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """`datasets` sleeps for five seconds at the end of each stream."""
    datasets.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.01)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rows in four files; the test split is the same."""
    folder = tmp_path_factory.mktemp("stream")
    rng = np.random.default_rng(0)
    images = [encode(rng.integers(0, 256, (32, 32, 3))) for _ in range(SIZE)]
    labels = [encode(rng.integers(0, 2, (32, 32))) for _ in range(SIZE)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image(), "id": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"image": images, "label": labels, "id": range(SIZE)}, features=features)
    for split in ("train", "test"):
        for number in range(FILES):
            part = rows.shard(FILES, number, contiguous=True)
            part.to_parquet(folder / f"{split}-{number:05d}-of-{FILES:05d}.parquet")
    return folder


def make(root: Path, *, setup: bool = True, **options: Any) -> HubDataModule:
    defaults = {"batch_size": 2, "val_split": None, "id_column": "id", "train_size": SIZE, "shuffle_buffer": 4}
    transform = TrainingTransform(shortest_sides=(24, 32, 40), crop_size=24)
    data = HubDataModule(
        path=str(root),
        vocabulary=["sky", "car"],
        streaming=True,
        cache_dir=root.parent / "stream_cache",
        train_transform=transform,
        eval_transform=EvaluationTransform(min_size=None),
        **{**defaults, **options},
    )
    if setup:
        data.setup("fit")
    return data


def epoch(data: HubDataModule, number: int = 0) -> list[tuple[str, str]]:
    """Ids and fingerprints of an epoch's samples."""
    loader: Any = data.train_dataloader()
    loader.epoch = lambda: number
    return [pair for batch in loader for pair in _prints(batch)]


def _prints(batch: Batch) -> list[tuple[str, str]]:
    prints = [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:8] for image in batch.images]
    return list(zip(batch.image_ids, prints, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_epoch_holds_every_image_once_and_repeats_exactly(root: Path, workers: int) -> None:
    first = epoch(make(root, num_workers=workers))
    assert len(make(root, num_workers=workers).train_dataloader()) == SIZE // 2
    assert epoch(make(root, num_workers=workers)) == first
    assert len(first) == SIZE
    if workers in (0, 1, 2):  # shares of equal size
        assert {name for name, _ in first} == {str(number) for number in range(SIZE)}


def test_augmentation_depends_on_seed_epoch_and_image_not_on_workers(root: Path) -> None:
    alone, shared = dict(epoch(make(root))), dict(epoch(make(root, num_workers=2)))
    assert alone == shared
    later = dict(epoch(make(root), 1))
    other = dict(epoch(make(root, seed=1)))
    assert not set(alone.items()) & set(later.items())
    assert not set(alone.items()) & set(other.items())


def test_order_is_drawn_anew_for_each_epoch_and_seed(root: Path) -> None:
    orders = [[name for name, _ in epoch(make(root, seed=seed), number)] for seed, number in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(order) for order in orders}) == 3
    assert tuple(map(str, range(SIZE))) not in {tuple(order) for order in orders}


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_stream(root: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    seen: list[str] = []
    for rank in range(processes):
        monkeypatch.setattr(streaming, "process_rank", lambda rank=rank: (rank, processes))
        data = make(root, batch_size=2)
        assert len(data.train_dataloader()) == SIZE // 2 // processes
        seen += [name for name, _ in epoch(data)]
    assert sorted(seen, key=int) == [str(number) for number in range(SIZE)]


def test_longer_epoch_reads_the_stream_again_with_other_draws(root: Path) -> None:
    twice = epoch(make(root, train_size=2 * SIZE))
    assert [name for name, _ in twice[:SIZE]] != [name for name, _ in twice[SIZE:]]
    assert {name for name, _ in twice[:SIZE]} == {name for name, _ in twice[SIZE:]}
    assert len(set(twice)) == 2 * SIZE


def test_shorter_epoch_ends_early(root: Path) -> None:
    assert len(epoch(make(root, train_size=5))) == 4
    with pytest.raises(ValueError, match="batch_size: expected at most 1 over all processes, got 2"):
        make(root, train_size=1).train_dataloader()


def test_unknown_size_has_to_be_given(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"train_size: expected a number, since .*, split train does not tell its size"
    ):
        make(root, train_size=None)


def test_more_workers_than_rows_raises(root: Path) -> None:
    data = make(root, batch_size=1)
    data.setup("fit")
    dataset: Any = data._datasets["train"]
    with pytest.raises(
        ValueError, match="split train: expected rows for each of 20 workers of all processes, got fewer"
    ):
        next(dataset._share(19, 20))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_reads_every_row_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, workers: int, processes: int
) -> None:
    seen: list[str] = []
    for rank in range(processes):
        monkeypatch.setattr(streaming, "process_rank", lambda rank=rank: (rank, processes))
        data = make(root, eval_batch_size=2, num_workers=workers)
        data.setup("test")
        seen += [name for batch in data.test_dataloader() for name in batch.image_ids]
    assert sorted(seen, key=int) == [str(number) for number in range(SIZE)]


class Recorder(LightningModule):
    """Keeps what each step sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[str, str]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen += _prints(batch)
        return self.weight * batch.images.float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, data: HubDataModule, checkpoint: Path | None = None, **options: Any) -> list[tuple[str, str]]:
    module = Recorder()
    trainer = Trainer(
        **{"max_epochs": 2, "enable_checkpointing": False, **options},
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=None if checkpoint is None else True)
    return module.seen


@pytest.mark.parametrize(("workers", "steps"), [(0, 4), (2, 7)])
def test_resume_continues_undisturbed(root: Path, tmp_path: Path, workers: int, steps: int) -> None:
    whole = fit(tmp_path, make(root, num_workers=workers))
    keep = ModelCheckpoint(dirpath=tmp_path, filename="cut", every_n_train_steps=steps)
    options = {"max_steps": steps, "callbacks": [keep], "enable_checkpointing": True}
    first = fit(tmp_path, make(root, num_workers=workers), **options)
    second = fit(tmp_path, make(root, num_workers=workers), tmp_path / "cut.ckpt")
    assert len(whole) == 2 * SIZE
    assert first + second == whole


def test_resume_with_other_workers_raises(root: Path, tmp_path: Path) -> None:
    keep = ModelCheckpoint(dirpath=tmp_path, filename="cut", every_n_train_steps=2)
    fit(tmp_path, make(root), max_steps=2, callbacks=[keep], enable_checkpointing=True)
    with pytest.raises(ValueError, match="another number of workers: expected 1 as in the checkpoint, got 2"):
        fit(tmp_path, make(root, num_workers=2), tmp_path / "cut.ckpt")


class RankRecorder(Recorder):
    """Writes what its rank saw to a file, since child processes return nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.tested: list[str] = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.tested += batch.image_ids

    def on_fit_end(self) -> None:
        (self.folder / f"fit{self.global_rank}.json").write_text(json.dumps([name for name, _ in self.seen]))

    def on_test_end(self) -> None:
        (self.folder / f"test{self.global_rank}.json").write_text(json.dumps(self.tested))


def test_two_processes_share_every_epoch_and_repeat_nothing(root: Path, tmp_path: Path) -> None:
    trainer = Trainer(
        max_epochs=1,
        devices=2,
        strategy=DDPStrategy(start_method="fork", process_group_backend="gloo"),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    module, data = RankRecorder(tmp_path), make(root, setup=False)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    for stage in ("fit", "test"):
        first, second = (json.loads((tmp_path / f"{stage}{rank}.json").read_text()) for rank in (0, 1))
        assert len(first) == len(second) == SIZE // 2
        assert sorted(map(int, first + second)) == list(range(SIZE))
