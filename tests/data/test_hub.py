"""Data sets made by Hugging Face `datasets` on disk, read back through the DataModule; the hub is never asked."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from scan_lightning.cli import main
from scan_lightning.data.base import Split
from scan_lightning.data.hub import HubDataModule
from scan_lightning.data.images import ImageFileError
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.types import IGNORE_INDEX, Sample

WORDS = ["sky", "car", "road"]
LABELS = np.repeat(np.repeat(np.array([[0, 1], [2, 255]], np.uint8), 8, axis=0), 16, axis=1)  # 16 x 32
TRUTH = np.where(LABELS == 255, IGNORE_INDEX, LABELS.astype(np.int64))
FILES = datasets.Features({"image": datasets.Image(), "label": datasets.Image(), "name": datasets.Value("string")})


def png(pixels: NDArray[Any], palette: list[int] | None = None) -> bytes:
    """Encode an image, with a palette as one of indices."""
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def shade(value: int) -> NDArray[np.uint8]:
    """An image of the labels' size in one colour."""
    return np.full((*LABELS.shape, 3), value, np.uint8)


def rows(first: int, number: int) -> datasets.Dataset:
    """Rows whose images are told apart by their grey."""
    content = {
        "image": [{"bytes": png(shade(10 * i)), "path": None} for i in range(first, first + number)],
        "label": [{"bytes": png(LABELS), "path": None}] * number,
        "name": [f"n{i}" for i in range(first, first + number)],
    }
    return datasets.Dataset.from_dict(content, features=FILES)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data set in every form: ``parquet/``, ``one.parquet``, ``one.arrow``, ``saved/``, ``single/``."""
    root = tmp_path_factory.mktemp("hub")
    train, test = rows(0, 3), rows(3, 2)
    (root / "parquet").mkdir()
    train.to_parquet(root / "parquet" / "train-00000-of-00001.parquet")
    test.to_parquet(root / "parquet" / "test-00000-of-00001.parquet")
    test.to_parquet(root / "one.parquet")
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(root / "saved"))
    test.save_to_disk(str(root / "single"))
    next((root / "single").glob("*.arrow")).rename(root / "one.arrow")
    test.save_to_disk(str(root / "single"))
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def make(path: Path, cache: Path, **options: Any) -> HubDataModule:
    defaults = {
        "vocabulary": WORDS,
        "batch_size": 1,
        "val_split": None,
        "train_transform": TrainingTransform(shortest_sides=(16,), crop_size=32, flip=False, colour_jitter=False),
        "eval_transform": EvaluationTransform(min_size=None),
    }
    return HubDataModule(path=str(path), cache_dir=cache, **{**defaults, **options})


def samples(data: HubDataModule, split: Split = "test") -> list[Sample]:
    dataset: Any = data.build_dataset(split)
    return list(dataset) if data.dataset.streaming else [dataset[index] for index in range(len(dataset))]


def table(tmp_path: Path, name: str = "test", **columns: Any) -> Path:
    """Write one Parquet file of rows whose columns are taken as they are."""
    folder = tmp_path / "table"
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(columns).to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("form", "split"),
    [("parquet", "test"), ("one.parquet", "train"), ("one.arrow", "train"), ("saved", "test"), ("single", "train")],
)
def test_every_form_gives_the_same_samples(made: Path, cache: Path, form: str, split: str, streaming: bool) -> None:
    if streaming and form in ("saved", "single"):
        with pytest.raises(ValueError, match=r"streaming: expected false for .*, which is saved to disk"):
            samples(make(made / form, cache, streaming=True, test_split=split))
        return
    found = samples(make(made / form, cache, test_split=split, id_column="name", streaming=streaming))
    assert [sample.image_id for sample in found] == ["n3", "n4"]
    assert [sample.image.unique().tolist() for sample in found] == [[30], [40]]
    assert all(torch.equal(sample.label_map, torch.from_numpy(TRUTH)) for sample in found)  # type: ignore[arg-type]
    assert found[0].original_size == (16, 32)


def test_ids_without_a_column(made: Path, cache: Path) -> None:
    assert [s.image_id for s in samples(make(made / "parquet", cache))] == ["test_000000", "test_000001"]
    data = make(made / "parquet", cache, train_split="train[1:]")
    assert [s.image_id for s in samples(data, "train")] == ["train_1_000000", "train_1_000001"]
    streamed = [s.image_id for s in samples(make(made / "parquet", cache, streaming=True))]
    assert streamed == [
        s.image_id for s in samples(make(made / "one.parquet", cache, test_split="train", streaming=True))
    ]
    assert len({*streamed}) == 2


def test_training_labels_index_the_seen_words(made: Path, cache: Path) -> None:
    data = make(made / "parquet", cache, seen=["sky", "road"])
    label_map = samples(data, "train")[0].label_map
    assert label_map is not None
    assert data.training_vocabulary.names == ("sky", "road")
    assert [label_map[0, 0].item(), label_map[0, 31].item(), label_map[15, 0].item()] == [0, IGNORE_INDEX, 1]


def test_prediction_needs_no_labels(tmp_path: Path, cache: Path) -> None:
    folder = table(tmp_path, image=[png(shade(7))])
    (found,) = samples(make(folder, cache, label_column="nothing"), "predict")
    assert found.label_map is None
    assert found.image.unique().tolist() == [7]


@pytest.mark.parametrize("kind", ["palette", "grey", "16 bit", "rows", "flat", "Array2D"])
def test_label_maps_of_every_kind(tmp_path: Path, cache: Path, kind: str) -> None:
    labels: Any = {
        "palette": png(LABELS, [9, 9, 9] * 256),
        "grey": png(LABELS),
        "16 bit": png(LABELS.astype(np.uint16)),
        "rows": LABELS.tolist(),
        "flat": LABELS.ravel().tolist(),
        "Array2D": LABELS,
    }[kind]
    content = datasets.Dataset.from_dict({"image": [png(shade(0))], "label": [labels]})
    if kind == "Array2D":
        content = content.cast_column("label", datasets.Array2D(LABELS.shape, "uint8"))
    content.to_parquet(tmp_path / "test.parquet")
    for streaming in (False, True):
        (found,) = samples(make(tmp_path, cache, streaming=streaming))
        assert found.label_map is not None
        assert found.label_map.tolist() == TRUTH.tolist()


def test_images_are_read_as_files_are(tmp_path: Path, cache: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned clockwise by 90 degrees
    buffer = io.BytesIO()
    Image.new("RGB", (16, 32), (8, 8, 8)).save(buffer, "PNG", exif=turned)
    cmyk = io.BytesIO()
    Image.new("CMYK", (32, 16), (0, 0, 0, 255)).save(cmyk, "JPEG")
    grey, deep = png(LABELS), png(np.full(LABELS.shape, 300 * 256, np.uint32).astype(np.uint16))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    content = [{"bytes": value, "path": None} for value in (buffer.getvalue(), cmyk.getvalue(), grey, deep)]
    label = {"bytes": png(LABELS), "path": None}
    data = datasets.Dataset.from_dict({"image": content, "label": [label] * 4}, features=features)
    data.to_parquet(tmp_path / "test.parquet")
    found = samples(make(tmp_path, cache))
    assert all(tuple(sample.image.shape) == (3, 16, 32) for sample in found)
    assert found[0].image.unique().tolist() == [8]
    assert found[1].image.max() < 10
    assert (found[2].image.numpy() == LABELS).all()
    assert found[3].image.unique().tolist() == [300 % 256]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"label_map": {0: 2, 1: 2, 2: 0}}, [[2, 2], [0, -1]]),
        ({"label_map": {0: -1, 1: 1, 2: 1, 255: 0}}, [[-1, 1], [1, 0]]),
        ({"label_offset": -1, "ignore_values": [0, 255]}, [[-1, 0], [1, -1]]),
        ({"label_offset": -252, "ignore_values": [0, 1, 2]}, "expected values from 252 to 254 or 0, 1, 2 for ignored"),
        ({"ignore_values": []}, r"row 0, column 'label': expected values from 0 to 2, got \[255\]; name these in"),
        ({"label_map": {0: 0, 2: 1}}, r"expected one of the values 0, 2 or 255 for ignored pixels, got \[1\]"),
        ({"label_map": {0: 3}}, r"label_map: value 0: expected a label from 0 to 2 or -1, got 3"),
        ({"label_map": {0: 0}, "ignore_values": [0]}, r"ignore_values: .* that label_map gives no label, got \[0\]"),
        ({"label_map": {0: 0}, "label_offset": 1}, "label_offset: expected 0 beside a label_map"),
        ({"label_map": {0: -1}}, "label_map: expected at least one value with a label"),
        ({"label_map": {0: 0, 2**31: 1}}, "label_map: expected values at most"),
    ],
)
def test_values_become_labels(made: Path, cache: Path, options: dict[str, Any], expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            samples(make(made / "parquet", cache, **options))
        return
    label_map = samples(make(made / "parquet", cache, **options))[0].label_map
    assert label_map is not None
    assert [[label_map[0, 0], label_map[0, 31]], [label_map[15, 0], label_map[15, 31]]] == expected


@pytest.mark.parametrize(
    ("content", "names", "expected"),
    [
        ({"classes": [{"name": "sky", "synonyms": ["sky", "air"]}, {"name": "car"}, {"name": "road"}]}, WORDS, 0),
        ({"names": WORDS, "_type": "ClassLabel"}, WORDS, 0),
        ({"0": "sky", "2": "road ", "1": "car"}, WORDS, 0),
        ({"id2label": {"2": "road", "0": "sky"}, "label2id": {}}, ["sky", "road"], -1),
    ],
)
def test_vocabulary_from_files(
    made: Path, cache: Path, tmp_path: Path, content: Any, names: list[str], expected: int
) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content), "utf-8")
    data = make(made / "parquet", cache, vocabulary=path, ignore_values=[1, 255] if expected else None)
    assert list(data.vocabulary.names) == names
    label_map = samples(data)[0].label_map
    assert label_map is not None
    assert label_map.unique().tolist() == ([-1, 0, 1] if expected else [-1, 0, 1, 2])
    (tmp_path / "words.txt").write_text("sky,air\ncar\nroad", "utf-8")
    assert make(made, cache, vocabulary=str(tmp_path / "words.txt")).vocabulary.synonyms[0] == ("sky", "air")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"words": ["sky"]}', 'classes.json: expected "classes", "names" or names by id'),
        ('{"0": 3}', "classes.json: expected a name for each id, got 3"),
        ('{"0": "sky", "1": "sky"}', "classes.json: names: 'sky' is given twice"),
    ],
)
def test_wrong_vocabulary_raises(tmp_path: Path, cache: Path, content: str, message: str) -> None:
    (tmp_path / "classes.json").write_text(content, "utf-8")
    with pytest.raises(ValueError, match=message):
        _ = make(tmp_path, cache, vocabulary=tmp_path / "classes.json").vocabulary


def test_label_map_and_hierarchy_from_files(made: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"0": 1, "1": 0, "2": -1}', "utf-8")
    (tmp_path / "parents.json").write_text('{"parents": {"car": ["road"]}}', "utf-8")
    data = make(made / "parquet", cache, label_map=tmp_path / "map.json", hierarchy=tmp_path / "parents.json")
    label_map = samples(data)[0].label_map
    assert label_map is not None
    assert label_map[0].unique().tolist() == [0, 1]
    assert data.hierarchy is not None
    assert data.hierarchy.parents == {1: (2,)}
    (tmp_path / "map.json").write_text('{"sky": 1}', "utf-8")
    with pytest.raises(ValueError, match=r"map.json: expected pairs of integers .*, got 'sky': 1"):
        samples(make(made / "parquet", cache, label_map=str(tmp_path / "map.json")))


def test_images_by_path_stay_inside_their_folder(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(shade(5)).save(folder / "a.png")
    Image.fromarray(shade(5)).save(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")

    def read(name: str, **options: Any) -> Sample:
        data = make(table(tmp_path, image=[name], label=[png(LABELS)]), cache, **options)
        return samples(data)[0]

    assert read("a.png", image_root=folder).image.unique().tolist() == [5]
    assert read(str(folder / "a.png"), image_root=folder).image_id == "test_000000"
    for name in ("../outside.png", str(tmp_path / "outside.png"), "link.png"):
        with pytest.raises(ImageFileError, match=r"row 0, column 'image': expected a file inside .*/pictures, got "):
            read(name, image_root=folder)
    with pytest.raises(ImageFileError, match=r"expected a file inside .*/table, got /.*a.png; image_root names"):
        read(str(folder / "a.png"))
    with pytest.raises(FileNotFoundError, match=r"none\.png: expected an image, found no such file"):
        read("none.png", image_root=folder)
    with pytest.raises(ImageFileError, match=r"expected bytes or a local file, got hf://x/a.png"):
        read("hf://x/a.png", image_root=folder)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label": [[[0] * 32] * 15]},
            r"row 0, column 'label': expected labels of the image's size \(16, 32\), got \(15",
        ),
        ({"label": [[0] * 511]}, r"expected labels of the image's size \(16, 32\), got \(511,\)"),
        ({"label": [[[0] * 32] * 15 + [[0]]]}, r"expected rows of one length, got \[1, 32\]"),
        ({"label": [[[0.5] * 32] * 16]}, "expected integers, got double"),
        ({"label": [[[None, 1] * 16] * 16]}, "expected integers, got 256 without value"),
        (
            {"label": [None, [[1]]], "image": [png(shade(0))] * 2},
            "row 0, column 'label': expected a label map, got none",
        ),
        ({"label": [3]}, r"column 'label': expected an encoded image \(bytes or a path\), got int64"),
        ({"label": [png(shade(1))]}, "column 'label': expected a label map with one channel .* got mode RGB"),
        (
            {"image": [b"no"], "label": [[0]]},
            "test.*, row 0, column 'image': expected an image, got a file that is none",
        ),
        ({"image": [None, b""], "label": [[0]] * 2}, "column 'image': expected an encoded image, got none"),
        ({"name": [""]}, "column 'name': expected a name or number as id, got ''"),
        (
            {"name": ["a", "b", "b"]},
            "split test, column 'name': expected an id of its own for each row, got 'b' 2 times",
        ),
    ],
)
def test_wrong_rows_raise(tmp_path: Path, cache: Path, columns: dict[str, Any], message: str) -> None:
    number = len(next(iter(columns.values())))
    plain = {"image": [png(shade(0))] * number, "label": [png(LABELS)] * number, "name": [*"abc"][:number]}
    with pytest.raises(ValueError, match=message):
        samples(make(table(tmp_path, **{**plain, **columns}), cache, id_column="name"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_column": "img"},
            r"image_column: expected one of the columns \['image', 'label', 'name'\] of .*, split t",
        ),
        ({"label_column": "mask"}, r"label_column: expected one of the columns \[.*, got 'mask'"),
        ({"id_column": "id"}, r"id_column: expected one of the columns \[.*, got 'id'"),
        (
            {"test_split": "val"},
            r"test_split: expected one of the splits \['test', 'train'\] of .*, got 'val'; give null",
        ),
        ({"val_split": "dev"}, r"val_split: expected one of the splits"),
        ({"config_name": "small"}, r"parquet: BuilderConfig 'small' not found. Available: \['default'\]"),
        ({"seen": ["boat"]}, "seen: expected names of the vocabulary, got 'boat'"),
        ({"seen": []}, "seen: expected at least one name"),
    ],
)
def test_wrong_settings_raise(made: Path, cache: Path, options: dict[str, Any], message: str, streaming: bool) -> None:
    with pytest.raises(ValueError, match=message):
        make(made / "parquet", cache, streaming=streaming, **options).prepare_data()


@pytest.mark.parametrize(("name", "value"), [("train_size", 0), ("shuffle_buffer", 0), ("batch_size", 0)])
def test_wrong_number_raises(made: Path, cache: Path, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        make(made / "parquet", cache, **{name: value})


RECIPE = """
seed_everything: 0
test_after_fit: true
trainer:
  max_epochs: 2
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  callbacks: [{class_path: scan_lightning.callbacks.ResultsCallback, init_args: {name: hub}}]
model:
  class_path: scan_lightning.baselines.PriorBaseline
  init_args: {kind: pixel_prior, grid: [16, 32]}
data:
  class_path: scan_lightning.data.HubDataModule
  init_args:
    vocabulary: [sky, car, road]
    label_map: {0: 0, 1: 2, 2: 2, 255: -1}
    id_column: name
    batch_size: 1
    val_split: train[:1]
    train_transform:
      class_path: scan_lightning.data.TrainingTransform
      init_args: {shortest_sides: [16], crop_size: 32, colour_jitter: false, flip: false}
    eval_transform: {class_path: scan_lightning.data.EvaluationTransform, init_args: {min_size: null}}
"""


@pytest.mark.parametrize("streaming", [False, True])
def test_fit_and_test_through_the_command_line(
    made: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE, "utf-8")
    given = {"path": made / "parquet", "cache_dir": cache}
    given |= {"streaming": "true", "val_split": "test", "train_size": 3} if streaming else {}
    options = [f"--data.init_args.{name}={value}" for name, value in given.items()]
    assert main(["fit", "--config=recipe.yaml", *options]) == 0
    with (tmp_path / "outputs" / "results.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["images"] == "2"
    # the prior is right everywhere: sky and road have IoU 1, car is neither there nor predicted
    assert float(row["miou_present"]) == pytest.approx(1)


def test_command_line_names_what_is_wrong(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE, "utf-8")
    options = [f"--data.init_args.path={made / 'parquet'}", f"--data.init_args.cache_dir={tmp_path / 'cache'}"]
    assert main(["fit", "--config=recipe.yaml", *options, "--data.init_args.image_column=picture"]) == 1
    assert "image_column: expected one of the columns ['image', 'label', 'name']" in capsys.readouterr().err
