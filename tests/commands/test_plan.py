"""``scan-lightning plan`` through the command line, on the quickstart's recipe and small overlays of it."""

import re
from pathlib import Path

import pytest
import torch

from scan_lightning.cli import main, read_recipe
from scan_lightning.commands.plan import count_devices, data_of, network_of
from scan_lightning.commands.plan_tables import readable_flop
from scan_lightning.models.scan import Scan, ScanConfig

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
QUICKSTART = EXPERIMENTS / "quickstart.yaml"
COCO = """
data:
  class_path: scan_lightning.data.coco_stuff.CocoStuffDataModule
  init_args:
    root: nowhere
    batch_size: 3
    train_transform: {class_path: scan_lightning.data.TrainingTransform, init_args: {crop_size: 96}}
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def numbers(output: str, name: str) -> list[str]:
    """The cells of a table's row."""
    (row,) = re.findall(rf"│ {re.escape(name)} +│ (.*) │$", output, re.MULTILINE)
    return [cell.strip() for cell in row.split("│")]


def test_plan_tells_parameters_operations_memory_and_steps(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--trainer.devices=2", "--trainer.accumulate_grad_batches=4", "--trainer.num_nodes=3"]
    limited = "--trainer.limit_train_batches=0.5"
    assert main(["plan", "-c", str(QUICKSTART), *options, limited]) == 0
    captured = capsys.readouterr()
    output = captured.out
    assert captured.err == ""
    scan = Scan(config=network_of(read_recipe(["fit", f"--config={QUICKSTART}"])))
    trainable = sum(parameter.numel() for parameter in scan.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in scan.parameters() if not parameter.requires_grad)
    parts, stages, memory = re.split("Forward pass|Memory of", output)
    assert numbers(parts, "all") == [f"{trainable:,}", f"{frozen:,}"]
    assert numbers(memory, "weights") == [f"{4 * (trainable + frozen) / 2**30:.2f}"]
    assert "image of 128 x 128 pixels" in stages
    assert numbers(stages, "all")[1] == "100.0"
    assert "a process: 8 images, precision 32-true" in memory
    assert "effective batch 192 = 8 images x 6 processes x 4 accumulated passes" in output
    assert "900 steps, 81.8 epochs of 4,000 images (11 steps each)" in output
    assert list(Path().iterdir()) == []


def test_plan_needs_neither_weights_nor_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("coco.yaml").write_text(COCO, "utf-8")
    absent = [
        "--model.init_args.network.segmenter.weights=nowhere/swin.pth",
        "--model.init_args.network.clip.weights=nowhere/clip.pt",
        "--model.init_args.initial_weights=nowhere/scan",
        "--data.init_args.root=no[where]",
    ]
    assert main(["plan", "-c", str(QUICKSTART), "-c", "coco.yaml", *absent, "--trainer.precision=bf16-mixed"]) == 0
    output = capsys.readouterr().out
    assert "image of 96 x 96 pixels" in output
    assert "3 images, precision bf16-mixed" in output
    assert "epochs of 118,287 images (39,429 steps each)" in output
    assert "images as published: nothing was found below no[where]" in output


def test_plan_overlay_and_options_are_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    overlay = EXPERIMENTS / "train" / "without_sim.yaml"
    assert (
        main(["plan", "-c", str(QUICKSTART), "-c", str(overlay), "--model.init_args.gradient_checkpointing=true"]) == 0
    )
    output = capsys.readouterr().out
    assert numbers(output, "SIM") == ["0.00 MFLOP", "0.0"]  # a stage, and no part
    assert "as none, backbone and pixel decoder run once more" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-c", str(EXPERIMENTS / "shapes" / "clip.yaml")],
            "expected a recipe of ScanModule, got one of scan_lightning.clip",
        ),
        (["-c", str(EXPERIMENTS / "camvid.yaml")], "data/camvid"),
        (["-c", str(QUICKSTART), "--trainer.precision=bf16-true"], "precision: expected one of 32, 32-true"),
        (["-c", str(QUICKSTART), "--model.init_args.network.segmenter.heads=3"], "heads: 3 must divide"),
        (["-c", str(QUICKSTART), "--model.init_args.network.clip.model=ViT-Z"], "clip model: expected 'tiny'"),
        (
            ["-c", str(QUICKSTART), "--data.init_args.train_size=5", "--trainer.devices=2", "--trainer.num_nodes=1"],
            "batch_size: expected at most 2, the training images per process, got 8",
        ),
    ],
)
def test_plan_that_cannot_be_made_is_told(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["plan", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("scan-lightning plan: ")
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "-c/--config"),
        (["-c", "nowhere.yaml"], "nowhere.yaml"),
        (["-c", str(QUICKSTART), "--trainer.max_stepz=3"], "max_stepz"),
    ],
)
def test_plan_wrong_call_is_told(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_read_recipe_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scan_lightning.module.ScanModule.__init__", lambda *_args, **_options: pytest.fail("built"))
    config = read_recipe(["fit", f"--config={QUICKSTART}", "--trainer.max_steps=7"])
    assert config.trainer.max_steps == 7
    assert data_of(config).batch_size == 8
    assert isinstance(network_of(config), ScanConfig)


@pytest.mark.parametrize(
    ("devices", "accelerator", "expected"),
    [(8, "gpu", 8), ("8", "gpu", 8), ("0,1,", "gpu", 2), ([0, 3], "gpu", 2), ("auto", "cpu", 1), (-1, "cpu", 1)],
)
def test_count_devices(devices: object, accelerator: str, expected: int) -> None:
    assert count_devices(devices, accelerator) == expected


@pytest.mark.parametrize(("present", "expected"), [(0, 1), (4, 4)])
def test_count_devices_automatically(monkeypatch: pytest.MonkeyPatch, present: int, expected: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: present)
    assert count_devices("auto", "auto") == count_devices(-1, "gpu") == count_devices("-1", "gpu") == expected


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.00 MFLOP"), (999, "0.00 MFLOP"), (2e7, "20.0 MFLOP"), (5e9, "5.00 GFLOP"), (4.84e13, "48.4 TFLOP")],
)
def test_readable_flop(count: float, text: str) -> None:
    assert readable_flop(count) == text
