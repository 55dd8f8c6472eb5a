"""What was compared, how large the errors were, and whether they are tolerable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Measure = Literal["relative", "absolute", "count"]
Verdict = Literal["passed", "FAILED", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A row of the table: tensors that belong together.

    Args:
        name: Like the tensors' names, without the image.
        tolerance: Largest error that passes.
        measure: "relative": largest absolute difference over the largest absolute reference value; "absolute": the
            difference itself; "count": number of elements that differ.
        remark: What a reader of the table should know.
    """

    name: str
    tolerance: float = 1e-4
    measure: Measure = "relative"
    remark: str = ""


@dataclass(kw_only=True)
class Row:
    """Result of a stage.

    Attributes:
        stage: What was compared.
        tensors: Number of comparisons.
        error: The largest error; infinite where shapes differ or a value is not finite.
        worst: Name of the tensor that has it.
        notes: Remarks that came up while comparing.
        problem: Why the stage failed otherwise than by a number; empty if it did not.
    """

    stage: Stage
    tensors: int = 0
    error: float = 0.0
    worst: str = ""
    notes: list[str] = field(default_factory=list)
    problem: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the stage passed; skipped if nothing was compared and nothing went wrong."""
        if self.problem or self.error > self.stage.tolerance:
            return "FAILED"
        return "passed" if self.tensors else "skipped"

    @property
    def remark(self) -> str:
        """What the table says beside the numbers."""
        parts = [self.stage.remark, *self.notes] if self.tensors else list(self.notes)
        if self.verdict == "FAILED":
            parts.insert(0, self.problem or f"worst: {self.worst}")
        elif self.verdict == "skipped" and not parts:
            parts = ["absent"]
        return "; ".join(part for part in parts if part)


class Ledger:
    """Collect comparisons by stage.

    Args:
        stages: All stages, in the order of the table.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._rows = {stage.name: Row(stage=stage) for stage in stages}

    @property
    def rows(self) -> list[Row]:
        """All rows, in order."""
        return list(self._rows.values())

    def compare(self, stage: str, name: str, ours: Tensor, recorded: Tensor | None) -> None:
        """Compare one tensor with its reference; does nothing where there is no reference.

        Args:
            stage: Name of the stage.
            name: Name of the tensor.
            ours: What this project computes.
            recorded: What the reference implementation computed, NaN where it gave none.
        """
        if recorded is None:
            return
        if ours.shape != recorded.shape:
            self.fail(stage, f"{name}: shape {tuple(ours.shape)}, expected {tuple(recorded.shape)}")
            return
        self.note_error(stage, name, _error(ours, recorded, self._rows[stage].stage.measure))

    def note_error(self, stage: str, name: str, error: float) -> None:
        """Enter an error that was measured elsewhere.

        Args:
            stage: Name of the stage.
            name: Name of what was compared.
            error: In the stage's measure.
        """
        row = self._rows[stage]
        row.tensors += 1
        if not row.worst or not error <= row.error:
            row.error, row.worst = (error if error == error else torch.inf), name

    def remark(self, stage: str, text: str) -> None:
        """Add a remark to a stage, once.

        Args:
            stage: Name of the stage.
            text: The remark.
        """
        if text not in self._rows[stage].notes:
            self._rows[stage].notes.append(text)

    def fail(self, stage: str, problem: str) -> None:
        """Let a stage fail whatever its numbers are.

        Args:
            stage: Name of the stage.
            problem: What is wrong; the first one of a stage is kept.
        """
        row = self._rows[stage]
        row.problem = row.problem or problem
        row.error = torch.inf


def _error(ours: Tensor, recorded: Tensor, measure: Measure) -> float:
    """Measure the error of one tensor; places where both are NaN agree."""
    if ours.numel() == 0:
        return 0.0
    a, b = ours.detach().double().flatten(), recorded.double().flatten()
    known = ~(a.isnan() & b.isnan())
    if not bool(known.any()):
        return 0.0
    a, b = a[known], b[known]
    if measure == "count":
        return float((a != b).sum())
    difference = float((a - b).abs().max())
    scale = float(b.abs().max()) if measure == "relative" else 1.0
    return difference / (scale or 1.0)
