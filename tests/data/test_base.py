from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from scan_lightning.data.base import EvaluationDataset, RawSample, SegmentationDataModule, Split, TrainingDataset
from scan_lightning.data.sampling import Draw, ResumableLoader, TrainingSampler
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.data.worker_memory import keep_freed_memory
from scan_lightning.types import IGNORE_INDEX, Batch, Vocabulary

TRANSFORM = TrainingTransform(shortest_sides=(24, 32, 40), crop_size=24)


class _Noise:
    """Random images whose labels are 0, 1, 2 or ignored."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> RawSample:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        return RawSample(image=image, image_id=str(index), label_map=rng.integers(IGNORE_INDEX, 3, (32, 32)))


class _NoiseModule(SegmentationDataModule):
    vocabulary = Vocabulary(names=("sky", "unseen", "car"), seen=(True, False, True))

    def __init__(self, *, size: int = 14, with_test: bool = True, **kwargs: Any) -> None:
        super().__init__(train_transform=TRANSFORM, eval_transform=EvaluationTransform(min_size=None), **kwargs)
        self.size = size
        self.with_test = with_test

    def build_dataset(self, split: Split) -> TrainingDataset | EvaluationDataset | None:
        source = _Noise(self.size)
        if split == "train":
            return TrainingDataset(
                source, transform=self.train_transform, seed=self.seed, relabel=self.training_relabel
            )
        return EvaluationDataset(source, transform=self.eval_transform) if self.with_test else None


class _Recorder(LightningModule):
    """Records what each training step sees: ids, a fingerprint of the augmented pixels, and the weight's value."""

    def __init__(self, *, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.fail_at = fail_at
        self.seen: list[tuple[list[str], str]] = []
        self.evaluated: list[str] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise KeyboardInterrupt
        self.seen.append((batch.image_ids, hashlib.sha256(batch.images.numpy().tobytes()).hexdigest()))
        return self.weight * batch.images.float().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluated += batch.image_ids

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class _SaveWhenInterrupted(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


def _trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        **{"max_epochs": 3, "limit_val_batches": 0, "callbacks": [], **options},
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in options.get("callbacks", [])),
    )


def _fit(folder: Path, module: _Recorder, data: _NoiseModule, ckpt: Path | None = None, **options: Any) -> Trainer:
    trainer = _trainer(folder, **options)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=None if ckpt is None else True)
    return trainer


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[list[str], str]], float]:
    module = _Recorder()
    _fit(tmp_path_factory.mktemp("undisturbed"), module, _NoiseModule(batch_size=4))
    return module.seen, module.weight.item()


def test_epochs_differ_and_hold_every_sample_once(undisturbed: Any) -> None:
    seen, _ = undisturbed
    epochs = [[name for ids, _ in seen[start : start + 3] for name in ids] for start in (0, 3, 6)]
    assert len(seen) == 9
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("steps", "workers"), [(2, 0), (3, 0), (4, 0), (5, 0), (8, 0), (2, 2), (4, 2)])
def test_resume_continues_undisturbed(undisturbed: Any, tmp_path: Path, steps: int, workers: int) -> None:
    callback = ModelCheckpoint(dirpath=tmp_path, filename="cut", every_n_train_steps=steps)
    first, second = _Recorder(), _Recorder()
    _fit(tmp_path, first, _NoiseModule(batch_size=4, num_workers=workers), callbacks=[callback], max_steps=steps)
    _fit(tmp_path, second, _NoiseModule(batch_size=4, num_workers=workers), ckpt=tmp_path / "cut.ckpt")
    assert first.seen + second.seen == undisturbed[0]
    assert second.weight.item() == undisturbed[1]


def test_resume_from_the_end_of_an_epoch(undisturbed: Any, tmp_path: Path) -> None:
    first, second = _Recorder(), _Recorder()
    callback = ModelCheckpoint(dirpath=tmp_path, filename="cut", save_on_train_epoch_end=True)
    _fit(tmp_path, first, _NoiseModule(batch_size=4), callbacks=[callback], max_epochs=2)
    _fit(tmp_path, second, _NoiseModule(batch_size=4), ckpt=tmp_path / "cut.ckpt")
    assert first.seen + second.seen == undisturbed[0]


@pytest.mark.parametrize("fail_at", [1, 4])
def test_resume_after_interruption_repeats_the_unfinished_batch(undisturbed: Any, tmp_path: Path, fail_at: int) -> None:
    path = tmp_path / "interrupted.ckpt"
    first, second = _Recorder(fail_at=fail_at), _Recorder()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        _fit(tmp_path, first, _NoiseModule(batch_size=4), callbacks=[_SaveWhenInterrupted(path)])
    _fit(tmp_path, second, _NoiseModule(batch_size=4), ckpt=path)
    assert first.seen + second.seen == undisturbed[0]


def test_resume_with_validation_inside_the_epoch(undisturbed: Any, tmp_path: Path) -> None:
    callback = ModelCheckpoint(dirpath=tmp_path, filename="cut", every_n_train_steps=4)
    options = {"limit_val_batches": 1, "val_check_interval": 1, "num_sanity_val_steps": 0}
    first, second = _Recorder(), _Recorder()
    _fit(tmp_path, first, _NoiseModule(batch_size=4), callbacks=[callback], max_steps=4, **options)
    _fit(tmp_path, second, _NoiseModule(batch_size=4), ckpt=tmp_path / "cut.ckpt", **options)
    assert first.seen + second.seen == undisturbed[0]


@pytest.mark.parametrize(("change", "message"), [({"seed": 1}, "seed"), ({"size": 15}, "dataset size")])
def test_resume_with_another_order_raises(tmp_path: Path, change: dict[str, int], message: str) -> None:
    callback = ModelCheckpoint(dirpath=tmp_path, filename="cut", every_n_train_steps=2)
    _fit(tmp_path, _Recorder(), _NoiseModule(batch_size=4), callbacks=[callback], max_steps=2)
    with pytest.raises(ValueError, match=f"another {message}"):
        _fit(tmp_path, _Recorder(), _NoiseModule(batch_size=4, **change), ckpt=tmp_path / "cut.ckpt")


@pytest.mark.parametrize("change", [{"num_workers": 2}, {"batch_size": 2}])
def test_samples_do_not_depend_on_workers_or_batch_size(change: dict[str, int]) -> None:
    streams: list[list[tuple[str, bytes]]] = []
    for options in ({"batch_size": 4}, {"batch_size": 4, **change}):
        data = _NoiseModule(**options)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(3)
        streams.append(
            [(i, image.numpy().tobytes()) for b in loader for i, image in zip(b.image_ids, b.images, strict=True)]
        )
    assert streams[0] == streams[1][: len(streams[0])]


def test_augmentation_depends_on_seed_epoch_and_index() -> None:
    def image(seed: int, epoch: int, index: int) -> Tensor:
        return TrainingDataset(_Noise(9), transform=TRANSFORM, seed=seed)[Draw(epoch, index)].image

    assert torch.equal(image(1, 2, 3), image(1, 2, 3))
    others = [image(0, 2, 3), image(1, 3, 3), image(2, 1, 3)]
    assert not any(torch.equal(image(1, 2, 3), other) for other in others)


def test_loading_leaves_global_random_state_alone() -> None:
    data = _NoiseModule(batch_size=4)
    data.setup("fit")
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for _ in data.train_dataloader():
        pass
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_training_labels_index_the_training_vocabulary() -> None:
    data = _NoiseModule(batch_size=2)
    assert data.training_vocabulary.names == ("sky", "car")
    assert data.training_relabel.tolist() == [0, IGNORE_INDEX, 1]
    raw = _Noise(1)[0]
    dataset = TrainingDataset(
        _Noise(1),
        transform=TrainingTransform(shortest_sides=(32,), crop_size=32, flip=False),
        relabel=data.training_relabel,
    )
    expected = np.select([raw.label_map == 0, raw.label_map == 2], [0, 1], IGNORE_INDEX)
    assert (dataset[0].label_map.numpy() == expected).all()


def test_training_without_truth_raises() -> None:
    class Blind(_Noise):
        def __getitem__(self, index: int) -> RawSample:
            return RawSample(image=super().__getitem__(index).image, image_id="blind")

    with pytest.raises(ValueError, match="blind: expected a label map"):
        TrainingDataset(Blind(1), transform=TRANSFORM)[0]


def test_setup_builds_only_its_stage() -> None:
    data = _NoiseModule(batch_size=2)
    data.setup("test")
    assert len(data.test_dataloader()) == 14
    with pytest.raises(RuntimeError, match="split 'train'"):
        data.train_dataloader()


def test_missing_splits_give_no_loader(tmp_path: Path) -> None:
    module, data = _Recorder(), _NoiseModule(batch_size=4, with_test=False)
    _fit(tmp_path, module, data, limit_val_batches=1.0, max_epochs=1)
    assert len(module.seen) == 3
    assert module.evaluated == []
    assert data.val_dataloader() == []


def test_overfit_batches_runs(tmp_path: Path) -> None:
    module = _Recorder()
    _fit(tmp_path, module, _NoiseModule(batch_size=4), overfit_batches=1, max_epochs=2)
    assert [ids for ids, _ in module.seen] == [["0", "1", "2", "3"]] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"batch_size": 1, "num_workers": -1}, "num_workers: expected at least 0"),
        ({"batch_size": 1, "seed": -1}, "seed: expected at least 0"),
    ],
)
def test_wrong_argument_raises(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _NoiseModule(**options)


def test_batch_larger_than_data_raises() -> None:
    data = _NoiseModule(batch_size=15)
    data.setup("fit")
    with pytest.raises(ValueError, match="expected at most 14"):
        data.train_dataloader()


def test_loader_starts_where_training_stands_and_keeps_its_length() -> None:
    order = list(TrainingSampler(range(10), seed=0))
    keys = {draw: draw for draw in order}  # a data set that gives back the key it is asked for
    sampler = TrainingSampler(keys, seed=0)
    loader: ResumableLoader[Draw] = ResumableLoader(
        keys, batch_size=2, sampler=sampler, progress=lambda: 3, collate_fn=list
    )
    assert len(loader) == 5
    assert [draw for batch in loader for draw in batch] == order[6:]


class _RankRecorder(_Recorder):
    """Writes what its rank saw to ``<folder>/<rank>.json``, since child processes return nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.register_buffer("constant", torch.ones(2))

    def on_fit_end(self) -> None:
        record = {"train": [ids for ids, _ in self.seen], "val": self.evaluated}
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(record))


def test_two_processes_share_every_epoch_and_repeat_nothing(tmp_path: Path) -> None:
    module = _RankRecorder(tmp_path)
    data = _NoiseModule(size=7, batch_size=1)
    _fit(
        tmp_path,
        module,
        data,
        devices=2,
        strategy=DDPStrategy(start_method="fork", process_group_backend="gloo", broadcast_buffers=False),
        max_epochs=1,
        limit_val_batches=1.0,
        num_sanity_val_steps=0,
    )
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    data.setup("fit")
    alone = [ids for batch in data.train_dataloader() for ids in batch.image_ids]
    together = [ids for pair in zip(first["train"], second["train"], strict=True) for batch in pair for ids in batch]
    assert together == alone[:6]
    assert first["val"] == ["0", "2", "4", "6"]
    assert second["val"] == ["1", "3", "5"]


def test_workers_keep_freed_memory() -> None:
    data = _NoiseModule(batch_size=2)
    data.setup("fit")
    assert data.train_dataloader().worker_init_fn is keep_freed_memory
