"""Tables in the project's documents, and its plots, follow from the committed rows."""

from pathlib import Path

import pytest

from scan_lightning.commands import plot, table
from scan_lightning.reports.documents import marked_tables, outdated
from scan_lightning.reports.layout import load_layout
from scan_lightning.reports.report import Report

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
PAGE = RESULTS / "README.md"
SOURCES = [f"--rows={ROOT / table.ROWS}", f"--layout={ROOT / table.LAYOUT}"]


@pytest.fixture(scope="module")
def report() -> Report:
    return Report(layout=load_layout(ROOT / table.LAYOUT), folder=ROOT / table.ROWS)


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(RESULTS.glob("**/*.md"))], ids=lambda path: path.name)
def test_tables_follow_from_the_committed_rows(path: Path, report: Report) -> None:
    _, messages = outdated(path, report)
    assert not messages, "\n".join(messages)


def test_page_of_results_shows_every_ablation_by_tables_of_its_rows() -> None:
    shown = {marked.name for marked in marked_tables(PAGE.read_text(encoding="utf-8"))}
    measured = {path.stem for path in (ROOT / table.ROWS).glob("*.csv")}
    assert measured
    layout = load_layout(ROOT / table.LAYOUT)
    used = {file.stem for name in shown for file in Report(layout=layout, folder=ROOT / table.ROWS).files(name)}
    assert measured <= used, f"no table shows {', '.join(sorted(measured - used))}"


def test_committed_plots_were_drawn_from_the_committed_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert plot.main(["--all", "--check", f"--output={ROOT / plot.OUTPUT}", *SOURCES]) == 0, capsys.readouterr().err


def test_a_typed_number_would_be_found(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "README.md"
    path.write_text("<!-- table: quickstart notes=no -->\n<!-- /table -->\n", encoding="utf-8")
    assert table.main(["--write", str(path), *SOURCES]) == 0
    assert outdated(path, report) == (1, [])
    path.write_text(path.read_text(encoding="utf-8").replace("53.6", "63.6"), encoding="utf-8")
    count, messages = outdated(path, report)
    assert count == len(messages) == 1
    assert "63.6" in messages[0]
