import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import Dataset

from scan_lightning.baselines import PriorBaseline
from scan_lightning.data.base import SegmentationDataModule, Split
from scan_lightning.types import IGNORE_INDEX, Sample, Vocabulary


class Halves(SegmentationDataModule):
    """Images whose left half is "sky" and right half "car"; "sea" covers more pixels in all, at the bottom."""

    def __init__(self) -> None:
        super().__init__(batch_size=2, eval_batch_size=2)

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(names=("boat", "sky", "car", "sea"), seen=(False, True, True, True))

    def build_dataset(self, split: Split) -> Dataset[Sample]:
        return _Maps(training=split == "train")


class _Maps(Dataset[Sample]):
    def __init__(self, *, training: bool) -> None:
        self.training = training

    def __len__(self) -> int:
        return 2

    def __getitem__(self, key: object) -> Sample:
        return Sample(
            image=torch.zeros(3, 8, 8, dtype=torch.uint8),
            image_id="image",
            label_map=truth() - 1 if self.training else truth(),
            original_size=(8, 8),
        )


def truth() -> Tensor:
    """Labels of the whole vocabulary; those of the training vocabulary are one less."""
    labels = torch.full((8, 8), 3)
    labels[:4, :4], labels[:4, 4:] = 1, 2
    return labels


def run(kind: str) -> PriorBaseline:
    torch.manual_seed(0)
    module = PriorBaseline(kind=kind, grid=(4, 4))  # type: ignore[arg-type]
    data = Halves()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=1, limit_val_batches=0, enable_model_summary=False, **options)  # type: ignore[arg-type]
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return module


def test_pixel_prior_knows_places() -> None:
    module = run("pixel_prior")
    assert module.counts[:, 0, 0].tolist() == [0, 2, 0, 0]
    assert module.test_metrics.compute()["pixel_accuracy"].item() == 1


def test_most_frequent_predicts_one_class() -> None:
    module = run("most_frequent")
    assert module.counts.flatten().tolist() == [0, 0.5, 0.5, 1]
    assert module.test_metrics.compute()["pixel_accuracy"].item() == 0.5
    assert module.test_metrics.per_class()["predicted_pixels"].tolist() == [0, 0, 0, 128]


def test_ignored_pixels_do_not_count() -> None:
    data = Halves()
    assert data.training_relabel.tolist() == [IGNORE_INDEX, 0, 1, 2]


@pytest.mark.parametrize("options", [{"kind": "mode"}, {"grid": (0, 4)}])
def test_wrong_options_raise(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"kind|grid"):
        PriorBaseline(**options)  # type: ignore[arg-type]


def test_testing_before_counting_raises() -> None:
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    with pytest.raises(ValueError, match="nothing counted yet"):
        Trainer(**options).test(PriorBaseline(grid=(4, 4)), datamodule=Halves(), verbose=False)  # type: ignore[arg-type]
