"""Compare a training step with recorded random points: logits, matching, losses and gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.convert import to_released
from scan_lightning.models.scan import ScanOutput
from scan_lightning.verification.criterion import INJECTED, ChosenPoints, CriterionCheck, criterion_stages
from scan_lightning.verification.ledger import Ledger, Stage
from scan_lightning.verification.reference import Reference
from scan_lightning.verification.subject import Subject

GRADIENT_TOLERANCE = 1e-3
ZERO_NORM = 1e-4
"""Gradients whose norm is below this share of the largest norm are zero up to rounding; errors are relative to it."""

GRADIENT_SHARE = 0.95
"""Share of a gradient's elements that keep the tolerance; the others may jump where rounding flips a unit."""

STAGES = (
    Stage(name="train/logits", remark="every prediction head"),
    Stage(name="train/pred_masks", remark="every prediction head"),
    *criterion_stages("train/"),
    Stage(name="train/total", remark=INJECTED),
    Stage(name="train/trainable", tolerance=0, measure="count", remark="names of the parameters that get a gradient"),
    Stage(
        name="train/grad_norms",
        tolerance=GRADIENT_TOLERANCE,
        measure="absolute",
        remark=f"relative to each norm, but at least to {ZERO_NORM:g} of the largest",
    ),
    Stage(
        name="train/grad",
        tolerance=GRADIENT_TOLERANCE,
        measure="absolute",
        remark=f"{GRADIENT_SHARE:.0%} of each tensor's elements, relative to its largest",
    ),
    Stage(
        name="train/grad_largest",
        tolerance=2e-2,
        remark="every element; other kernels (oneDNN on, off) alone move single ones by 2e-3",
    ),
)


def read_targets(reference: Reference, padded: tuple[int, int]) -> tuple[list[Tensor], list[Tensor]] | None:
    """Turn the recorded label maps into masks, padded to the batch's size, and labels.

    Args:
        reference: The folder.
        padded: Size of the padded batch.

    Returns:
        For each image bool (T, H', W') and int64 (T,); None where a map is absent.
    """
    ignored = reference.model["SEM_SEG_HEAD"]["IGNORE_VALUE"]
    masks, labels = [], []
    for image in reference.images:
        target = reference.get(f"train/target_map{image.index}")
        if target is None:
            return None
        present = torch.unique(target)
        present = present[present != ignored].long()
        one_hot = target[None] == present[:, None, None]
        masks.append(F.pad(one_hot, (0, padded[1] - target.shape[1], 0, padded[0] - target.shape[0])))
        labels.append(present)
    return masks, labels


def check(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare a training step with all images as one batch.

    Args:
        reference: The folder.
        subject: The network; its gradients are gone afterwards.
        ledger: Where results go.
    """
    batch, values = subject.batch(), reference.values.get("train")
    if batch is None or values is None or not reference.names("train/.*"):
        return
    network = subject.network.train()
    try:
        output: ScanOutput = network(*batch, subject.text)
        _check_step(reference, subject, ledger, output, values)
    finally:
        network.zero_grad(set_to_none=True)
        network.eval()


def _check_step(
    reference: Reference, subject: Subject, ledger: Ledger, output: ScanOutput, values: Mapping[str, Any]
) -> None:
    """Compare the step's output, losses and gradients."""
    masks = torch.stack([output.mask_logits[-1], *output.mask_logits[:-1]])
    logits = torch.stack([output.class_logits[-1], *output.class_logits[:-1]])
    found = reference.strided("train/pred_masks", "q")
    if found is not None:
        recorded, step, name = found
        ledger.compare("train/pred_masks", name, masks[:, :, ::step], recorded)
    recorded_logits = reference.get("train/logits")
    if subject.complete:
        ledger.compare("train/logits", "train/logits", logits, recorded_logits)
    else:
        ledger.remark("train/logits", "weights omitted")
        if recorded_logits is None:
            return
        for stage in ("train/cost", "train/match", "train/losses"):
            ledger.remark(stage, "recorded logits as input")
        logits = recorded_logits
    targets = read_targets(reference, output.padded)
    if targets is None:
        return
    criterion = CriterionCheck(
        reference=reference, ledger=ledger, prefix="train/", values=values, weights=reference.model["MASK_FORMER"]
    )
    floats = [target.float() for target in targets[0]]
    for index in range(len(masks)):
        criterion.check_output(index, logits[index].detach(), masks[index].detach(), floats, targets[1])
    last = f"loss_ce_{len(masks) - 2}"
    loss = criterion.injected(supervise_last_auxiliary=last in values.get("losses_weighted", {}))
    if not loss.config.supervise_last_auxiliary:
        ledger.remark("train/losses", "with those of the last auxiliary output, which the total leaves out")
    if "total" not in values or len(reference.names(r"train/\w+/loss_points")) < len(masks):
        return
    class_logits = [*logits[1:], logits[0]]
    total, _ = loss(class_logits, output.mask_logits, *targets, ChosenPoints(reference, "train/"))
    ledger.compare("train/total", "train/total", total, torch.tensor(values["total"]))
    if subject.complete:
        total.backward()
        _check_gradients(reference, subject, ledger, values)
    else:
        for stage in ("train/trainable", "train/grad_norms", "train/grad", "train/grad_largest"):
            ledger.remark(stage, "weights omitted")


def _check_gradients(reference: Reference, subject: Subject, ledger: Ledger, values: Mapping[str, Any]) -> None:
    """Compare norms and recorded gradients, under released names and with joint projections."""
    trainable = {name: each for name, each in subject.network.named_parameters() if each.requires_grad}
    ours, _ = to_released({name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trainable.items()})
    norms = values.get("grad_norms", {})
    if norms:
        known = set(norms) | set(values.get("trainable_without_grad", []))
        ledger.note_error("train/trainable", ", ".join(sorted(known ^ set(ours))[:3]), len(known ^ set(ours)))
        floor = ZERO_NORM * max(norms.values())
        for name in sorted(set(norms) & set(ours)):
            error = abs(float(ours[name].double().norm()) - norms[name]) / max(norms[name], floor)
            ledger.note_error("train/grad_norms", name, error)
    for match in reference.names(r"train/grad/(.*)"):
        if match[1] not in ours:
            ledger.fail("train/grad_largest", f"{match[0]}: no such trainable parameter here")
            continue
        gradient, recorded = ours[match[1]], reference.tensors[match[0]]
        ledger.compare("train/grad_largest", match[0], gradient, recorded)
        if gradient.shape == recorded.shape:
            errors = (gradient - recorded).abs().flatten() / recorded.abs().max()
            kept = math.ceil(GRADIENT_SHARE * len(errors))
            ledger.note_error("train/grad", match[0], float(errors.kthvalue(kept).values))
