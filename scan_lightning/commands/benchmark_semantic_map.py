"""``scan-lightning benchmark semantic-map``: memory and time of the class-by-pixel stage, beside the whole tensor."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.augmentation import ViewOutput, merged_labels, plan_views
from scan_lightning.models.inference import InferenceSettings, semantic_labels, upsample_masks
from scan_lightning.models.preprocessing import padded_size

NAME = "semantic-map"
HELP = "Peak memory and time of the semantic map of many classes, beside the full K x H x W tensor."
DESCRIPTION = (
    "Measure the stage that turns class scores and masks of proposals into a label map: in tiles, as a test does it, "
    "and with the full K x H x W float32 tensor. Each way runs in a process of its own. On the CPU, memory is the "
    "process's peak resident size beyond what it held before; on CUDA it is the allocator's."
)
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be labelled.

    Args:
        classes: K.
        queries: Q.
        size: Size of the network's input, (H, W).
        output_size: Size of the label map, (H0, W0).
        device: "cpu" or "cuda".

    Raises:
        ValueError: If a number is below 1.
    """

    classes: int
    queries: int
    size: tuple[int, int]
    output_size: tuple[int, int]
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("classes", "queries", "size", "output_size"):
            value = getattr(self, name)
            if (min(value) if isinstance(value, tuple) else value) < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")

    @property
    def full_bytes(self) -> int:
        """Size of the float32 tensor K x H x W."""
        return 4 * self.classes * self.size[0] * self.size[1]

    def proposals(self) -> tuple[Tensor, Tensor]:
        """Draw class scores (Q, K) and mask logits (Q, H' / 4, W' / 4)."""
        generator = torch.Generator().manual_seed(0)
        height, width = padded_size(self.size)
        scores = torch.randn(self.queries, self.classes, generator=generator).softmax(-1)
        logits = 4 * torch.randn(self.queries, height // 4, width // 4, generator=generator)
        return scores.to(self.device), logits.to(self.device)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a way to label costs.

    Attributes:
        memory: Peak bytes beyond the inputs.
        seconds: Time of one map.
    """

    memory: int
    seconds: float


def in_tiles(problem: Problem) -> Callable[[], Tensor]:
    """Prepare the way that `Scan.predict` goes.

    Args:
        problem: What is to be labelled.

    Returns:
        A function that makes the label map.
    """
    scores, logits = problem.proposals()
    masks = upsample_masks(logits, padded=padded_size(problem.size), size=problem.size)
    return lambda: semantic_labels(scores, masks, size=problem.output_size)


def in_tiles_with_flip(problem: Problem) -> Callable[[], Tensor]:
    """Prepare the way that `Scan.predict` goes with ``flip``: two views.

    Args:
        problem: What is to be labelled.

    Returns:
        A function that makes the label map.
    """
    scores, logits = problem.proposals()
    outputs = [
        ViewOutput(view=view, scores=scores, mask_logits=logits, padded=padded_size(view.size))
        for view in plan_views(problem.size, InferenceSettings(flip=True))
    ]
    return lambda: merged_labels(outputs, size=problem.output_size)


def whole(problem: Problem) -> Callable[[], Tensor]:
    """Prepare the plain way: the full tensor, resized, its maximum.

    Args:
        problem: What is to be labelled.

    Returns:
        A function that makes the label map.
    """
    scores, logits = problem.proposals()
    masks = upsample_masks(logits, padded=padded_size(problem.size), size=problem.size)

    def label() -> Tensor:
        summed = torch.einsum("qk,qhw->khw", scores, masks)
        if problem.size != problem.output_size:
            summed = F.interpolate(summed[None], size=problem.output_size, mode="bilinear", align_corners=False)[0]
        return summed.argmax(0)

    return label


WAYS: dict[str, Callable[[Problem], Callable[[], Tensor]]] = {
    "tiles": in_tiles,
    "tiles, flip": in_tiles_with_flip,
    "full tensor": whole,
}
"""Ways to the label map, with the names they have in the table."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the measurement's options.

    Args:
        parser: Of the measurement.
    """
    add = parser.add_argument
    add("--classes", type=int, default=847, metavar="K", help="classes (847, those of ADE20K-full)")
    add("--queries", type=int, default=100, metavar="Q", help="proposals (100)")
    add("--height", type=int, default=640, metavar="H", help="height of the network's input (640)")
    add("--width", type=int, default=854, metavar="W", help="width of the network's input (854)")
    add("--output-height", type=int, metavar="H", help="height of the label map (the input's)")
    add("--output-width", type=int, metavar="W", help="width of the label map (the input's)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes CUDA where there is one (auto)")


def run(options: argparse.Namespace) -> None:
    """Measure and print.

    Args:
        options: As `add_options` describes them.

    Raises:
        ValueError: If a number is below 1, or there is no such device.
    """
    found = torch.cuda.is_available()
    if options.device == "cuda" and not found:
        raise ValueError("device: expected a machine with CUDA, found none")
    height, width = options.height, options.width
    problem = Problem(
        classes=options.classes,
        queries=options.queries,
        size=(height, width),
        output_size=(
            height if options.output_height is None else options.output_height,
            width if options.output_width is None else options.output_width,
        ),
        device="cuda" if found and options.device != "cpu" else "cpu",
    )
    _report(measure_all(problem), problem)


def measure_all(problem: Problem) -> dict[str, Cost]:
    """Measure every way, each in a fresh process.

    Args:
        problem: What is to be labelled.

    Returns:
        The costs, under the names of `WAYS`.

    Raises:
        MemoryError: If a process was ended from outside, as for want of memory.
    """
    context = multiprocessing.get_context("spawn")
    costs = {}
    for name in WAYS:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                costs[name] = pool.submit(measure, name, problem).result()
            except BrokenProcessPool as error:
                raise MemoryError(f"{name}: the process was ended, probably for want of memory") from error
    return costs


def measure(name: str, problem: Problem) -> Cost:
    """Measure one way in this process, which should have done nothing else before.

    Args:
        name: A key of `WAYS`.
        problem: What is to be labelled.

    Returns:
        Its cost.
    """
    label = WAYS[name](problem)
    on_cuda = problem.device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        _forget_peak()
    before = torch.cuda.memory_allocated() if on_cuda else _memory("VmRSS")
    label()
    peak = torch.cuda.max_memory_allocated() if on_cuda else _memory("VmHWM")
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        int(label()[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return Cost(memory=max(0, peak - before), seconds=sorted(seconds)[1])


def _forget_peak() -> None:
    """Let the kernel's record of this process's peak start anew, where it can; otherwise the peak is an upper bound."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _memory(what: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes that this process holds in memory, now (VmRSS) or at most (VmHWM); elsewhere than on Linux at most."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts the parent's peak as well, until this process has outgrown it
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(lines[what].split()[0]) * 1024
    try:
        import resource
    except ImportError as error:
        raise OSError("this system does not tell a process's memory; measure with --device cuda") from error
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _report(costs: dict[str, Cost], problem: Problem) -> None:
    """Print the table."""
    (height, width), (out_height, out_width) = problem.size, problem.output_size
    console = Console()
    table = Table(title=f"{problem.classes} classes at {height}x{width}, map of {out_height}x{out_width}")
    for column in ("way", "peak memory", "share of K x H x W", "seconds per map"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, cost in costs.items():
        share = cost.memory / problem.full_bytes
        table.add_row(name, f"{cost.memory / MIB:.0f} MiB", f"{share:.2f}", f"{cost.seconds:.2f}")
    console.print(table)
    masks = 4 * problem.queries * height * width
    console.print(
        f"K x H x W in float32: {problem.full_bytes / MIB:.0f} MiB. Peaks are beyond the stage's inputs, of which the "
        f"masks (Q x H x W) take {masks / MIB:.0f} MiB; with flip they stay coarse, {2 * masks / 16 / MIB:.0f} MiB.",
    )
    console.print(f"{problem.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
