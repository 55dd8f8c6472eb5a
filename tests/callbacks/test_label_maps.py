import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from scan_lightning.callbacks import LabelMapCallback
from scan_lightning.types import Segmentation


class Predictor(LightningModule):
    """Predicts the class whose number the batch is, of ``classes`` classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.words = tuple(f"word {index}" for index in range(classes))

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> dict[str, list[Segmentation]]:
        label_map = torch.full((3, 5), int(batch[0]))
        return {
            "segmentations": [
                Segmentation(
                    image_id=f"scene/{batch_idx}",
                    label_map=label_map,
                    class_pixels=torch.bincount(label_map.flatten(), minlength=len(self.words)),
                    words=self.words,
                )
            ]
        }


@pytest.mark.parametrize(("classes", "labels"), [(2, [0, 1]), (300, [299, 7])])
def test_label_maps_are_written_losslessly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: int, labels: list[int]
) -> None:
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[LabelMapCallback(directory=tmp_path / "maps")],
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    trainer.predict(Predictor(classes), DataLoader(labels, batch_size=1), return_predictions=False)  # type: ignore[arg-type]
    assert capsys.readouterr().out.count(f"label maps of 2 images: {tmp_path / 'maps'}\n") == 1
    files = sorted((tmp_path / "maps").glob("*.png"))
    assert [np.unique(np.asarray(Image.open(file))).tolist() for file in files] == [[label] for label in labels]
    assert len(json.loads((tmp_path / "maps" / "words.json").read_text("utf-8"))) == classes
