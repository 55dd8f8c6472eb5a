"""What the analyses share: options, the parts of a recipe that they need, and rows that are not measured twice."""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from rich.progress import track

from scan_lightning.callbacks.record import Row, append_row, canonical_json, run_record
from scan_lightning.commands.console import output_console
from scan_lightning.commands.plan import data_of, network_of
from scan_lightning.data.base import SegmentationDataModule
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.scan import ScanConfig
from scan_lightning.types import Batch

ReadRecipe = Callable[[Sequence[str]], Any]
"""From arguments of ``test`` to its configuration, a namespace, without building anything."""

OUTPUT = Path("outputs", "analysis")
STAGES = {"val": "validate", "test": "test"}
"""Splits that may be looked at, and the stage that reads each."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A recipe as an analysis sees it.

    Args:
        config: The configuration of ``test``.
        check_checkpoint: Raises unless a file is a readable checkpoint.
    """

    config: Any
    check_checkpoint: Callable[[Path], None]

    @property
    def network(self) -> ScanConfig:
        """The architecture.

        Raises:
            ValueError: If the recipe is not one of `ScanModule`.
        """
        return network_of(self.config)

    @property
    def settings(self) -> InferenceSettings:
        """The test-time settings."""
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--settings", type=InferenceSettings)
        given = self.config.model.init_args.get("inference")
        if given is None:
            return InferenceSettings()
        found = parser.instantiate_classes(parser.parse_object({"settings": given.as_dict()})).settings
        return found  # type: ignore[no-any-return]

    @property
    def text_cache(self) -> Path | None:
        """Where text features are remembered."""
        folder = self.config.model.init_args.get("text_cache")
        return None if folder is None else Path(str(folder))

    def data(self, options: argparse.Namespace) -> SegmentationDataModule:
        """Make the datamodule and read the split.

        Args:
            options: ``split`` and ``limit``.

        Returns:
            The datamodule; with a limit, a whole number of its batches makes that many images.

        Raises:
            ValueError: If the limit is below 1.
        """
        if options.limit is not None and options.limit < 1:
            raise ValueError(f"limit: expected at least 1, got {options.limit}")
        data = data_of(self.config)
        if options.limit is not None:
            data.eval_batch_size = math.gcd(options.limit, data.eval_batch_size)
        data.prepare_data()
        data.setup(STAGES[options.split])
        return data

    def record(self, what: Mapping[str, Any]) -> Row:
        """Make the record of an analysis, and its key.

        Args:
            what: What else the numbers depend on, plain values.

        Returns:
            ``key``, 16 hexadecimal digits that follow from model, data and ``what``, and the run's record.
        """
        config = self.config.as_dict()
        key = canonical_json({"model": config["model"], "data": config["data"], **what})
        return {"key": hashlib.sha256(key.encode()).hexdigest()[:16], **run_record({**config, "analyse": dict(what)})}


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every analysis.

    Args:
        parser: Of one analysis.
    """
    add = parser.add_argument
    add("-c", "--config", action="append", required=True, metavar="FILE", help="the recipe, then overlays of it")
    add("--split", choices=tuple(STAGES), default="test", help="which images are looked at (test)")
    add("--limit", type=int, metavar="N", help="look at the first N of them, for a try")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes CUDA where there is one (auto)")
    add("--name", default="", metavar="NAME", help="first column of the rows (the analysis's name)")
    add("--variant", default="", metavar="TEXT", help="label of the rows in tables")


def device_of(name: str) -> torch.device:
    """Choose the device.

    Args:
        name: "auto", "cpu" or "cuda".

    Returns:
        The device.

    Raises:
        ValueError: If there is no CUDA where it is wanted.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ValueError("device: expected a machine with CUDA, found none")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def batches_of(data: SegmentationDataModule, options: argparse.Namespace) -> Iterator[Batch]:
    """Go through the images of the split, with a progress bar on the terminal.

    Args:
        data: From `Call.data`.
        options: ``split`` and ``limit``.

    Yields:
        Batches.

    Raises:
        ValueError: If there is no such split.
    """
    loader: Any = data.test_dataloader() if options.split == "test" else data.val_dataloader()
    if not len(loader):
        raise ValueError(f"split: {type(data).__name__} has no images for {options.split!r}")
    count = len(loader) if options.limit is None else min(len(loader), options.limit // data.eval_batch_size)
    errors = output_console(stderr=True)
    disable = not errors.is_terminal
    yield from track(islice(loader, count), "batches", total=count, console=errors, transient=True, disable=disable)


def check_csv(path: Path) -> None:
    """Raise unless rows can be added to a path.

    Args:
        path: Of ``--output``, where it is a file.

    Raises:
        ValueError: If it is a folder, or has no suffix and would look like one.
    """
    if path.is_dir() or not path.suffix:
        raise ValueError(f"output: expected a CSV file such as {path / 'rows.csv'}, got the folder {path}")


def check_folder(path: Path) -> None:
    """Raise unless a path can be a folder of CSV files.

    Args:
        path: Of ``--output``, where it is a folder.

    Raises:
        ValueError: If it is a file, or ends in .csv and would look like one.
    """
    if path.is_file() or path.suffix.lower() == ".csv":
        raise ValueError(f"output: expected a folder for the CSV files, got the file {path}")


def keys_in(path: Path) -> set[str]:
    """Read which rows a file holds.

    Args:
        path: CSV file; it may be missing.

    Returns:
        Their keys.
    """
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        return {row.get("key", "") for row in csv.DictReader(file)}


def add_rows(path: Path, rows: Sequence[Row]) -> None:
    """Add rows to a file, but none whose key it holds.

    Args:
        path: CSV file.
        rows: Rows with a ``key``; floating point numbers are rounded to 6 digits.
    """
    known = keys_in(path)
    for row in rows:
        if row["key"] not in known:
            append_row(path, {name: round(v, 6) if isinstance(v, float) else v for name, v in row.items()})
