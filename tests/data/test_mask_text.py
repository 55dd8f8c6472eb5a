"""Pairs from the truth, their crops and contexts, and the DataModule of both."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scan_lightning.data.base import RawSample
from scan_lightning.data.images import ImageFileError
from scan_lightning.data.mask_crops import MaskTexts, collate_mask_texts, whole_image
from scan_lightning.data.mask_text import MaskTextDataModule
from scan_lightning.data.pair_index import MaskText, PairIndex, PairIndexWriter
from scan_lightning.data.regions import MASK_FILL
from scan_lightning.data.sampling import Draw
from scan_lightning.data.shapes import ShapesDataModule
from scan_lightning.data.truth_pairs import TruthPairs
from scan_lightning.types import IGNORE_INDEX


class OneImage:
    """A source of one image, 20 x 30 pixels: left half label 0, right half label 1, one row ignored."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int, /) -> RawSample:
        labels = np.zeros((20, 30), dtype=np.int64)
        labels[:, 15:] = 1
        labels[10] = IGNORE_INDEX
        image = np.full((20, 30, 3), 50, dtype=np.uint8)
        image[:, 15:] = (200, 10, 10)
        return RawSample(image=image, image_id="half/left", label_map=labels)


def make_index(folder: Path, truth: TruthPairs) -> PairIndex:
    writer = PairIndexWriter(folder, made_from={}, parts=1)
    assert truth.write((range(len(truth.source)), writer.path(0))) > 0
    return writer.finish(images_beside=truth.root is None, vocabulary=None)


def shapes_index(folder: Path, split: str = "train") -> PairIndex:
    data = ShapesDataModule(train_size=6, val_size=3, image_size=48)
    truth = TruthPairs.of(data, split=split, kind="class", min_area=20)
    writer = PairIndexWriter(folder, made_from={}, parts=1)
    truth.write((range(len(truth.source)), writer.path(0)))
    return writer.finish(images_beside=True, vocabulary=data.vocabulary)


def test_truth_pairs_have_masks_and_names(tmp_path: Path) -> None:
    truth = TruthPairs(source=OneImage(), names=("grass", "car"), kind="class", min_area=1, root=None)
    index = make_index(tmp_path, truth)
    labels = OneImage()[0].label_map
    assert index.texts() == ["grass", "car"]
    for number, found in enumerate(index[number] for number in range(2)):
        assert np.array_equal(found.mask, labels == number)
        assert (found.region, found.image_id, found.source) == (number, "half/left", "truth")
        assert np.array_equal(np.asarray(Image.open(tmp_path / found.image)), OneImage()[0].image)
    pieces = dataclasses.replace(truth, kind="component")
    assert [pair.text for pair in pieces.pairs(0, tmp_path)] == ["grass", "grass", "car", "car"]


def test_truth_pairs_leave_out_classes_without_a_name(tmp_path: Path) -> None:
    truth = TruthPairs(source=OneImage(), names=(None, "car"), kind="class", min_area=1, root=None)
    assert [pair.text for pair in truth.pairs(0, tmp_path)] == ["car"]


def test_training_pairs_of_a_benchmark_are_of_seen_classes(tmp_path: Path) -> None:
    data = ShapesDataModule(train_size=1, val_size=1, image_size=48)
    train = TruthPairs.of(data, split="train", kind="class", min_area=20)
    assert [name for name in train.names if name is not None] == list(data.training_vocabulary.names)
    assert TruthPairs.of(data, split="val", kind="class", min_area=20).names == data.vocabulary.names


def test_crops_fill_the_background_and_keep_the_mask(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:12, 15:23] = True
    mask[4:8, 15:19] = False
    Image.fromarray(OneImage()[0].image).save(tmp_path / "a.png")
    pair = MaskText(image="a.png", image_id="a", region=3, mask=mask, text="car", source="truth")
    writer = PairIndexWriter(tmp_path / "index", made_from={}, parts=1)
    writer.write(0, [pair])
    index = writer.finish(images_beside=False, vocabulary=None)
    sample = MaskTexts(index=index, root=tmp_path, image_size=8, boxes=True)[0]
    assert np.array_equal(sample.region_mask.numpy(), mask[4:12, 15:23])
    pixels = sample.crop.permute(1, 2, 0).numpy()
    assert (pixels[~sample.region_mask.numpy()] == MASK_FILL).all()
    assert (pixels[sample.region_mask.numpy()] == (200, 10, 10)).all()
    assert (sample.box.permute(1, 2, 0).numpy() == (200, 10, 10)).all()
    assert (sample.region, sample.text) == (3, "car")


def test_whole_image_is_padded_and_resized_as_the_network_does() -> None:
    from scan_lightning.models.clip import CLIP_MEAN, CLIP_STD
    from scan_lightning.models.preprocessing import nearest_resize, normalize_and_pad

    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (CLIP_MEAN, CLIP_STD))
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    expected = nearest_resize(normalize_and_pad(pixels, [(40, 50)], mean=mean, std=std), 24)[0]
    found = torch.from_numpy(whole_image(image, 24).transpose(2, 0, 1).copy())
    assert torch.allclose((found.float() - mean) / std, expected, atol=0.01)  # the padding is rounded to whole numbers


def test_regions_of_an_image_share_one_context_per_epoch(tmp_path: Path) -> None:
    index = shapes_index(tmp_path)
    dataset = MaskTexts(index=index, root=tmp_path, image_size=24, augment=True, seed=1)
    flips = set()
    for epoch in range(6):
        batch = collate_mask_texts([dataset[Draw(epoch, number)] for number in range(len(index))])
        again = collate_mask_texts([dataset[Draw(epoch, number)] for number in reversed(range(len(index)))])
        assert sorted(batch.image_ids) == sorted(again.image_ids)
        assert len(batch.image_ids) == 6
        for name, image in zip(batch.image_ids, batch.images, strict=True):
            assert torch.equal(image, again.images[again.image_ids.index(name)])
        for row, owner in enumerate(batch.owners.tolist()):
            assert batch.image_ids[owner] == index[row].image_id
        plain = collate_mask_texts([MaskTexts(index=index, root=tmp_path, image_size=24)[0]])
        flips.add(bool(torch.equal(plain.images[0], batch.images[0])))
        if plain.images[0].equal(batch.images[0]):
            assert torch.equal(plain.crops[0], batch.crops[0])
        else:
            assert (plain.crops[0].flip(2).int() - batch.crops[0].int()).abs().max() <= 1
    assert flips == {True, False}


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    mask = np.ones((4, 5), dtype=bool)
    Image.fromarray(np.zeros((5, 5, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    writer = PairIndexWriter(tmp_path / "index", made_from={}, parts=1)
    options = {"region": 0, "mask": mask, "text": "x", "source": "truth"}
    names = ("a.png", "../a.png", "none.png")
    writer.write(0, [MaskText(image=name, image_id=name, **options) for name in names])
    index = writer.finish(images_beside=False, vocabulary=None)
    dataset = MaskTexts(index=index, root=tmp_path, image_size=8)
    with pytest.raises(ImageFileError, match=r"expected \(4, 5\) as its mask has, got \(5, 5\)"):
        dataset[0]
    with pytest.raises(ImageFileError, match="leads out of it"):
        dataset[1]
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        dataset[2]


def test_datamodule_trains_on_every_pair_once_and_validates_with_boxes(tmp_path: Path) -> None:
    train, val = shapes_index(tmp_path / "train"), shapes_index(tmp_path / "val", "val")
    data = MaskTextDataModule(
        train_index=tmp_path / "train", val_index=tmp_path / "val", batch_size=4, image_size=24, eval_batch_size=5
    )
    data.setup("fit")
    assert (
        data.vocabulary == ShapesDataModule().vocabulary or data.vocabulary.names == ShapesDataModule().vocabulary.names
    )
    batches = list(data.train_dataloader())
    assert len(batches) == len(train) // 4
    assert all(batch.crops.shape == (4, 3, 24, 24) and batch.boxes is None for batch in batches)
    seen = {
        (batch.image_ids[owner], int(region))
        for batch in batches
        for owner, region in zip(batch.owners, batch.regions, strict=True)
    }
    assert len(seen) == 4 * len(batches)
    found = [text for batch in data.val_dataloader() for text in batch.texts]
    assert found == list(val.texts())
    assert next(iter(data.val_dataloader())).boxes.shape == (5, 3, 24, 24)


def test_datamodule_says_what_is_missing(tmp_path: Path) -> None:
    shapes_index(tmp_path / "val", "val")
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        MaskTextDataModule(train_index=None, val_index=tmp_path / "val", batch_size=0)
    data = MaskTextDataModule(train_index=None, val_index=tmp_path / "val", batch_size=4)
    with pytest.raises(ValueError, match="train_index: expected a folder"):
        data.setup("fit")
    with pytest.raises(ValueError, match="'fit' or 'validate'"):
        data.setup("test")
    few = MaskTextDataModule(train_index=tmp_path / "val", val_index=tmp_path / "val", batch_size=4000)
    with pytest.raises(ValueError, match="batch_size: expected at most"):
        few.train_dataloader()
