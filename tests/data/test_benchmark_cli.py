"""Miniature data sets in every original layout through `fit` and `test` of the command line, with tiny networks."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.miniature import BENCHMARK_KEYS, write_original
from scan_lightning.cli import main
from scan_lightning.data.benchmarks import load_benchmark
from scan_lightning.models.segmenter import SegmenterConfig
from scan_lightning.models.semantic_integration import SemanticIntegrationConfig

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

pytestmark = pytest.mark.filterwarnings("ignore:.*found . of the")


@pytest.fixture
def recipe(
    tmp_path: Path,
    clip_folder: Path,
    segmenter_config: SegmenterConfig,
    integration_config: SemanticIntegrationConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A complete recipe of the tiny network, in the working directory."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)
    callbacks: list[dict[str, Any]] = [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": "kept", "save_last": True, "save_top_k": 0, "every_n_train_steps": 1},
        },
        {"class_path": "scan_lightning.callbacks.ResultsCallback", "init_args": {"name": "miniature"}},
    ]
    content = {
        "seed_everything": 0,
        "trainer": {
            **{"max_steps": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False},
            **{"enable_model_summary": False, "num_sanity_val_steps": 0, "limit_val_batches": 0},
            "callbacks": callbacks,
        },
        "model": {
            "class_path": "scan_lightning.module.ScanModule",
            "init_args": {
                "network": {
                    "clip": {"model": str(clip_folder)},
                    "segmenter": {
                        name: list(value) if isinstance(value, tuple) else value
                        for name, value in asdict(segmenter_config).items()
                    },
                    "semantic_integration": {
                        name: list(value) if isinstance(value, tuple) else value
                        for name, value in asdict(integration_config).items()
                    },
                    "template_set": "single",
                },
                "loss": {"num_points": 30},
                "inference": {"replace_layers": [1], "replace_ratio": 0.5},
            },
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content), "utf-8")
    transforms = {
        "data": {
            "init_args": {
                "root": "data",
                "batch_size": 2,
                "train_transform": {
                    "class_path": "scan_lightning.data.TrainingTransform",
                    "init_args": {"shortest_sides": [32], "crop_size": 32},
                },
                "eval_transform": {
                    "class_path": "scan_lightning.data.EvaluationTransform",
                    "init_args": {"min_size": None},
                },
            }
        }
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(transforms), "utf-8")
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize("key", [key for key in BENCHMARK_KEYS if key not in ("pascal_context_60", "pascal_voc_21")])
def test_fit_and_test_from_the_original_layout(recipe: Path, key: str) -> None:
    benchmark = load_benchmark(key)
    write_original(key, Path("data"))
    overlay = EXPERIMENTS / "data" / f"{benchmark.short}.yaml"
    configs = [f"--config={path}" for path in (recipe, overlay, "small.yaml")]
    assert main(["fit", *configs]) == 0
    assert main(["test", *configs, "--ckpt_path=kept/last.ckpt"]) == 0
    with Path("outputs", "results.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["images"] == "3"
    assert row["checkpoint_hash"]
    assert 0 <= float(row["miou_any"]) <= float(row["miou_present"]) <= 1
    assert ("sg_iou_any" in row) == (benchmark.hierarchy() is not None)


def test_wrong_root_is_told_in_one_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = EXPERIMENTS / "data" / "a150.yaml"
    assert main(["test", *(f"--config={path}" for path in (recipe, overlay, "small.yaml"))]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("scan-lightning: data: expected the folder ADEChallengeData2016 of ADE20K scene parsing")
