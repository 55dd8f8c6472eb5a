"""The row of zero-shot accuracies: when it is written and what it says."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from scan_lightning.callbacks.accuracy import AccuracyCallback
from scan_lightning.types import RegionTextBatch


class Model(LightningModule):
    """Logs an accuracy that grows with the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: RegionTextBatch, batch_idx: int) -> Tensor:
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch: RegionTextBatch, batch_idx: int) -> None:
        self.log("val/accuracy_masked", 0.1 * self.global_step, batch_size=len(batch.texts))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TwoProcesses(SingleDeviceStrategy):
    """Stands for two equal processes, which cannot reach each other any more once the module has left its device."""

    gone = False

    def reduce(self, tensor: Tensor, *_: object, reduce_op: str = "mean", **__: object) -> Tensor:
        assert not self.gone, "the processes were to talk after the strategy's teardown"
        return 2 * tensor if reduce_op == "sum" else tensor

    def teardown(self) -> None:
        self.gone = True
        super().teardown()


def batches(count: int) -> DataLoader[RegionTextBatch]:
    data = [RegionTextBatch(images=torch.zeros(3, 3, 2, 2), texts=["a", "b", "c"]) for _ in range(count)]
    return DataLoader(data, batch_size=None)


def run(tmp_path: Path, command: str, **options: object) -> list[dict[str, str]]:
    callback = AccuracyCallback(path=tmp_path / "rows.csv", name="tiny")
    settings = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", callbacks=[callback], max_epochs=2, **({"logger": False} | settings | options))
    if command == "fit":
        trainer.fit(Model(), train_dataloaders=batches(2), val_dataloaders=batches(4))
    else:
        trainer.validate(Model(), dataloaders=batches(4), verbose=False)
    if not (tmp_path / "rows.csv").exists():
        return []
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_fit_leaves_one_row_of_its_last_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(tmp_path, "fit")
    assert [(row["name"], row["steps"], row["regions"]) for row in rows] == [("tiny", "4", "12")]
    assert float(rows[0]["accuracy_masked"]) == pytest.approx(0.4)
    assert "40.00" in capsys.readouterr().out


def test_validate_leaves_a_row_and_loggers_get_it(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="log", version="0")
    rows = run(tmp_path, "validate", logger=logger)
    assert [(row["steps"], row["regions"], row["accuracy_masked"]) for row in rows] == [("0", "12", "0.0")]
    logged = (tmp_path / "log" / "0" / "metrics.csv").read_text(encoding="utf-8")
    assert "results/accuracy_masked" in logged


def test_fit_without_validation_leaves_no_row(tmp_path: Path) -> None:
    assert run(tmp_path, "fit", limit_val_batches=0) == []


def test_sanity_check_is_no_validation(tmp_path: Path) -> None:
    assert run(tmp_path, "fit", num_sanity_val_steps=2, check_val_every_n_epoch=5) == []


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_regions_of_all_processes_are_counted_while_they_can_talk(tmp_path: Path, command: str) -> None:
    rows = run(tmp_path, command, strategy=TwoProcesses(device=torch.device("cpu")))
    assert [row["regions"] for row in rows] == ["24"]
