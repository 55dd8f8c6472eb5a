import json
import sys
from pathlib import Path

import pytest
import wandb
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from PIL import Image

from scan_lightning.callbacks.overlay_table import log_overlays


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two pictures."""
    for name in ("a", "b"):
        Image.new("RGB", (4, 3), "red").save(tmp_path / f"{name}.png")
    return {"val/a": tmp_path / "a.png", "val/b": tmp_path / "b.png"}


def trainer(folder: Path, logger: CSVLogger | WandbLogger) -> Trainer:
    return Trainer(accelerator="cpu", logger=logger, default_root_dir=folder, enable_checkpointing=False)


def test_overlays_are_a_table_of_an_offline_run(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # which the logger sets, and the end of the test takes back
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.finish()  # a run that another test began would be used again
    try:
        log_overlays(trainer(tmp_path, WandbLogger(project="test", save_dir=tmp_path, offline=True)), files)
    finally:
        wandb.finish()
    (table,) = tmp_path.rglob("*.table.json")
    content = json.loads(table.read_text("utf-8"))
    assert content["columns"] == ["image", "overlay"]
    # This file tells the kind of what the run's artifact holds.
    assert content["data"] == [["val/a", "Image"], ["val/b", "Image"]]


def test_overlays_leave_other_loggers_alone(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    log_overlays(trainer(tmp_path, CSVLogger(tmp_path)), files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
