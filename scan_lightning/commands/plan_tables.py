"""What ``scan-lightning plan`` prints: parameters, operations, memory."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from scan_lightning.callbacks.plan import Schedule
from scan_lightning.models.footprint import FROZEN_STAGES, WHOLE_IMAGE, Footprint


def readable_flop(count: float) -> str:
    """Write a number of operations with its unit.

    Args:
        count: Floating point operations.

    Returns:
        Three or four digits and a unit from MFLOP to EFLOP.

    Example:
        >>> readable_flop(527_815_094_272), readable_flop(5.81e18)
        ('527.8 GFLOP', '5.81 EFLOP')
    """
    units = (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))
    unit, size = next(((unit, size) for unit, size in units if count >= size), units[-1])
    value = count / size
    return f"{value:.{1 if value >= 10 else 2}f} {unit}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Lay rows out: names on the left, numbers on the right, the last row set off as the sum."""
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for index, row in enumerate(rows):
        table.add_row(*row, end_section=index == len(rows) - 2)
    return table


def parts_table(footprint: Footprint) -> Table:
    """Lay out the parameters by part.

    Args:
        footprint: Of the network.

    Returns:
        The table.
    """
    sizes = [(part.name, part.trainable, part.frozen) for part in footprint.parts]
    sizes.append(("all", footprint.trainable, footprint.frozen))
    rows = [(name, f"{trainable:,}", f"{frozen:,}") for name, trainable, frozen in sizes]
    return _table(("part", "trainable", "frozen"), rows)


def stages_table(footprint: Footprint) -> Table:
    """Lay out the operations by stage.

    Args:
        footprint: Of the network.

    Returns:
        The table, with the share of each stage.
    """
    total = sum(footprint.flops.values())
    stages = {**footprint.flops, "all": total}
    rows = [(name, readable_flop(count), f"{100 * count / total:.1f}") for name, count in stages.items()]
    return _table(("stage", "operations", "%"), rows)


def memory_table(footprint: Footprint) -> Table:
    """Lay out the memory of a training step.

    Args:
        footprint: Of the network.

    Returns:
        The table, in GiB.
    """
    memory = {**footprint.memory, "all": sum(footprint.memory.values())}
    rows = [(name, f"{count / 2**30:.2f}") for name, count in memory.items()]
    return _table(("what", "GiB"), rows)


def compute_lines(footprint: Footprint, schedule: Schedule, queries: int) -> list[str]:
    """Tell the operations of a step, of the training and of a test, and what the estimates leave out.

    Args:
        footprint: Of the network.
        schedule: Of the training.
        queries: Number of proposals.

    Returns:
        Lines of text.
    """
    step = footprint.training_flops * schedule.effective_batch
    training = "" if schedule.steps is None else f", {readable_flop(step * schedule.steps)} in all"
    regions = readable_flop(queries * footprint.flops[WHOLE_IMAGE])
    again = f", {' and '.join(footprint.recomputed)} run once more" if footprint.recomputed else ""
    return [
        f"step: {readable_flop(step)}{training}; the backward pass counts as two forward passes, that of the "
        f"{', '.join(FROZEN_STAGES)} as none{again}",
        f"test: CLIP of up to {queries} regions adds up to {regions} per image",
        "Operations are those of matrix products, convolutions and attention. Activations are what autograd keeps of "
        "the network's forward pass; the loss, temporary tensors and the libraries' own memory come on top.",
    ]
