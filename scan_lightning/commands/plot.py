"""``scan-lightning plot``: curves, maps of layers, seen against unseen classes, drawn from rows of results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scan_lightning.commands.table import add_sources, choose
from scan_lightning.reports.layout import load_layout
from scan_lightning.reports.report import Report

PROG = "scan-lightning plot"
OUTPUT = Path("experiments/results/plots")
FORMATS = ("png", "svg")


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning plot``.

    Args:
        args: Arguments behind the command's name.

    Returns:
        Exit status: 0 for success, 1 if a plot cannot be drawn or, with ``--check``, was drawn from other rows.
    """
    parser = _parser()
    options = parser.parse_args(args)
    if bool(options.names) == options.all:
        parser.error("expected names of plots, or --all")
    try:
        report = Report(layout=load_layout(options.layout), folder=options.rows)
        plots = {name: plot.tables for name, plot in report.layout.plots.items()}
        names = choose(options.names, report, every=options.all, sources=plots, prog=PROG)
        return _check(report, names, options) if options.check else _draw(report, names, options)
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Draw plots from rows of results: mean, standard deviation and every seed. The same rows give the "
        "same file.",
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="plots of the layout")
    parser.add_argument("--all", action="store_true", help="all plots that there are rows for")
    add_sources(parser)
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=FORMATS, help="default: both")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="are the files in the folder drawn from these rows?")
    return parser


def _draw(report: Report, names: Sequence[str], options: argparse.Namespace) -> int:
    """Draw plots into files."""
    from scan_lightning.reports import drawing, figures  # matplotlib is loaded for plots alone

    for name in names:
        read = drawing.read_drawing(name, report)
        try:
            figure = drawing.make_figure(read, report)
        except ValueError as error:
            raise ValueError(f"plot {name}: {error}") from error
        for suffix in options.format:
            path = options.output / f"{name}.{suffix}"
            figures.save_figure(figure, path, drawing.source_of(read, report))
            print(path)
    return 0


def _check(report: Report, names: Sequence[str], options: argparse.Namespace) -> int:
    """Say which files are missing or were drawn from other rows or another layout."""
    from scan_lightning.reports import drawing, figures

    paths = {options.output / f"{name}.{suffix}": name for name in names for suffix in options.format}
    if not paths:
        raise ValueError("there are no rows for any plot: there is nothing to check")
    sources = {name: drawing.source_of(drawing.read_drawing(name, report), report) for name in names}
    wrong = 0
    for path, name in paths.items():
        if path.is_file() and figures.read_source(path) == sources[name]:
            continue
        wrong += 1
        reason = "was drawn from other rows or another layout" if path.is_file() else "is missing"
        print(f"{PROG}: {path} {reason}", file=sys.stderr)
    print(f"files: {len(paths)}, not from these rows: {wrong}")
    return 1 if wrong else 0
