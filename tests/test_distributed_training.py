"""Training and testing by two processes through the command line, beside one process with twice the batch."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scan_lightning.models.pretrained import SHIPPED_SCAN

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
STEPS = 20
# Adam makes steps of rounding errors where the gradient is zero by construction (queries and keys of an attention over
# a single token), as long as the learning rate, which is the paper's here. Dropout is drawn per process, so it is
# off. Three images of validation and test cannot be shared evenly.
OVERLAY = f"""
test_after_fit: true
trainer:
  max_steps: {STEPS}
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  val_check_interval: 5
  check_val_every_n_epoch: 1
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{dirpath: outputs/kept, save_last: true, save_top_k: 0, every_n_train_steps: {STEPS}}}
    - class_path: scan_lightning.callbacks.ResultsCallback
      init_args: {{name: short}}
model:
  init_args:
    initial_weights: {SHIPPED_SCAN}
    optimizer: {{learning_rate: 6.0e-5, warmup_steps: 0}}
    network:
      semantic_integration: {{dropout: 0.0}}
data:
  init_args: {{batch_size: 4, train_size: 40, val_size: 3, test_size: 3, eval_batch_size: 1, image_size: 64}}
"""


@dataclass
class Finished:
    """What a run has left below its folder."""

    folder: Path

    def state(self) -> dict[str, torch.Tensor]:
        """Final weights."""
        checkpoint = torch.load(self.folder / "outputs/kept/last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == STEPS
        return checkpoint["state_dict"]  # type: ignore[no-any-return]

    def logged(self) -> list[dict[str, float]]:
        """Rows of the CSV logger, without empty cells."""
        (path,) = self.folder.glob("outputs/quickstart/version_*/metrics.csv")
        with path.open(encoding="utf-8", newline="") as file:
            return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]

    def rows(self) -> list[dict[str, str]]:
        """Rows of results."""
        with (self.folder / "outputs/results.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Finished]:
    """Function that runs fit in a process of its own: ``run(command, *arguments)``, command what comes before fit."""
    shared = tmp_path_factory.mktemp("shared")
    (shared / "short.yaml").write_text(OVERLAY, "utf-8")
    recipe = [f"--config={EXPERIMENTS / 'quickstart.yaml'}", f"--config={shared / 'short.yaml'}"]

    def start(command: list[str], *arguments: str) -> Finished:
        folder = tmp_path_factory.mktemp("run")
        inherited = {name: value for name, value in os.environ.items() if name != "PL_GLOBAL_SEED"}
        finished = subprocess.run(
            [*command, "fit", *recipe, *arguments],
            cwd=folder,
            env=inherited | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=500,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout
        return Finished(folder)

    return start


ALONE = [sys.executable, "-m", "scan_lightning"]
LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *ALONE[1:]],
    "lightning": ALONE,
}
TWO = (f"--config={EXPERIMENTS / 'trainer/ddp2_cpu.yaml'}", "--data.init_args.batch_size=2")


@pytest.fixture(scope="module")
def one(run: Callable[..., Finished]) -> Finished:
    """One process, batches of 4."""
    return run(ALONE)


@pytest.fixture(scope="module", params=["torchrun", pytest.param("lightning", marks=pytest.mark.slow)])
def two(request: pytest.FixtureRequest, run: Callable[..., Finished]) -> Finished:
    """Two processes, batches of 2 each."""
    return run(LAUNCHERS[request.param], *TWO)


def test_two_processes_give_the_weights_of_one_with_twice_the_batch(one: Finished, two: Finished) -> None:
    alone, together = one.state(), two.state()
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        torch.testing.assert_close(
            together[name], value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    before = load_file(SHIPPED_SCAN / "model.safetensors")
    moved = {name: (alone[f"network.{name}"] - value).abs().max().item() for name, value in before.items()}
    assert max(moved.values()) > 3e-4, "what has not moved far is no proof"


def test_losses_that_are_logged_are_those_of_all_processes(one: Finished, two: Finished) -> None:
    alone = [row for row in one.logged() if "train/loss" in row]
    together = [row for row in two.logged() if "train/loss" in row]
    assert len(alone) == len(together) == STEPS
    assert len({row["train/loss"] for row in alone}) == STEPS
    for expected, found in zip(alone, together, strict=True):
        for name in ("train/loss", "train/loss_ce", "train/loss_mask", "train/loss_dice"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4), name


def test_validation_within_fit_scores_all_images_though_shards_are_uneven(one: Finished, two: Finished) -> None:
    alone, together = ([row for row in run.logged() if "val/miou_any" in row] for run in (one, two))
    assert len(alone) == len(together) == STEPS // 5
    for expected, found in zip(alone, together, strict=True):
        assert expected["val/pixel_accuracy"] > 0.2
        assert found["val/pixel_accuracy"] == pytest.approx(expected["val/pixel_accuracy"], abs=1e-3)


def test_test_of_two_processes_leaves_one_row_for_every_image_once(one: Finished, two: Finished) -> None:
    (alone,), (together,) = one.rows(), two.rows()
    assert alone["images"] == together["images"] == "3"
    assert float(alone["pixel_accuracy"]) > 0.2
    for name in ("pixel_accuracy", "miou_any", "miou_unseen", "sg_iou_any"):
        assert float(together[name]) == pytest.approx(float(alone[name]), abs=1e-3), name


def test_two_processes_leave_one_run_of_wandb(two: Finished) -> None:
    assert len(list(two.folder.glob("outputs/wandb/offline-run-*"))) == 1
    assert len(list(two.folder.glob("outputs/quickstart/version_*"))) == 1
