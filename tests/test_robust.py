"""Training through the real command line that is killed, pre-empted, out of time, out of disk, or without W&B."""

import csv
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from scan_lightning.callbacks import checkpointing
from scan_lightning.cli import main
from scan_lightning.models.clip import build_open_clip
from scan_lightning.models.clip_export import save_clip

QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart.yaml"
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "layers": 1, "width": 16, "heads": 2},
}
SHORT = """
test_after_fit: false
trainer:
  max_steps: 5
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  logger:
    - class_path: lightning.pytorch.loggers.CSVLogger
      init_args: {save_dir: outputs, name: robust, flush_logs_every_n_steps: 1}
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args:
        {dirpath: outputs/kept, save_last: true, save_top_k: 0, every_n_train_steps: 2, enable_version_counter: false}
model:
  init_args:
    export_to: outputs/weights
    network:
      segmenter: {embed_dim: 8, num_heads: [1, 2, 2, 4], depths: [1, 1, 1, 1], decoder_layers: 2, num_queries: 6}
      semantic_integration: {layers: [1, 2], sigmas: [3.0, 2.0], fusion_layers: 2, encoder_layers: 1}
    inference: {replace_layers: [1]}
    loss: {num_points: 64}
data:
  init_args: {batch_size: 2, train_size: 18, image_size: 48}
"""
LAST = Path("outputs", "kept", "last.ckpt")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a training of 5 steps that writes a checkpoint after steps 2 and 4."""
    folder = tmp_path_factory.mktemp("recipe")
    torch.manual_seed(0)
    clip = build_open_clip(ARCHITECTURE)
    save_clip(clip, folder / "clip", architecture=ARCHITECTURE, mean=(0.5,) * 3, std=(0.25,) * 3, card="untrained")
    (folder / "short.yaml").write_text(SHORT, "utf-8")
    named = f"--model.init_args.network.clip.model={folder / 'clip'}"
    return ["fit", f"--config={QUICKSTART}", f"--config={folder / 'short.yaml'}", named, "--ckpt_path=last"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes write below the working directory."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)


def step_of(path: Path = LAST) -> int:
    """Optimiser steps that a checkpoint has behind it."""
    return int(torch.load(path, weights_only=True)["global_step"])


def metrics() -> list[dict[str, str]]:
    """Rows of the newest CSV log."""
    newest = max(Path("outputs", "robust").glob("version_*"), key=lambda path: int(path.name.split("_")[1]))
    with (newest / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def on_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do something in the middle of an optimiser's step."""
    from scan_lightning.module import ScanModule

    inner = ScanModule.training_step

    def training_step(self: ScanModule, *args: Any) -> Any:
        if self.global_step == step:
            action()
        return inner(self, *args)

    monkeypatch.setattr(ScanModule, "training_step", training_step)


def assert_same_training(folder: Path, other: Path) -> None:
    """Weights, optimiser and export of two trainings are equal, bit for bit."""
    first, second = (torch.load(place / LAST, weights_only=True) for place in (folder, other))
    assert first["global_step"] == second["global_step"]
    assert first["state_dict"].keys() == second["state_dict"].keys()
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())
    moments, others = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (first, second))
    assert moments.keys() == others.keys()
    assert all(torch.equal(value, others[key][name]) for key, state in moments.items() for name, value in state.items())
    weights = Path("outputs", "weights", "model.safetensors")
    assert (folder / weights).read_bytes() == (other / weights).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(recipe: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the training that nothing has disturbed, with a checkpoint at its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(folder)
        assert main([*recipe, "--trainer.max_steps=6"]) == 0
    return folder


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_signal_leaves_a_checkpoint_and_the_rest_is_the_same(
    recipe: list[str],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        on_step(patch, 2, lambda: os.kill(os.getpid(), number))
        assert main([*recipe, "--trainer.max_steps=6"]) == 128 + number
    assert f"stopped by {name} at step 3; {tmp_path / LAST} is whole" in capsys.readouterr().err
    assert signal.getsignal(number) == before
    assert step_of() == 3
    assert not Path("outputs", "weights").exists()
    assert main([*recipe, "--trainer.max_steps=6"]) == 0
    assert_same_training(tmp_path, undisturbed)


def test_signal_waits_for_the_end_of_an_accumulated_step(
    recipe: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_step(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))  # at each of three passes
    assert main([*recipe, "--trainer.accumulate_grad_batches=3"]) == 128 + signal.SIGTERM
    checkpoint = torch.load(LAST, weights_only=True)
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert checkpoint["global_step"] == 2
    assert progress["processed"] == 6


def test_time_limit_leaves_a_checkpoint_and_the_rest_is_the_same(
    recipe: list[str], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        on_step(patch, 2, lambda: time.sleep(6))
        assert main([*recipe, "--trainer.max_steps=6", "--trainer.max_time=00:00:00:05"]) == 0
    assert step_of() == 3
    assert main([*recipe, "--trainer.max_steps=6"]) == 0
    assert_same_training(tmp_path, undisturbed)


def test_full_disk_ends_training_with_the_last_good_checkpoint(
    recipe: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = checkpointing._save

    def full(checkpoint: dict[str, Any], path: Path) -> None:
        save(checkpoint, path)
        if checkpoint["global_step"] == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpointing, "_save", full)
    assert main(recipe) == 1
    error = capsys.readouterr().err
    assert "the disk is full: No space left on device; the checkpoint was not written" in error
    assert "the older last.ckpt stays as it was" in error
    assert step_of() == 2
    assert [path.name for path in LAST.parent.iterdir()] == ["last.ckpt"]


def test_last_is_the_newest_that_is_whole(recipe: list[str], undisturbed: Path, tmp_path: Path) -> None:
    previous = LAST.with_name("last.previous.ckpt")
    assert main([*recipe, "--trainer.max_steps=6"]) == 0
    assert [step_of(previous), step_of()] == [4, 6]
    LAST.write_bytes(LAST.read_bytes()[: LAST.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"passed over .*last\.ckpt: damaged"):
        assert main([*recipe, "--trainer.max_steps=6"]) == 0
    assert_same_training(tmp_path, undisturbed)
    assert step_of(previous) == 4, "a damaged checkpoint took the place of the one before it"


def test_last_that_is_damaged_is_no_new_beginning(recipe: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    LAST.parent.mkdir(parents=True)
    LAST.write_bytes(b"half")
    assert main(recipe) == 1
    assert "every checkpoint is damaged" in capsys.readouterr().err
    assert LAST.read_bytes() == b"half"


def test_last_is_not_there_yet(recipe: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", *recipe[1:]]) == 1
    assert "ckpt_path last: no checkpoint in" in capsys.readouterr().err
    assert main([*recipe, "--trainer.max_steps=1"]) == 0
    assert "training begins anew" in capsys.readouterr().err


def test_numbers_of_a_training_are_logged(recipe: list[str]) -> None:
    assert main([*recipe, "--trainer.max_steps=2"]) == 0
    rows = metrics()
    for name in ("train/loss", "train/grad_norm", "system/images_per_second", "system/memory_gib"):
        values = [float(row[name]) for row in rows if row[name]]
        assert len(values) == 2, name
        assert all(value > 0 for value in values), name
    assert sum(any(key.startswith("lr-") and value for key, value in row.items()) for row in rows) == 2


def test_gradient_that_is_not_finite_ends_training(
    recipe: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from scan_lightning.module import ScanModule

    def spoil(self: ScanModule) -> None:
        if self.global_step == 3:
            weight = self.network.segmenter.embedding_head[0].weight
            assert weight.grad is not None
            weight.grad[0, 0] = float("nan")

    monkeypatch.setattr(ScanModule, "on_after_backward", spoil)
    assert main(recipe) == 1
    error = capsys.readouterr().err
    assert "non-finite gradient norm nan at step 3 in network.segmenter.embedding_head.0.weight, images: " in error
    assert error.count("train") >= 2  # the images of the batch
    assert step_of() == 2


def test_without_wandb_the_other_loggers_write(
    recipe: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    loggers = (
        "[{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: outputs, name: robust}},"
        "{class_path: lightning.pytorch.loggers.WandbLogger, init_args: {offline: true}}]"
    )
    assert main([*recipe, "--trainer.max_steps=1", f"--trainer.logger={loggers}"]) == 0
    assert "wandb is not installed" in capsys.readouterr().err
    assert metrics()


def start(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start the real command in a process of its own."""
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "scan_lightning", *arguments],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "0"},
        )


def kill_at_random(process: subprocess.Popen[bytes], last: Path, rng: random.Random, *, trained: bool) -> bool:
    """Kill a process at a random moment after its start or its first checkpoint; False if it ended before."""
    before = last.stat().st_mtime_ns if last.exists() else 0
    while trained and process.poll() is None and (last.stat().st_mtime_ns if last.exists() else 0) == before:
        time.sleep(0.005)
    deadline = time.monotonic() + rng.uniform(0, 0.6 if trained else 8)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_ten_kills_give_the_same_bits(recipe: list[str], tmp_path: Path) -> None:
    """kill -9 at ten random moments, each time resumed by the same command."""
    arguments = [*recipe, "--trainer.max_steps=90"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert start(arguments, whole).wait() == 0
    rng, steps = random.Random(0), []  # noqa: S311
    for attempt in range(10):
        assert kill_at_random(start(arguments, killed), killed / LAST, rng, trained=attempt % 5 != 4)
        steps.append(step_of(killed / LAST))
    assert start(arguments, killed).wait() == 0
    print(f"steps of last.ckpt after each kill: {steps}")
    assert steps == sorted(steps)
    assert steps[0] < steps[-1] < 90
    assert_same_training(killed, whole)


def test_trainer_outside_the_command_line_takes_the_plugin(tmp_path: Path) -> None:
    trainer = Trainer(plugins=[checkpointing.WholeCheckpointIO()], default_root_dir=tmp_path, logger=False)
    assert isinstance(trainer.strategy.checkpoint_io, checkpointing.WholeCheckpointIO)
