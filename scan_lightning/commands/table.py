"""``scan-lightning table``: tables from rows of results, laid out by a file; and Markdown files whose tables follow."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scan_lightning.files import write_whole
from scan_lightning.reports.documents import outdated, render, rewrite
from scan_lightning.reports.layout import load_layout
from scan_lightning.reports.report import Report
from scan_lightning.reports.unlisted import with_unlisted
from scan_lightning.tables import RENDERERS

PROG = "scan-lightning table"
ROWS = Path("experiments/results/quickstart")
LAYOUT = Path("experiments/results/tables.yaml")


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning table``.

    Args:
        args: Arguments behind the command's name.

    Returns:
        Exit status: 0 for success, 1 if a table cannot be made or a document does not follow from the rows.
    """
    options = _parser().parse_args(args)
    _check_options(options)
    try:
        layout = with_unlisted(load_layout(options.layout), options.names, options.rows)
        report = Report(layout=layout, folder=options.rows)
        if options.check:
            return _check(report, options.check)
        if options.write:
            return _write(report, options.write)
        return _tables(report, options)
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where rows and their layout are.

    Args:
        parser: Of a command.
    """
    parser.add_argument("--rows", type=Path, default=ROWS, metavar="FOLDER", help="of the rows (default: %(default)s)")
    parser.add_argument("--layout", type=Path, default=LAYOUT, metavar="FILE", help="default: %(default)s")


def choose(
    names: Sequence[str], report: Report, *, every: bool, sources: Mapping[str, Sequence[str]], prog: str
) -> list[str]:
    """Choose what to make: what was named, or all that there are rows for.

    Args:
        names: What was named.
        report: Knows the files of rows.
        every: Whether all is wanted; what lacks rows is then left out, and named on the standard error output.
        sources: For each that there is the tables that it is made from.
        prog: The command that asks.

    Returns:
        The names.
    """
    if not every:
        return list(names)
    chosen = []
    for name, tables in sources.items():
        missing = [path for table in tables for path in report.files(table) if not path.is_file()]
        if missing:
            print(f"{prog}: {name} left out, there are no rows in {missing[0]}", file=sys.stderr)
        else:
            chosen.append(name)
    return chosen


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Make tables from rows of results: mean and sample standard deviation over seeds, best values "
        "marked, published ones in columns of their own. In Markdown files, tables stand between "
        "<!-- table: NAME --> and <!-- /table -->.",
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="tables of the layout, or files of rows")
    parser.add_argument("--all", action="store_true", help="all tables that there are rows for")
    add_sources(parser)
    parser.add_argument(
        "--format", nargs="+", choices=sorted(RENDERERS), metavar="FORMAT", help=f"of {', '.join(sorted(RENDERERS))}"
    )
    parser.add_argument("--notes", choices=("full", "short", "no"), default="full", help="below the tables")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write files there (default: print Markdown)")
    parser.add_argument(
        "--check", nargs="+", type=Path, metavar="FILE", help="do these files' tables follow from the rows?"
    )
    parser.add_argument("--write", nargs="+", type=Path, metavar="FILE", help="fill the tables of these files in")
    return parser


def _check_options(options: argparse.Namespace) -> None:
    """End with a message unless exactly one thing is asked for."""
    wanted = [bool(options.names), options.all, bool(options.check), bool(options.write)]
    if sum(wanted) != 1:
        _parser().error("expected one of: names of tables, --all, --check FILES, --write FILES")


def _tables(report: Report, options: argparse.Namespace) -> int:
    """Print tables or write their files."""
    sources = {name: [name] for name in report.layout.tables}
    names = choose(options.names, report, every=options.all, sources=sources, prog=PROG)
    formats = options.format or (["markdown"] if options.output is None else list(RENDERERS))
    for index, name in enumerate(names):
        table = report.table(name, notes=options.notes)
        for suffix, to_text in (RENDERERS[one] for one in formats):
            if options.output is None:
                print(("\n" if index else "") + to_text(table), end="")
                continue
            options.output.mkdir(parents=True, exist_ok=True)
            write_whole(options.output / f"{name}{suffix}", to_text(table), durable=False)
            print(options.output / f"{name}{suffix}")
    return 0


def _check(report: Report, documents: Sequence[Path]) -> int:
    """Say which tables of documents differ from what the rows give."""
    counts, differing = 0, 0
    for path in documents:
        count, messages = outdated(path, report)
        counts, differing = counts + count, differing + len(messages)
        for message in messages:
            print(f"{PROG}: {message}", file=sys.stderr)
    if not counts:
        raise ValueError(f"no table between markers in {', '.join(map(str, documents))}: there is nothing to check")
    print(f"tables: {counts}, differing from the rows: {differing}{'; --write fills them in' if differing else ''}")
    return 1 if differing else 0


def _write(report: Report, documents: Sequence[Path]) -> int:
    """Fill the tables of documents in."""
    for path in documents:
        old = path.read_text(encoding="utf-8")
        new = rewrite(old, lambda marked: render(report, marked))
        if new != old:
            write_whole(path, new, durable=False)
        print(f"{path}: {'filled in' if new != old else 'unchanged'}")
    return 0
