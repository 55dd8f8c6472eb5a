"""``scan-lightning data list``: what is known, what is on disk, where to get the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scan_lightning.commands.console import make_table, output_console, print_line
from scan_lightning.data.benchmark_files import what_is_there
from scan_lightning.data.benchmarks import BENCHMARK_KEYS, Benchmark
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.data.survey import SplitSurvey, select_benchmarks, splits_on_disk, survey_split

PROG = "scan-lightning data list"


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning data list``.

    Args:
        args: Arguments behind the command's name.

    Returns:
        Exit status: 0, or 1 if the call was wrong, as reported.
    """
    options = _parser().parse_args(args)
    try:
        benchmarks = select_benchmarks(options.benchmarks or BENCHMARK_KEYS, root=options.root)
        surveys = {benchmark.key: _survey(benchmark, options.root) for benchmark in benchmarks}
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    _print_on_disk(benchmarks, surveys, options.root)
    _print_sources(benchmarks, surveys)
    if not any(surveys.values()):
        print_line(output_console(), f"None of them is in {options.root}: {what_is_there(options.root)}.")
    return 0


def _survey(benchmark: Benchmark, root: Path) -> list[SplitSurvey]:
    """Look for all splits of a benchmark."""
    module = DATAMODULES[benchmark.key](root=root)
    return [survey_split(module, split) for split in splits_on_disk(module)]


def _print_on_disk(benchmarks: Sequence[Benchmark], surveys: dict[str, list[SplitSurvey]], root: Path) -> None:
    """Print what is known and what of it is there."""
    columns = [("name", "left"), ("benchmark", "fold"), ("classes", "right"), ("split", "left"), ("images", "right")]
    table = make_table(f"Benchmarks, and what of them is in {root}", [*columns, ("of", "right"), ("files", "fold")])
    for benchmark in benchmarks:
        there = {survey.split: survey for survey in surveys[benchmark.key]}
        usual = (benchmark.train_split, benchmark.eval_split)
        rows = [
            (split, f"{len(there[split].pairs) if split in there else 0:,}", f"{count:,}", _state(there.get(split)))
            for split, count in benchmark.splits.items()
            if split in there or split in usual
        ]
        for number, row in enumerate(rows):
            first = (benchmark.short, benchmark.title, str(benchmark.num_classes)) if number == 0 else ("", "", "")
            table.add_row(*first, *row, end_section=number == len(rows) - 1)
    output_console().print(table)


def _state(survey: SplitSurvey | None) -> str:
    """Say in a few words what is there of a split."""
    if survey is None:
        return "not on disk"
    missing = len(survey.missing_images) + len(survey.missing_labels)
    if survey.layout is None or (survey.error and not missing):
        return "cannot be read: see data check"
    others = [layout for layout in survey.layouts if layout != survey.layout]
    state = " and ".join([survey.layout, *others])
    return f"{state}, {missing:,} missing: see data check" if survey.error else state


def _print_sources(benchmarks: Sequence[Benchmark], surveys: dict[str, list[SplitSurvey]]) -> None:
    """Print where each folder is published, and what cannot be tested on yet."""
    console = output_console()
    table = make_table(
        "Where they are published, and under which terms (read them yourself; nothing is downloaded for you)",
        [("name", "fold"), ("folder", "left"), ("size", "right"), ("published at", "fold"), ("terms", "fold")],
    )
    for folder in dict.fromkeys(benchmark.folder for benchmark in benchmarks):
        group = [benchmark for benchmark in benchmarks if benchmark.folder == folder]
        size = group[0].download_gigabytes
        table.add_row(
            ", ".join(benchmark.short for benchmark in group),
            folder,
            "unknown" if size is None else f"{size:.1f} GB",
            group[0].published_at,
            group[0].licence,
            end_section=True,
        )
    console.print(table)
    needed = [b.short for b in benchmarks if b.eval_split not in {s.split for s in surveys[b.key] if not s.error}]
    if needed:
        print_line(console, f"Not ready to test on: {', '.join(needed)}. data/README.md says what goes where.")


def _parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="List the benchmarks: what is known, what is on disk, where to get the rest, licence and size.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("benchmarks", nargs="*", metavar="BENCHMARK", help="their names, such as a150 (all)")
    add("--root", type=Path, default=Path("data"), metavar="DIR", help="folder that holds the data sets (data)")
    return parser
