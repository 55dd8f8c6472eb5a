"""DataModules of the benchmarks on miniature data sets in every layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from scipy.io import savemat

from data.miniature import (
    CONVERTED_KEYS,
    SIZE,
    check_split,
    labels_of,
    names_of,
    open_module,
    raw_map,
    read_split,
    write_converted,
    write_original,
)
from scan_lightning.data.ade20k import read_object_ids
from scan_lightning.data.base import SegmentationDataModule
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import BENCHMARK_KEYS, load_benchmark
from scan_lightning.data.images import ImageFileError
from scan_lightning.data.layout import DataLayoutError
from scan_lightning.data.marker import PreparedMarker, write_marker
from scan_lightning.data.pascal import read_label_map
from scan_lightning.data.source import reduce_size
from scan_lightning.data.targets import collate_training
from scan_lightning.data.vocabulary import write_json
from scan_lightning.metrics import SegmentationMetrics
from scan_lightning.types import IGNORE_INDEX

pytestmark = pytest.mark.filterwarnings("ignore:.*found . of the", "ignore:.*come in two orders")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("original")
    for key in BENCHMARK_KEYS:
        write_original(key, root)
    return root


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("converted")
    for key in CONVERTED_KEYS:
        write_converted(key, root)
    return root


@pytest.mark.parametrize("key", BENCHMARK_KEYS)
def test_original_layout_of_both_splits(original: Path, key: str) -> None:
    data = open_module(key, original)
    assert data.found_layout() == "original"
    for split in (data.benchmark.train_split, data.benchmark.eval_split):
        assert len(data.files(split)) == 3
        check_split(data, split)


@pytest.mark.parametrize("key", CONVERTED_KEYS)
def test_converted_layout_of_both_splits(converted: Path, key: str) -> None:
    data = open_module(key, converted)
    assert data.found_layout() == "converted"
    for split in (data.benchmark.train_split, data.benchmark.eval_split):
        check_split(data, split)


@pytest.mark.parametrize("key", BENCHMARK_KEYS)
def test_the_folder_itself_is_a_root_and_may_be_a_link(original: Path, tmp_path: Path, key: str) -> None:
    folder = original / load_benchmark(key).folder
    (tmp_path / "elsewhere").symlink_to(folder, target_is_directory=True)
    check_split(open_module(key, folder), load_benchmark(key).eval_split)
    check_split(open_module(key, tmp_path / "elsewhere"), load_benchmark(key).eval_split)


@pytest.mark.parametrize("key", ["ade20k_847", "pascal_context_459"])
@pytest.mark.parametrize("layout", ["original", "converted"])
def test_labels_keep_16_bits(original: Path, converted: Path, key: str, layout: str) -> None:
    data = open_module(key, original if layout == "original" else converted, layout=layout)
    label_maps = [sample.label_map for sample in read_split(data, data.eval_split)]
    assert max(int(label_map.max()) for label_map in label_maps) > 255
    assert min(int(label_map.min()) for label_map in label_maps) == IGNORE_INDEX
    data.setup("test")
    for index, batch in enumerate(data.test_dataloader()):
        assert batch.label_maps[0].dtype == torch.int64
        assert np.array_equal(batch.label_maps[0].numpy(), labels_of(key, data.eval_split, index))


def test_training_labels_are_those_of_seen_classes(original: Path) -> None:
    data = open_module("ade20k_150", original)
    data.setup("fit")
    seen = [label for label, entry in enumerate(data.benchmark.classes) if entry.seen]
    assert data.training_vocabulary.num_classes == len(seen) == 71
    sample = data.build_dataset("train")[0]
    expected = labels_of("ade20k_150", "training", 0)
    kept = {int(label) for label in np.unique(expected) if label in seen}
    assert {seen[int(label)] for label in sample.label_map.unique() if label >= 0} <= kept
    everything = open_module("ade20k_150", original, seen="all")
    assert everything.training_vocabulary == everything.vocabulary
    assert torch.equal(everything.training_relabel, torch.arange(150))


def test_image_without_truth_pixels_counts_nothing(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path)
    Image.new("L", SIZE[::-1]).save(folder / "annotations" / "validation" / "ADE_val_00000002.png")
    data = open_module("ade20k_150", tmp_path, train_split="validation")
    data.setup("test")
    data.setup("fit")
    metrics = SegmentationMetrics(num_classes=150)
    for batch in data.test_dataloader():
        metrics.update(torch.zeros_like(batch.label_maps[0]), batch.label_maps[0])
    labelled = sum(int((labels_of("ade20k_150", "validation", index) >= 0).sum()) for index in (0, 2))
    assert int(metrics.confusion.sum()) == labelled > 0
    assert collate_training([data.build_dataset("train")[1]]).masks[0].shape == (0, 32, 32)


def test_arguments_parse_as_on_the_command_line(original: Path, tmp_path: Path) -> None:
    write_json({"parents": {"house": ["building, edifice"]}}, tmp_path / "mine.json")
    parser = ArgumentParser()
    parser.add_subclass_arguments(SegmentationDataModule, "data")
    place = ["--data=scan_lightning.data.Ade20k847DataModule", f"--data.root={original}"]
    for given, expected in (("released", 306), ("cleaned", 248), ("null", None), (str(tmp_path / "mine.json"), 1)):
        arguments = [*place, f"--data.hierarchy={given}", "--data.shorter_side=null", "--data.names=split"]
        data = parser.instantiate_classes(parser.parse_args(arguments)).data
        assert isinstance(data, BenchmarkDataModule)
        assert (data.hierarchy and len(data.hierarchy.parents)) == expected
        check_split(data, "validation")


def test_names_and_hierarchies_by_argument(original: Path, tmp_path: Path) -> None:
    plain = open_module("ade20k_150", original)
    assert plain.vocabulary == load_benchmark("a150").vocabulary()
    assert plain.hierarchy == load_benchmark("a150").hierarchy()
    split = open_module("ade20k_150", original, names="split", hierarchy="cleaned")
    assert split.vocabulary.synonyms[6] == ("road", "route")
    assert split.hierarchy == load_benchmark("a150").hierarchy("cleaned") != plain.hierarchy
    write_json({"parents": {"house": ["building"]}}, tmp_path / "mine.json")
    mine = open_module("ade20k_150", original, hierarchy=tmp_path / "mine.json").hierarchy
    assert mine is not None
    assert mine.parents == {25: (1,)}
    assert open_module("ade20k_150", original, hierarchy=None).hierarchy is None
    assert open_module("pascal_context_59", original).hierarchy is None


def test_ade20k_847_is_reduced_as_its_preparation_does(tmp_path: Path) -> None:
    write_original("ade20k_847", tmp_path, size=(40, 61))
    check_split(open_module("ade20k_847", tmp_path, shorter_side=None), "validation", (40, 61))
    check_split(open_module("ade20k_847", tmp_path, shorter_side=40), "validation", (40, 61))
    (sample, *_) = read_split(open_module("ade20k_847", tmp_path, shorter_side=20), "validation")
    assert sample.image.shape == (20, 30, 3)  # 30.5 is rounded to even
    whole = labels_of("ade20k_847", "validation", 0, (40, 61))
    columns = np.floor(np.arange(30) * 61 / 30).astype(int)
    assert np.array_equal(sample.label_map, whole[::2][:, columns])


def test_ade20k_847_converted_files_have_one_size(tmp_path: Path) -> None:
    folder = write_converted("ade20k_847", tmp_path)
    place = folder / "annotations_detectron2" / "validation"
    with pytest.raises(DataLayoutError, match=r"shorter_side: expected 512.*got 20"):
        open_module("ade20k_847", tmp_path, shorter_side=20).files("validation")
    write_marker(place, PreparedMarker(benchmark="ade20k_847", split="validation", files=3, shorter_side=20))
    check_split(open_module("ade20k_847", tmp_path, shorter_side=20), "validation")
    with pytest.raises(DataLayoutError, match="shorter_side: expected 512, as asked for, but these files have 20"):
        open_module("ade20k_847", tmp_path).files("validation")
    with pytest.raises(ValueError, match="shorter_side: expected at least 1, got 0"):
        open_module("ade20k_847", tmp_path, shorter_side=0)


@pytest.mark.parametrize(("size", "expected"), [((30, 40), (15, 20)), ((40, 30), (20, 15)), ((31, 31), (15, 15))])
def test_reduce_size_of_both_orientations(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image, values = np.zeros((*size, 3), np.uint8), np.full(size, 60000, np.uint16)
    small, reduced = reduce_size(image, values, shorter_side=15)
    assert small.shape == (*expected, 3)
    assert reduced is not None
    assert reduced.shape == expected
    assert (reduced == 60000).all()
    assert reduce_size(image, None, shorter_side=15)[1] is None
    assert reduce_size(image, values, shorter_side=31)[0] is image
    with pytest.raises(ValueError, match="got 0"):
        reduce_size(image, None, shorter_side=0)


def test_image_is_taken_as_stored_where_its_label_map_is(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path, count=1)
    path = folder / "images" / "validation" / "ADE_val_00000001.jpg"
    stored = np.asarray(Image.open(path))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    Image.fromarray(stored).save(path, exif=exif, quality=100)
    (sample,) = read_split(open_module("ade20k_150", tmp_path), "validation")
    assert sample.image.shape == (*SIZE, 3)
    assert np.abs(sample.image.astype(int) - stored).mean() < 5
    assert np.array_equal(sample.label_map, labels_of("ade20k_150", "validation", 0))


def test_pascal_voc_augmented_labels_and_list(tmp_path: Path) -> None:
    folder = write_original("pascal_voc_20", tmp_path, splits=["train"])
    names = names_of("pascal_voc_20", "train", 3)
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in names]
    (folder / "ImageSets" / "Segmentation" / "train_aug.txt").write_text("\n".join(lines) + "\n\n", "utf-8")
    (folder / "SegmentationClass").rename(folder / "SegmentationClassAug")
    data = open_module("pascal_voc_20", tmp_path, train_split="train_aug", eval_split="train")
    check_split(data, "train")
    assert [pair.image.stem for pair in data.files("train_aug")] == names
    assert data.files("train")[0].label == folder / "SegmentationClassAug" / f"{names[0]}.png"


def test_pascal_context_takes_the_lists_of_voc_2010(tmp_path: Path) -> None:
    folder = write_original("pascal_context_459", tmp_path)
    (folder / "pascalcontext_val.txt").rename(folder / "ImageSets" / "Main" / "val.txt")
    check_split(open_module("pascal_context_459", tmp_path), "val")


def test_prediction_needs_no_labels(tmp_path: Path) -> None:
    folder = write_original("cityscapes_19", tmp_path, splits=["test"])
    for path in folder.glob("gtFine/**/*.png"):
        path.unlink()
    data = open_module("cityscapes_19", tmp_path, eval_split="test")
    data.setup("predict")
    assert [batch.label_maps for batch in data.predict_dataloader()] == [[None]] * 3
    with pytest.raises(DataLayoutError, match="expected the folders"):
        data.setup("test")


def test_prediction_of_a_shared_folder_takes_the_list(original: Path) -> None:
    pairs = open_module("pascal_voc_20", original).files("val", with_labels=False)
    assert [pair.image.stem for pair in pairs] == names_of("pascal_voc_20", "val", 3)
    assert all(pair.label is None for pair in pairs)


def test_part_of_a_data_set_is_warned_of(original: Path) -> None:
    data = open_module("ade20k_150", original)
    with pytest.warns(UserWarning, match="found 3 of the 2000 images of ADE20K scene parsing.*split 'validation'"):
        data.prepare_data()


@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        ("ade20k_150", {"eval_split": "val"}, "eval_split: expected one of training, validation, got 'val'"),
        ("ade20k_150", {"order": "alphabetical"}, "order: A-150 has no files in alphabetical order"),
        ("pascal_voc_21", {"layout": "converted"}, "layout: PAS-21 has original files, or auto, got 'converted'"),
        ("ade20k_150", {"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    ],
)
def test_wrong_argument_is_named(tmp_path: Path, key: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_module(key, tmp_path, **options)


def test_label_files_in_other_forms_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(ImageFileError, match=r"grey\.png: expected object ids in the colours"):
        read_object_ids(tmp_path / "grey.png")
    savemat(tmp_path / "other.mat", {"Labels": np.ones((4, 4))})
    savemat(tmp_path / "cube.mat", {"LabelMap": np.ones((4, 4, 2))})
    savemat(tmp_path / "half.mat", {"LabelMap": np.full((4, 4), 0.5)})
    savemat(tmp_path / "good.mat", {"LabelMap": raw_map("pascal_context_459", "val", 0)})
    content = (tmp_path / "good.mat").read_bytes()
    for name, data in (("short", content[: len(content) // 2]), ("empty", b""), ("text", b"none" * 100)):
        (tmp_path / f"{name}.mat").write_bytes(data)
    for name in ("other", "cube", "half", "short", "empty", "text"):
        with pytest.raises(ImageFileError, match=rf"{name}\.mat: expected"):
            read_label_map(tmp_path / f"{name}.mat")
    with pytest.raises(FileNotFoundError, match=r"none\.mat: expected a label map"):
        read_label_map(tmp_path / "none.mat")
    assert read_label_map(tmp_path / "good.mat").dtype == np.uint16
