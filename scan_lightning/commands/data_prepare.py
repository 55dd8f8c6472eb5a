"""``scan-lightning data prepare``: label files converted once, in the field's layout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scan_lightning.commands.console import files_progress, make_table, output_console, print_line
from scan_lightning.data.benchmarks import Benchmark, load_benchmark
from scan_lightning.data.parallel import default_workers, worker_pool
from scan_lightning.data.preparation import Preparation, PreparationReport, plan_preparation, prepare
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.data.survey import select_benchmarks, splits_on_disk

PROG = "scan-lightning data prepare"
TRAINING_BENCHMARK = "coco_stuff_171"
"""The benchmark that the paper trains on; both of its splits are prepared."""
LISTED = 10
"""Problems of one split that are printed."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One split to prepare."""

    benchmark: Benchmark
    split: str
    plan: Preparation

    @property
    def title(self) -> str:
        """Benchmark and split."""
        return f"{self.benchmark.paper_name} {self.split}"


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning data prepare``.

    Args:
        args: Arguments behind the command's name.

    Returns:
        Exit status: 0 if all files are there, 1 if some are not or the call was wrong, as reported; 130 if it was
        broken off.
    """
    options = _parser().parse_args(args)
    try:
        reports = _prepare(options)
    except KeyboardInterrupt:
        print(f"{PROG}: broken off; files that are there are whole, run it again to go on", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    return int(any(report.problems for report in reports))


def _prepare(options: argparse.Namespace) -> list[PreparationReport]:
    """Plan everything first, so that what is missing is told before hours of work, then do it."""
    tasks = [
        _Task(benchmark=benchmark, split=split, plan=plan_preparation(benchmark, root=options.root, split=split))
        for benchmark in _benchmarks(options)
        for split in _splits(benchmark, options)
    ]
    if not tasks:
        raise ValueError(f"{options.root}: expected published files of at least one split to test on, found none")
    work = any(not task.plan.nothing_to_do for task in tasks)
    reports = []
    with worker_pool(options.workers if work else 0) as spread, files_progress() as progress:
        for task in tasks:
            bar = progress.add_task(task.title, total=len(task.plan.jobs))
            reports.append(prepare(task.plan, spread, advance=lambda bar=bar: progress.advance(bar)))  # type: ignore[misc]
            progress.remove_task(bar)
    _print_reports(tasks, reports)
    return reports


def _benchmarks(options: argparse.Namespace) -> list[Benchmark]:
    """Give the benchmarks whose files are to be made, each once."""
    everything = "all" in options.benchmarks
    meant = select_benchmarks([] if everything else options.benchmarks, root=options.root)
    for benchmark in meant:
        if benchmark.converted_as is None and not everything:
            raise ValueError(
                f"{benchmark.short}: nothing to prepare, the published label files of {benchmark.paper_name} hold its "
                "labels and are read as they are"
            )
    return [load_benchmark(key) for key in dict.fromkeys(b.converted_as for b in meant) if key is not None]


def _splits(benchmark: Benchmark, options: argparse.Namespace) -> list[str]:
    """Give the splits to prepare: those asked for, else what its use here needs."""
    if options.split:
        return list(dict.fromkeys(options.split))
    wanted = [benchmark.eval_split]
    if benchmark.key == TRAINING_BENCHMARK:
        wanted.insert(0, benchmark.train_split)
    there = splits_on_disk(DATAMODULES[benchmark.key](root=options.root, layout="original"), wanted)
    return there if there or "all" in options.benchmarks else wanted


def _print_reports(tasks: Sequence[_Task], reports: Sequence[PreparationReport]) -> None:
    """Print what was done, and what was wrong."""
    console = output_console()
    columns = [("benchmark", "left"), ("split", "left"), ("written", "right"), ("already there", "right")]
    table = make_table("Label files", [*columns, ("problems", "right"), ("folder", "fold")])
    for task, report in zip(tasks, reports, strict=True):
        there = task.plan.there + report.compared
        counts = (f"{report.written:,}", f"{there:,}", f"{len(report.problems):,}")
        table.add_row(task.benchmark.short, task.split, *counts, str(task.plan.folder))
    console.print(table)
    if all(task.plan.nothing_to_do for task in tasks):
        print_line(console, "Nothing to do, all files were there.")
    errors = output_console(stderr=True)
    for task, report in zip(tasks, reports, strict=True):
        for problem in report.problems[:LISTED]:
            print_line(errors, f"{PROG}: {task.title}: {problem}")
        if len(report.problems) > LISTED:
            print_line(errors, f"{PROG}: {task.title}: and {len(report.problems) - LISTED} more")


def _parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Convert label files once to the layout that the field's projects share; A-847 loads much faster "
        "then. Files that are there are kept, a run that was broken off goes on where it was.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("benchmarks", nargs="+", metavar="BENCHMARK", help="their names, such as a847, or: all (those on disk)")
    add("--root", type=Path, default=Path("data"), metavar="DIR", help="folder that holds the data sets (data)")
    add("--split", action="append", metavar="NAME", help="a published split; may be repeated (what tests need; for "
        "coco_stuff training too)")  # fmt: skip
    add("--workers", type=int, default=default_workers(), metavar="N", help="processes (one per processor)")
    return parser
