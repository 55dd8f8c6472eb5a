"""The tables of ``evaluate``: scores by benchmark, and the checkpoint beside published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scan_lightning.callbacks.record import LIBRARIES
from scan_lightning.callbacks.results import MEANINGS
from scan_lightning.data.benchmarks import load_benchmark
from scan_lightning.data.published import PublishedRow, load_published
from scan_lightning.files import write_whole
from scan_lightning.tables import (
    Cell,
    Column,
    ResultTable,
    TableRow,
    cell_texts,
    to_csv,
    to_latex,
    to_markdown,
)

_SCORES = {
    "miou_any": "mIoU (any)",
    "miou_present": "mIoU (present)",
    "sg_iou_any": "SG-IoU",
    "open_miou": "Open mIoU",
    "zero_share": "zero share",
    "miou_seen": "seen",
    "miou_unseen": "unseen",
    "miou_harmonic": "harmonic",
}
_SIMILARITY = (
    "its similarity of classes is the cosine of the network's own text features, scaled so that the mean over pairs of "
    "different classes of the vocabulary is 0"
)
_PIPED_WIDTH = 150


def score_table(rows: Sequence[Mapping[str, str]], remarks: Sequence[str] = ()) -> ResultTable:
    """Lay the rows of one checkpoint out, one line per benchmark, beside SCAN's published numbers.

    Args:
        rows: From `read_rows`.
        remarks: Lines to say below the table: what is missing and why.

    Returns:
        The table; columns without any value are left out.
    """
    lines = [TableRow(cells=_cells(row)) for row in rows]
    paper = sorted({published.title for row in rows if (published := _paper_of(row)) is not None})
    columns = [
        Column(key="title", title="benchmark"),
        Column(key="images", title="images", kind="count"),
        Column(key="miou_any", title=_SCORES["miou_any"], kind="percent"),
        Column(key="paper", title=f"{_SCORES['miou_any']} {', '.join(paper)}", kind="percent", published=True),
        *(Column(key=key, title=title, kind="percent") for key, title in _SCORES.items() if key != "miou_any"),
        Column(key="settings", title="settings"),
    ]
    kept = [column for column in columns if any(line.cells.get(column.key) is not None for line in lines)]
    shown = [column.key for column in kept]
    return ResultTable(
        title="Scores in percent" + _partial(rows),
        columns=tuple(kept) or tuple(columns[:1]),
        rows=tuple(lines),
        notes=(
            *remarks,
            *_shortfalls(rows),
            *_meanings(shown),
            *(_sources() if "paper" in shown else ()),
            *provenance(rows),
        ),
    )


def published_table(rows: Sequence[Mapping[str, str]]) -> ResultTable | None:
    """Set one checkpoint beside all published numbers, one column per benchmark.

    Args:
        rows: From `read_rows`.

    Returns:
        The table; None if no benchmark has been published.
    """
    published = load_published()
    known = list(dict.fromkeys(short for row in published for short in row.scores))
    ours = {row["benchmark"]: _number(row["miou_any"]) for row in rows if row["benchmark"] in known}
    if not ours:
        return None
    backbone = next((row["backbone"] for row in rows if row["backbone"]), "")
    lines = [TableRow(cells={"method": f"this checkpoint {backbone}".strip(), **ours})]
    lines += [TableRow(cells={"method": row.title, **row.scores}, published=True) for row in published]
    return ResultTable(
        title=f"{_SCORES['miou_any']} in percent, beside published numbers" + _partial(rows),
        columns=(
            Column(key="method", title="method"),
            *(Column(key=short, title=load_benchmark(short).paper_name, kind="percent", best="max") for short in known),
        ),
        rows=tuple(lines),
        notes=(*_shortfalls(rows), *_meanings(["miou_any"]), *_sources(), *provenance(rows)),
    )


def provenance(rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Tell what the rows were measured with.

    Args:
        rows: With the columns of `run_record`.

    Returns:
        One line: configurations, checkpoint, commit, versions, hardware; values that differ stand beside one another.
    """
    if not rows:
        return ()
    configs = ", ".join(f"{row['title']} {row['config_hash'][:8]}" for row in rows)
    commits = sorted({row["commit"][:12] + " with changes" * (row["dirty"] == "1") for row in rows if row["commit"]})
    versions = [f"{name} {_values(rows, name)}" for name in ("python", *LIBRARIES)]
    parts = [
        f"Configuration: {configs}",
        f"checkpoint {', '.join(sorted({row['checkpoint_hash'][:8] for row in rows}))}",
        f"commit {', '.join(commits) or 'unknown'}",
        *versions,
        f"precision {_values(rows, 'precision')}",
        f"hardware {_values(rows, 'hardware')}, processes {_values(rows, 'processes')}",
    ]
    return ("; ".join(parts),)


def write_table(table: ResultTable, folder: Path, name: str) -> list[Path]:
    """Write a table as Markdown, CSV and LaTeX.

    Args:
        table: The table.
        folder: Made when needed.
        name: Of the files, without ending.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, render in ((".md", to_markdown), (".csv", to_csv), (".tex", to_latex)):
        written.append(folder / f"{name}{suffix}")
        write_whole(written[-1], render(table), durable=False)
    return written


def print_table(table: ResultTable) -> None:
    """Show a table on the terminal, its notes below.

    Args:
        table: The table.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPED_WIDTH)
    drawn = Table(title=table.title, title_justify="left")
    for column in table.columns:
        drawn.add_column(column.heading, justify="left" if column.kind == "text" else "right")
    for texts in cell_texts(table):
        drawn.add_row(*texts)
    console.print(drawn, markup=False)
    for note in table.notes:
        console.print(note, markup=False)


def _cells(row: Mapping[str, str]) -> dict[str, Cell]:
    """Turn the texts of a row into values; those that are absent stay out."""
    paper = _paper_of(row)
    cells: dict[str, Cell] = {
        "title": row["title"],
        "images": int(row["images"]),
        "settings": row["settings"],
        "paper": None if paper is None else paper.scores.get(row["benchmark"]),
    }
    return cells | {name: _number(row.get(name, "")) for name in _SCORES}


def _paper_of(row: Mapping[str, str]) -> PublishedRow | None:
    """Find SCAN's own published scores for the backbone of a row, where they have its benchmark."""
    matches = (
        published
        for published in load_published()
        if published.method == "SCAN" and published.backbone == row["backbone"] and row["benchmark"] in published.scores
    )
    return next(matches, None)


def _number(text: str) -> float | None:
    return float(text) if text else None


def _values(rows: Sequence[Mapping[str, str]], name: str) -> str:
    """List the different values of a column."""
    return ", ".join(dict.fromkeys(row.get(name) or "unknown" for row in rows))


def _partial(rows: Sequence[Mapping[str, str]]) -> str:
    """Say in a title that not all images were looked at."""
    return ", first images only" if any(row["limit"] for row in rows) else ""


def _shortfalls(rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Say which benchmarks were not looked at as a whole."""
    counts = [
        f"{row['title']} {int(row['images']):,} of {int(row['published_images']):,}"
        for row in rows
        if row["published_images"] and row["images"] != row["published_images"]
    ]
    return (f"Images looked at, of those that the benchmark has: {', '.join(counts)}.",) if counts else ()


def _meanings(keys: Sequence[str]) -> tuple[str, ...]:
    """Explain the scores that are shown."""
    texts = {key: MEANINGS[key] for key in _SCORES}
    texts["open_miou"] += f"; {_SIMILARITY}"
    return tuple(f"{_SCORES[key]}: {texts[key]}." for key in _SCORES if key in keys)


def _sources() -> tuple[str, ...]:
    """Say where the published numbers stand."""
    publications = dict.fromkeys(row.publication for row in load_published())
    return (
        f'"(paper)" marks published numbers, mIoU (any), from {"; ".join(publications)}; they were not measured here.',
    )
