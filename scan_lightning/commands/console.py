"""Arguments, tables, progress bars and plain lines on the terminal, the same for all commands."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 140
"""Characters of a line where nothing is known of the width of what shows it."""


def output_console(*, stderr: bool = False) -> Console:
    """Open the terminal's output, wide enough for tables where it is not a terminal.

    Args:
        stderr: Whether it is for messages.

    Returns:
        The console.
    """
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    return console


def at_least_one(text: str) -> int:
    """Read a whole number of a command's arguments.

    Args:
        text: The argument.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: If it is below 1.
    """
    if int(text) < 1:
        raise ArgumentTypeError(f"expected at least 1, got {text}")
    return int(text)


def files_progress() -> Progress:
    """Make a progress bar over files, on the standard error output if that is a terminal; it goes away when done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def print_line(console: Console, text: str) -> None:
    """Print a line as it is, whatever is in it; what the terminal's encoding lacks is escaped.

    Args:
        console: Where to.
        text: The line; it is not wrapped.
    """
    printable = text.encode(console.encoding, "backslashreplace").decode(console.encoding)
    console.print(Text(printable), soft_wrap=True)


def make_table(title: str, columns: Iterable[tuple[str, str]]) -> Table:
    """Make an empty table.

    Args:
        title: Above it.
        columns: For each the heading and "left", "right" or "fold"; a column to fold breaks long words.

    Returns:
        The table.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading, style in columns:
        fold = style == "fold"
        table.add_column(
            heading,
            justify="right" if style == "right" else "left",
            overflow="fold" if fold else "ellipsis",
            no_wrap=not fold,
        )
    return table
