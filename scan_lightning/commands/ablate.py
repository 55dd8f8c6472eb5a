"""``scan-lightning ablate``: answer the questions of ablation files, combination by combination and seed by seed.

A row that is made again has the same numbers and the same place; its ``commit`` and ``dirty`` are those of the new run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.text import Text

from scan_lightning.commands.ablate_plan import Ablation, AblationRun, Runner, plan_ablation
from scan_lightning.commands.ablate_rows import all_rows, arrange, combination_of, read_rows, rows_path
from scan_lightning.commands.ablate_run import Job, Outcome, Status, is_row_of, outdated
from scan_lightning.commands.ablate_workers import run_apart, run_here, stop_on_signal
from scan_lightning.commands.console import at_least_one, make_table, output_console

PROG = "scan-lightning ablate"
RESULTS = Path("experiments", "results")
"""Where the rows lie if no folder is given, in one for each size: named as that of the overlay, else of the file."""
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def main(args: Sequence[str], *, runner: Runner) -> int:
    """Run ``scan-lightning ablate``.

    Args:
        args: Arguments behind the command's name.
        runner: Plans and carries out the runs.

    Returns:
        Exit status: 0 if every run has its row, 1 if one failed or the call was wrong, as reported.
    """
    options = _parser().parse_args(args)
    try:
        if any(os.environ.get(name, "0") != "0" for name in _RANKS):
            raise ValueError("expected to be started as one process; --separate gives runs on several devices theirs")
        options.rows = options.rows or _default_rows(options.files, options.overlay)
        ablations = _plan(options, runner)
        _replace_outdated(ablations, options)
    except (ValueError, OSError) as error:
        _say(f"{PROG}: {error}")
        return 1
    if options.dry:
        _print_plan(ablations, options.rows)
        return 0
    with stop_on_signal():
        return _run(ablations, options, runner)


def _default_rows(files: Sequence[Path], overlay: Path | None) -> Path:
    """Give the folder of rows of a size, so that rows of one do not come among those of another."""
    if overlay is not None:
        folders = {overlay if overlay.is_dir() else overlay.parent}
    else:
        folders = {path.parent for path in files}
    if len(folders) > 1:
        raise ValueError(f"files of {len(folders)} folders: expected --rows FOLDER for their rows")
    return RESULTS / folders.pop().resolve().name


def _plan(options: argparse.Namespace, runner: Runner) -> list[Ablation]:
    """Plan all files before anything runs."""
    names = Counter(path.stem for path in options.files)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"expected files of different names, whose rows lie apart, got {repeated[0]} twice")
    ablations = []
    for path in options.files:
        ablation = plan_ablation(
            path,
            overlay=options.overlay,
            seeds=options.seeds,
            only=options.only,
            rows=options.rows,
            trainings=options.runs,
            runner=runner,
        )
        if not ablation.runs:
            _say(f"{PROG}: {ablation.name}: no combination holds {options.only!r}")
        ablations.append(ablation)
    return ablations


def _replace_outdated(ablations: Sequence[Ablation], options: argparse.Namespace) -> None:
    """Look for rows that are not of these files any more; they are dropped if that is wanted."""
    for ablation in ablations:
        path = rows_path(options.rows, ablation.name)
        rows = read_rows(path)
        old = outdated(rows, ablation.runs)
        strange = [row for row in rows if combination_of(row) not in ablation.order]
        if options.replace and not options.dry:
            drop = {(combination_of(row), row["seed"], row["key"]) for row in (*old, *strange)}
            arrange(path, ablation.order, drop=drop)
        elif old:
            raise ValueError(
                f"{path}: {len(old)} rows are of another configuration than this one (first: {old[0]['variant']} "
                f"{old[0]['parameters']}, seed {old[0]['seed']}); --replace drops them, --rows FOLDER keeps them apart"
            )
        elif strange:
            _say(f"{PROG}: {path}: {len(strange)} rows are of no combination of the file; --replace drops them")


def _run(ablations: Sequence[Ablation], options: argparse.Namespace, runner: Runner) -> int:
    """Do all runs that have no row yet."""
    runs = tuple(run for ablation in ablations for run in ablation.runs)
    known = {ablation.name: read_rows(rows_path(options.rows, ablation.name)) for ablation in ablations}
    todo = [index for index, run in enumerate(runs) if not any(is_row_of(row, run) for row in known[run.name])]
    job = Job(
        runs=runs,
        orders={ablation.name: ablation.order for ablation in ablations},
        rows=options.rows,
        runner=runner,
        separate=options.separate,
    )
    counts = Counter({Status.THERE: len(runs) - len(todo)})
    failures: list[str] = []
    started = time.monotonic()
    for number, (index, outcome) in enumerate(_outcomes(job, todo, options), start=1):
        counts[outcome.status] += 1
        text = f"{runs[index].title}: {outcome.status}{': ' if outcome.message else ''}{outcome.message}"
        _say(f"[{number} of {len(todo)}, {time.monotonic() - started:.0f} s] {text}")
        if outcome.status is Status.FAILED:
            failures.append(text)
    for ablation in ablations:
        arrange(rows_path(options.rows, ablation.name), ablation.order)
    for text in failures:
        _say(f"{PROG}: {text}")
    _say(f"{len(runs)} runs: " + ", ".join(f"{counts[status]} {status}" for status in Status if counts[status]))
    return int(bool(failures))


def _outcomes(job: Job, todo: Sequence[int], options: argparse.Namespace) -> Iterator[tuple[int, Outcome]]:
    """Do the runs, in this process or in several."""
    if options.workers == 1 or len(todo) < 2:
        return run_here(job, todo)
    logs = options.runs or Path("outputs", "runs")
    _say(f"{min(options.workers, len(todo))} workers print to {logs}/worker_*.log")
    return run_apart(job, todo, workers=options.workers, logs=logs)


def _print_plan(ablations: Sequence[Ablation], rows: Path) -> None:
    """Print what would be done."""
    headings = ("all", "there", "copied", "to do")
    table = make_table("runs", [("ablation", "left"), *((name, "right") for name in headings)])
    keys = {row["key"] for row in all_rows(rows)}
    todo = []
    for ablation in ablations:
        known = read_rows(rows_path(rows, ablation.name))
        counts = Counter(all=len(ablation.runs))
        for run in ablation.runs:
            there = any(is_row_of(row, run) for row in known)
            state = "there" if there else "copied" if run.key in keys else "to do"
            counts[state] += 1
            keys.add(run.key)
            if state == "to do":
                todo.append(run)
        table.add_row(ablation.name, *(str(counts[name]) for name in headings))
    output_console().print(table)
    _print_trainings(todo)


def _print_trainings(runs: Sequence[AblationRun]) -> None:
    """Print the trainings that runs need."""
    users: dict[Path, list[AblationRun]] = {}
    for run in runs:
        for training in run.trainings:
            users.setdefault(training.folder, []).append(run)
    if not users:
        return
    done = {training.folder for run in runs for training in run.trainings if training.mark.is_file()}
    table = make_table(
        f"trainings: {len(users)} needed, {len(done)} of them there",
        [("folder", "fold"), ("there", "left"), ("runs", "right"), ("first of them", "fold")],
    )
    for folder, those in users.items():
        cells = (str(folder), "yes" if folder in done else "no", str(len(those)), those[0].title)
        table.add_row(*map(Text, cells))
    output_console().print(table)


def _say(text: str) -> None:
    """Tell what goes on."""
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Run all combinations of ablation files (sweep files of method grid whose command is "
        "scan-lightning run), each with every seed, unless its row is there. Rows of FILE NAME.yaml lie in "
        "ROWS/NAME.csv. The same command again goes on where it was interrupted, and changes nothing when all is done.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="such as experiments/ablations/cs_ratio.yaml")
    add("-o", "--overlay", type=Path, metavar="PATH", help="overlay of the file, or a folder with one of its name")
    add("--seeds", type=int, nargs="+", metavar="N", help="in place of the file's values of seed_everything")
    default = f"({RESULTS.as_posix()}/ and the name of the overlay's folder, else of the file's)"
    add("--rows", type=Path, metavar="FOLDER", help=default)
    add("--runs", type=Path, metavar="FOLDER", help="of the trainings (outputs/runs)")
    add("--workers", type=at_least_one, default=1, metavar="N", help="processes that run at the same time (1)")
    add("--only", metavar="TEXT", help="combinations that hold this text in their label, a parameter or its value")
    add(
        "--replace", action="store_true", help="drop rows of combinations or configurations that are no longer in force"
    )
    add("--separate", action="store_true", help="a process for every run, which those on several devices need")
    add("--dry", action="store_true", help="print what would be done, and end")
    return parser
