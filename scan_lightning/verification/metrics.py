"""Compare the scores of both evaluators on recorded label maps."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import Any

import torch

from scan_lightning.metrics.evaluator import evaluator_scores
from scan_lightning.metrics.functional import confusion_matrix
from scan_lightning.types import ClassHierarchy
from scan_lightning.verification.ledger import Ledger, Stage
from scan_lightning.verification.reference import Reference

TOLERANCE = 1e-9
SCORES = ("mIoU", "fwIoU", "mACC", "pACC")

STAGES = (
    Stage(name="metrics/confusion", tolerance=0, measure="count"),
    Stage(name="metrics/hierarchy", tolerance=0, measure="count", remark="checksums of the packaged parent tables"),
    Stage(name="metrics/vanilla", tolerance=TOLERANCE, measure="absolute", remark="means, in percent"),
    Stage(name="metrics/vanilla_classes", tolerance=TOLERANCE, measure="absolute", remark="every class, in percent"),
    Stage(name="metrics/sg", tolerance=TOLERANCE, measure="absolute", remark="SG-IoU evaluator: means, in percent"),
    Stage(name="metrics/sg_classes", tolerance=TOLERANCE, measure="absolute", remark="every class, in percent"),
)


def check(reference: Reference, ledger: Ledger) -> None:
    """Compare both evaluators on every set of label maps.

    Args:
        reference: The folder.
        ledger: Where results go.
    """
    for name, facts in reference.metrics.items():
        prediction, truth = reference.get(f"{name}/pred"), reference.get(f"{name}/gt")
        if prediction is None or truth is None:
            continue
        classes = int(facts["num_classes"])
        confusion = confusion_matrix(prediction, truth, classes)
        pairs = reference.get(f"{name}/confusion_coo")
        if pairs is not None:
            predicted, true, count = pairs.long()
            expected = torch.zeros(classes + 1, classes + 1, dtype=torch.int64)
            expected[predicted, true] = count
            ledger.compare("metrics/confusion", f"{name}/confusion_coo", confusion, expected[:classes, :classes])
        hierarchy = _hierarchy(facts, ledger, name)
        for evaluator, parents in (("vanilla", None), ("sg", hierarchy)):
            if evaluator in facts and (evaluator == "vanilla" or hierarchy is not None):
                scores = evaluator_scores(confusion, hierarchy=parents)
                _check_scores(reference, ledger, f"{name}/{evaluator}", scores, facts[evaluator], evaluator)


def _check_scores(
    reference: Reference,
    ledger: Ledger,
    prefix: str,
    scores: dict[str, torch.Tensor],
    recorded: dict[str, float],
    evaluator: str,
) -> None:
    """Compare means and classes of one evaluator."""
    for key in SCORES:
        if key in recorded:
            expected = torch.tensor(recorded[key], dtype=torch.float64)
            ledger.compare(f"metrics/{evaluator}", f"{prefix}/{key}", scores[key], expected)
    for key in ("iou", "acc"):
        name = f"{prefix}/{key}"
        ledger.compare(f"metrics/{evaluator}_classes", name, scores[key], reference.get(name))


def _hierarchy(facts: dict[str, Any], ledger: Ledger, name: str) -> ClassHierarchy | None:
    """Give a set's parents: its own table, or the packaged one of as many classes if its checksum is the recorded."""
    table, classes = facts.get("father_table"), int(facts["num_classes"])
    if table is None:
        return None
    checksum = table.get("canonical_sha256")
    if checksum is not None:
        packaged = _packaged_table(classes)
        if packaged is None:
            ledger.fail("metrics/hierarchy", f"{name}: the package has no parents for {classes} classes")
            return None
        ledger.note_error("metrics/hierarchy", name, float(_checksum(packaged) != checksum))
        table = packaged
    parents = {int(child): tuple(_as_list(labels)) for child, labels in table.items()}
    return ClassHierarchy(num_classes=classes, parents=parents)


def _packaged_table(classes: int) -> dict[str, Any] | None:
    """Find the packaged parents of a vocabulary by its number of classes."""
    folder = files("scan_lightning") / "data" / "hierarchies"
    for path in folder.iterdir():
        if path.name.endswith(".json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["num_classes"] == classes:
                table: dict[str, Any] = content["parents"]
                return table
    return None


def _checksum(table: dict[str, Any]) -> str:
    """Hash a table in its canonical form: compact JSON, keys sorted as numbers, values lists."""
    canonical = {child: _as_list(table[child]) for child in sorted(table, key=int)}
    return hashlib.sha256(json.dumps(canonical, separators=(",", ":")).encode()).hexdigest()


def _as_list(labels: Any) -> list[int]:
    """Give one parent or several as a list."""
    return list(labels) if isinstance(labels, list) else [int(labels)]
