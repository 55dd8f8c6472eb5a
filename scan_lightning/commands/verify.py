"""``scan-lightning verify``: compare every stage with a folder of reference tensors."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from scan_lightning.verification import inference, isolated, metrics, network, shift, training
from scan_lightning.verification.ledger import Ledger, Row, Stage
from scan_lightning.verification.reference import Reference
from scan_lightning.verification.subject import Subject

Check = Callable[[Reference, Subject, Ledger], None]

GROUPS: dict[str, tuple[Check, tuple[Stage, ...]]] = {
    "text": (network.check_text, network.TEXT_STAGES),
    "network": (network.check_stages, network.STAGES),
    "shift": (shift.check, shift.STAGES),
    "infer": (inference.check, inference.STAGES),
    "batch": (inference.check_batch, inference.BATCH_STAGES),
    "train": (training.check, training.STAGES),
    "iso": (isolated.check, isolated.STAGES),
    "metrics": (lambda reference, _subject, ledger: metrics.check(reference, ledger), metrics.STAGES),
}
"""What is compared, in the order of the table: for each group its function and its stages."""

PIPED_WIDTH = 140
"""Characters of the table's lines where nothing is known of the width of what shows them."""

PACKAGES = ("torch", "transformers", "open_clip_torch")
EXPECTED_FAILURES = (RuntimeError, ValueError, KeyError, IndexError, TypeError)
"""What computing with recorded tensors of a wrong shape raises; it fails the stages that are still to come."""

DESCRIPTION = """Compare every stage of SCAN with recorded output of the reference implementation.

FOLDER holds config.json, model.safetensors and files of recorded tensors, in the format of tests/parity/README.md.
Stages without recorded tensors are skipped."""


def verify(reference: Reference, *, only: str = "", announce: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Compare everything that a folder has recorded.

    Args:
        reference: The folder.
        only: Start of the stages' names to compare; empty for all.
        announce: Called with each group's name before it runs.

    Returns:
        One row per stage.

    Raises:
        ValueError: If no stage's name starts with ``only``, or the network cannot be built from the folder.
    """
    wanted = [stage for _, stages in GROUPS.values() for stage in stages if stage.name.startswith(only)]
    if not wanted:
        names = ", ".join(stage.name for _, stages in GROUPS.values() for stage in stages)
        raise ValueError(f"--only: no stage starts with {only!r}; the stages are {names}")
    announce("building the network")
    try:
        subject = Subject(reference)
    except KeyError as error:
        raise ValueError(f"config.json: MODEL has no entry {error}") from error
    except TypeError as error:
        raise ValueError(f"config.json: a value that does not fit: {error}") from error
    ledger = Ledger([stage for _, stages in GROUPS.values() for stage in stages])
    for group, (check, stages) in GROUPS.items():
        if any(stage in wanted for stage in stages):
            announce(group)
            try:
                check(reference, subject, ledger)
            except EXPECTED_FAILURES as error:
                _fail_unreached([row for row in ledger.rows if row.stage in stages], ledger, error)
    return [row for row in ledger.rows if row.stage in wanted]


def _fail_unreached(rows: Sequence[Row], ledger: Ledger, error: Exception) -> None:
    """Fail the stages of a group that an error stopped: those without a comparison, or all if each has one."""
    unreached = [row for row in rows if not row.tensors] or rows
    for row in unreached:
        ledger.fail(row.stage.name, f"stopped by {type(error).__name__}: {error}")


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Arguments after ``verify``.

    Returns:
        0 if all that was compared agrees, 1 if something does not or nothing could be compared.
    """
    parser = argparse.ArgumentParser(
        prog="scan-lightning verify", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of reference tensors")
    parser.add_argument("--output", metavar="FILE.md", type=Path, help="also write the table as Markdown")
    parser.add_argument("--only", metavar="PREFIX", default="", help="compare only stages whose name starts so")
    options = parser.parse_args(list(args))
    try:
        rows = _verify_with_progress(options.folder, options.only)
    except (ValueError, FileNotFoundError) as error:
        print(f"scan-lightning verify: {error}", file=sys.stderr)
        return 1
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    console.print(_table(rows))
    print(_summary(rows))
    for row in rows:
        if row.verdict == "FAILED":
            print(f"{row.stage.name} failed: {row.remark}", file=sys.stderr)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(markdown(rows), encoding="utf-8")
    return 0 if _agrees(rows) else 1


def _verify_with_progress(folder: Path, only: str) -> list[Row]:
    """Verify a folder and show how far it is."""
    columns = (TextColumn("{task.description:22}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading the folder", total=len(GROUPS) + 2)

        def announce(what: str) -> None:
            progress.update(task, description=what, advance=1)

        return verify(Reference(folder), only=only, announce=announce)


def _agrees(rows: Sequence[Row]) -> bool:
    """Whether something was compared and nothing failed."""
    verdicts = {row.verdict for row in rows}
    return "passed" in verdicts and "FAILED" not in verdicts


def _summary(rows: Sequence[Row]) -> str:
    """Count verdicts in one sentence."""
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("passed", "FAILED", "skipped")}
    tensors = sum(row.tensors for row in rows)
    if not tensors and not count["FAILED"]:
        return "Nothing could be compared: the folder has no tensors for these stages."
    return (
        f"{count['passed']} stages passed, {count['FAILED']} failed, {count['skipped']} skipped; "
        f"{tensors} comparisons on {' '.join(_versions())}."
    )


def _versions() -> list[str]:
    """Name the versions that the numbers belong to."""
    return [f"{name} {version(name)}" for name in PACKAGES] + [f"Python {platform.python_version()}"]


def _cells(row: Row) -> tuple[str, str, str, str, str, str]:
    """Give a row's texts: stage, number of tensors, error, tolerance, verdict, remark."""
    counted = row.stage.measure == "count"
    error = f"{row.error:.0f} differ" if counted else f"{row.error:.1e}"
    tolerance = "equal" if counted else f"{row.stage.tolerance:.0e}"
    shown = (str(row.tensors), error) if row.tensors else ("-", "-")
    return row.stage.name, *shown, tolerance, row.verdict, row.remark


def _table(rows: Sequence[Row]) -> Table:
    """Draw the table for a terminal."""
    table = Table(title="Agreement with the reference implementation")
    for name, justify in (("stage", "left"), ("tensors", "right"), ("error", "right"), ("tolerance", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("verdict", no_wrap=True)
    table.add_column("remark", overflow="fold")
    colours = {"passed": "green", "FAILED": "bold red", "skipped": "yellow"}
    groups = {stage.name: group for group, (_, stages) in GROUPS.items() for stage in stages}
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and groups[before.stage.name] != groups[row.stage.name]:
            table.add_section()
        *cells, verdict, remark = _cells(row)
        table.add_row(*cells, f"[{colours[verdict]}]{verdict}[/]", remark.replace("[", r"\["))
    return table


def markdown(rows: Sequence[Row]) -> str:
    """Write the table as a Markdown document.

    Args:
        rows: From `verify`.
    """
    lines = [
        "# Agreement with the reference implementation",
        "",
        "Made by `scan-lightning verify FOLDER --output FILE.md`: every stage of the network, computed by this project",
        "from recorded weights and inputs, compared with what the implementation released with SCAN (CVPR 2024)",
        "computed. The error is the largest absolute difference over the largest absolute reference value of a tensor,",
        'the worst of the stage\'s tensors; for metrics it is the difference itself, and "differ" counts unequal',
        "elements.",
        "",
        _summary(rows),
        "",
        "| stage | tensors | error | tolerance | verdict | remark |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
