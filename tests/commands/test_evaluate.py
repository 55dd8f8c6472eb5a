"""Tests of ``scan-lightning evaluate`` with a tiny network, striped images and miniature benchmarks."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from data.miniature import write_original
from lightning.pytorch import Trainer
from PIL import Image
from stripes import StripesModule, checkpoint_of

from scan_lightning.commands.evaluate import main
from scan_lightning.metrics.functional import confusion_matrix, mean_iou, zero_share
from scan_lightning.metrics.similarity import open_mean_iou, text_similarity
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import load_scan, save_scan
from scan_lightning.models.scan import Scan
from scan_lightning.models.segmenter import SegmenterConfig
from scan_lightning.module import ScanModule

SETTINGS = InferenceSettings(replace_layers=(1,), replace_ratio=0.5)
SMALL = (
    "--data.init_args.eval_transform=scan_lightning.data.EvaluationTransform",
    "--data.init_args.eval_transform.min_size=32",
)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are written below the working directory."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)
    write_stripes(Path("stripes.yaml"))


def write_stripes(path: Path) -> None:
    data = {"data": {"class_path": "stripes.StripesModule", "init_args": {"size": 5}}}
    path.write_text(yaml.safe_dump(data), "utf-8")


@pytest.fixture(scope="module")
def scan_of(make_scan: Callable[..., Scan], segmenter_config: SegmenterConfig) -> Callable[[int], Scan]:
    """Function that makes a network from a seed; two channels per group of a normalisation suit images of 32 pixels."""
    return lambda seed: make_scan(seed, segmenter=replace(segmenter_config, conv_dim=64))


@pytest.fixture(scope="module")
def weights(scan_of: Callable[[int], Scan], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_scan(scan_of(0), folder, settings=SETTINGS)
    return folder


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


def run(*arguments: object) -> int:
    return main([*(str(argument) for argument in arguments), "--output=out", "--trainer.enable_progress_bar=false"])


def rows() -> list[dict[str, str]]:
    with Path("out", "rows.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(name: str = "evaluation") -> list[dict[str, str]]:
    text = Path("out", f"{name}.csv").read_text("utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def expected_scores(weights: Path, size: int) -> dict[str, float]:
    """Score the striped images without Lightning."""
    scan, data = load_scan(weights), StripesModule(size=size)
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    text = scan.encode_vocabulary(data.vocabulary)
    images: Any = data.build_dataset("test")
    for sample in (images[index] for index in range(size)):
        label_map = scan.segment(sample.image, data.vocabulary, settings=SETTINGS, image_id=sample.image_id).label_map
        confusion += confusion_matrix(label_map, sample.label_map, 4)
    similarity = text_similarity(text.features, text.owners, 4)
    return {
        "miou_any": mean_iou(confusion).item(),
        "miou_present": mean_iou(confusion, convention="present").item(),
        "sg_iou_any": mean_iou(confusion, hierarchy=data.hierarchy).item(),
        "zero_share": zero_share(confusion).item(),
        "open_miou": open_mean_iou(confusion, similarity).item(),
    }


def test_evaluate_own_data_gives_the_scores_of_a_plain_loop(weights: Path) -> None:
    assert run("--weights", weights, "--data=stripes.yaml") == 0
    (row,) = rows()
    expected = expected_scores(weights, 5)
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
def finished(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run on the striped images."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(folder)
        write_stripes(Path("stripes.yaml"))
        assert run("--weights", weights, "--data=stripes.yaml") == 0
    return folder / "out"


def test_evaluate_runs_nothing_twice(weights: Path, finished: Path, tested: list[str]) -> None:
    shutil.copytree(finished, "out")
    before = Path("out", "evaluation.md").read_text("utf-8")
    call = ("--weights", weights, "--data=stripes.yaml")
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
    weights: Path, finished: Path, tested: list[str], change: str
) -> None:
    shutil.copytree(finished, "out")
    assert run("--weights", weights, "--data=stripes.yaml", change) == 0
    assert len(tested) == 1
    first, second = rows()
    assert first["key"] != second["key"]
    assert len(table()) == 1


def test_evaluate_runs_again_with_other_weights(
    weights: Path, finished: Path, scan_of: Callable[[int], Scan], tested: list[str]
) -> None:
    shutil.copytree(finished, "out")
    shutil.copytree(weights, "copy")
    assert run("--weights=copy", "--data=stripes.yaml") == 0
    assert not tested  # the same weights by another name
    save_scan(scan_of(1), Path("copy"), settings=SETTINGS)
    assert run("--weights=copy", "--data=stripes.yaml") == 0
    first, second = rows()
    assert first["checkpoint_hash"] != second["checkpoint_hash"]
    assert first["miou_any"] != second["miou_any"]


def test_evaluate_limit_looks_at_the_first_images(weights: Path) -> None:
    assert run("--weights", weights, "--data=stripes.yaml", "--limit=2") == 0
    (row,) = rows()
    assert (row["images"], row["limit"]) == ("2", "2")
    assert float(row["miou_any"]) == pytest.approx(expected_scores(weights, 2)["miou_any"], abs=1e-6)
    assert "first images only" in Path("out", "evaluation.md").read_text("utf-8")


def test_evaluate_takes_what_is_on_disk_with_its_settings(
    weights: Path, benchmarks: Path, settings_used: list[InferenceSettings]
) -> None:
    overlay = Path("eval", "vit_b16", "voc20.yaml")
    overlay.parent.mkdir(parents=True)
    overlay.write_text("model: {init_args: {inference: {ensemble_weight: 0.25}}}", "utf-8")
    call = ("--weights", weights, "--root", benchmarks, "--settings=eval", "--backbone=vit_b16", *SMALL)
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


def test_evaluate_shows_published_numbers_as_such(weights: Path, benchmarks: Path, tested: list[str]) -> None:
    call = ("--weights", weights, "--root", benchmarks, "--benchmarks=a150", *SMALL)
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
    weights: Path, tmp_path: Path, tested: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    for key in ("ade20k_150", "pascal_voc_20"):
        write_original(key, root, count=2, splits=["validation" if key == "ade20k_150" else "val"])
    label = sorted((root / "ADEChallengeData2016" / "annotations" / "validation").iterdir())[1]
    good = label.read_bytes()
    label.write_bytes(good[: len(good) // 2])
    call = ("--weights", weights, "--root", root, "--benchmarks=a150,pc59,voc20", *SMALL)
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


def write_recipe(module: ScanModule, path: Path, **more: Any) -> None:
    arguments = {"network": json.loads(json.dumps(asdict(module.network.config))), "inference": {"replace_layers": [1]}}
    model = {"class_path": "scan_lightning.module.ScanModule", "init_args": arguments}
    callback = {"class_path": "scan_lightning.callbacks.ResultsCallback", "init_args": {"path": "training.csv"}}
    recipe = {
        "seed_everything": 7,
        "test_after_fit": True,
        "trainer": {"accelerator": "cpu", "max_steps": 5, "callbacks": [callback]},
        "model": model,
        "data": {"class_path": "scan_lightning.data.ShapesDataModule", "init_args": {"test_size": 3}},
        **more,
    }
    path.write_text(yaml.safe_dump(recipe), "utf-8")


def test_evaluate_checkpoint_of_a_recipe(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    module = make_module()
    checkpoint = checkpoint_of(module, tmp_path)
    module.network.config.segmenter.__dict__["weights"] = None
    write_recipe(module, tmp_path / "recipe.yaml")
    overlay = tmp_path / "eval" / "own" / "stripes.yaml"
    overlay.parent.mkdir(parents=True)
    overlay.write_text("model: {init_args: {inference: {replace_ratio: 0.5}}}", "utf-8")
    call = ("-c", tmp_path / "recipe.yaml", "--ckpt_path", checkpoint, "--data=stripes.yaml", "--backbone=own")
    assert run(*call) == 0
    (row,) = rows()
    assert row["seed"] == "7"
    assert not Path("training.csv").exists()
    save_scan(module.network, tmp_path / "trained")
    assert float(row["miou_any"]) == pytest.approx(expected_scores(tmp_path / "trained", 5)["miou_any"], abs=1e-6)
    assert table()[0]["settings"].endswith("eval/own/stripes.yaml")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.mkdir, (Path("exploded"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt_path=some.ckpt", "--data=stripes.yaml"], "ckpt_path: expected the recipe of this checkpoint"),
        (["--benchmarks=a150,a999"], "benchmark: expected one of a150"),
        (["--benchmarks=a150,ade20k_150"], "expected each benchmark once"),
        (["--root=nowhere"], "expected benchmarks below nowhere, found none of A-150, A-847"),
        (["--data=none.yaml"], "none.yaml: expected a YAML file, found no such file"),
        (["--data=empty.yaml"], "empty.yaml: expected a section data"),
        (["--data=broken.yaml"], "broken.yaml: not a configuration in YAML"),
        (["--data=stripes.yaml", "--data=stripes.yaml"], "the name 'stripes' of stripes.yaml is taken"),
        (["--data=stripes.yaml", "--settings=nowhere"], "settings: expected a folder"),
        (["--data=stripes.yaml", "--weights=nowhere"], "weights: expected config.json"),
        (["--data=stripes.yaml", "-c=recipe.yaml"], "expected trained weights, give --ckpt_path or --weights"),
        (["--data=stripes.yaml", "-c=recipe.yaml", "--ckpt_path=none.ckpt"], "ckpt_path: no file none.ckpt"),
        (["--data=stripes.yaml", "-c=recipe.yaml", "--ckpt_path=bomb.ckpt"], "bomb.ckpt: refused"),
        (["--data=stripes.yaml", "--model.init_args.inference.mask_thr=1"], "mask_thr"),
    ],
)
def test_evaluate_wrong_call_is_named(
    weights: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("empty.yaml").write_text("trainer: {max_steps: 3}", "utf-8")
    Path("broken.yaml").write_text("data: [1, 2", "utf-8")
    Path("recipe.yaml").write_text("model: {class_path: scan_lightning.module.ScanModule}", "utf-8")
    torch.save({"state_dict": {}, "bomb": Bomb()}, "bomb.ckpt")
    given = [] if any("weights" in text or "ckpt_path" in text or "-c" in text for text in arguments) else [weights]
    assert run(*arguments, *(f"--weights={folder}" for folder in given)) == 1
    assert message in capsys.readouterr().err
    assert not Path("exploded").exists()
    assert not Path("out", "rows.csv").exists()


@pytest.mark.parametrize("arguments", [["--frobnicate"], ["stray"], ["--trainer.devices=1", "stray"], ["--limit=0"]])
def test_evaluate_unknown_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    assert "scan-lightning evaluate: error" in capsys.readouterr().err


def test_evaluate_reads_damaged_image_by_name(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("images/test/a", "labels/test/a"):
        Path(name).parent.mkdir(parents=True)
        Image.new("L", (40, 32), 200 if "labels" in name else 90).save(f"{name}.png")
    Path("classes.json").write_text(json.dumps({"classes": [{"id": 0, "name": "sky"}]}), "utf-8")
    data = {"class_path": "scan_lightning.data.FolderDataModule", "init_args": {"root": ".", "batch_size": 1}}
    Path("own.yaml").write_text(yaml.safe_dump({"data": data}), "utf-8")
    assert run("--weights", weights, "--data=own.yaml", "--data=stripes.yaml") == 1
    error = capsys.readouterr().err
    assert "own: ImageFileError" in error
    assert "got [200]" in error
    assert [line["benchmark"] for line in table()] == ["stripes"]
