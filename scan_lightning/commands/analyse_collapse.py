"""``scan-lightning analyse collapse``: do unseen classes end up as seen ones?"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from scan_lightning.analysis import Collapse, GroupGeometry, Spread, measure_collapse
from scan_lightning.callbacks.record import Row, file_hash
from scan_lightning.commands.analyse_recipe import OUTPUT, Call, add_rows, batches_of, check_csv, device_of, keys_in
from scan_lightning.commands.console import make_table, output_console, print_line
from scan_lightning.commands.evaluate_recipe import folder_hash
from scan_lightning.models.checkpoints import start_from
from scan_lightning.models.pretrained import CONFIG_NAME, WEIGHTS_NAME, read_record
from scan_lightning.module import ScanModule

NAME = "collapse"
HELP = "In-vocabulary bias: where pixels and proposal embeddings of unseen classes go. What SIM is for."
DESCRIPTION = (
    "Measure in trained networks which share of the pixels of unseen classes goes to seen ones (with CS, without, and "
    "by the segmenter alone), how far the embeddings of true masks lie from the texts of seen classes and from their "
    "own, and how close the classes' mean embeddings lie together. One row per network. To compare with a network "
    "without SIM, call it again with that network's overlay and weights."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser: Of the command.
    """
    add = parser.add_argument
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--ckpt_path", type=Path, action="append", default=[], metavar="FILE", help="checkpoint of "
        "the recipe's network; may be repeated, for networks of several seeds")  # fmt: skip
    network.add_argument("--weights", type=Path, action="append", default=[], metavar="FOLDER", help="the recipe's "
        "network as fit has exported it; may be repeated")  # fmt: skip
    add("--seed", type=int, action="append", default=[], metavar="N", help="seed that the network was trained with, "
        "once for each (that of the recipe)")  # fmt: skip
    add("--output", type=Path, default=OUTPUT / "collapse.csv", metavar="CSV", help="file of rows (%(default)s)")


def run(options: argparse.Namespace, call: Call) -> None:
    """Measure every network, print tables and add rows.

    Args:
        options: As `add_options` describes them.
        call: The recipe.

    Raises:
        ValueError: If the recipe, a network's weights or an option is wrong.
        OSError: If a file is missing or the disk is full.
    """
    check_csv(options.output)
    seeds = _seeds(options, call)
    paths = [*options.ckpt_path, *options.weights]
    for path in options.ckpt_path:
        _check_checkpoint(path, call)
    for path in options.weights:
        _check_folder(path, call)
    device, data = device_of(options.device), call.data(options)
    if all(data.vocabulary.seen):
        raise ValueError(f"data: expected unseen classes, all {data.vocabulary.num_classes} of the split are seen")
    console = output_console()
    module = _module(call)
    for path, seed in zip(paths, seeds, strict=True):
        digest = folder_hash(path, (CONFIG_NAME, WEIGHTS_NAME)) if path.is_dir() else file_hash(path)
        what = {name: getattr(options, name) for name in ("split", "limit")} | {"checkpoint": digest}
        record = call.record({"analysis": NAME, **what})
        if record["key"] in keys_in(options.output):
            print_line(console, f"{path}: measured before, its row is in {options.output}")
            continue
        _load(module, path)
        scan = module.network.to(device).eval()
        found = measure_collapse(
            scan,
            batches_of(data, options),
            vocabulary=data.vocabulary,
            text=scan.encode_vocabulary(data.vocabulary),
            settings=module.inference,
        )
        label = options.variant or ("without SIM" if scan.semantic_integration is None else "with SIM")
        _print(found, f"{label}, seed {seed}: {path.name}")
        row: Row = {"name": options.name or NAME, "variant": label, **record, "seed": seed}
        row |= {"checkpoint_hash": what["checkpoint"], "split": options.split, "images": found.images}
        add_rows(options.output, [{**row, **found.columns()}])
        print_line(console, f"row added to {options.output}")


def _check_checkpoint(path: Path, call: Call) -> None:
    """Raise unless a file is a checkpoint; what `save_scan` writes is taken by another option."""
    if path.is_dir():
        raise IsADirectoryError(f"ckpt_path: expected a checkpoint, {path} is a folder; --weights takes exported ones")
    if path.is_file() and path.name == WEIGHTS_NAME:
        raise ValueError(f"ckpt_path: expected a checkpoint, {path} is of an exported network: --weights {path.parent}")
    call.check_checkpoint(path)


def _check_folder(path: Path, call: Call) -> None:
    """Raise unless a folder holds a network that fills every part of the recipe's."""
    saved = read_record(path)[1]
    if call.network.semantic_integration is not None and saved.semantic_integration is None:
        raise ValueError(f"weights: the network in {path} has no SIM, that of the recipe has: give its overlay as well")


def _load(module: ScanModule, path: Path) -> None:
    """Put the weights of a checkpoint or of an exported network in place."""
    if path.is_dir():
        start_from(module.network, path)
        return
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])


def _seeds(options: argparse.Namespace, call: Call) -> list[int]:
    """Tell which seed each network was trained with."""
    seeds: list[int] = options.seed
    count, what = (len(options.weights), "folders") if options.weights else (len(options.ckpt_path), "checkpoints")
    if not seeds and count == 1:
        known = call.config.get("seed_everything")
        seeds = [known if type(known) is int else 0]
    if len(seeds) != count:
        raise ValueError(f"seed: expected one for each of {count} {what}, got {len(seeds)}")
    return seeds


def _module(call: Call) -> ScanModule:
    """Build the recipe's module; what training started from is in the weights, and need not be there any more."""
    call.network.segmenter  # noqa: B018 - raises unless it is a recipe of ScanModule
    section: dict[str, Any] = call.config.model.as_dict()
    section["init_args"]["initial_weights"] = None
    section["init_args"]["network"]["segmenter"]["weights"] = None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ScanModule, "model", required=True)
    made: ScanModule = parser.instantiate_classes(parser.parse_object({"model": section})).model
    return made


def _print(found: Collapse, title: str) -> None:
    """Print the numbers of one network in three tables."""
    row = found.columns()
    console = output_console()
    names = ("unseen_right", "unseen_within", "unseen_to_seen", "seen_right", "seen_to_unseen", "miou_seen",
             "miou_unseen")  # fmt: skip
    pixels = make_table(f"{title}: truth pixels in %", [("", "left"), *((name, "right") for name in names)])
    for condition in found.confusions:
        pixels.add_row(condition, *(_percent(row[f"{name}_{condition}"]) for name in names))
    console.print(pixels)
    for what, group, parts in (
        ("embeddings of true masks", GroupGeometry, ("unseen", "seen")),
        ("spread of the classes", Spread, ("centroid", "text")),
    ):
        columns = list(group.__dataclass_fields__)
        table = make_table(what, [("", "left"), *((name, "right") for name in columns)])
        for part in parts:
            table.add_row(part, *(_number(row[f"{part}_{name}"]) for name in columns))
        console.print(table)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float) -> str:
    """Write a count as it is and a measure with three decimals."""
    return str(value) if isinstance(value, int) else "-" if math.isnan(value) else f"{value:.3f}"
