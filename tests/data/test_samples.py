"""The real samples through each DataModule: pixels per class as an independent reading by the raw rules counts them."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scan_lightning.data.registry import DATAMODULES
from scan_lightning.types import IGNORE_INDEX

SHARED = os.environ.get("SCAN_LIGHTNING_SHARED")
SAMPLES = Path(str(SHARED)) / "data" / "samples"

pytestmark = [
    pytest.mark.skipif(SHARED is None, reason="SCAN_LIGHTNING_SHARED names no folder"),
    pytest.mark.filterwarnings("ignore:.*found . of the"),
]


def through_module(key: str, split: str, **options: object) -> dict[str, Counter[str]]:
    """Pixels per class name, IGNORE_INDEX as "", of every image, through the loader that a test reads."""
    data = DATAMODULES[key](root=SAMPLES, eval_split=split, **options)  # type: ignore[arg-type]
    data.setup("test")
    counts: dict[str, Counter[str]] = {}
    for batch in data.test_dataloader():
        (image_id,), (label_map,) = batch.image_ids, batch.label_maps
        assert tuple(label_map.shape) == batch.original_sizes[0]
        values, pixels = np.unique(label_map.numpy(), return_counts=True)
        names = ["" if value == IGNORE_INDEX else data.vocabulary.names[value] for value in values]
        counts[image_id] = Counter(dict(zip(names, pixels.tolist(), strict=True)))
    return counts


def counted(values: np.ndarray, names: dict[int, str]) -> Counter[str]:
    """Pixels per name of raw values; values without a name count as ""."""
    found: Counter[str] = Counter()
    for value, pixels in zip(*np.unique(values, return_counts=True), strict=True):
        found[names.get(int(value), "")] += int(pixels)
    return found


def test_ade20k_150() -> None:
    folder = SAMPLES / "ADEChallengeData2016"
    lines = (folder / "objectInfo150.txt").read_text("utf-8").splitlines()[1:]
    official = {int(line.split("\t")[0]): line.split("\t")[-1].strip() for line in lines}
    found = through_module("ade20k_150", "validation")
    assert sorted(found) == [f"ADE_val_0000000{number}" for number in (1, 2, 3)]
    vocabulary = DATAMODULES["ade20k_150"](root=SAMPLES).vocabulary.names
    for image_id, counts in found.items():
        raw = np.asarray(Image.open(folder / "annotations" / "validation" / f"{image_id}.png"))
        # raw - 1 is the position in the list of names; the official name shares a word with the released one
        expected = counted(raw, {number: vocabulary[number - 1] for number in official})
        assert counts == expected
        for number in np.unique(raw[raw > 0]):
            words = {word.strip() for word in official[int(number)].split(",")}
            assert words & {word.strip() for word in vocabulary[number - 1].split(",")}


@pytest.mark.parametrize("shorter_side", [None, 512])
def test_ade20k_847(shorter_side: int | None) -> None:
    found = through_module("ade20k_847", "training", shorter_side=shorter_side)
    assert sorted(found) == ["ADE_train_00016869", "ADE_train_00016900", "ADE_train_00016964"]
    known = set(DATAMODULES["ade20k_847"](root=SAMPLES).vocabulary.names)
    for path in SAMPLES.glob("ADE20K_2021_17_01/images/ADE/training/*/*/*_seg.png"):
        red, green, _ = np.moveaxis(np.asarray(Image.open(path)).astype(int), -1, 0)
        raw = red // 10 * 256 + green
        if shorter_side is not None:
            assert min(raw.shape) > shorter_side
            scale = shorter_side / min(raw.shape)
            rows, columns = (round(side * scale) for side in raw.shape)
            y, x = (  # the nearest pixel as OpenCV takes it, rounding in floating point included
                np.floor(np.arange(small) * (1 / (small / large))).astype(int)
                for small, large in zip((rows, columns), raw.shape, strict=True)
            )
            raw = raw[y[:, None], x]
        # the name of an id stands in the file beside the image, independent of the package's table
        text = path.with_name(path.name.replace("_seg.png", ".json")).read_bytes().decode("latin-1")
        objects = json.loads(text)["annotation"]["object"]
        names = {entry["name_ndx"]: entry["name"] for entry in objects if entry["parts"]["part_level"] == 0}
        expected = counted(raw, {number: name for number, name in names.items() if name in known})
        assert found[path.name.removesuffix("_seg.png")] == expected
        assert len(expected) > 5


def test_coco_stuff() -> None:
    expected_names = {
        "000000142238": {0: "person", 36: "sports ball", 123: "grass", 156: "sky-other", 168: "tree"},
        "000000439180": {
            **{0: "person", 7: "truck", 18: "horse", 123: "grass"},
            **{124: "gravel", 156: "sky-other", 168: "tree"},
        },
    }
    found = through_module("coco_stuff_171", "val2017")
    assert set(found) == set(expected_names)
    for image_id, counts in found.items():
        raw = np.asarray(Image.open(SAMPLES / "coco" / "stuffthingmaps" / "val2017" / f"{image_id}.png"))
        assert counts == counted(raw, expected_names[image_id])


@pytest.mark.parametrize("key", ["pascal_voc_20", "pascal_voc_21"])
def test_pascal_voc(key: str) -> None:
    names = {5: "bottle", 9: "chair", 11: "diningtable", 15: "person"}
    if key == "pascal_voc_21":
        names[0] = "background"
    (counts,) = through_module(key, "val").values()
    folder = SAMPLES / "VOCdevkit" / "VOC2012"
    for kind in ("SegmentationClass", "SegmentationClassAug"):
        raw = np.asarray(Image.open(folder / kind / "sample_000001.png"))
        assert counts == counted(raw, names)
    assert set(counts) == {*names.values()} | ({""} if key == "pascal_voc_20" else set())
