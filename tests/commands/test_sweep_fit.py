"""Sweeps over real trainings of the smallest network."""

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from scan_lightning.commands import sweep
from scan_lightning.models.clip import build_open_clip
from scan_lightning.models.clip_export import save_clip
from scan_lightning.sweeps import expand_command, grid, load_sweep
from scan_lightning.sweeps.process import trial_environment

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
RATE = "model.init_args.optimizer.learning_rate"
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "layers": 1, "width": 16, "heads": 2},
}
SHORT = """
test_after_fit: false
trainer:
  max_steps: 4
  val_check_interval: 2
  check_val_every_n_epoch: 1
  enable_progress_bar: false
  enable_model_summary: false
  logger:
    - class_path: lightning.pytorch.loggers.CSVLogger
      init_args: {save_dir: outputs, name: log}
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: outputs/kept, save_last: true, save_top_k: 0}
    - class_path: tests.sweeps.rank_record.RankRecord
      init_args: {folder: ranks}
model:
  init_args:
    export_to: null
    network:
      clip: {model: clip}
      segmenter: {embed_dim: 8, num_heads: [1, 2, 2, 4], depths: [1, 1, 1, 1], decoder_layers: 2, num_queries: 6}
      semantic_integration: {layers: [1, 2], sigmas: [3.0, 2.0], fusion_layers: 2, encoder_layers: 1}
    inference: {replace_layers: [1]}
    loss: {num_points: 64}
data:
  init_args: {batch_size: 2, train_size: 8, val_size: 3, test_size: 3, image_size: 48}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a CLIP and an overlay of the quickstart, in which trials find the tests' callback."""
    torch.manual_seed(0)
    clip = build_open_clip(ARCHITECTURE)
    save_clip(clip, tmp_path / "clip", architecture=ARCHITECTURE, mean=(0.5,) * 3, std=(0.25,) * 3, card="untrained")
    (tmp_path / "short.yaml").write_text(SHORT, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def write_sweep(command: list[str], parameters: dict[str, Any], metric: str) -> Path:
    """Write a grid whose command is one of this project's."""
    recipe = [f"--config={EXPERIMENTS / 'quickstart.yaml'}", "--config=short.yaml"]
    content = {
        "method": "grid",
        "metric": {"name": metric, "goal": "maximize"},
        "parameters": parameters,
        "command": ["${env}", "python", "-m", "scan_lightning", command[0], *recipe, *command[1:], "${args}"],
    }
    Path("real.yaml").write_text(yaml.safe_dump(content), "utf-8")
    return Path("real.yaml")


def reports() -> list[list[dict[str, Any]]]:
    """What each trial has reported."""
    files = sorted(Path("outputs/sweeps").glob("real-*/trials/*.jsonl"))
    return [[json.loads(line) for line in file.read_text("utf-8").splitlines()] for file in files]


def records() -> list[dict[str, Any]]:
    """What each process was configured with, by learning rate and rank."""
    found = [json.loads(file.read_text("utf-8")) for file in Path("ranks").iterdir()]
    return sorted(found, key=lambda record: (record["learning_rate"], record["rank"]))


def test_score_of_a_fit_is_that_of_its_last_validation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_sweep(["fit"], {RATE: {"values": [0.002]}, "data.init_args.seed": {"value": 3}}, "val/miou_any")
    assert sweep.main([str(file)]) == 0, (capsys.readouterr(), [log.read_text() for log in here.rglob("*.log")])
    (report,) = reports()
    assert [line["step"] for line in report] == [2, 4]
    with (here / "outputs/log/version_0/metrics.csv").open(newline="") as rows:
        logged = [float(row["val/miou_any"]) for row in csv.DictReader(rows) if row.get("val/miou_any")]
    assert [line["metrics"]["val/miou_any"] for line in report] == pytest.approx(logged)
    assert records() == [{"rank": 0, "of": 1, "learning_rate": 0.002, "seed": 3}]
    assert f"val/miou_any {logged[-1]:.4f}" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_of_a_trial_are_one_run_with_one_configuration(here: Path) -> None:
    parameters = {RATE: {"values": [0.001, 0.002]}, "data.init_args.seed": {"value": 3}}
    file = write_sweep(["fit", f"--config={EXPERIMENTS / 'trainer/ddp2_cpu.yaml'}"], parameters, "val/miou_any")
    assert sweep.main([str(file)]) == 0, [log.read_text() for log in here.rglob("*.log")]
    assert [[line["step"] for line in report] for report in reports()] == [[2, 4], [2, 4]]
    assert records() == [
        {"rank": rank, "of": 2, "learning_rate": rate, "seed": 3} for rate in (0.001, 0.002) for rank in (0, 1)
    ]
    assert len(list(here.glob("outputs/log/version_*"))) == 2


@pytest.mark.slow
def test_runs_of_a_sweep_give_the_rows_of_its_commands_run_by_hand(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [{"label": "none", "model.init_args.inference.replace_ratio": 0.0}, {"label": "cs"}]
    parameters = {"variant": {"values": variants}, "seed_everything": {"values": [0, 1]}}
    file = write_sweep(["run", "--rows=rows.csv"], parameters, "test/miou_any")
    assert sweep.main([str(file)]) == 0, [log.read_text() for log in here.rglob("*.log")]
    offline = read_rows(Path("rows.csv"))
    by_hand = here / "by_hand"
    by_hand.mkdir()
    for name in ("clip", "short.yaml"):
        (by_hand / name).symlink_to(here / name)
    loaded = load_sweep(file)
    environment = trial_environment(report=by_hand / "report.jsonl", group="by hand")
    for values in grid(loaded):
        subprocess.run(expand_command(loaded, values), cwd=by_hand, check=True, env=environment, capture_output=True)
    assert read_rows(by_hand / "rows.csv") == offline
    assert len({row["key"] for row in offline}) == 4
    scores = [report[-1]["metrics"]["test/miou_any"] for report in reports()]
    assert scores == pytest.approx([float(row["miou_any"]) for row in offline], abs=1e-5)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of results, without what tells when and where they were measured."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = ("name", "key", "variant", "parameters", "seed", "miou_any", "fwiou", "pixel_accuracy", "open_miou")
    return [{name: row[name] for name in kept} for row in rows]
