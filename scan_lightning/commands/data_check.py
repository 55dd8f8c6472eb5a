"""``scan-lightning data check``: missing, damaged and wrong files of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from rich.progress import Progress

from scan_lightning.commands.console import files_progress, make_table, output_console, print_line
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.checking import Finding, check_files, check_names, check_report_path, write_report
from scan_lightning.data.parallel import ParallelMap, default_workers, worker_pool
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.data.survey import SplitSurvey, select_benchmarks, splits_on_disk, survey_split

PROG = "scan-lightning data check"
LISTED = 10
"""Findings of one kind that are printed; the report has them all."""


@dataclass(kw_only=True)
class _Result:
    """What was found, split by split."""

    surveys: list[SplitSurvey] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning data check``.

    Args:
        args: Arguments behind the command's name.

    Returns:
        Exit status: 0 if nothing is wrong, 1 if something is or the call was, as reported; 130 if it was broken off.
    """
    options = _parser().parse_args(args)
    try:
        if options.report is not None:
            check_report_path(options.report)
        result = _check(options)
        _print_table(result, opened=not options.names_only)
        _print_findings(result.findings)
        if options.report is not None:
            write_report(options.report, root=options.root, surveys=result.surveys, findings=result.findings)
    except KeyboardInterrupt:
        print(f"{PROG}: broken off", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    return int(any(finding.severe for finding in result.findings))


def _check(options: argparse.Namespace) -> _Result:
    """Check all that is meant."""
    result = _Result()
    modules = [
        DATAMODULES[benchmark.key](root=options.root, layout=options.layout)
        for benchmark in select_benchmarks(options.benchmarks, root=options.root)
        if options.benchmarks or options.layout in ("auto", *DATAMODULES[benchmark.key].layouts)
    ]
    with worker_pool(0 if options.names_only else options.workers) as spread, files_progress() as progress:
        for module in modules:
            for split in _splits(module, options.split):
                _check_split(module, split, result, spread=None if options.names_only else spread, progress=progress)
    return result


def _splits(module: BenchmarkDataModule, wanted: Sequence[str] | None) -> list[str]:
    """Give the splits to check: those asked for, else those on disk, else the one to test on, which is reported."""
    if wanted:
        return list(dict.fromkeys(wanted))
    return splits_on_disk(module) or [module.benchmark.eval_split]


def _check_split(
    module: BenchmarkDataModule, split: str, result: _Result, *, spread: ParallelMap | None, progress: Progress
) -> None:
    """Check one split; its files are opened where there is something to spread the work with."""
    survey = survey_split(module, split)
    result.surveys.append(survey)
    result.findings += check_names(survey)
    if spread is None:
        return
    task = progress.add_task(f"{module.benchmark.paper_name} {split}", total=len(survey.pairs))
    result.findings += check_files(survey, module, spread, advance=lambda: progress.advance(task))
    progress.remove_task(task)


def _print_table(result: _Result, *, opened: bool) -> None:
    """Print a line per split."""
    columns = [("benchmark", "left"), ("split", "left"), ("read from", "left"), ("images", "right"), ("of", "right")]
    table = make_table(
        "Opened every file" if opened else "Looked at names alone, opened no file",
        [*columns, ("wrong", "right"), ("to know", "right")],
    )
    for survey in result.surveys:
        own = [f for f in result.findings if (f.benchmark, f.split) == (survey.benchmark.short, survey.split)]
        severe = sum(finding.severe for finding in own)
        table.add_row(
            survey.benchmark.short,
            survey.split,
            survey.layout or "not on disk",
            f"{len(survey.pairs):,}",
            f"{survey.published:,}",
            f"{severe:,}",
            f"{len(own) - severe:,}",
        )
    output_console().print(table)


def _print_findings(findings: Sequence[Finding]) -> None:
    """Print the first findings of each kind, and how many there are."""
    console = output_console()
    for (benchmark, split, kind, severe), group in groupby(
        findings, key=lambda finding: (finding.benchmark, finding.split, finding.kind, finding.severe)
    ):
        found = list(group)
        remark = "" if severe else ", which is usual"
        print_line(console, f"{benchmark} {split}: {kind}: {len(found)}{remark}")
        for finding in found[:LISTED]:
            print_line(console, f"  {finding.text}")
        if len(found) > LISTED:
            print_line(console, f"  and {len(found) - LISTED} more; --report FILE lists them all")
    if not any(finding.severe for finding in findings):
        print_line(console, "Nothing is wrong.")


def _parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Check data sets on disk: numbers of images, images and labels without each other, damaged files, "
        "sizes that differ, ids outside the map.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("benchmarks", nargs="*", metavar="BENCHMARK", help="their names, such as a150 (all that are on disk)")
    add("--root", type=Path, default=Path("data"), metavar="DIR", help="folder that holds the data sets (data)")
    add("--split", action="append", metavar="NAME", help="a published split; may be repeated (all that are on disk)")
    add("--layout", choices=("auto", "original", "converted"), default="auto", help="which files (those read in tests)")
    add("--names-only", action="store_true", help="look at names and numbers alone, open no file")
    add("--report", type=Path, metavar="FILE", help="write every finding to a .json or .csv file")
    add("--workers", type=int, default=default_workers(), metavar="N", help="processes (one per processor)")
    return parser
