from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from scan_lightning.cli import read_recipe
from scan_lightning.data.base import SegmentationDataModule, Split
from scan_lightning.data.folder import FolderDataModule
from scan_lightning.data.images import ImageFileError
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.types import IGNORE_INDEX, Batch, Sample

PROJECT = Path(__file__).parents[2]
CLASSES = {
    "classes": [
        {"id": 0, "name": "sky", "synonyms": ["sky", "clouds"], "color": [0, 0, 255]},
        {"id": 1, "name": "vehicle", "color": [9, 9, 9]},
        {"id": 2, "name": "car", "color": [255, 0, 0], "seen": False, "parents": ["vehicle"]},
    ],
    "ignore_value": 255,
}
LABELS = np.repeat(np.repeat(np.array([[0, 1], [2, 255]], np.uint8), 16, axis=0), 16, axis=1)


def _fill(images: Path, labels: Path, names: list[str]) -> None:
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for shade, name in enumerate(names):
        Image.fromarray(np.full((32, 32, 3), 10 * shade + 5, np.uint8)).save(images / name)
        Image.fromarray(LABELS).save(labels / f"{Path(name).stem}.png")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    (root / "classes.json").write_text(json.dumps(CLASSES))
    for split, names in {"train": ["b.png", "a.JPG", "c.bmp"], "val": ["d.png"], "test": ["e.png", "f.png"]}.items():
        _fill(root / "images" / split, root / "labels" / split, names)
    return root


@pytest.fixture
def root(made_once: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made_once, tmp_path / "data"))


def _data(root: Path, **options: Any) -> FolderDataModule:
    transform = TrainingTransform(shortest_sides=(32,), crop_size=32, flip=False, colour_jitter=False)
    plain = {"train_transform": transform, "eval_transform": EvaluationTransform(min_size=None), "batch_size": 1}
    return FolderDataModule(**{**plain, "root": root, **options})


def _samples(data: FolderDataModule, split: Split) -> list[Sample]:
    dataset = data.build_dataset(split)
    assert dataset is not None
    return [dataset[index] for index in range(len(dataset))]


def test_evaluation_needs_no_batch_size_of_training(made_once: Path) -> None:
    data = FolderDataModule(root=made_once)
    data.setup("test")
    assert len(data.test_dataloader()) == len(_samples(_data(made_once), "test"))  # type: ignore[arg-type]


def test_vocabulary_and_hierarchy(made_once: Path) -> None:
    data = _data(made_once)
    assert data.vocabulary.names == ("sky", "vehicle", "car")
    assert data.vocabulary.synonyms[0] == ("sky", "clouds")
    assert data.vocabulary.palette[2] == (255, 0, 0)
    assert data.training_vocabulary.names == ("sky", "vehicle")
    assert data.hierarchy is not None
    assert data.hierarchy.parents == {2: (1,)}


def test_classes_of_the_readme_are_read_with_the_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT / "README.md").read_text("utf-8")
    (example,) = (block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"classes"' in block)
    overlay, recipe = PROJECT / "experiments" / "data" / "folder.yaml", PROJECT / "experiments" / "quickstart.yaml"
    config = read_recipe(["fit", f"--config={recipe}", f"--config={overlay}"]).data
    assert config.class_path == "scan_lightning.data.FolderDataModule"
    monkeypatch.chdir(tmp_path)
    root = Path(config.init_args.root)
    root.mkdir(parents=True)
    (root / "classes.json").write_text(example, "utf-8")
    data = FolderDataModule(**config.init_args.as_dict())
    assert data.vocabulary.names[0] == "sky"
    assert 0 < data.training_vocabulary.num_classes < data.vocabulary.num_classes
    assert data.hierarchy is not None
    assert data.hierarchy.parents


def test_evaluation_labels_are_of_the_complete_vocabulary(made_once: Path) -> None:
    samples = _samples(_data(made_once), "test")
    assert [sample.image_id for sample in samples] == ["e", "f"]
    expected = torch.from_numpy(np.where(LABELS == 255, IGNORE_INDEX, LABELS.astype(np.int64)))
    assert all(torch.equal(sample.label_map, expected) for sample in samples if sample.label_map is not None)
    assert samples[1].image.unique().tolist() == [15]
    assert samples[0].original_size == (32, 32)


@pytest.mark.parametrize(
    ("seen", "expected"), [(None, [-1, 0, 1]), (["car", "sky"], [-1, 0, 1]), (["vehicle"], [-1, 0])]
)
def test_unseen_classes_are_ignored_in_training(made_once: Path, seen: list[str] | None, expected: list[int]) -> None:
    data = _data(made_once, seen=seen)
    label_map = _samples(data, "train")[0].label_map
    assert label_map is not None
    assert label_map.unique().tolist() == expected
    corners = [label_map[0, 0].item(), label_map[0, 31].item(), label_map[31, 0].item()]
    labels = {name: label for label, name in enumerate(data.training_vocabulary.names)}
    assert corners == [labels.get(name, IGNORE_INDEX) for name in ("sky", "vehicle", "car")]


def test_without_a_seen_class_only_training_raises(root: Path) -> None:
    content = {**CLASSES, "classes": [{**entry, "seen": False} for entry in CLASSES["classes"]]}  # type: ignore[attr-defined]
    (root / "classes.json").write_text(json.dumps(content))
    data = _data(root)
    assert [sample.image_id for sample in _samples(data, "test")] == ["e", "f"]
    with pytest.raises(ValueError, match="at least one seen class to train on"):
        data.build_dataset("train")


def test_images_with_unseen_classes_can_be_skipped(root: Path) -> None:
    Image.fromarray(np.minimum(LABELS, 1)).save(root / "labels" / "train" / "b.png")
    assert [s.image_id for s in _samples(_data(root, unseen_in_training="skip"), "train")] == ["b"]
    assert [s.image_id for s in _samples(_data(root), "train")] == ["a", "b", "c"]


def test_fit_test_and_predict_with_a_trainer(root: Path, tmp_path: Path) -> None:
    class Recorder(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.ids: list[str] = []

        def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
            assert batch.labels[0].tolist() == [0, 1]
            return self.weight * 1

        def test_step(self, batch: Batch, batch_idx: int) -> None:
            self.ids += batch.image_ids

        def predict_step(self, batch: Batch, batch_idx: int) -> list[str]:
            assert batch.label_maps == [None]
            return batch.image_ids

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path, **quiet)
    module, data = Recorder(), _data(root)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 3
    shutil.rmtree(root / "images" / "train")
    trainer.test(module, datamodule=data, verbose=False)
    assert module.ids == ["e", "f"]
    shutil.rmtree(root / "labels")
    assert trainer.predict(module, datamodule=_data(root)) == [["e"], ["f"]]


def test_transforms_are_set_by_nested_keys(root: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(SegmentationDataModule, "data")
    config = {
        "class_path": "scan_lightning.data.FolderDataModule",
        "init_args": {
            "root": str(root),
            "batch_size": 2,
            "train_transform": {"crop_size": 128, "shortest_sides": [96, 128]},
            "eval_transform": {"min_size": None},
        },
    }
    data = parser.instantiate(parser.parse_object({"data": config})).data
    assert data.train_transform == TrainingTransform(crop_size=128, shortest_sides=(96, 128))
    assert data.eval_transform == EvaluationTransform(min_size=None)


def test_camvid_names_of_keys(root: Path) -> None:
    content = {
        "classes": [{"id": i, "name": name, "aliases": [name]} for i, name in enumerate(("sky", "road", "car"))],
        "ignore_value_in_files": 11,
    }
    (root / "classes.json").write_text(json.dumps(content))
    Image.fromarray(np.where(LABELS == 255, 11, LABELS).astype(np.uint8)).save(root / "labels" / "test" / "e.png")
    data = _data(root)
    dataset = data.build_dataset("test")
    assert dataset is not None
    assert dataset[0].label_map is not None
    assert dataset[0].label_map.unique().tolist() == [IGNORE_INDEX, 0, 1, 2]
    assert data.hierarchy is None


def test_flat_layout_shares_images_or_reads_split_files(made_once: Path, tmp_path: Path) -> None:
    root = tmp_path / "flat"
    _fill(root / "images", root / "labels", ["b.png", "a.png", "c.png"])
    shutil.copy(made_once / "classes.json", root)
    splits: tuple[Split, ...] = ("train", "val", "test", "predict")
    for split in splits:
        assert [s.image_id for s in _samples(_data(root), split)] == ["a", "b", "c"]
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("c\na\n\n")
    (root / "splits" / "val.txt").write_text("b\nd\n")
    data = _data(root)
    assert [s.image_id for s in _samples(data, "train")] == ["a", "c"]
    with pytest.raises(ValueError, match=r"val\.txt: expected names .* got 'd'"):
        data.build_dataset("val")
    with pytest.raises(FileNotFoundError, match=r"test\.txt: expected the names"):
        data.build_dataset("test")


def test_split_that_is_switched_off_gives_none(made_once: Path) -> None:
    data = _data(made_once, val_split=None, test_split=None)
    data.prepare_data()
    assert data.build_dataset("val") is data.build_dataset("test") is data.build_dataset("predict") is None


def _unlink(*parts: str) -> Any:
    return lambda root: root.joinpath(*parts).unlink()


def _empty_train(root: Path) -> None:
    shutil.rmtree(root / "images" / "train")
    (root / "images" / "train").mkdir()


def _link_outside(root: Path) -> None:
    outside = root.parent / "outside.png"
    shutil.copy(root / "images" / "train" / "b.png", outside)
    (root / "images" / "train" / "b.png").unlink()
    (root / "images" / "train" / "b.png").symlink_to(outside)


def _link_label_outside(root: Path) -> None:
    outside = root.parent / "outside"
    shutil.move(root / "labels" / "train", outside)
    (root / "labels" / "train").symlink_to(outside)


def _same_name(root: Path) -> None:
    shutil.copy(root / "images" / "train" / "b.png", root / "images" / "train" / "b.bmp")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_unlink("classes.json"), FileNotFoundError, r"classes\.json: expected the list of classes"),
        (_unlink("labels", "train", "a.png"), FileNotFoundError, r"a\.JPG: expected a label map .*a\.png"),
        (lambda root: shutil.rmtree(root / "images" / "val"), FileNotFoundError, r"images/val: expected a folder"),
        (lambda root: shutil.rmtree(root), FileNotFoundError, r"classes\.json"),
        (_empty_train, ValueError, r"images/train: expected images \(.jpg.*found none"),
        (_link_outside, ValueError, r"b\.png: expected a file inside .* got a link to .*outside\.png"),
        (_link_label_outside, ValueError, r"a\.png: expected a file inside"),
        (_same_name, ValueError, r"b\.png: expected one image of each name, but there is b\.bmp too"),
    ],
)
def test_prepare_data_names_what_is_wrong(root: Path, damage: Any, error: type[Exception], message: str) -> None:
    _data(root).prepare_data()
    damage(root)
    with pytest.raises(error, match=message):
        _data(root).prepare_data()


def test_link_inside_the_root_is_followed(root: Path) -> None:
    (root / "images" / "train" / "z.png").symlink_to(root / "images" / "train" / "b.png")
    (root / "labels" / "train" / "z.png").symlink_to(root / "labels" / "train" / "b.png")
    assert [sample.image_id for sample in _samples(_data(root), "train")] == ["a", "b", "c", "z"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:, :20], r"e\.png: expected the size of its image .*images/test/e\.png, \(32, 32\), got \(32, 20\)"),
        (np.where(LABELS == 2, 3, LABELS), r"e\.png: expected labels from 0 to 2 or 255 for ignored .* got \[3\]"),
        (np.where(LABELS == 2, 65535, LABELS.astype(np.uint16)), r"got \[65535\]"),
        (np.where(LABELS == 2, -5, LABELS.astype(np.int32)), r"got \[-5\]"),
    ],
)
def test_wrong_labels_raise(root: Path, labels: np.ndarray, message: str) -> None:
    path = root / "labels" / "test" / "e.png"
    path.unlink()
    if labels.dtype == np.int32:
        path = path.with_suffix(".tif")
        message = message.replace("png", "tif")
    Image.fromarray(labels).save(path)
    with pytest.raises(ImageFileError, match=message):
        _samples(_data(root), "test")


def test_16_bit_labels_beyond_255(root: Path) -> None:
    classes = [{"name": f"class {label}"} for label in range(300)]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "ignore_value": 65535}))
    deep = np.where(LABELS == 255, 65535, LABELS.astype(np.uint16) + 297).astype(np.uint16)
    Image.fromarray(deep).save(root / "labels" / "val" / "d.png")
    label_map = _samples(_data(root), "val")[0].label_map
    assert label_map is not None
    assert label_map.unique().tolist() == [IGNORE_INDEX, 297, 298, 299]


def test_truncated_image_raises(root: Path) -> None:
    path = root / "images" / "test" / "f.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageFileError, match=r"f\.png: expected an image, but the file is truncated"):
        _samples(_data(root), "test")


@pytest.mark.parametrize(
    ("seen", "message"),
    [(["truck"], r"expected names of classes in .*classes\.json, got 'truck'"), ([], "at least one")],
)
def test_wrong_seen_names_raise(made_once: Path, seen: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"seen: .*{message}"):
        _data(made_once, seen=seen).prepare_data()


@pytest.mark.parametrize("value", [2, 70000, "255", None])
def test_wrong_ignore_value_raises(root: Path, value: Any) -> None:
    (root / "classes.json").write_text(json.dumps({**CLASSES, "ignore_value": value}))
    with pytest.raises(ValueError, match=r"classes\.json: ignore_value: expected an integer from 3 to 65535"):
        _data(root).prepare_data()


@pytest.mark.skipif("SCAN_LIGHTNING_SHARED" not in os.environ, reason="SCAN_LIGHTNING_SHARED names no folder")
def test_camvid_loads() -> None:
    data = _data(Path(os.environ["SCAN_LIGHTNING_SHARED"]) / "data" / "camvid", batch_size=2)
    data.prepare_data()
    data.setup("fit")
    assert data.vocabulary.num_classes == 11
    assert data.vocabulary.synonyms[3] == ("road", "street")
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (2, 3, 32, 32)
    batch = next(iter(data.val_dataloader()))
    assert batch.original_sizes == [(360, 480)]
    assert batch.label_maps[0].min() == IGNORE_INDEX
    assert batch.label_maps[0].max() <= 10
