"""DataModules of the benchmarks on miniature data sets in every layout."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.miniature import CONVERTED_KEYS, SIZE, labels_of, names_of, raw_map, write_converted, write_original
from PIL import Image
from scipy.io import savemat

from scan_lightning.data.ade20k import read_object_ids
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import BENCHMARK_KEYS, load_benchmark
from scan_lightning.data.images import ImageFileError
from scan_lightning.data.layout import DataLayoutError
from scan_lightning.data.marker import MARKER_NAME, PreparedMarker, read_marker, write_marker
from scan_lightning.data.pascal import read_label_map
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.data.source import reduce_size
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.data.vocabulary import write_json
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


def module(key: str, root: Path, **options: Any) -> BenchmarkDataModule:
    transform = TrainingTransform(shortest_sides=(32,), crop_size=32, flip=False, colour_jitter=False)
    plain = {"train_transform": transform, "eval_transform": EvaluationTransform(min_size=None), "batch_size": 1}
    return DATAMODULES[key](root=root, **{**plain, **options})


def read(data: BenchmarkDataModule, split: str) -> list[Any]:
    source = data.source(split)
    return [source[index] for index in range(len(source))]


def check(data: BenchmarkDataModule, split: str, size: tuple[int, int] = SIZE) -> None:
    """Every label of a split is that of the published rule, and every image has its name."""
    samples = read(data, split)
    stems = [sample.image_id.removesuffix("_leftImg8bit") for sample in samples]
    assert stems == names_of(data.key, split, len(samples))
    for index, sample in enumerate(samples):
        assert sample.image.shape == (*size, 3)
        assert np.array_equal(sample.label_map, labels_of(data.key, split, index, size))


@pytest.mark.parametrize("key", BENCHMARK_KEYS)
def test_original_layout_of_both_splits(original: Path, key: str) -> None:
    data = module(key, original)
    assert data.found_layout() == "original"
    for split in (data.benchmark.train_split, data.benchmark.eval_split):
        assert len(data.files(split)) == 3
        check(data, split)


@pytest.mark.parametrize("key", CONVERTED_KEYS)
def test_converted_layout_of_both_splits(converted: Path, key: str) -> None:
    data = module(key, converted)
    assert data.found_layout() == "converted"
    for split in (data.benchmark.train_split, data.benchmark.eval_split):
        check(data, split)


@pytest.mark.parametrize("key", BENCHMARK_KEYS)
def test_the_folder_itself_is_a_root_and_may_be_a_link(original: Path, tmp_path: Path, key: str) -> None:
    folder = original / load_benchmark(key).folder
    (tmp_path / "elsewhere").symlink_to(folder, target_is_directory=True)
    check(module(key, folder), load_benchmark(key).eval_split)
    check(module(key, tmp_path / "elsewhere"), load_benchmark(key).eval_split)


@pytest.mark.parametrize("key", ["ade20k_847", "pascal_context_459"])
@pytest.mark.parametrize("layout", ["original", "converted"])
def test_labels_keep_16_bits(original: Path, converted: Path, key: str, layout: str) -> None:
    data = module(key, original if layout == "original" else converted, layout=layout)
    label_maps = [sample.label_map for sample in read(data, data.eval_split)]
    assert max(int(label_map.max()) for label_map in label_maps) > 255
    assert min(int(label_map.min()) for label_map in label_maps) == IGNORE_INDEX
    data.setup("test")
    for index, batch in enumerate(data.test_dataloader()):
        assert batch.label_maps[0].dtype == torch.int64
        assert np.array_equal(batch.label_maps[0].numpy(), labels_of(key, data.eval_split, index))


def test_training_labels_are_those_of_seen_classes(original: Path) -> None:
    data = module("ade20k_150", original)
    data.setup("fit")
    seen = [label for label, entry in enumerate(data.benchmark.classes) if entry.seen]
    assert data.training_vocabulary.num_classes == len(seen) == 71
    sample = data.build_dataset("train")[0]
    expected = labels_of("ade20k_150", "training", 0)
    kept = {int(label) for label in np.unique(expected) if label in seen}
    assert {seen[int(label)] for label in sample.label_map.unique() if label >= 0} <= kept
    everything = module("ade20k_150", original, seen="all")
    assert everything.training_vocabulary == everything.vocabulary
    assert torch.equal(everything.training_relabel, torch.arange(150))


def test_names_and_hierarchies_by_argument(original: Path, tmp_path: Path) -> None:
    plain = module("ade20k_150", original)
    assert plain.vocabulary == load_benchmark("a150").vocabulary()
    assert plain.hierarchy == load_benchmark("a150").hierarchy()
    split = module("ade20k_150", original, names="split", hierarchy="cleaned")
    assert split.vocabulary.synonyms[6] == ("road", "route")
    assert split.hierarchy == load_benchmark("a150").hierarchy("cleaned") != plain.hierarchy
    write_json({"parents": {"house": ["building"]}}, tmp_path / "mine.json")
    mine = module("ade20k_150", original, hierarchy=tmp_path / "mine.json").hierarchy
    assert mine is not None
    assert mine.parents == {25: (1,)}
    assert module("ade20k_150", original, hierarchy=None).hierarchy is None
    assert module("pascal_context_59", original).hierarchy is None


def note(folder: Path, **changes: Any) -> Path:
    """Leave a note as `data prepare` does beside the converted test files of Pascal Context 59."""
    place = folder / "annotations_detectron2" / "pc59_val"
    write_marker(place, PreparedMarker(**{"benchmark": "pascal_context_59", "split": "val", "files": 3, **changes}))
    return place


def test_auto_prefers_files_with_a_fitting_note(tmp_path: Path) -> None:
    write_original("pascal_context_59", tmp_path)
    folder = write_converted("pascal_context_59", tmp_path, order="alphabetical")
    data = module("pascal_context_59", tmp_path)
    assert data.found_layout() == "original"  # other tools' files do not say what they hold
    place = note(folder)
    assert data.found_layout() == "converted"
    assert data.found_layout("train") == "original"
    assert module("pascal_context_60", tmp_path).found_layout() == "converted"
    note(folder, order="alphabetical")
    assert data.found_layout() == "original"
    check(data, "val")
    alphabetical = module("pascal_context_59", tmp_path, order="alphabetical")
    assert alphabetical.found_layout() == "converted"
    check(alphabetical, "val")
    (place / MARKER_NAME).unlink()
    assert read_marker(place) is None


@pytest.mark.parametrize("key", ["pascal_context_59", "pascal_context_60"])
@pytest.mark.parametrize("order", ["released", "alphabetical"])
def test_class_orders_are_told_apart(tmp_path: Path, key: str, order: str) -> None:
    folder = write_converted(key, tmp_path, order=order)
    other = "alphabetical" if order == "released" else "released"
    with pytest.warns(UserWarning, match=f"come in two orders.*they are read in the {order} one"):
        check(module(key, tmp_path, order=order), "val")
    with pytest.warns(UserWarning, match="come in two orders"):
        swapped = read(module(key, tmp_path, order=other), "val")
    assert not np.array_equal(swapped[0].label_map, labels_of(key, "val", 0))
    note(folder, order=order)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(module(key, tmp_path, order=order), "val")
    with pytest.raises(
        DataLayoutError, match=f"order: expected '{other}', as asked for, but these files have '{order}'"
    ):
        module(key, tmp_path, order=other).files("val")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": "pascal_context_459"}, "benchmark: expected 'pascal_context_59'"),
        ({"split": "train"}, "split: expected 'val'"),
        ({"shorter_side": 512}, "shorter_side: expected None"),
    ],
)
def test_note_of_other_files_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    note(write_converted("pascal_context_59", tmp_path), **changes)
    with pytest.raises(DataLayoutError, match=message):
        module("pascal_context_59", tmp_path).files("val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"benchmark": "x"}', "expected a note"),
        ("{", "expected valid JSON"),
        ('{"benchmark": "b", "split": "s", "files": 1, "order": "mine"}', "order: expected released or alphabetical"),
    ],
)
def test_damaged_note_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / MARKER_NAME).write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_marker(tmp_path)
    assert str(tmp_path / MARKER_NAME) in str(error.value)


def test_ade20k_847_is_reduced_as_its_preparation_does(tmp_path: Path) -> None:
    write_original("ade20k_847", tmp_path, size=(40, 61))
    check(module("ade20k_847", tmp_path, shorter_side=None), "validation", (40, 61))
    check(module("ade20k_847", tmp_path, shorter_side=40), "validation", (40, 61))
    (sample, *_) = read(module("ade20k_847", tmp_path, shorter_side=20), "validation")
    assert sample.image.shape == (20, 30, 3)  # 30.5 is rounded to even
    whole = labels_of("ade20k_847", "validation", 0, (40, 61))
    columns = np.floor(np.arange(30) * 61 / 30).astype(int)
    assert np.array_equal(sample.label_map, whole[::2][:, columns])


def test_ade20k_847_converted_files_have_one_size(tmp_path: Path) -> None:
    folder = write_converted("ade20k_847", tmp_path)
    place = folder / "annotations_detectron2" / "validation"
    with pytest.raises(DataLayoutError, match=r"shorter_side: expected 512.*got 20"):
        module("ade20k_847", tmp_path, shorter_side=20).files("validation")
    write_marker(place, PreparedMarker(benchmark="ade20k_847", split="validation", files=3, shorter_side=20))
    check(module("ade20k_847", tmp_path, shorter_side=20), "validation")
    with pytest.raises(DataLayoutError, match="shorter_side: expected 512, as asked for, but these files have 20"):
        module("ade20k_847", tmp_path).files("validation")
    with pytest.raises(ValueError, match="shorter_side: expected at least 1, got 0"):
        module("ade20k_847", tmp_path, shorter_side=0)


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
    (sample,) = read(module("ade20k_150", tmp_path), "validation")
    assert sample.image.shape == (*SIZE, 3)
    assert np.abs(sample.image.astype(int) - stored).mean() < 5
    assert np.array_equal(sample.label_map, labels_of("ade20k_150", "validation", 0))


def test_pascal_voc_augmented_labels_and_list(tmp_path: Path) -> None:
    folder = write_original("pascal_voc_20", tmp_path, splits=["train"])
    names = names_of("pascal_voc_20", "train", 3)
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in names]
    (folder / "ImageSets" / "Segmentation" / "train_aug.txt").write_text("\n".join(lines) + "\n\n", "utf-8")
    (folder / "SegmentationClass").rename(folder / "SegmentationClassAug")
    data = module("pascal_voc_20", tmp_path, train_split="train_aug", eval_split="train")
    check(data, "train")
    assert [pair.image.stem for pair in data.files("train_aug")] == names
    assert data.files("train")[0].label == folder / "SegmentationClassAug" / f"{names[0]}.png"


def test_pascal_context_takes_the_lists_of_voc_2010(tmp_path: Path) -> None:
    folder = write_original("pascal_context_459", tmp_path)
    (folder / "pascalcontext_val.txt").rename(folder / "ImageSets" / "Main" / "val.txt")
    check(module("pascal_context_459", tmp_path), "val")


def test_prediction_needs_no_labels(tmp_path: Path) -> None:
    folder = write_original("cityscapes_19", tmp_path, splits=["test"])
    for path in folder.glob("gtFine/**/*.png"):
        path.unlink()
    data = module("cityscapes_19", tmp_path, eval_split="test")
    data.setup("predict")
    assert [batch.label_maps for batch in data.predict_dataloader()] == [[None]] * 3
    with pytest.raises(DataLayoutError, match="expected the folders"):
        data.setup("test")


def test_prediction_of_a_shared_folder_takes_the_list(original: Path) -> None:
    pairs = module("pascal_voc_20", original).files("val", with_labels=False)
    assert [pair.image.stem for pair in pairs] == names_of("pascal_voc_20", "val", 3)
    assert all(pair.label is None for pair in pairs)


def test_part_of_a_data_set_is_warned_of(original: Path) -> None:
    data = module("ade20k_150", original)
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
        module(key, tmp_path, **options)


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
