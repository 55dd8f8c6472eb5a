"""Compare matching and losses, at recorded random points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scan_lightning.losses.mask_classification import LossConfig, MaskClassificationLoss
from scan_lightning.verification.ledger import Ledger, Stage
from scan_lightning.verification.reference import Reference

POINTS_TOLERANCE = 0.01
"""Share of points that may differ: nearly equal uncertainties at the border of the choice."""

INJECTED = "recorded points as input"

CRITERION_STAGES = (
    Stage(name="cost", remark=INJECTED),
    Stage(name="match", tolerance=0, measure="count", remark=INJECTED),
    Stage(
        name="points",
        tolerance=POINTS_TOLERANCE,
        measure="absolute",
        remark="share of the uncertain points chosen otherwise",
    ),
    Stage(name="losses", remark=INJECTED),
)
"""What `CriterionCheck` compares; the names are to be given a prefix."""


def criterion_stages(prefix: str) -> tuple[Stage, ...]:
    """Give the stages of `CriterionCheck` under a prefix.

    Args:
        prefix: Such as "train/".
    """
    return tuple(replace(stage, name=prefix + stage.name) for stage in CRITERION_STAGES)


def output_name(output: int) -> str:
    """Name an output as the records do: "final", then "aux0" and so on.

    Args:
        output: 0 for the final one, 1 + i for auxiliary output i.
    """
    return "final" if output == 0 else f"aux{output - 1}"


class RecordedPoints:
    """Random points as they were recorded.

    Args:
        reference: The folder.
        prefix: Start of the tensors' names, such as "train/".
    """

    def __init__(self, reference: Reference, prefix: str) -> None:
        self._reference = reference
        self._prefix = prefix

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        recorded = self._reference.get(self._prefix + name)
        if recorded is None or tuple(recorded.shape) != shape:
            found = "none" if recorded is None else str(tuple(recorded.shape))
            raise ValueError(f"{self._prefix}{name}: expected points {shape}, found {found}")
        return recorded

    def matching(self, output: int, image: int, count: int) -> Tensor:
        """See `PointSource.matching`."""
        return self._read(f"{output_name(output)}/matcher_points{image}", (1, count, 2))[0]

    def losses(
        self, output: int, masks_per_image: Sequence[int], oversampled: int, plain: int
    ) -> tuple[Tensor, Tensor]:
        """See `PointSource.losses`."""
        masks, name = sum(masks_per_image), output_name(output)
        return (
            self._read(f"{name}/over_points", (masks, oversampled, 2)),
            self._read(f"{name}/rand_points", (masks, plain, 2)),
        )


class ChosenPoints(RecordedPoints):
    """The points that the reference implementation chose in the end; for a loss that chooses none itself."""

    def losses(
        self, output: int, masks_per_image: Sequence[int], oversampled: int, plain: int
    ) -> tuple[Tensor, Tensor]:
        """See `PointSource.losses`."""
        points = self._read(f"{output_name(output)}/loss_points", (sum(masks_per_image), plain, 2))
        return points[:, :0], points


class CriterionCheck:
    """Compare matching and losses of all outputs.

    Args:
        reference: The folder.
        ledger: Where results go.
        prefix: Start of the stages' and the recorded tensors' names, such as "train/".
        values: Settings and losses of values.json.
        weights: The configuration's MASK_FORMER section, for the weights of losses and costs.
    """

    def __init__(
        self,
        *,
        reference: Reference,
        ledger: Ledger,
        prefix: str,
        values: Mapping[str, Any],
        weights: Mapping[str, Any],
    ) -> None:
        self._reference = reference
        self._ledger = ledger
        self._prefix = prefix
        self._values = values
        self.config = LossConfig(
            class_weight=values.get("cost_class", weights["CLASS_WEIGHT"]),
            mask_weight=values.get("cost_mask", weights["MASK_WEIGHT"]),
            dice_weight=values.get("cost_dice", weights["DICE_WEIGHT"]),
            no_object_weight=values["eos_coef"],
            num_points=values["num_points"],
            oversample_ratio=values["oversample_ratio"],
            importance_ratio=values["importance_sample_ratio"],
        )

    def check_output(
        self, output: int, logits: Tensor, masks: Tensor, targets: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> None:
        """Compare cost, matches, points and losses of one output.

        Args:
            output: 0 for the final one, 1 + i for auxiliary output i.
            logits: float (B, Q, K + 1).
            masks: float (B, Q, h, w).
            targets: For each image float (T, H, W).
            labels: For each image int64 (T,).
        """
        name = f"{self._prefix}{output_name(output)}/"
        loss, points = MaskClassificationLoss(self.config), RecordedPoints(self._reference, self._prefix)
        for image, target in enumerate(targets):
            if f"{name}matcher_points{image}" not in self._reference.tensors:
                return
            coordinates = points.matching(output, image, self.config.num_points)
            cost = loss.cost(logits[image], masks[image], target, labels[image], coordinates)
            recorded = self._reference.get(f"{name}cost{image}")
            self._ledger.compare(f"{self._prefix}cost", f"{name}cost{image}", cost, recorded)
        matches = loss.match(logits, masks, targets, labels, points, output=output)
        for image, pairs in enumerate(matches):
            recorded = self._reference.get(f"{name}match{image}")
            self._ledger.compare(f"{self._prefix}match", f"{name}match{image}", torch.stack(pairs), recorded)
        recorded = self._reference.get(f"{name}loss_points")
        if recorded is None:
            return
        if all(name + drawn in self._reference.tensors for drawn in ("over_points", "rand_points")):
            counts = [len(queries) for queries, _ in matches]
            matched = torch.cat([masks[image, queries] for image, (queries, _) in enumerate(matches)])[:, None]
            chosen = loss.uncertain_points(matched, counts, points, output=output)
            self._check_points(f"{name}loss_points", chosen, recorded)
        self._check_losses(output, logits, masks, targets, labels)

    def _check_points(self, name: str, chosen: Tensor, recorded: Tensor) -> None:
        """Compare chosen points as sets: the order of nearly equal ones may differ."""
        if recorded.shape != chosen.shape:
            self._ledger.fail(f"{self._prefix}points", f"{name}: shape {tuple(chosen.shape)}")
            return
        different = sum(
            len({tuple(point) for point in ours.tolist()} ^ {tuple(point) for point in theirs.tolist()}) / 2
            for ours, theirs in zip(chosen, recorded, strict=True)
        )
        self._ledger.note_error(f"{self._prefix}points", name, different / max(recorded[..., 0].numel(), 1))

    def _check_losses(
        self, output: int, logits: Tensor, masks: Tensor, targets: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> None:
        """Compare the three unweighted losses, at the recorded points."""
        losses = self.injected().output_losses(
            logits, masks, targets, labels, ChosenPoints(self._reference, self._prefix), output=output
        )
        for name, loss in losses.items():
            key = name if output == 0 else f"{name}_{output - 1}"
            value = self._values["losses_unweighted"].get(key)
            recorded = None if value is None else torch.tensor(value)
            self._ledger.compare(f"{self._prefix}losses", self._prefix + key, loss, recorded)

    def injected(self, *, supervise_last_auxiliary: bool = False) -> MaskClassificationLoss:
        """Give the loss that takes `ChosenPoints` as they are.

        Args:
            supervise_last_auxiliary: See `LossConfig`.
        """
        return MaskClassificationLoss(
            replace(self.config, importance_ratio=0.0, supervise_last_auxiliary=supervise_last_auxiliary)
        )
