"""The released evaluators' output on recorded label maps (tests/parity/README.md), and the packaged hierarchies."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import scan_lightning
from scan_lightning.metrics import SegmentationMetrics, confusion_matrix, evaluator_scores
from scan_lightning.types import ClassHierarchy

PARITY = Path(__file__).parents[1] / "parity"
HIERARCHIES = Path(scan_lightning.__file__).parent / "data" / "hierarchies"
FILES = {"ade150": "ade20k_150", "ade847": "ade20k_847", "pc459": "pascal_context_459"}
SETS = [*FILES, "toy"]

# The record does not say which toy classes are seen. Its values hold with the first half, "any" as the convention, and
# do not hold with "present"; labels 2, 4, 5, 10 and 11 have no truth pixel and only some of them are predicted.
TOY_SEEN = [label < 6 for label in range(12)]


@cache
def recorded() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads((PARITY / "metrics.json").read_text("utf-8")), load_file(PARITY / "metrics.safetensors")


def parents_of(name: str) -> dict[str, list[int]]:
    """The parent table of a class set, parents always as a list."""
    if name in FILES:
        return json.loads((HIERARCHIES / f"{FILES[name]}.json").read_text("utf-8"))["parents"]
    table = recorded()[0][name]["father_table"]
    return {child: parents if isinstance(parents, list) else [parents] for child, parents in table.items()}


def hierarchy_of(name: str) -> ClassHierarchy:
    parents = {int(child): tuple(labels) for child, labels in parents_of(name).items()}
    return ClassHierarchy(num_classes=recorded()[0][name]["num_classes"], parents=parents)


def confusion_of(name: str) -> Tensor:
    facts, tensors = recorded()
    return confusion_matrix(tensors[f"{name}/pred"], tensors[f"{name}/gt"], facts[name]["num_classes"])


@pytest.mark.parametrize("name", SETS)
def test_confusion_matrix_as_recorded(name: str) -> None:
    facts, tensors = recorded()
    size = facts[name]["num_classes"]
    predicted, truth, count = tensors[f"{name}/confusion_coo"].long()
    expected = torch.zeros(size + 1, size + 1, dtype=torch.int64)
    expected[predicted, truth] = count
    assert expected[:, size].sum() > 0, "the record has ignored pixels"
    confusion = confusion_of(name)
    assert torch.equal(confusion, expected[:size, :size])
    occurs = confusion.sum(dim=0) > 0
    assert occurs.sum() == facts[name]["classes_with_gt"]
    assert (occurs | (confusion.sum(dim=1) > 0)).sum() == facts[name]["classes_in_gt_or_pred"]


@pytest.mark.parametrize("evaluator", ["vanilla", "sg"])
@pytest.mark.parametrize("name", SETS)
def test_scores_as_recorded(name: str, evaluator: str) -> None:
    facts, tensors = recorded()
    hierarchy = hierarchy_of(name) if evaluator == "sg" else None
    scores = evaluator_scores(confusion_of(name), hierarchy=hierarchy, seen=TOY_SEEN if name == "toy" else None)
    per_class = {key: scores.pop(key) for key in ("iou", "acc")}
    assert {key: value.item() for key, value in scores.items()} == pytest.approx(facts[name][evaluator], abs=1e-9)
    for key, value in per_class.items():
        expected = tensors[f"{name}/{evaluator}/{key}"]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", SETS)
def test_metric_image_by_image_as_recorded(name: str) -> None:
    facts, tensors = recorded()
    metric = SegmentationMetrics(
        num_classes=facts[name]["num_classes"],
        seen=TOY_SEEN if name == "toy" else None,
        hierarchy=hierarchy_of(name),
    )
    for prediction, target in zip(tensors[f"{name}/pred"], tensors[f"{name}/gt"], strict=True):
        metric.update(prediction, target)
    scores = {key: 100 * value.item() for key, value in metric.compute().items()}
    vanilla, guided = facts[name]["vanilla"], facts[name]["sg"]
    expected = {
        "miou_any": vanilla["mIoU"],
        "miou_present": vanilla["mIoU"] * facts[name]["classes_in_gt_or_pred"] / facts[name]["classes_with_gt"],
        "fwiou": vanilla["fwIoU"],
        "mean_accuracy": vanilla["mACC"],
        "pixel_accuracy": vanilla["pACC"],
        "sg_iou_any": guided["mIoU"],
    }
    if name == "toy":
        expected |= {"miou_seen": vanilla["mIoU-seen"], "miou_unseen": vanilla["mIoU-unseen"]}
        expected |= {"miou_harmonic": vanilla["hIoU-seen"]}
    assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", FILES)
def test_hierarchy_file_has_the_released_table(name: str) -> None:
    facts = recorded()[0][name]
    content = json.loads((HIERARCHIES / f"{FILES[name]}.json").read_text("utf-8"))
    assert set(content) == {"num_classes", "source", "parents", "overwritten", "cleaned"}
    assert content["num_classes"] == facts["num_classes"]
    assert "SCAN" in content["source"]
    table = parents_of(name)
    assert len(table) == facts["father_table"]["entries"]
    assert sum(len(parents) > 1 for parents in table.values()) == facts["father_table"]["entries_with_list"]
    canonical = json.dumps({child: table[child] for child in sorted(table, key=int)}, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == facts["father_table"]["canonical_sha256"]
    assert len(hierarchy_of(name).parents) == len(table)
