"""Markdown files whose tables follow from rows: what stands between two markers is made, and can be checked.

A table stands between ``<!-- table: NAME [option=value ...] -->`` and ``<!-- /table -->``, each on a line of its own.
Options: ``title=no`` leaves title and question out, ``notes=short`` or ``notes=no`` the notes, and
``columns=a,b`` keeps the columns of labels and those metrics alone. Markers in a fenced block of code are text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from scan_lightning.reports.report import Notes, Report
from scan_lightning.tables import to_markdown

_OPEN = re.compile(r"<!-- table: *(.*?) *-->")
_CLOSE = "<!-- /table -->"
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_CHOICES = {"title": ("yes", "no"), "notes": ("full", "short", "no")}


@dataclass(frozen=True, kw_only=True)
class Marked:
    """One marked table of a document.

    Attributes:
        name: Of the table.
        options: As written behind the name.
        line: Of the opening marker, from 1.
        content: What stands between the markers.
    """

    name: str
    options: dict[str, str]
    line: int
    content: str


def render(report: Report, marked: Marked) -> str:
    """Write what has to stand between the markers of a table.

    Args:
        report: Where the table comes from.
        marked: Names the table and its options.

    Returns:
        Markdown with an empty line before and after it.

    Raises:
        FileNotFoundError: If a file of rows is missing.
        ValueError: If there is no such table or column, or rows do not fit the layout.
    """
    notes: Notes = marked.options.get("notes", "full")  # type: ignore[assignment]
    table = report.table(marked.name, notes=notes)
    if "columns" in marked.options:
        wanted = marked.options["columns"].split(",")
        present = [column.key for column in table.columns]
        if absent := [key for key in wanted if key not in present]:
            raise ValueError(f"columns: expected some of {', '.join(present)}, got {absent[0]}")
        table = replace(table, columns=tuple(c for c in table.columns if c.kind == "text" or c.key in wanted))
    text = to_markdown(table)
    if marked.options.get("title") == "no":
        text = text.split("\n", 2)[2]
    return f"\n{text}\n"


def marked_tables(text: str) -> list[Marked]:
    """Find the marked tables of a document.

    Args:
        text: Markdown.

    Returns:
        The tables, in order.

    Raises:
        ValueError: If a marker has no partner, stands within another table, or has an unknown option.
    """
    return [part for part in _parts(text) if isinstance(part, Marked)]


def rewrite(text: str, make: Callable[[Marked], str]) -> str:
    """Replace what stands between the markers.

    Args:
        text: Markdown.
        make: Gives the new content of a table.

    Returns:
        The document; all else is as it was.

    Raises:
        ValueError: As `marked_tables`.
    """
    return "".join(make(part) if isinstance(part, Marked) else part for part in _parts(text))


def outdated(path: Path, report: Report) -> tuple[int, list[str]]:
    """Find the tables of a document that differ from what the rows give.

    Args:
        path: Of the document.
        report: Where the tables come from.

    Returns:
        The number of tables in the document, and a line for each one that differs.

    Raises:
        FileNotFoundError: If the document or a file of rows is missing.
        ValueError: If a marker is wrong, or rows do not fit the layout.
    """
    found = marked_tables(path.read_text(encoding="utf-8"))
    messages = []
    for marked in found:
        made = render(report, marked)
        if made != marked.content:
            messages.append(f"{path}:{marked.line}: table {marked.name}: {_first_difference(marked.content, made)}")
    return len(found), messages


def _parts(text: str) -> Iterator[str | Marked]:
    """Take a document apart: lines as they are, and marked tables in place of what stands between their markers."""
    fence = ""
    opened: tuple[int, re.Match[str]] | None = None
    content: list[str] = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        stripped = line.rstrip()
        fenced = _FENCE.match(line)
        if opened is None and fenced and (not fence or fenced[1].startswith(fence)):
            fence = "" if fence else fenced[1]
        opening = None if fence else _OPEN.fullmatch(stripped)
        closing = not fence and stripped == _CLOSE
        if (opening and opened) or (closing and not opened):
            raise ValueError(f"line {number}: {stripped} has no partner")
        if closing and opened:
            yield _marked(*opened, "".join(content))
            opened, content = None, []
        if opened:
            content.append(line)
        else:
            yield line
        if opening:
            opened = (number, opening)
    if opened:
        raise ValueError(f"line {opened[0]}: {opened[1][0]} has no partner")


def _marked(line: int, opening: re.Match[str], content: str) -> Marked:
    """Read an opening marker."""
    name, *pairs = opening[1].split() or [""]
    options = {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
    for key, value in options.items():
        if key not in _CHOICES and key != "columns":
            raise ValueError(f"line {line}: {opening[0]}: unknown option {key!r}, there are columns, notes, title")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ValueError(f"line {line}: {opening[0]}: {key} is one of {', '.join(_CHOICES[key])}, got {value!r}")
    return Marked(name=name, options=options, line=line, content=content)


def _first_difference(old: str, new: str) -> str:
    """Show the first line in which two texts differ."""
    olds, news = old.split("\n"), new.split("\n")
    for index in range(max(len(olds), len(news))):
        stands, follows = (lines[index] if index < len(lines) else "" for lines in (olds, news))
        if stands != follows:
            return f"stands {stands!r}, from the rows follows {follows!r}"
    raise AssertionError("the texts are equal")
