"""``scan-lightning pairs truth``: pairs from the masks and class names of a benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scan_lightning.callbacks.record import canonical_json
from scan_lightning.commands.console import files_progress, output_console, print_line
from scan_lightning.data.base import SegmentationDataModule
from scan_lightning.data.pair_index import PairIndexWriter
from scan_lightning.data.parallel import default_workers, worker_pool
from scan_lightning.data.truth_pairs import TruthPairs

NAME = "truth"
HELP = "From the masks and class names of any benchmark: COCO-Stuff, a folder, shapes."
DESCRIPTION = (
    "Make the pairs of one split of a benchmark: every region of a class, with the class's name. Of the training split "
    "only classes of the training vocabulary count. Paths of images start at the benchmark's root; generated images "
    "are written beside the index."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser: Of the command.
    """
    add = parser.add_argument
    add("output", type=Path, metavar="OUTPUT", help="folder of the index")
    add("-c", "--config", action="append", required=True, metavar="FILE", help="recipe or overlay whose data: names "
        "the benchmark, such as experiments/data/coco_stuff.yaml; may be repeated")  # fmt: skip
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of the benchmark, such as root=data",
    )
    add("--split", choices=("train", "val", "test"), default="train", help="which split (train)")
    add("--kind", choices=("class", "component"), default="class", help="what a region is: all pixels of a class in an "
        "image, as the segmenter's masks are, or connected pieces of it (class)")  # fmt: skip
    add("--min-area", type=int, default=64, metavar="N", help="regions with fewer pixels are left out (64)")
    add("--images-per-part", type=int, default=500, metavar="N", help="images per file of the index (500)")
    add("--workers", type=int, default=default_workers(), metavar="N", help="processes (one per processor)")


def run(options: argparse.Namespace) -> None:
    """Make the index and print what is in it.

    Args:
        options: As `add_options` describes them.

    Raises:
        ValueError: If a recipe, an argument or a file of the benchmark is wrong.
        OSError: If a file is missing or the disk is full.
    """
    for name in ("min_area", "images_per_part"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(options, name)}")
    recipe = read_data_recipe(options.config, options.set)
    data = build_data(recipe)
    truth = TruthPairs.of(data, split=options.split, kind=options.kind, min_area=options.min_area)
    images, step = len(truth.source), options.images_per_part
    ranges = [range(start, min(start + step, images)) for start in range(0, images, step)]
    writer = PairIndexWriter(
        options.output,
        made_from={
            "source": NAME,
            "data": _without_root(recipe),
            **{name: getattr(options, name) for name in ("split", "kind", "min_area", "images_per_part")},
            "images": images,
        },
        parts=len(ranges),
    )
    missing = writer.missing()
    with worker_pool(options.workers if len(missing) > 1 else 0) as spread, files_progress() as progress:
        bar = progress.add_task("parts", total=len(missing))
        for _ in spread(truth.write, [(ranges[part], writer.path(part)) for part in missing]):
            progress.advance(bar)
    index = writer.finish(images_beside=truth.root is None, vocabulary=data.vocabulary)
    where = "beside the index" if truth.root is None else "below the benchmark's root"
    line = f"{options.output}: {len(index):,} pairs of {images:,} images in {writer.parts} files, images {where}"
    print_line(output_console(), line)


def read_data_recipe(files: Sequence[str], changes: Sequence[str]) -> dict[str, Any]:
    """Read what the ``data:`` of recipes says.

    Args:
        files: YAML files; later ones change earlier ones.
        changes: ``KEY=VALUE``, arguments of the DataModule.

    Returns:
        ``class_path`` and ``init_args``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If one is no YAML mapping, no file names a DataModule or a change is wrong.
    """
    merged = OmegaConf.create({})
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"config: no file {file}")
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{file}: expected YAML: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{file}: expected a mapping, got {type(content).__name__}")
        merged = OmegaConf.merge(merged, {"data": content.get("data") or {}})  # type: ignore[assignment]
    try:
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([f"data.init_args.{each}" for each in changes]))  # type: ignore[assignment]
        recipe: Any = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"set: expected KEY=VALUE: {error}") from error
    if "class_path" not in recipe.get("data", {}):
        raise ValueError(f"config: expected a 'data' with a class_path in {', '.join(files)}, found none")
    found: dict[str, Any] = recipe["data"]
    return found


def build_data(recipe: dict[str, Any]) -> SegmentationDataModule:
    """Build the DataModule of a recipe.

    Args:
        recipe: ``class_path`` and ``init_args``.

    Returns:
        The DataModule.

    Raises:
        ValueError: If there is no such benchmark, or an argument is wrong.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationDataModule, "data", required=True)
    given = {"class_path": recipe["class_path"], "init_args": {"batch_size": 1} | dict(recipe.get("init_args") or {})}
    try:
        data: SegmentationDataModule = parser.instantiate_classes(parser.parse_object({"data": given})).data
    except jsonargparse.ArgumentError as error:
        raise ValueError(f"data: {error}") from error
    return data


def _without_root(recipe: dict[str, Any]) -> str:
    """Describe the benchmark without saying where it lies, nor how it is loaded."""
    left_out = ("root", "batch_size", "eval_batch_size", "num_workers", "seed", "train_transform", "eval_transform")
    arguments = {name: value for name, value in (recipe.get("init_args") or {}).items() if name not in left_out}
    return canonical_json({"class_path": recipe["class_path"], "init_args": arguments})
