"""``scan-lightning evaluate``: one checkpoint on all benchmarks that are on disk, one table."""

from __future__ import annotations

import argparse
import gc
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from scan_lightning.commands.console import at_least_one
from scan_lightning.commands.evaluate_plan import Planner, Task, Wanted, wanted_benchmarks, wanted_data
from scan_lightning.commands.evaluate_recipe import RecipeParser, Subject, read_subject
from scan_lightning.commands.evaluate_run import read_rows, run_task
from scan_lightning.commands.evaluate_table import print_table, published_table, score_table, write_table
from scan_lightning.data.benchmark_files import what_is_there

PROG = "scan-lightning evaluate"
PROJECT_SETTINGS = Path("experiments", "eval")
"""Folder of overlays in a working copy of the project, for networks without a recipe and recipes from elsewhere."""
_PASSED_ON = ("--trainer.", "--model.", "--data.")


def main(args: Sequence[str], *, check_checkpoint: Callable[[Path], None]) -> int:
    """Run ``scan-lightning evaluate``.

    Args:
        args: Arguments behind the command's name.
        check_checkpoint: Raises unless a file is a readable checkpoint.

    Returns:
        Exit status: 0 if every benchmark has its row, 1 if one failed or the call was wrong, as reported.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(args)
    overrides = _overrides(parser, options, rest)
    try:
        return _run(options, overrides, check_checkpoint)
    except (ValueError, OSError) as error:
        _warn(str(error))
        return 1


def _run(options: argparse.Namespace, overrides: tuple[str, ...], check_checkpoint: Callable[[Path], None]) -> int:
    """Plan everything, run what has no row yet, and write the tables."""
    subject = read_subject(
        options.config,
        ckpt_path=options.ckpt_path,
        weights=options.weights,
        text_cache=options.output / "text_cache",
        check_checkpoint=check_checkpoint,
    )
    wanted, absent = _wanted(options)
    planner = Planner(
        subject=subject,
        parser=RecipeParser(),
        settings=_settings(options),
        backbone=options.backbone,
        overrides=overrides,
        limit=options.limit,
    )
    if planner.settings is None and planner.backbone_name is not None:
        _warn(f"expected {PROJECT_SETTINGS} here or --settings, found neither: benchmarks get the network's settings")
    failures: dict[str, str] = {}
    tasks = _plan(planner, wanted, failures)
    _evaluate(tasks, subject, planner.parser, options.output, failures, force=options.force)
    _report(tasks, absent, failures, options.output, planner.backbone_name or "")
    return int(bool(failures))


def _wanted(options: argparse.Namespace) -> tuple[list[Wanted], list[str]]:
    """Collect the benchmarks that were asked for, or all on disk, and own data."""
    names = [name.strip() for name in (options.benchmarks or "").split(",") if name.strip()]
    wanted: list[Wanted] = []
    absent: list[str] = []
    root = options.root or (None if options.data and not names else Path("data"))
    if root is not None:
        wanted, absent = wanted_benchmarks(root, names)
    for path in options.data:
        wanted.append(wanted_data(path))
        if [entry.name for entry in wanted].count(path.stem) > 1:
            raise ValueError(f"data: the name {path.stem!r} of {path} is taken, rename the file")
    if not wanted:
        raise FileNotFoundError(
            f"root: expected benchmarks below {root}, found none of {', '.join(absent)}; "
            f"{what_is_there(root or Path())}; `scan-lightning data list` tells where to get them, --data FILE takes "
            "your own data"
        )
    return wanted, absent


def _settings(options: argparse.Namespace) -> Path | None:
    """Find the folder of overlays: the given one, ``eval`` beside the recipe, or that of the project's experiments."""
    if options.settings is not None:
        if not options.settings.is_dir():
            raise NotADirectoryError(f"settings: expected a folder of <backbone>/<benchmark>.yaml, {options.settings}")
        return Path(options.settings)
    places = [*(path.parent / "eval" for path in options.config), PROJECT_SETTINGS]
    return next((path for path in places if path.is_dir()), None)


def _plan(planner: Planner, wanted: Sequence[Wanted], failures: dict[str, str]) -> list[Task]:
    """Resolve all configurations before anything runs; data that cannot be read are noted and left out."""
    tasks = []
    for entry in wanted:
        try:
            tasks.append(planner.task(entry))
        except (ValueError, OSError) as error:
            failures[entry.title] = str(error)
            _warn(f"{entry.title}: {error}")
    return tasks


def _evaluate(
    tasks: Sequence[Task],
    subject: Subject,
    parser: RecipeParser,
    output: Path,
    failures: dict[str, str],
    *,
    force: bool,
) -> None:
    """Run the benchmarks that have no row yet; one that fails does not stop the others."""
    done = {} if force else read_rows(output)
    for number, task in enumerate(tasks, start=1):
        images = task.images if task.limit is None else task.limit
        where = f"{task.title} ({number} of {len(tasks)})"
        if task.key in done:
            _say(f"{where}: done before, its row is kept; --force runs it again")
            continue
        _say(f"{where}: {images} images, settings: {task.settings}")
        if number > 1:
            gc.collect()  # the last benchmark's network and Trainer hold one another
        try:
            run_task(task, subject, parser, output)
        except Exception as error:  # whatever is wrong with one benchmark, the others' hours are not lost
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                raise  # the processes would wait for one another; finished benchmarks have their rows
            if not isinstance(error, ValueError | OSError):
                traceback.print_exc()
            failures[task.title] = f"{type(error).__name__}: {error}"
            _warn(f"{task.title}: {failures[task.title]}")


@rank_zero_only
def _report(
    tasks: Sequence[Task], absent: Sequence[str], failures: dict[str, str], output: Path, backbone: str
) -> None:
    """Write and print the tables."""
    found = read_rows(output)
    done = [task for task in tasks if task.key in found and task.title not in failures]
    if not done:
        return
    # A row that was done before keeps its scores; names are those of this call.
    rows = [{**found[task.key], "title": task.title, "settings": task.settings, "backbone": backbone} for task in done]
    remarks = [f"Not on disk: {', '.join(absent)}."] if absent else []
    remarks += [f"Failed: {title}: {message.splitlines()[0]}" for title, message in failures.items()]
    tables = {"evaluation": score_table(rows, remarks), "published": published_table(rows)}
    for name, table in tables.items():
        if table is None:
            for suffix in (".md", ".csv", ".tex"):
                (output / f"{name}{suffix}").unlink(missing_ok=True)  # of an earlier call, of other benchmarks
            continue
        files = write_table(table, output, name)
        print_table(table)
        print(f"written to {', '.join(str(file) for file in files)}\n")


def _overrides(parser: argparse.ArgumentParser, options: argparse.Namespace, rest: Sequence[str]) -> tuple[str, ...]:
    """Collect what is passed on to Lightning; anything else that is not known is refused."""
    given = [
        f"--trainer.{name}={getattr(options, name)}"
        for name in ("accelerator", "devices", "precision")
        if getattr(options, name) is not None
    ]
    if options.num_workers is not None:
        given.append(f"--data.init_args.num_workers={options.num_workers}")
    value_follows = False
    for argument in rest:
        option = argument.startswith(_PASSED_ON)
        if not option and not (value_follows and not argument.startswith("--")):
            parser.error(f"unrecognized argument {argument}")
        value_follows = option and "=" not in argument
    return (*given, *rest)


@rank_zero_only
def _say(text: str) -> None:
    """Tell what goes on, once for all processes."""
    print(text, file=sys.stderr, flush=True)


def _warn(text: str) -> None:
    """Tell what is wrong, once for all processes."""
    _say(f"{PROG}: {text}")


def _parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Test one network on all benchmarks that are on disk, each with its own settings, and write one "
        "table as Markdown, CSV and LaTeX. A benchmark that has been done with the same weights, settings and data is "
        "not run again. Options that start with --trainer., --model. or --data. are passed on as in `test`.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-c", "--config", type=Path, action="append", default=[], metavar="FILE", help="recipe, then overlays of it")
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--ckpt_path", type=Path, metavar="FILE", help="checkpoint of the recipe's network")
    network.add_argument(
        "--weights",
        type=Path,
        metavar="FOLDER",
        help="network that fit has exported; needs no recipe, but takes overlays (the shipped one)",
    )
    add("--root", type=Path, metavar="DIR", help="folder that holds the data sets (data; with --data alone, none)")
    add("--benchmarks", metavar="NAMES", help="such as a150,pc59 (all that are on disk)")
    add("--data", type=Path, action="append", default=[], metavar="FILE", help="own data: a YAML file's section data")
    places = f"eval beside the recipe, else {PROJECT_SETTINGS.as_posix()}"
    add("--settings", type=Path, metavar="DIR", help=f"folder of <backbone>/<benchmark>.yaml ({places})")
    add("--backbone", metavar="NAME", help="such as vit_b16 (that of the configured CLIP)")
    add("--output", type=Path, default=Path("outputs/evaluation"), metavar="DIR", help="(outputs/evaluation)")
    add("--limit", type=at_least_one, metavar="N", help="look at the first N images of each benchmark, for a try")
    add("--force", action="store_true", help="run benchmarks again that have been done")
    add("--num_workers", type=int, metavar="N", help="loading processes")
    add("--accelerator", help="as Lightning's Trainer")
    add("--devices", help="as Lightning's Trainer")
    add("--precision", help="as Lightning's Trainer")
    return parser
