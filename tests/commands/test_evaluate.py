"""Tests of ``scan-lightning evaluate`` with a tiny network, striped images and miniature benchmarks."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from data.miniature import write_original
from data.tiny_hub import WORDS
from data.tiny_hub import rows as rows_of_hub
from evaluated import SETTINGS, expected_scores, rows, run, table, write_stripes
from lightning.pytorch import Trainer
from PIL import Image

from scan_lightning.cli import main
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import save_scan
from scan_lightning.models.scan import Scan

pytestmark = pytest.mark.usefixtures("stripes_folder")
SMALL = (
    "--data.init_args.eval_transform=scan_lightning.data.EvaluationTransform",
    "--data.init_args.eval_transform.min_size=32",
)


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with two miniature benchmarks."""
    root = tmp_path_factory.mktemp("root")
    for key in ("ade20k_150", "pascal_voc_20"):
        write_original(key, root, count=2)
    return root


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the DataModules that the Trainer tests, in order."""
    names: list[str] = []
    test = Trainer.test

    def spy(self: Trainer, *args: Any, datamodule: Any, **options: Any) -> Any:
        names.append(type(datamodule).__name__)
        return test(self, *args, datamodule=datamodule, **options)

    monkeypatch.setattr(Trainer, "test", spy)
    return names


@pytest.fixture
def settings_used(monkeypatch: pytest.MonkeyPatch) -> list[InferenceSettings]:
    """Settings of every prediction."""
    seen: list[InferenceSettings] = []
    predict = Scan.predict

    def spy(self: Scan, *args: Any, settings: InferenceSettings, **options: Any) -> list[torch.Tensor]:
        seen.append(settings)
        return predict(self, *args, settings=settings, **options)

    monkeypatch.setattr(Scan, "predict", spy)
    return seen


def test_evaluate_own_data_gives_the_scores_of_a_plain_loop(saved_scan: Path) -> None:
    assert run("--weights", saved_scan, "--data=stripes.yaml") == 0
    (row,) = rows()
    expected = expected_scores(saved_scan, 5)
    assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=1e-6)
    assert expected["miou_any"] > 0
    assert (row["images"], row["classes"], row["limit"]) == ("5", "4", "")
    (line,) = table()
    assert line["benchmark"] == "stripes"
    assert line["mIoU (any)"] == f"{100 * expected['miou_any']:.1f}"
    assert line["Open mIoU"] == f"{100 * expected['open_miou']:.1f}"
    assert line["settings"] == "the weights' own"
    assert not any("paper" in name for name in line)
    assert not Path("out", "published.md").exists()  # own data were never published
    markdown, latex = (Path("out", f"evaluation{suffix}").read_text("utf-8") for suffix in (".md", ".tex"))
    for text in (markdown, latex.replace(r"\_", "_")):
        assert f"Configuration: stripes {row['config_hash'][:8]}" in text
        assert f"torch {torch.__version__.split('+')[0]}" in text
        assert row["hardware"] in text
    assert "**" + line["mIoU (any)"] not in markdown  # one row has no best
    (config,) = Path("out", "configs").iterdir()
    assert json.loads(config.read_text("utf-8"))["data"]["init_args"]["size"] == 5


@pytest.fixture(scope="module")
def finished(saved_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run on the striped images."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(folder)
        write_stripes(Path("stripes.yaml"))
        assert run("--weights", saved_scan, "--data=stripes.yaml") == 0
    return folder / "out"


def test_evaluate_runs_nothing_twice(saved_scan: Path, finished: Path, tested: list[str]) -> None:
    shutil.copytree(finished, "out")
    before = Path("out", "evaluation.md").read_text("utf-8")
    call = ("--weights", saved_scan, "--data=stripes.yaml")
    assert run(*call, "--devices=1", "--data.init_args.size=5") == 0
    assert not tested
    assert Path("out", "evaluation.md").read_text("utf-8") == before
    assert run(*call, "--force") == 0
    first, again = rows()
    assert len(tested) == 1
    assert first["key"] == again["key"]
    assert first["miou_any"] == again["miou_any"]


@pytest.mark.parametrize(
    "change",
    [
        "--model.init_args.inference.mask_threshold=0.3",
        "--data.init_args.size=4",
        "--limit=2",
        "--precision=bf16-mixed",
        "--trainer.limit_test_batches=1",
    ],
)
def test_evaluate_runs_again_when_something_matters(
    saved_scan: Path, finished: Path, tested: list[str], change: str
) -> None:
    shutil.copytree(finished, "out")
    assert run("--weights", saved_scan, "--data=stripes.yaml", change) == 0
    assert len(tested) == 1
    first, second = rows()
    assert first["key"] != second["key"]
    assert len(table()) == 1


def test_evaluate_runs_again_with_other_weights(
    saved_scan: Path, finished: Path, scan_of: Callable[[int], Scan], tested: list[str]
) -> None:
    shutil.copytree(finished, "out")
    shutil.copytree(saved_scan, "copy")
    assert run("--weights=copy", "--data=stripes.yaml") == 0
    assert not tested  # the same weights by another name
    save_scan(scan_of(1), Path("copy"), settings=SETTINGS)
    assert run("--weights=copy", "--data=stripes.yaml") == 0
    first, second = rows()
    assert first["checkpoint_hash"] != second["checkpoint_hash"]
    assert first["miou_any"] != second["miou_any"]


def test_evaluate_limit_looks_at_the_first_images(saved_scan: Path) -> None:
    assert run("--weights", saved_scan, "--data=stripes.yaml", "--limit=3") == 0  # batches of 2
    (row,) = rows()
    assert (row["images"], row["limit"]) == ("3", "3")
    assert float(row["miou_any"]) == pytest.approx(expected_scores(saved_scan, 3)["miou_any"], abs=1e-6)
    assert "first images only" in Path("out", "evaluation.md").read_text("utf-8")


def test_evaluate_takes_what_is_on_disk_with_its_settings(
    saved_scan: Path, benchmarks: Path, settings_used: list[InferenceSettings]
) -> None:
    overlay = Path("eval", "vit_b16", "voc20.yaml")
    overlay.parent.mkdir(parents=True)
    overlay.write_text("model: {init_args: {inference: {ensemble_weight: 0.25}}}", "utf-8")
    call = ("--weights", saved_scan, "--root", benchmarks, "--settings=eval", "--backbone=vit_b16", *SMALL)
    assert run(*call) == 0
    scores = {line["benchmark"]: line for line in table()}
    assert list(scores) == ["A-150", "PAS-20", "PAS-21"]
    assert scores["PAS-20"]["settings"] == "eval/vit_b16/voc20.yaml"
    assert scores["A-150"]["settings"] == scores["PAS-21"]["settings"] == "the weights' own"
    assert [settings.ensemble_weight for settings in settings_used] == [0.7] * 2 + [0.25] * 2 + [0.7] * 2
    assert settings_used[2] == InferenceSettings(**{**asdict(SETTINGS), "ensemble_weight": 0.25})
    text = Path("out", "evaluation.md").read_text("utf-8")
    assert "Not on disk: A-847, PC-59, PC-459, COCO-Stuff, PC-60, Cityscapes." in text
    assert "Images looked at, of those that the benchmark has: A-150 2 of 2,000, PAS-20 2 of 1,449" in text


def test_evaluate_without_a_recipe_takes_the_settings_of_the_project(
    saved_scan: Path, benchmarks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = Path("experiments", "eval", "vit_b16", "voc20.yaml")
    call = ("--weights", saved_scan, "--root", benchmarks, "--benchmarks=voc20", "--backbone=vit_b16", *SMALL)
    assert run(*call) == 0
    assert "expected experiments/eval here or --settings, found neither" in capsys.readouterr().err
    assert [line["settings"] for line in table()] == ["the weights' own"]
    overlay.parent.mkdir(parents=True)
    overlay.write_text("model: {init_args: {inference: {ensemble_weight: 0.25}}}", "utf-8")
    assert run(*call) == 0
    assert "found neither" not in capsys.readouterr().err
    assert [line["settings"] for line in table()] == [overlay.as_posix()]


def test_evaluate_shows_published_numbers_as_such(saved_scan: Path, benchmarks: Path, tested: list[str]) -> None:
    call = ("--weights", saved_scan, "--root", benchmarks, "--benchmarks=a150", *SMALL)
    assert run(*call) == 0
    assert run(*call, "--backbone=vit_b16", "--num_workers=1") == 0
    assert len(tested) == 1
    (line,) = table()
    assert line["mIoU (any) SCAN ViT-B/16 (paper)"] == "30.8"
    ours, *published = table("published")
    assert ours["method"] == "this checkpoint vit_b16"
    assert (ours["A-150"], ours["A-847"]) == (line["mIoU (any)"], "")
    assert all(row["method"].endswith(" (paper)") for row in published)
    assert {row["method"]: row["PC-459"] for row in published}["SCAN ViT-L/14 (paper)"] == "16.7"
    assert "they were not measured here" in Path("out", "published.md").read_text("utf-8")


def test_evaluate_bad_data_does_not_lose_the_others(
    saved_scan: Path, tmp_path: Path, tested: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    for key in ("ade20k_150", "pascal_voc_20"):
        write_original(key, root, count=2, splits=["validation" if key == "ade20k_150" else "val"])
    label = sorted((root / "ADEChallengeData2016" / "annotations" / "validation").iterdir())[1]
    good = label.read_bytes()
    label.write_bytes(good[: len(good) // 2])
    call = ("--weights", saved_scan, "--root", root, "--benchmarks=a150,pc59,voc20", *SMALL)
    assert run(*call) == 1
    assert [line["benchmark"] for line in table()] == ["PAS-20"]
    error, text = capsys.readouterr().err, Path("out", "evaluation.md").read_text("utf-8")
    assert str(label) in error
    assert "Failed: A-150: " in text
    assert "Failed: PC-59: " in text
    label.write_bytes(good)
    assert run(*call) == 1  # Pascal Context is still missing
    assert [line["benchmark"] for line in table()] == ["A-150", "PAS-20"]
    assert tested == ["Ade20k150DataModule", "PascalVoc20DataModule", "Ade20k150DataModule"]


def test_evaluate_reads_damaged_image_by_name(saved_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("images/test/a", "labels/test/a"):
        Path(name).parent.mkdir(parents=True)
        Image.new("L", (40, 32), 200 if "labels" in name else 90).save(f"{name}.png")
    Path("classes.json").write_text(json.dumps({"classes": [{"id": 0, "name": "sky"}]}), "utf-8")
    data = {"class_path": "scan_lightning.data.FolderDataModule", "init_args": {"root": ".", "batch_size": 1}}
    Path("own.yaml").write_text(yaml.safe_dump({"data": data}), "utf-8")
    assert run("--weights", saved_scan, "--data=own.yaml", "--data=stripes.yaml") == 1
    error = capsys.readouterr().err
    assert "own: ImageFileError" in error
    assert "got [200]" in error
    assert [line["benchmark"] for line in table()] == ["stripes"]


def test_evaluate_refuses_a_stream_and_goes_on(saved_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows_of_hub(0, 2).to_parquet("test.parquet")
    arguments = {"path": "test.parquet", "vocabulary": WORDS, "data_files": None, "cache_dir": "cache", "batch_size": 1}
    arguments |= {"streaming": True, "test_split": "train"}
    data = {"class_path": "scan_lightning.data.HubDataModule", "init_args": arguments}
    Path("stream.yaml").write_text(yaml.safe_dump({"data": data}), "utf-8")
    assert run("--weights", saved_scan, "--data=stream.yaml", "--data=stripes.yaml") == 1
    assert "stream: streaming: expected false" in capsys.readouterr().err
    assert [line["benchmark"] for line in table()] == ["stripes"]


@pytest.mark.slow
def test_evaluate_two_processes_equal_one(saved_scan: Path) -> None:
    data = {"class_path": "stripes.StripesModule", "init_args": {"size": 7}}
    Path("more.yaml").write_text(yaml.safe_dump({"data": data}), "utf-8")
    call = ["evaluate", f"--weights={saved_scan}", "--data=stripes.yaml", "--data=more.yaml", "--accelerator=cpu"]
    distributed = ["--devices=2", "--trainer.strategy=ddp", "--output=two"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in environment.items() if name not in ("LOCAL_RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", "scan_lightning", *call, *distributed]
    subprocess.run(command, check=True, timeout=300, env=environment)
    assert main([*call, "--output=out"]) == 0
    with Path("two", "rows.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["processes"] for row in found] == ["2", "2"]
    for two, one in zip(found, rows(), strict=True):
        assert (two["key"], two["images"], two["miou_any"]) == (one["key"], one["images"], one["miou_any"])
