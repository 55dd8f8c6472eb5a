"""Miniature data sets in every original and every converted layout: ``from data.miniature import write_original``.

Label files of a data set's folder do not depend on the benchmark, so that benchmarks that share one (Pascal Context 59
and 459) can be written below the same root.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from scan_lightning.data.base import RawSample
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import BENCHMARK_KEYS, Benchmark, load_benchmark
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.types import IGNORE_INDEX

SIZE = (32, 48)
BLOCK = 8
CONVERTED_KEYS = tuple(key for key in BENCHMARK_KEYS if load_benchmark(key).converted_as is not None)
"""Benchmarks that have a converted layout."""

Array = NDArray[np.integer[Any]]


def names_of(key: str, split: str, count: int) -> list[str]:
    """Names of a split's images without ending, as the data set has them; ascending."""
    number = sum(map(ord, split)) % 90
    if key == "coco_stuff_171":
        return [f"{number:02d}{index:010d}" for index in range(count)]
    if key.startswith("ade20k"):
        return [f"ADE_{'train' if split == 'training' else 'val'}_{index:08d}" for index in range(1, count + 1)]
    if key == "cityscapes_19":
        return [f"{'bonn' if index else 'aachen'}_{number:06d}_{index:06d}" for index in range(count)]
    return [f"20{number:02d}_{index:06d}" for index in range(count)]


def raw_map(key: str, split: str, index: int, size: tuple[int, int] = SIZE) -> Array:
    """The values that the published label file of an image stands for, uint16 (H, W), in blocks."""
    benchmark = load_benchmark(key)
    raws = [entry.raw for entry in benchmark.classes]
    pools: dict[str, Iterable[int]] = {
        "coco": [*raws, 255],
        "ADEChallengeData2016": range(151),
        "ADE20K_2021_17_01": [*raws, 0, *sorted(set(range(1, 3157)) - set(raws))[:100]],
        "VOCdevkit/VOC2010": range(460),
        "VOCdevkit/VOC2012": [*range(21), 255],
        "cityscapes": range(34),
    }
    rng = np.random.default_rng([sum(map(ord, benchmark.folder + split)), index])
    height, width = (-(-side // BLOCK) for side in size)
    blocks = rng.choice(list(pools[benchmark.folder]), (height, width)).astype(np.uint16)
    if benchmark.folder == "VOCdevkit/VOC2010":  # half of the blocks belong to the 59 frequent classes
        frequent = [entry.raw for entry in load_benchmark("pascal_context_59").classes]
        blocks = np.where(rng.random(blocks.shape) < 0.5, rng.choice(frequent, blocks.shape), blocks).astype(np.uint16)
    blocks[0, 0] = 255 if benchmark.folder == "coco" else 0  # ignored, or background
    return blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[: size[0], : size[1]]


def labels_of(key: str, split: str, index: int, size: tuple[int, int] = SIZE) -> NDArray[np.int64]:
    """The labels of an image, int64 (H, W), by the published rule."""
    raw = raw_map(key, split, index, size)
    labels = np.full(raw.shape, 0 if key == "pascal_context_60" else IGNORE_INDEX, np.int64)
    for label, entry in enumerate(load_benchmark(key).classes):
        labels[raw == entry.raw] = label
    return labels


def write_original(
    key: str, root: Path, *, count: int = 3, splits: Iterable[str] | None = None, size: tuple[int, int] = SIZE
) -> Path:
    """Write a benchmark as its publishers lay it out below a data root.

    Args:
        key: The benchmark.
        root: The data root.
        count: Images per split.
        splits: Published names; None for the one to train on and the one to test on.
        size: (H, W) of all images.

    Returns:
        The data set's own folder.
    """
    benchmark = load_benchmark(key)
    folder = root / benchmark.folder
    for split in splits or (benchmark.train_split, benchmark.eval_split):
        names = names_of(key, split, count)
        for index, name in enumerate(names):
            raw = raw_map(key, split, index, size)
            _save_image(_image_path(key, folder, split, index, name), raw)
            _WRITERS[benchmark.folder](folder, split, index, name, raw)
        _write_lists(benchmark, folder, split, names)
    return folder


def write_converted(
    key: str,
    root: Path,
    *,
    count: int = 3,
    splits: Iterable[str] | None = None,
    size: tuple[int, int] = SIZE,
    order: str = "released",
) -> Path:
    """Write a benchmark as the field's preparation scripts leave it, without the published labels and without a note.

    Args:
        key: The benchmark; one of `CONVERTED_KEYS`.
        root: The data root.
        count: Images per split.
        splits: Published names; None for the one to train on and the one to test on.
        size: (H, W) of all images.
        order: "released" or "alphabetical", for Pascal Context 59 and 60.

    Returns:
        The data set's own folder.
    """
    benchmark = load_benchmark(key)
    folder = root / benchmark.folder
    files_of = load_benchmark(str(benchmark.converted_as))
    values = [entry.alphabetical if order == "alphabetical" else label for label, entry in enumerate(files_of.classes)]
    numbers = np.array([*values, files_of.ignore_value], np.uint16 if files_of.ignore_value > 255 else np.uint8)
    for split in splits or (benchmark.train_split, benchmark.eval_split):
        names = names_of(key, split, count)
        for index, name in enumerate(names):
            image = _image_path(key, folder, split, index, name)
            if key == "ade20k_847":
                image = folder / "images_detectron2" / split / f"{name}.jpg"
            _save_image(image, raw_map(key, split, index, size))
            path = converted_path(key, folder, split, index, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers[labels_of(files_of.key, split, index, size)]).save(path)
    return folder


def open_module(key: str, root: Path, **options: Any) -> BenchmarkDataModule:
    """A benchmark's DataModule that leaves images as they are, but for a crop of 32 pixels in training."""
    transform = TrainingTransform(shortest_sides=(32,), crop_size=32, flip=False, colour_jitter=False)
    plain = {"train_transform": transform, "eval_transform": EvaluationTransform(min_size=None), "batch_size": 1}
    return DATAMODULES[key](root=root, **{**plain, **options})


def read_split(data: BenchmarkDataModule, split: str) -> list[RawSample]:
    """All samples of a split."""
    source = data.source(split)
    return [source[index] for index in range(len(source))]


def check_split(data: BenchmarkDataModule, split: str, size: tuple[int, int] = SIZE) -> None:
    """Fail unless every image of a split has its name and every label is that of the published rule."""
    samples = read_split(data, split)
    stems = [sample.image_id.removesuffix("_leftImg8bit") for sample in samples]
    assert stems == names_of(data.key, split, len(samples))
    for index, sample in enumerate(samples):
        assert sample.image.shape == (*size, 3)
        assert np.array_equal(sample.label_map, labels_of(data.key, split, index, size))  # type: ignore[arg-type]


def converted_path(key: str, folder: Path, split: str, index: int, name: str) -> Path:
    """Where the converted label file of an image lies."""
    if key == "coco_stuff_171":
        return folder / "stuffthingmaps_detectron2" / split / f"{name}.png"
    if key == "cityscapes_19":
        return folder / "gtFine" / split / _city(name) / f"{name}_gtFine_labelTrainIds.png"
    place = {
        "pascal_context_59": f"pc59_{split}",
        "pascal_context_60": f"pc59_{split}",
        "pascal_context_459": f"pc459_{split}",
    }.get(key, split)
    suffix = ".tif" if key in ("ade20k_847", "pascal_context_459") else ".png"
    return folder / "annotations_detectron2" / place / f"{name}{suffix}"


def _image_path(key: str, folder: Path, split: str, index: int, name: str) -> Path:
    if key == "coco_stuff_171":
        return folder / split / f"{name}.jpg"
    if key == "ade20k_150":
        return folder / "images" / split / f"{name}.jpg"
    if key == "ade20k_847":
        return folder / _scene(split, index) / f"{name}.jpg"
    if key == "cityscapes_19":
        return folder / "leftImg8bit" / split / _city(name) / f"{name}_leftImg8bit.png"
    return folder / "JPEGImages" / f"{name}.jpg"


def _scene(split: str, index: int) -> Path:
    return Path("images", "ADE", split, "urban" if index % 2 else "home_or_hotel", "street" if index % 2 else "attic")


def _city(name: str) -> str:
    return name.split("_")[0]


def _save_image(path: Path, raw: Array) -> None:
    """Colours that depend on the labels, with some noise."""
    rng = np.random.default_rng(int(raw.sum()))
    base = np.stack([raw * 37 % 200, raw * 91 % 200, raw * 13 % 200], -1).astype(np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((base + rng.integers(0, 50, base.shape)).astype(np.uint8)).save(path, quality=95)


def _save_label(path: Path, values: Array, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image = Image.fromarray(values.astype(np.uint8), mode="P")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)


def _write_coco(folder: Path, split: str, index: int, name: str, raw: Array) -> None:
    _save_label(folder / "stuffthingmaps" / split / f"{name}.png", raw)


def _write_ade_150(folder: Path, split: str, index: int, name: str, raw: Array) -> None:
    _save_label(folder / "annotations" / split / f"{name}.png", raw)


def _write_ade_full(folder: Path, split: str, index: int, name: str, raw: Array) -> None:
    place = folder / _scene(split, index)
    channels = np.stack([raw // 256 * 10, raw % 256, np.full_like(raw, 1 + index)], -1).astype(np.uint8)
    Image.fromarray(channels).save(place / f"{name}_seg.png")
    Image.fromarray(channels).save(place / f"{name}_parts_1.png")
    (place / f"{name}.json").write_text("{}", "utf-8")
    _save_label(place / name / "instance_000.png", raw > 0)
    (folder / "index_ade20k.pkl").write_bytes(b"not a pickle")


def _write_context(folder: Path, split: str, index: int, name: str, raw: Array) -> None:
    (folder / "trainval").mkdir(parents=True, exist_ok=True)
    savemat(folder / "trainval" / f"{name}.mat", {"LabelMap": raw})
    classes = load_benchmark("pascal_context_459").classes
    (folder / "labels.txt").write_text("".join(f"{entry.raw}: {entry.name}\n" for entry in classes), "utf-8")


def _write_voc(folder: Path, split: str, index: int, name: str, raw: Array) -> None:
    _save_label(folder / "SegmentationClass" / f"{name}.png", raw, palette=True)


def _write_cityscapes(folder: Path, split: str, index: int, name: str, raw: Array) -> None:
    place = folder / "gtFine" / split / _city(name)
    _save_label(place / f"{name}_gtFine_labelIds.png", raw)
    _save_label(place / f"{name}_gtFine_instanceIds.png", raw)


_WRITERS: dict[str, Callable[[Path, str, int, str, Array], None]] = {
    "coco": _write_coco,
    "ADEChallengeData2016": _write_ade_150,
    "ADE20K_2021_17_01": _write_ade_full,
    "VOCdevkit/VOC2010": _write_context,
    "VOCdevkit/VOC2012": _write_voc,
    "cityscapes": _write_cityscapes,
}


def _write_lists(benchmark: Benchmark, folder: Path, split: str, names: list[str]) -> None:
    """The files that list a split, and an image that no list has."""
    if not benchmark.folder.startswith("VOCdevkit"):
        return
    path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if benchmark.folder.endswith("VOC2010"):
        path = folder / "pascalcontext_val.txt" if split == "val" else folder / "ImageSets" / "Main" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names), "utf-8")
    _save_image(folder / "JPEGImages" / "2000_999999.jpg", raw_map(benchmark.key, "unlisted", 0))
