"""Data sets in every form that `datasets` has on disk, read through the DataModule; the hub is never asked."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch

from data.tiny_hub import TRUTH, make, png, rows, samples, shade, table
from scan_lightning.cli import main, read_recipe
from scan_lightning.data.hub import HubDataModule
from scan_lightning.types import IGNORE_INDEX


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """`datasets` sleeps for five seconds at the end of each shuffled stream."""
    datasets.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.01)
        yield


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


def test_evaluation_needs_no_batch_size_of_training(made: Path, cache: Path) -> None:
    assert HubDataModule(path=str(made / "parquet"), vocabulary=["sky"], cache_dir=cache).batch_size == 32


def test_streamed_batches_know_the_targets_of_their_step(made: Path, cache: Path) -> None:
    data = make(made / "parquet", cache, streaming=True, train_size=3)
    data.prepare_data()
    data.setup("fit")
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        accumulate_grad_batches=2, num_training_batches=3, training=False, current_epoch=0
    )
    batches = list(data.train_dataloader())
    first, second, third = (len(batch.labels[0]) for batch in batches)
    assert first > 0
    assert [batch.step_targets for batch in batches] == [[first, second], [first, second], [third]]


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


def test_overlay_over_the_quickstart_takes_none_of_its_numbers() -> None:
    experiments = Path(__file__).parents[2] / "experiments"
    files = (experiments / "quickstart.yaml", experiments / "data" / "hub.yaml")
    before, after = (read_recipe(["fit", *(f"--config={file}" for file in files[:count])]).data for count in (1, 2))
    assert after.class_path == "scan_lightning.data.HubDataModule"
    assert before.init_args.train_size is not None
    assert after.init_args.train_size is None
    assert after.init_args.batch_size != before.init_args.batch_size
