"""``scan-lightning plan``: what a recipe will take, before anything is downloaded or allocated."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence, Sized
from typing import Any

import torch
from jsonargparse import ArgumentParser
from rich.console import Console

from scan_lightning.callbacks.plan import Schedule
from scan_lightning.commands.plan_tables import compute_lines, memory_table, parts_table, stages_table
from scan_lightning.data.base import SegmentationDataModule
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.layout import DataLayoutError
from scan_lightning.data.sampling import check_batch_size
from scan_lightning.models.footprint import measure_footprint
from scan_lightning.models.scan import ScanConfig

PROG = "scan-lightning plan"
AUTOCAST: dict[str, torch.dtype | None] = {
    "32": None,
    "32-true": None,
    "bf16": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "16": torch.float16,
    "16-mixed": torch.float16,
}
"""Precisions of the Trainer for which memory is estimated, and what operations run in."""

ReadRecipe = Callable[[Sequence[str]], Any]
"""From arguments of ``fit`` to its configuration, a namespace, without building anything."""


def main(args: Sequence[str], *, read: ReadRecipe) -> int:
    """Run ``scan-lightning plan``.

    Args:
        args: Arguments behind the command's name.
        read: Reads a recipe as ``fit`` does.

    Returns:
        Exit status: 0, or 1 if the recipe cannot be planned, as reported.
    """
    options, rest = _parser().parse_known_args(args)
    config = read(["fit", *(f"--config={path}" for path in options.config), *rest])
    try:
        _plan(config)
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Tell what a recipe of ScanModule will take: parameters, operations, memory, steps. Nothing is "
        "downloaded or allocated. Options of fit may follow: --trainer.devices 8",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        required=True,
        metavar="FILE",
        help="the recipe, then overlays in their order",
    )
    return parser


def _plan(config: Any) -> None:
    """Measure and print."""
    network = network_of(config)
    data = data_of(config)
    images, remarks = count_images(data)
    schedule = schedule_of(config, data, images)
    if images is not None:
        check_batch_size(schedule.batch, images=images // schedule.processes)
    precision = str(config.trainer.precision or "32-true")
    if precision not in AUTOCAST:
        raise ValueError(f"precision: expected one of {', '.join(AUTOCAST)} to estimate memory, got {precision!r}")
    side = data.train_transform.crop_size
    footprint = measure_footprint(
        network,
        batch=schedule.batch,
        side=side,
        words=sum(map(len, data.training_vocabulary.synonyms)),
        autocast=AUTOCAST[precision],
        checkpointing=bool(config.model.init_args.get("gradient_checkpointing")),
    )
    console = Console()
    for title, table in (
        ("Parameters", parts_table(footprint)),
        (f"Forward pass for one image of {side} x {side} pixels", stages_table(footprint)),
        (f"Memory of a process: {schedule.batch} images, precision {precision}", memory_table(footprint)),
    ):
        console.print(title, table, sep="\n", highlight=False)
    for line in [*schedule.lines(), *remarks, *compute_lines(footprint, schedule, network.segmenter.num_queries)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def network_of(config: Any) -> ScanConfig:
    """Build the architecture that a recipe names.

    Args:
        config: Configuration of ``fit``.

    Returns:
        The architecture.

    Raises:
        ValueError: If the recipe is not one of `ScanModule`.
    """
    network = config.model.get("init_args", {}).get("network")
    if network is None:
        raise ValueError(f"expected a recipe of ScanModule, got one of {config.model.get('class_path')}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=ScanConfig)
    found = parser.instantiate_classes(parser.parse_object({"network": network.as_dict()}))
    return found.network  # type: ignore[no-any-return]


def data_of(config: Any) -> SegmentationDataModule:
    """Build the datamodule that a recipe names; it opens no file yet.

    Args:
        config: Configuration of ``fit``.

    Returns:
        The datamodule.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationDataModule, "data", required=True)
    found = parser.instantiate_classes(parser.parse_object({"data": config.data.as_dict()}))
    return found.data  # type: ignore[no-any-return]


def count_images(data: SegmentationDataModule) -> tuple[int | None, list[str]]:
    """Count the images of the training split.

    Args:
        data: The datamodule.

    Returns:
        Their number, None in a stream, and remarks: a benchmark that is not on disk has its published number.

    Raises:
        DataLayoutError: If the data are not there and their number was not published.
    """
    try:
        dataset = data.build_dataset("train")
    except DataLayoutError:
        if not isinstance(data, BenchmarkDataModule):
            raise
        return data.benchmark.splits[data.train_split], [f"images as published: nothing was found below {data.root}"]
    return (len(dataset) if isinstance(dataset, Sized) else None), []


def schedule_of(config: Any, data: SegmentationDataModule, images: int | None) -> Schedule:
    """Read the schedule from a recipe.

    Args:
        config: Configuration of ``fit``.
        data: Its datamodule.
        images: Images of the training split.

    Returns:
        The schedule.
    """
    trainer = config.trainer
    return Schedule(
        images=images,
        batch=data.batch_size,
        processes=int(trainer.num_nodes) * count_devices(trainer.devices, trainer.accelerator),
        accumulation=int(trainer.accumulate_grad_batches),
        max_steps=int(trainer.max_steps),
        max_epochs=trainer.max_epochs,
        limit=1.0 if trainer.limit_train_batches is None else trainer.limit_train_batches,
    )


def count_devices(devices: Any, accelerator: Any) -> int:
    """Count the processes of a machine from the Trainer's options.

    Args:
        devices: A number, a list, a text such as "8" or "0,1", or "auto" or -1 for all that there are.
        accelerator: The Trainer's accelerator.

    Returns:
        At least 1.

    Example:
        >>> count_devices("0,1", "gpu"), count_devices([3], "gpu"), count_devices("auto", "cpu")
        (2, 1, 1)
    """
    if isinstance(devices, str) and devices != "auto":
        named = [part for part in devices.split(",") if part.strip()]
        devices = named if "," in devices else int(devices)
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return max(1, len(devices))
    if devices in ("auto", -1):
        return 1 if accelerator == "cpu" else max(1, torch.cuda.device_count())
    return max(1, int(devices))
