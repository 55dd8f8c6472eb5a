"""What a run tells the sweep that has started it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from scan_lightning.callbacks.report import ReportCallback


class Logged(LightningModule):
    """One weight, which is logged as a score."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(8.0))

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        self.log("train/loss", self.weight * batch.mean())
        return self.weight * batch.mean()

    def validation_step(self, batch: torch.Tensor) -> None:
        self.log("val/score", self.weight)

    def test_step(self, batch: torch.Tensor) -> None:
        self.log("test/score", -self.weight)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def trainer(folder: Path, **arguments: Any) -> Trainer:
    """A trainer with the callback."""
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ReportCallback(path=folder / "report.jsonl")],
        **arguments,
    )


@pytest.fixture
def data() -> DataLoader[torch.Tensor]:
    return DataLoader(torch.ones(4, 1), batch_size=1)  # type: ignore[arg-type]


def test_report_has_a_line_for_each_validation_and_test(tmp_path: Path, data: DataLoader[torch.Tensor]) -> None:
    module = Logged()
    fitter = trainer(tmp_path, val_check_interval=2)
    fitter.fit(module, data, data)
    fitter.test(module, data, verbose=False)
    lines = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert [(line["step"], line["metrics"].get("val/score")) for line in lines] == [(2, 6.0), (4, 4.0), (4, None)]
    assert lines[-1]["metrics"] == {"test/score": -4.0}


def test_report_leaves_out_the_trial_validation_before_training(tmp_path: Path, data: DataLoader[torch.Tensor]) -> None:
    trainer(tmp_path, num_sanity_val_steps=2, limit_val_batches=0).fit(Logged(), data, data)
    trainer(tmp_path, num_sanity_val_steps=2, check_val_every_n_epoch=100).fit(Logged(), data, data)
    assert not (tmp_path / "report.jsonl").exists()


def test_report_of_validate_alone(tmp_path: Path, data: DataLoader[torch.Tensor]) -> None:
    trainer(tmp_path).validate(Logged(), data, verbose=False)
    assert json.loads((tmp_path / "report.jsonl").read_text()) == {"step": 0, "metrics": {"val/score": 8.0}}


def test_processes_but_the_first_write_nothing(
    tmp_path: Path, data: DataLoader[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    trainer(tmp_path).validate(Logged(), data, verbose=False)
    assert not (tmp_path / "report.jsonl").exists()
