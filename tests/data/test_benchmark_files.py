"""Data sets that are damaged, incomplete or not what they should be, and what the errors say."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from data.miniature import BENCHMARK_KEYS, CONVERTED_KEYS, converted_path, names_of, write_converted, write_original
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import load_benchmark
from scan_lightning.data.images import ImageFileError
from scan_lightning.data.layout import DataLayoutError
from scan_lightning.data.registry import DATAMODULES

pytestmark = pytest.mark.filterwarnings("ignore:.*come in two orders")
KEY, SPLIT = "ade20k_150", "validation"


def module(root: Path, key: str = KEY, **options: str) -> BenchmarkDataModule:
    return DATAMODULES[key](root=root, **options)  # type: ignore[arg-type]


def message_of(action: Callable[[], object]) -> str:
    with pytest.raises(DataLayoutError) as error:
        action()
    return str(error.value)


@pytest.mark.parametrize("key", BENCHMARK_KEYS)
def test_wrong_root_says_what_was_looked_for_and_what_is_there(tmp_path: Path, key: str) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "notes.txt").touch()
    message = message_of(lambda: module(tmp_path, key).found_layout())
    assert message.startswith(f"{tmp_path}: expected the folder {load_benchmark(key).folder} of ")
    assert "holiday, notes.txt" in message


def test_root_that_does_not_exist(tmp_path: Path) -> None:
    message = message_of(lambda: module(tmp_path / "nowhere").prepare_data())
    assert f"{tmp_path / 'nowhere'}: expected the folder ADEChallengeData2016" in message
    assert f"found no such folder; in {tmp_path} there is: nothing" in message


@pytest.mark.parametrize("name", ["ADEChallengeData2016.zip", "trainval.tar.gz", "labels.TAR"])
def test_archive_in_place_of_a_folder_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert f"unpack {name} first" in message_of(lambda: module(tmp_path).found_layout())
    assert "unpack it and give the folder" in message_of(lambda: module(tmp_path / name).found_layout())
    folder = tmp_path / "ADEChallengeData2016"
    (folder / "images" / SPLIT).mkdir(parents=True)
    shutil.move(tmp_path / name, folder / name)
    message = message_of(lambda: module(tmp_path).files(SPLIT))
    assert f"unpack {name} first" in message
    assert f"{folder / 'annotations' / SPLIT} (original)" in message
    assert f"{folder / 'annotations_detectron2' / SPLIT} (converted)" in message


def test_half_a_download_lists_ten_missing_files_and_counts_all(tmp_path: Path) -> None:
    folder = write_original(KEY, tmp_path, count=25, splits=[SPLIT], size=(8, 8))
    names = names_of(KEY, SPLIT, 25)
    for name in names[13:]:
        (folder / "annotations" / SPLIT / f"{name}.png").unlink()
    message = message_of(lambda: module(tmp_path).files(SPLIT))
    assert message.startswith(f"12 of 25 label files are missing: {folder / 'annotations' / SPLIT / names[13]}.png, ")
    assert message.endswith(f"{names[22]}.png and 2 more")


def test_list_of_images_that_are_missing(tmp_path: Path) -> None:
    folder = write_original("pascal_voc_20", tmp_path)
    names = names_of("pascal_voc_20", "val", 3)
    (folder / "SegmentationClass" / f"{names[1]}.png").unlink()
    assert message_of(lambda: module(tmp_path, "pascal_voc_20").files("val")) == (
        f"1 of 3 label files are missing: {folder / 'SegmentationClass' / names[1]}.png"
    )
    (folder / "JPEGImages" / f"{names[1]}.jpg").unlink()
    assert "1 of 3 images are missing" in message_of(lambda: module(tmp_path, "pascal_voc_20").files("val"))
    predict = module(tmp_path, "pascal_voc_20")
    assert "1 of 3 images" in message_of(lambda: predict.files("val", with_labels=False))


@pytest.mark.parametrize(
    ("key", "label", "image"),
    [
        (KEY, "annotations/validation/{}.png", "images/validation/{}.jpg"),
        ("coco_stuff_171", "stuffthingmaps/val2017/{}.png", "val2017/{}.jpg"),
        ("pascal_voc_20", "SegmentationClass/{}.png", "JPEGImages/{}.jpg"),
        ("pascal_context_459", "trainval/{}.mat", "JPEGImages/{}.jpg"),
        ("cityscapes_19", "gtFine/val/bonn/{}_gtFine_labelIds.png", "leftImg8bit/val/bonn/{}_leftImg8bit.png"),
        ("ade20k_847", "images/ADE/validation/urban/street/{}_seg.png", "images/ADE/validation/urban/street/{}.jpg"),
    ],
)
def test_label_file_without_an_image(tmp_path: Path, key: str, label: str, image: str) -> None:
    folder = write_original(key, tmp_path)
    split = load_benchmark(key).eval_split
    name = names_of(key, split, 3)[1]
    (folder / image.format(name)).unlink()
    message = message_of(lambda: module(tmp_path, key).files(split))
    assert message.startswith(f"{folder / label.format(name)}: a label file without an image, expected ")


@pytest.mark.parametrize("key", CONVERTED_KEYS)
def test_converted_label_file_without_an_image(tmp_path: Path, key: str) -> None:
    folder = write_converted(key, tmp_path)
    split = load_benchmark(key).eval_split
    name = names_of(key, split, 3)[2]
    path = converted_path(key, folder, split, 2, name)
    for image in (
        path for path in folder.rglob(f"{name}*") if "annotations" not in str(path) and "gt" not in str(path)
    ):
        if "stuffthingmaps" not in str(image):
            image.unlink()
    message = message_of(lambda: module(tmp_path, key, layout="converted").files(split))
    assert message.startswith(f"{path}: a label file without an image")


def test_few_converted_label_files_may_be_missing_many_not(tmp_path: Path) -> None:
    folder = write_converted("coco_stuff_171", tmp_path, count=200, splits=["val2017"], size=(4, 4))
    labels = sorted((folder / "stuffthingmaps_detectron2" / "val2017").iterdir())
    data = module(tmp_path, "coco_stuff_171")
    for path in labels[:2]:  # images whose pixels are all ignored have none
        path.unlink()
    pairs = data.files("val2017")
    assert len(pairs) == 198
    assert [pair.label for pair in pairs] == labels[2:]
    labels[2].unlink()
    assert "3 of 200 label files are missing" in message_of(lambda: data.files("val2017"))


def test_few_published_label_files_of_pascal_context_may_be_missing(tmp_path: Path) -> None:
    folder = write_original("pascal_context_59", tmp_path, count=100, splits=["val"], size=(4, 4))
    names = names_of("pascal_context_59", "val", 100)
    (folder / "trainval" / f"{names[7]}.mat").unlink()
    data = module(tmp_path, "pascal_context_59")
    assert [pair.image.stem for pair in data.files("val")] == [name for name in names if name != names[7]]
    (folder / "trainval" / f"{names[8]}.mat").unlink()
    assert "2 of 100 label files are missing" in message_of(lambda: data.files("val"))


@pytest.mark.parametrize(("key", "value"), [(KEY, 151), ("coco_stuff_171", 11), ("pascal_voc_20", 21)])
def test_value_outside_the_map_is_named_with_its_file(tmp_path: Path, key: str, value: int) -> None:
    write_original(key, tmp_path, splits=[load_benchmark(key).eval_split])
    source = module(tmp_path, key).source(load_benchmark(key).eval_split)
    path = source.pairs[0].label
    assert path is not None
    values = np.array(Image.open(path))
    values[3, 5] = value
    Image.fromarray(values).save(path)
    with pytest.raises(ImageFileError, match=rf"{path.name}: expected labels .*, got \[{value}\]"):
        source[0]


def test_values_allowed_are_listed(tmp_path: Path) -> None:
    write_original(KEY, tmp_path, splits=[SPLIT])
    path = tmp_path / "label.png"
    Image.fromarray(np.array([[0, 151, 200]], np.uint8)).save(path)
    with pytest.raises(ImageFileError, match=r"labels from 1 to 150 or 0 for ignored pixels, got \[151, 200\]"):
        module(tmp_path).source(SPLIT).read_labels(path)
    write_original("coco_stuff_171", tmp_path, splits=["val2017"])
    with pytest.raises(ImageFileError, match=r"from 0 to 10, from 12 to 24, .*\.\.\. or 255 for ignored"):
        module(tmp_path, "coco_stuff_171").source("val2017").read_labels(path)


def test_value_outside_the_map_in_a_mat_file(tmp_path: Path) -> None:
    write_original("pascal_context_59", tmp_path, splits=["val"])
    source = module(tmp_path, "pascal_context_59").source("val")
    savemat(str(source.pairs[1].label), {"LabelMap": np.full((32, 48), 460, np.uint16)})
    with pytest.raises(ImageFileError, match=r"\.mat: expected labels .*got \[460\]"):
        source[1]


def test_sizes_that_differ(tmp_path: Path) -> None:
    write_original(KEY, tmp_path, splits=[SPLIT])
    source = module(tmp_path).source(SPLIT)
    Image.new("L", (20, 20)).save(str(source.pairs[0].label))
    with pytest.raises(ImageFileError, match=r"expected the size of its image .*\(32, 48\), got \(20, 20\)"):
        source[0]


@pytest.mark.parametrize("kind", ["label", "folder", "list", "scene"])
def test_link_out_of_the_data_set_is_refused(tmp_path: Path, kind: str) -> None:
    key, inside = {
        "label": (KEY, f"annotations/{SPLIT}/ADE_val_00000002.png"),
        "folder": (KEY, f"images/{SPLIT}"),
        "list": ("pascal_voc_20", "ImageSets/Segmentation/val.txt"),
        "scene": ("ade20k_847", f"images/ADE/{SPLIT}/urban"),
    }[kind]
    folder = write_original(key, tmp_path / "root")
    path, outside = folder / inside, tmp_path / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)
    message = message_of(lambda: module(tmp_path / "root", key).files(load_benchmark(key).eval_split))
    assert message == f"{path}: expected a path inside {folder}, got a link to {outside}"


def test_link_inside_the_data_set_is_followed(tmp_path: Path) -> None:
    folder = write_original(KEY, tmp_path)
    place = folder / "annotations" / SPLIT
    shutil.move(place / "ADE_val_00000001.png", folder / "kept.png")
    (place / "ADE_val_00000001.png").symlink_to(folder / "kept.png")
    assert len(module(tmp_path).files(SPLIT)) == 3
    (folder / "kept.png").unlink()
    assert "1 of 3 label files are missing" in message_of(lambda: module(tmp_path).files(SPLIT))


def test_empty_split(tmp_path: Path) -> None:
    folder = write_original(KEY, tmp_path)
    shutil.rmtree(folder / "images" / SPLIT)
    (folder / "images" / SPLIT).mkdir()
    message = message_of(lambda: module(tmp_path).files(SPLIT))
    assert (
        message == f"{folder / 'images' / SPLIT}: expected *.jpg files, found in {folder / 'images' / SPLIT}: nothing"
    )
    voc = write_original("pascal_voc_20", tmp_path)
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n\n", "utf-8")
    assert "val.txt: expected names of images, got an empty list" in message_of(
        lambda: module(tmp_path, "pascal_voc_20").files("val")
    )
    (voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
    assert "val.txt: expected the list of the images of split 'val'" in message_of(
        lambda: module(tmp_path, "pascal_voc_20").files("val")
    )


def test_empty_nested_split(tmp_path: Path) -> None:
    folder = write_original("ade20k_847", tmp_path, splits=["training"])
    (folder / "images" / "ADE" / SPLIT / "urban").mkdir(parents=True)
    assert "expected the folders" in message_of(lambda: module(tmp_path, "ade20k_847").files(SPLIT))
    found = message_of(lambda: module(tmp_path, "ade20k_847", layout="original").files(SPLIT))
    assert found.startswith(f"{folder / 'images' / 'ADE' / SPLIT}: expected *.jpg files, found in ")


def test_image_name_twice_in_nested_folders(tmp_path: Path) -> None:
    folder = write_original("ade20k_847", tmp_path)
    path = folder / "images" / "ADE" / SPLIT / "urban" / "street" / "ADE_val_00000002.jpg"
    shutil.copy(path, folder / "images" / "ADE" / SPLIT / "home_or_hotel" / "attic" / path.name)
    assert "expected one file of each name" in message_of(lambda: module(tmp_path, "ade20k_847").files(SPLIT))


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    folder = write_original(KEY, tmp_path)
    for name in ("._ADE_val_00000001.jpg", "Thumbs.db", "ADE_val_00000009.txt"):
        (folder / "images" / SPLIT / name).touch()
    (folder / "annotations" / SPLIT / ".unfinished-1.png").touch()
    assert len(module(tmp_path).files(SPLIT)) == 3


def test_missing_layout_that_was_asked_for(tmp_path: Path) -> None:
    folder = write_original(KEY, tmp_path)
    message = message_of(lambda: module(tmp_path, layout="converted").files(SPLIT))
    place = folder / "annotations_detectron2" / SPLIT
    assert message.startswith(f"{place}: expected a folder of *.png files, found no such folder")
    assert f"in {folder} there is: annotations, images" in message
