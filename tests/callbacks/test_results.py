import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from torch.utils.data import DataLoader

from scan_lightning.callbacks import record
from scan_lightning.callbacks.record import file_hash
from scan_lightning.callbacks.results import MEANINGS, ResultsCallback, class_table, metric_table
from scan_lightning.metrics.confusion import SegmentationMetrics
from scan_lightning.types import IGNORE_INDEX, Batch, ClassHierarchy, Vocabulary

WORDS = Vocabulary(names=("sky", "grass", "ball"), seen=(True, True, False))
TRUTH = torch.tensor([[0, 0, 0, 1], [1, 1, IGNORE_INDEX, IGNORE_INDEX]])


class Guess(LightningModule):
    """Predicts class 0 everywhere, as ScanModule with metrics and a vocabulary."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.vocabulary = WORDS
        self.test_metrics = SegmentationMetrics(num_classes=3, seen=WORDS.seen)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        for truth in batch.label_maps:
            assert truth is not None
            self.test_metrics.update(torch.zeros_like(truth), truth)

    def on_test_epoch_end(self) -> None:
        self.test_metrics.reset()


class Scenes(LightningDataModule):
    """Two batches, three images."""

    def test_dataloader(self) -> DataLoader[Batch]:
        batches: Any = [make_batch("a", "b"), make_batch("c")]
        return DataLoader(batches, batch_size=None)


class Share(LightningDataModule):
    """The images of `Scenes`, two for the first process and one for the second."""

    def test_dataloader(self) -> DataLoader[Batch]:
        batches: Any = [[make_batch("a", "b")], [make_batch("c")]]
        assert self.trainer is not None
        return DataLoader(batches[self.trainer.global_rank], batch_size=None)


def make_batch(*names: str) -> Batch:
    return Batch(
        images=torch.zeros(len(names), 3, 2, 4, dtype=torch.uint8),
        sizes=[(2, 4)] * len(names),
        image_ids=list(names),
        original_sizes=[(2, 4)] * len(names),
        label_maps=[TRUTH] * len(names),
    )


def make_trainer(folder: Path, callback: ResultsCallback, **options: Any) -> Trainer:
    options = {"logger": False} | options
    return Trainer(
        accelerator="cpu",
        callbacks=[callback],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def text(table: object) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_results_row_holds_record_and_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed_everything(3, verbose=False)
    path = tmp_path / "results.csv"
    callback = ResultsCallback(path=path, name="toy", config={"a": 1})
    make_trainer(tmp_path, callback).test(Guess(), datamodule=Scenes(), verbose=False)
    (row,) = read(path)
    assert row["name"] == "toy"
    assert row["seed"] == "3"
    assert row["images"] == "3"
    assert row["checkpoint_hash"] == ""
    # Sky: 9 pixels right of 18 predicted; grass never predicted; ball absent.
    assert float(row["miou_any"]) == float(row["miou_present"]) == 0.25
    assert float(row["pixel_accuracy"]) == 0.5
    assert row["miou_unseen"] == ""  # no unseen class occurs: NaN
    printed = capsys.readouterr().out
    assert "toy: 3 images" in printed
    assert "25.00" in printed
    assert "grass" in printed


def test_results_rows_of_the_same_run_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "git_state", lambda folder: ("0" * 40, False))
    path = tmp_path / "results.csv"
    for folder in ("one", "two"):
        seed_everything(3, verbose=False)
        make_trainer(tmp_path / folder, ResultsCallback(path=path)).test(Guess(), datamodule=Scenes(), verbose=False)
    first, second = read(path)
    assert first == second
    assert first["name"] == "Scenes"


def test_results_without_configuration_hash_tells_hyperparameters_apart(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for rate in (0.5, 0.5, 0.6):
        make_trainer(tmp_path, ResultsCallback(path=path)).test(Guess(rate), datamodule=Scenes(), verbose=False)
    hashes = [row["config_hash"] for row in read(path)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_results_row_names_the_checkpoint_by_its_content(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "results.csv", tmp_path / "model.ckpt"
    trainer = make_trainer(tmp_path, ResultsCallback(path=path))
    trainer.strategy.connect(Guess())
    trainer.save_checkpoint(checkpoint)
    trainer.test(Guess(), datamodule=Scenes(), ckpt_path=checkpoint, verbose=False)
    (row,) = read(path)
    assert row["checkpoint_hash"] == file_hash(checkpoint)


def test_results_counts_each_run_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    trainer = make_trainer(tmp_path, ResultsCallback(path=path))
    for _ in range(2):
        trainer.test(Guess(), datamodule=Scenes(), verbose=False)
    assert [row["images"] for row in read(path)] == ["3", "3"]


def test_results_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    callback = ResultsCallback(path=path, config={})
    make_trainer(tmp_path, callback).test(Guess(), datamodule=Scenes(), verbose=False)
    options = {"strategy": "ddp_spawn", "devices": 2, "use_distributed_sampler": False}
    make_trainer(tmp_path, callback, **options).test(Guess(), datamodule=Share(), verbose=False)
    # The names differ by datamodule, and a commit may be made while the processes start.
    one, two = ({name: row[name] for name in row if name not in {"name", "commit", "dirty"}} for row in read(path))
    assert one == two
    assert one["images"] == "3"


def test_results_go_to_the_loggers(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="log", version="0")
    trainer = make_trainer(tmp_path, ResultsCallback(path=tmp_path / "results.csv"), logger=logger)
    trainer.test(Guess(), datamodule=Scenes(), verbose=False)
    (metrics,) = read(tmp_path / "log" / "0" / "metrics.csv")
    assert float(metrics["results/miou_any"]) == 0.25
    assert float(metrics["results/images"]) == 3
    assert "results/miou_unseen" not in metrics
    assert "results/config_hash" in (tmp_path / "log" / "0" / "hparams.yaml").read_text()


def test_results_only_first_process_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(tmp_path, ResultsCallback(path=tmp_path / "results.csv"))
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    trainer.test(Guess(), datamodule=Scenes(), verbose=False)
    assert not (tmp_path / "results.csv").exists()
    assert "25.00" not in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["test_metrics", "vocabulary"])
def test_results_module_without_what_is_needed_raises(tmp_path: Path, missing: str) -> None:
    class Bare(Guess):
        def test_step(self, batch: Batch, batch_idx: int) -> None:
            delattr(self, missing) if hasattr(self, missing) else None

        def on_test_epoch_end(self) -> None:
            pass

    with pytest.raises(TypeError, match=f"Bare to hold.*{missing}"):
        make_trainer(tmp_path, ResultsCallback(path=tmp_path / "r.csv")).test(
            Bare(), datamodule=Scenes(), verbose=False
        )


def test_metric_table_gives_percent_and_convention() -> None:
    shown = text(metric_table({"miou_any": 0.12345, "miou_unseen": float("nan"), "new_metric": 1.0}, "title"))
    lines = {line.split()[1]: line for line in shown.splitlines() if len(line.split()) > 2}
    assert "12.35" in lines["miou_any"]
    assert "truth or prediction" in lines["miou_any"]
    assert " - " in lines["miou_unseen"]
    assert "100.00" in lines["new_metric"]


def test_tables_show_names_with_brackets() -> None:
    assert "data[old]" in text(metric_table({"miou_any": 0.5}, "data[old]: 3 images"))
    metric = SegmentationMetrics(num_classes=1)
    metric.update(torch.tensor([0]), torch.tensor([0]))
    assert "disc [red]" in text(class_table(metric.per_class(), Vocabulary(names=("disc [red]",), seen=(True,))))


def test_metric_table_explains_every_score() -> None:
    metric = SegmentationMetrics(
        num_classes=2, seen=(True, False), hierarchy=ClassHierarchy(num_classes=2), similarity=torch.eye(2)
    )
    metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert set(metric.compute()) == set(MEANINGS)


def test_class_table_lists_classes_that_occur_by_size() -> None:
    metric = SegmentationMetrics(num_classes=3)
    metric.update(torch.tensor([1, 1, 1, 2]), torch.tensor([1, 1, 1, 1]))
    lines = [line for line in text(class_table(metric.per_class(), WORDS)).splitlines() if "│" in line]
    assert [line.split()[1] for line in lines] == ["grass", "ball"]
    assert "75.00" in lines[0]
    assert "(unseen)" in lines[1]
