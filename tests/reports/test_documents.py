from pathlib import Path

import pytest

from scan_lightning.reports.documents import marked_tables, outdated, render, rewrite
from scan_lightning.reports.layout import load_layout
from scan_lightning.reports.report import Report
from scan_lightning.reports.rows import read_rows
from tests.reports.made_up import LAYOUT, write_ablation, write_rows

DOCUMENT = """# Results

<!-- table: cs_source notes=no -->
<!-- /table -->

Text.

```markdown
<!-- table: NAME -->
```

<!-- table: cs_source title=no notes=short columns=miou_any,difference -->
old
<!-- /table -->
"""


@pytest.fixture
def report(tmp_path: Path) -> Report:
    write_ablation("cs_source", tmp_path / "rows")
    return Report(layout=load_layout(LAYOUT), folder=tmp_path / "rows")


def test_markers_are_found_and_code_is_left_alone() -> None:
    first, second = marked_tables(DOCUMENT)
    assert (first.name, first.options, first.line, first.content) == ("cs_source", {"notes": "no"}, 3, "")
    assert second.options == {"title": "no", "notes": "short", "columns": "miou_any,difference"}
    assert (second.line, second.content) == (12, "old\n")


def test_rewriting_keeps_all_else() -> None:
    new = rewrite(DOCUMENT, lambda marked: f"made from line {marked.line}\n")
    assert new == DOCUMENT.replace("cs_source notes=no -->\n", "cs_source notes=no -->\nmade from line 3\n").replace(
        "old\n", "made from line 12\n"
    )
    assert rewrite("no tables\r\n", lambda _: "x") == "no tables\r\n"


def test_filled_document_follows_from_rows_until_a_row_changes(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "README.md"
    text = DOCUMENT.replace(",difference", "")
    path.write_text(text, encoding="utf-8")
    assert [message.split(":")[1] for message in outdated(path, report)[1]] == ["3", "12"]
    path.write_text(rewrite(text, lambda marked: render(report, marked)), encoding="utf-8")
    assert outdated(path, report) == (2, [])
    rows = read_rows(tmp_path / "rows" / "cs_source.csv")
    write_rows(tmp_path / "rows" / "cs_source.csv", [rows[0] | {"miou_unseen": "0.987654"}, *rows[1:]])
    count, messages = outdated(path, report)
    assert count == 2
    (message,) = messages  # the second table does not show that column
    assert message.startswith(f"{path}:3: table cs_source: stands '")


def test_options_of_a_marker_choose_what_is_written(report: Report) -> None:
    (marked,) = marked_tables("<!-- table: cs_source title=no notes=no columns=miou_any -->\n<!-- /table -->\n")
    lines = render(report, marked).splitlines()
    assert lines[1] == "| source     |     mIoU (any) |"
    assert len(lines) == 1 + 2 + 6 + 1
    (marked,) = marked_tables("<!-- table: cs_source columns=miou -->\n<!-- /table -->\n")
    with pytest.raises(ValueError, match=r"columns: expected some of group 0, miou_any, .*, got miou"):
        render(report, marked)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: a -->\n", "line 1: <!-- table: a --> has no partner"),
        ("\n<!-- /table -->\n", "line 2: <!-- /table --> has no partner"),
        ("<!-- table: a -->\n<!-- table: b -->\n<!-- /table -->\n", "line 2: <!-- table: b --> has no partner"),
        ("<!-- table: a note=no -->\n<!-- /table -->\n", "unknown option 'note', there are columns, notes, title"),
        ("<!-- table: a notes=few -->\n<!-- /table -->\n", "notes is one of full, short, no, got 'few'"),
        ("~~~\n<!-- table: a -->\n~~~\n<!-- /table -->\n", "line 4: <!-- /table --> has no partner"),
    ],
)
def test_wrong_markers_are_named_by_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        marked_tables(text)
