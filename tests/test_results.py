"""Every number in a table of README.md that quotes a results file is what the file's rows say."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COLUMNS = {
    "mIoU": "miou_any",
    "seen": "miou_seen",
    "unseen": "miou_unseen",
    "harmonic": "miou_harmonic",
    "SG-IoU": "sg_iou_any",
    "pixel accuracy": "pixel_accuracy",
}
ROWS = {
    "SCAN": "{}",
    "without Contextual Shift": "{}_without_cs",
    "without SIM": "{}_without_sim",
    "without both": "{}_without_both",
    "every pixel the most frequent class": "{}_most_frequent",
    "most frequent class at each place": "{}_pixel_prior",
}


def table(text: str, start: str) -> dict[str, dict[str, str]]:
    """The cells of the Markdown table whose header begins with ``start``, by row and column."""
    lines = re.search(rf"^\| {re.escape(start)}.*(?:\n\|.*)+", text, re.MULTILINE)
    assert lines, f"README.md has no table that begins with {start!r}"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()]
    header = cells[0][1:]
    return {row[0]: dict(zip(header, row[1:], strict=True)) for row in cells[2:]}


@pytest.mark.parametrize(("start", "name"), [("`shapes`", "quickstart"), ("CamVid", "camvid")])
def test_readme_table_follows_from_rows(start: str, name: str) -> None:
    with (ROOT / "experiments" / "results" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    found = table((ROOT / "README.md").read_text(encoding="utf-8"), start)
    assert {ROWS[label].format(name) for label in found} == set(rows)
    for label, cells in found.items():
        row = rows[ROWS[label].format(name)]
        assert row["dirty"] == "0", f"{label}: made from a checkout with changes"
        expected = {column: f"{100 * float(row[COLUMNS[column]]):.1f}" for column in cells}
        assert cells == expected
