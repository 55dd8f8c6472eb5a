"""Rows that documents quote come from checkouts without changes, so that anyone can make them again."""

import csv
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[1] / "experiments" / "results"
FILES = sorted(RESULTS.rglob("*.csv"))


def test_there_are_rows() -> None:
    assert {"quickstart.csv", "camvid.csv", "clip_cs.csv"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rows_name_their_commit(path: Path) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert [row["name"] for row in rows if row["dirty"] != "0" or len(row["commit"]) != 40] == []
