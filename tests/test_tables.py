import csv
import math
import re

import pytest

from scan_lightning.tables import (
    RENDERERS,
    Column,
    ResultTable,
    Spread,
    TableRow,
    best_cells,
    to_csv,
    to_latex,
    to_markdown,
)

COLUMNS = (
    Column(key="name", title="benchmark"),
    Column(key="images", title="images", kind="count"),
    Column(key="miou", title="mIoU", kind="percent", best="max"),
    Column(key="zero", title="zero share", kind="percent", best="min"),
    Column(key="paper", title="mIoU", kind="percent", best="max", published=True),
)


def make(*rows: TableRow, notes: tuple[str, ...] = ()) -> ResultTable:
    return ResultTable(title="Scores", columns=COLUMNS, rows=rows, notes=notes)


def row(published: bool = False, **cells: str | int | float | Spread | None) -> TableRow:
    return TableRow(cells=cells, published=published)


def test_markdown_of_one_row_marks_no_best() -> None:
    table = make(row(name="A|150", images=2000, miou=0.30849, zero=math.nan, paper=0.308), notes=("a\nb", "commit 1_2"))
    assert to_markdown(table) == (
        "**Scores**\n\n"
        "| benchmark | images | mIoU | zero share | mIoU (paper) |\n"
        "| --------- | -----: | ---: | ---------: | -----------: |\n"
        "| A\\|150    |  2,000 | 30.8 |          - |         30.8 |\n"
        "\n- a b\n- commit 1_2\n"
    )


def test_best_values_are_marked_among_measured_rows_alone() -> None:
    table = make(
        row(name="ours", miou=0.40041, zero=0.2),
        row(name="other", miou=0.40038, zero=0.1),  # shown as 40.0, like the first
        row(name="third", miou=0.3, zero=math.nan),
        row(published=True, name="SAN", miou=0.9, zero=0.0, paper=0.9),
    )
    assert best_cells(table) == {(0, 2), (1, 2), (1, 3)}
    lines = to_markdown(table).splitlines()
    assert lines[4].startswith("| ours ")
    assert "**40.0**" in lines[4]
    assert "**40.0**" in lines[5]
    assert "**10.0**" in lines[5]
    assert lines[7].startswith("| SAN (paper) ")
    assert "**" not in lines[7]
    assert to_latex(table).count(r"\textbf{") == 3


def test_best_needs_two_measured_values() -> None:
    assert best_cells(make(row(name="ours", miou=0.4), row(published=True, name="paper", miou=0.3))) == set()
    assert best_cells(make(row(name="ours", miou=0.4), row(name="absent"))) == set()


def test_csv_is_read_back_with_its_values() -> None:
    table = make(
        row(name='say "x", y', images=20000, miou=0.12345, paper=0.5),
        row(published=True, name="SAN", miou=0.2),
        notes=("config 12\n34",),
    )
    text = to_csv(table)
    *lines, note = text.splitlines()
    assert note == "# config 12 34"
    first, second = csv.DictReader(lines)
    assert first == {
        "benchmark": 'say "x", y',
        "images": "20000",
        "mIoU": "12.3",
        "zero share": "",
        "mIoU (paper)": "50.0",
    }
    assert second["benchmark"] == "SAN (paper)"
    assert second["images"] == ""


def test_spread_is_shown_beside_the_mean_and_apart_in_csv() -> None:
    table = make(row(name="a", miou=Spread(mean=0.5, deviation=0.0123)), row(name="b", miou=0.4))
    assert "**50.0 ± 1.2**" in to_markdown(table)
    assert r"\textbf{50.0 $\pm$ 1.2}" in to_latex(table)
    first, second = csv.DictReader(to_csv(table).splitlines())
    assert (first["mIoU"], first["mIoU, deviation"]) == ("50.0", "1.2")
    assert (second["mIoU"], second["mIoU, deviation"]) == ("40.0", "")


def test_latex_is_a_booktabs_table_with_escaped_texts() -> None:
    table = make(row(name=r"50 % & $x_1^2$ {a}\b~#", images=3), notes=("<note>",))
    text = to_latex(table)
    assert text.splitlines()[:4] == [
        r"\begin{table}",
        r"  \centering",
        r"  \caption{Scores}",
        r"  \begin{tabular}{lrrrr}",
    ]
    order = [text.index(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule", "end{tabular}", "footnotesize")]
    assert order == sorted(order)
    (line,) = [line for line in text.splitlines() if "50 " in line]
    assert line.endswith(r" & 3 & $-$ & $-$ & $-$ \\")
    assert r"50 \% \& \$x\_1\textasciicircum{}2\$ \{a\}\textbackslash{}b\textasciitilde{}\# &" in line
    assert r"\textless{}note\textgreater{}" in text
    unescaped = re.sub(r"\\[{}]", "", text)
    assert unescaped.count("{") == unescaped.count("}")


def test_latex_rows_give_the_line_break_no_argument_and_numbers_a_minus() -> None:
    columns = (Column(key="name", title="a|b"), Column(key="d", title="d", kind="number", signed=True))
    rows = (row(name="[CLS]", d=-0.5), row(name="* 0.0-0.2", d=Spread(mean=-1.0, deviation=0.2)))
    lines = to_latex(ResultTable(title="t", columns=columns, rows=rows)).splitlines()
    assert r"    a\textbar{}b & d \\" in lines
    assert r"    {[}CLS] & $-$0.5 \\" in lines  # LaTeX reads "\\ [CLS]" as a line break of the height CLS
    assert r"    {*} 0.0-0.2 & $-$1.0 $\pm$ 0.2 \\" in lines


def test_csv_tells_columns_of_equal_headings_apart() -> None:
    columns = tuple(Column(key=f"rank {name}", title="rank", kind="count") for name in "ab")
    rows = (TableRow(cells={"rank a": 1, "rank b": 2}),)
    (read,) = csv.DictReader(to_csv(ResultTable(title="t", columns=columns, rows=rows)).splitlines())
    assert read == {"rank a": "1", "rank b": "2"}


def test_columns_must_be_there_and_differ() -> None:
    with pytest.raises(ValueError, match="at least one column"):
        ResultTable(title="t", columns=(), rows=())
    with pytest.raises(ValueError, match=r"different keys of columns, got \['a', 'a'\]"):
        ResultTable(title="t", columns=(Column(key="a", title="A"), Column(key="a", title="B")), rows=())


def test_number_digits_and_negative_values() -> None:
    columns = (Column(key="time", title="seconds", kind="number", digits=2, best="min"), Column(key="n", title="n"))
    table = ResultTable(title="t", columns=columns, rows=(row(time=-1.005, n=3), row(time=2.0, n=None)))
    assert to_csv(table).splitlines() == ["seconds,n", "-1.00,3", "2.00,"]
    assert best_cells(table) == {(0, 0)}


def test_differences_carry_their_sign_and_zero_no_minus() -> None:
    columns = (Column(key="name", title="n"), Column(key="d", title="Δ", kind="percent", signed=True))
    rows = (
        row(name="up", d=Spread(mean=0.012, deviation=0.004)),
        row(name="none", d=-0.0001),
        row(name="down", d=-0.02),
    )
    table = ResultTable(title="t", columns=columns, rows=rows)
    assert [line.split("|")[2].strip() for line in to_markdown(table).splitlines()[4:]] == [
        "+1.2 ± 0.4",
        "+0.0",
        "-2.0",
    ]
    assert to_csv(table).splitlines()[1] == "up,+1.2,0.4"


def test_question_stands_behind_the_title() -> None:
    table = ResultTable(title="T", question="Which?", columns=COLUMNS, rows=())
    assert to_markdown(table).startswith("**T** Which?\n\n| benchmark")
    assert r"\caption{T. Which?}" in to_latex(table)
    assert {name: render(table) for name, (_, render) in RENDERERS.items()} == {
        "markdown": to_markdown(table),
        "latex": to_latex(table),
        "csv": to_csv(table),
    }
