"""Calls of ``scan-lightning evaluate`` in the working directory, on striped images."""

import csv
from pathlib import Path
from typing import Any

import torch
import yaml
from stripes import StripesModule

from scan_lightning.cli import main
from scan_lightning.metrics.functional import confusion_matrix, mean_iou, zero_share
from scan_lightning.metrics.similarity import open_mean_iou, text_similarity
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import load_scan

SETTINGS = InferenceSettings(replace_layers=(1,), replace_ratio=0.5)


def write_stripes(path: Path) -> None:
    data = {"data": {"class_path": "stripes.StripesModule", "init_args": {"size": 5}}}
    path.write_text(yaml.safe_dump(data), "utf-8")


def run(*arguments: object) -> int:
    return main(
        ["evaluate", *(str(argument) for argument in arguments), "--output=out", "--trainer.enable_progress_bar=false"]
    )


def rows() -> list[dict[str, str]]:
    with Path("out", "rows.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(name: str = "evaluation") -> list[dict[str, str]]:
    text = Path("out", f"{name}.csv").read_text("utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def expected_scores(weights: Path, size: int) -> dict[str, float]:
    """Score the striped images without Lightning."""
    scan, data = load_scan(weights), StripesModule(size=size)
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    text = scan.encode_vocabulary(data.vocabulary)
    images: Any = data.build_dataset("test")
    for sample in (images[index] for index in range(size)):
        label_map = scan.segment(sample.image, data.vocabulary, settings=SETTINGS, image_id=sample.image_id).label_map
        confusion += confusion_matrix(label_map, sample.label_map, 4)
    similarity = text_similarity(text.features, text.owners, 4)
    return {
        "miou_any": mean_iou(confusion).item(),
        "miou_present": mean_iou(confusion, convention="present").item(),
        "sg_iou_any": mean_iou(confusion, hierarchy=data.hierarchy).item(),
        "zero_share": zero_share(confusion).item(),
        "open_miou": open_mean_iou(confusion, similarity).item(),
    }
