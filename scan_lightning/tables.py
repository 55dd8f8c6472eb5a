"""Tables of results as Markdown, CSV and LaTeX: pure functions of rows, so that a table is rendered and never typed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

PAPER = " (paper)"
"""Behind the title of a column, or the first cell of a row, whose numbers were published, not measured here."""
MISSING = "-"
_LATEX = {letter: rf"\{letter}" for letter in "&%$#_{}"} | {
    **{letter: f"{{{letter}}}" for letter in "[*"},  # after a line break they would be its arguments
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: rf"\text{name}{{}}" for letter, name in (("<", "less"), (">", "greater"), ("|", "bar"))},
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "→": r"$\rightarrow$",
}
_LATEX_OF_NUMBERS = _LATEX | {"-": "$-$"}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A value measured several times.

    Attributes:
        mean: Of all measurements.
        deviation: Their standard deviation, on the scale of ``mean``.
    """

    mean: float
    deviation: float


Cell = str | int | float | Spread | None
"""What a row holds. None and NaN are shown as a dash."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Args:
        key: Name of the value in the rows.
        title: What stands above it.
        kind: "text"; "count" for whole numbers; "percent" for fractions in [0, 1], shown times 100; "number".
        digits: Decimals of percent and numbers.
        best: Which value is marked as the best one; None marks none.
        published: Whether its numbers come from a publication, which the title then says.
        signed: Whether a plus is written before percent and numbers above 0, as for differences.
    """

    key: str
    title: str
    kind: Literal["text", "count", "percent", "number"] = "text"
    digits: int = 1
    best: Literal["max", "min"] | None = None
    published: bool = False
    signed: bool = False

    @property
    def heading(self) -> str:
        """The title with its mark."""
        return self.title + (PAPER if self.published else "")


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row of a table.

    Args:
        cells: Values by the columns' keys; those that are absent are shown as a dash.
        published: Whether its numbers come from a publication; the first cell then says so, and none is marked best.
    """

    cells: Mapping[str, Cell]
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """A table and what has to be said below it.

    Args:
        title: Above the table; the caption in LaTeX.
        columns: At least one; their keys differ.
        rows: In the order shown.
        notes: Lines below the table: conventions, versions, hardware.
        question: What the table answers, behind the title.

    Raises:
        ValueError: If there is no column or a key is given twice.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = field(default=())
    question: str = ""

    def __post_init__(self) -> None:
        """Check the columns."""
        keys = [column.key for column in self.columns]
        if not keys:
            raise ValueError(f"table {self.title!r}: expected at least one column, got none")
        if len(set(keys)) != len(keys):
            raise ValueError(f"table {self.title!r}: expected different keys of columns, got {keys}")


def cell_texts(table: ResultTable) -> list[list[str]]:
    """Write every value as text.

    Args:
        table: The table.

    Returns:
        For each row one text per column.

    Example:
        >>> percent = Column(key="iou", title="IoU", kind="percent")
        >>> rows = (TableRow(cells={"iou": 0.30849}), TableRow(cells={"iou": Spread(mean=0.5, deviation=0.012)}))
        >>> cell_texts(ResultTable(title="", columns=(percent,), rows=rows))
        [['30.8'], ['50.0 ± 1.2']]
    """
    lines = []
    for row in table.rows:
        line = [cell_text(column, row.cells.get(column.key)) for column in table.columns]
        lines.append([line[0] + (PAPER if row.published else ""), *line[1:]])
    return lines


def cell_text(column: Column, value: Cell) -> str:
    """Write one value with its deviation.

    Args:
        column: Says how.
        value: The value.

    Returns:
        The text; a dash where there is no value.
    """
    return " ± ".join(part for part in _parts(column, value) if part) or MISSING


def best_cells(table: ResultTable) -> set[tuple[int, int]]:
    """Find the values to mark: in each column that asks for it those shown as the best of at least two measured ones.

    Args:
        table: The table. Published rows and columns are never marked and do not compete.

    Returns:
        Pairs (row, column).
    """
    marked: set[tuple[int, int]] = set()
    for index, column in enumerate(table.columns):
        shown = {
            number: round(value, column.digits)
            for number, row in enumerate(table.rows)
            if not row.published and (value := _scaled(column, row.cells.get(column.key))) is not None
        }
        if column.best is None or column.published or len(shown) < 2:
            continue
        best = max(shown.values()) if column.best == "max" else min(shown.values())
        marked |= {(number, index) for number, value in shown.items() if value == best}
    return marked


def to_markdown(table: ResultTable) -> str:
    """Render as Markdown, the best values bold, the notes as a list below.

    Args:
        table: The table.

    Returns:
        The text, with a line break at the end.
    """
    marked = best_cells(table)
    lines = [[_markdown(column.heading) for column in table.columns]]
    for row, texts in enumerate(cell_texts(table)):
        plain = [_markdown(text) for text in texts]
        lines.append([f"**{text}**" if (row, index) in marked else text for index, text in enumerate(plain)])
    widths = [max(3, *(len(line[index]) for line in lines)) for index in range(len(table.columns))]
    left = [column.kind == "text" for column in table.columns]
    rule = ["-" * width if text else "-" * (width - 1) + ":" for width, text in zip(widths, left, strict=True)]
    written = []
    for line in (lines[0], rule, *lines[1:]):
        cells = zip(line, widths, left, strict=True)
        padded = (text.ljust(width) if is_text else text.rjust(width) for text, width, is_text in cells)
        written.append(f"| {' | '.join(padded)} |")
    notes = [f"- {_markdown(note)}" for note in table.notes]
    title = f"**{_markdown(table.title)}**" + (f" {_markdown(table.question)}" if table.question else "")
    return "\n".join([title, "", *written, *([""] if notes else []), *notes]) + "\n"


def to_csv(table: ResultTable) -> str:
    """Render as CSV: shown values, deviations in a column of their own, notes as lines that start with ``#``.

    Args:
        table: The table.

    Returns:
        The text, lines ended by a line feed. Missing values are empty; keys name columns of the same heading.
    """
    wide = [any(isinstance(row.cells.get(column.key), Spread) for row in table.rows) for column in table.columns]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    headings = [column.heading for column in table.columns]
    header: list[str] = []
    for column, has_spread in zip(table.columns, wide, strict=True):
        name = column.key if headings.count(column.heading) > 1 else column.heading
        header += [name] + [f"{name}, deviation"] * has_spread
    writer.writerow(header)
    for row in table.rows:
        line: list[str] = []
        for column, has_spread in zip(table.columns, wide, strict=True):
            value, deviation = _parts(column, row.cells.get(column.key), thousands="")
            line += [value] + [deviation] * has_spread
        line[0] += PAPER if row.published else ""
        writer.writerow(line)
    return file.getvalue() + "".join(f"# {' '.join(note.split())}\n" for note in table.notes)


def to_latex(table: ResultTable) -> str:
    """Render as a LaTeX table in the style of the package booktabs, the best values bold, the notes in small print.

    Args:
        table: The table.

    Returns:
        The text, with a line break at the end.
    """
    marked = best_cells(table)
    alignment = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(f'{table.title}. {table.question}' if table.question else table.title)}}}",
        rf"  \begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        "    " + " & ".join(_latex(column.heading) for column in table.columns) + r" \\",
        r"    \midrule",
    ]
    for row, texts in enumerate(cell_texts(table)):
        letters = [_LATEX if column.kind == "text" else _LATEX_OF_NUMBERS for column in table.columns]
        cells = [_latex(text, some) for text, some in zip(texts, letters, strict=True)]
        cells = [rf"\textbf{{{text}}}" if (row, index) in marked else text for index, text in enumerate(cells)]
        lines.append("    " + " & ".join(cells) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines += [rf"  \par\footnotesize {_latex(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


RENDERERS: dict[str, tuple[str, Callable[[ResultTable], str]]] = {
    "markdown": (".md", to_markdown),
    "latex": (".tex", to_latex),
    "csv": (".csv", to_csv),
}
"""For each format the ending of its files and what renders it."""


def _scaled(column: Column, value: Cell) -> float | None:
    """Give a number on the scale shown; None for texts and where there is none."""
    number = value.mean if isinstance(value, Spread) else value
    if number is None or isinstance(number, str) or math.isnan(number):
        return None
    return 100 * number if column.kind == "percent" else float(number)


def _parts(column: Column, value: Cell, *, thousands: str = ",") -> tuple[str, str]:
    """Write one value and its deviation; either is empty where there is none."""
    if isinstance(value, str):
        return value, ""
    number = _scaled(column, value)
    if number is None:
        return "", ""
    if column.kind == "text":
        return str(value), ""
    if column.kind == "count":
        return f"{round(number):{thousands}}", ""
    shown = f"{round(number, column.digits) + 0.0:{'+' * column.signed}.{column.digits}f}"  # + 0.0: no minus before 0
    if not isinstance(value, Spread):
        return shown, ""
    deviation = value.deviation * (100 if column.kind == "percent" else 1)
    return shown, f"{deviation:.{column.digits}f}"


def _markdown(text: str) -> str:
    """Keep a text within its cell and its line."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def _latex(text: str, letters: Mapping[str, str] = _LATEX) -> str:
    """Write a text so that LaTeX prints it as it is, on one line."""
    return "".join(letters.get(letter, letter) for letter in " ".join(text.split()))
