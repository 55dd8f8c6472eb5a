import csv
from pathlib import Path

import pytest

from scan_lightning.commands.table import main
from tests.reports.made_up import LAYOUT, make_row, write_ablation, write_rows


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    write_ablation("sim_frequencies", tmp_path / "rows")
    write_ablation("cs_source", tmp_path / "rows")
    return [f"--rows={tmp_path / 'rows'}", f"--layout={LAYOUT}"]


def test_tables_are_printed_one_after_the_other(sources: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim_frequencies", "cs_source", *sources]) == 0
    text = capsys.readouterr().out
    assert text.startswith("**Frequencies of SIM's tokens** Are low")
    assert "\n\n**Substitution source of Contextual Shift** " in text
    assert main(["cs_source", "--format", "latex", *sources]) == 0
    assert capsys.readouterr().out.startswith("\\begin{table}\n  \\centering\n  \\caption{Substitution source")


def test_all_tables_that_have_rows_become_files(
    sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--all", "--output", str(tmp_path / "tables"), *sources]) == 0
    printed = capsys.readouterr()
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {f"{name}.{end}" for name in ("sim_frequencies", "cs_source") for end in ("md", "csv", "tex")}
    assert "components left out, there are no rows in" in printed.err
    with (tmp_path / "tables" / "cs_source.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if not row["source"].startswith("#")]
    assert [row["source"] for row in rows] == ["image_cls", "final_cls", "patch_mean", "zeros", "noise", "none"]
    assert float(rows[0]["mIoU (any), deviation"]) > 0
    assert main(["cs_source", "--output", str(tmp_path / "md"), "--format", "markdown", *sources]) == 0
    assert [path.name for path in (tmp_path / "md").iterdir()] == ["cs_source.md"]


def test_rows_that_the_layout_does_not_list_have_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ratios = [make_row("own", seed, {"model.ratio": ratio}, miou_any=ratio) for seed in (0, 1) for ratio in (0.5, 0.7)]
    layers = [
        make_row("own", 0, {"model.layers": layers, "model.ratio": ratio}, label, sg_iou_any=ratio)
        for label, layers in (("one", [1]), ("two", [1, 2]))
        for ratio in (0.5, 0.7)
    ]
    write_rows(tmp_path / "ratios.csv", ratios)
    write_rows(tmp_path / "layers.csv", layers)
    write_rows(tmp_path / "other.csv", [{"name": "x", "key": "y", "parameters": "{}", "loss": 1}])
    sources = [f"--rows={tmp_path}", f"--layout={LAYOUT}"]
    assert main(["ratios", "layers", *sources, "--notes=no"]) == 0
    lines = [line.replace(" ", "") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    lines = [line for line in lines if "--" not in line]
    assert lines[:3] == ["|ratio|mIoU(any)|", "|0.5|50.0±0.0|", "|0.7|**70.0±0.0**|"]
    assert lines[3] == "|variant|ratio|SG-IoU|"
    assert lines[4:] == ["|one|0.5|50.0|", "|one|0.7|**70.0**|", "|two|0.5|50.0|", "|two|0.7|**70.0**|"]
    assert main(["other", *sources]) == 1
    assert "other: the rows have none of the metrics miou_any" in capsys.readouterr().err
    assert main(["nothing", *sources]) == 1
    assert "table 'nothing': not in the layout" in capsys.readouterr().err


def test_documents_are_checked_and_filled_in(
    sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "README.md"
    path.write_text("# R\n\n<!-- table: cs_source notes=short -->\n<!-- /table -->\n", encoding="utf-8")
    assert main(["--check", str(path), *sources]) == 1
    printed = capsys.readouterr()
    assert f"{path}:3: table cs_source: stands ''" in printed.err
    assert "tables: 1, differing from the rows: 1; --write" in printed.out
    assert main(["--write", str(path), *sources]) == 0
    assert capsys.readouterr().out == f"{path}: filled in\n"
    assert main(["--check", str(path), *sources]) == 0
    assert capsys.readouterr().out == "tables: 1, differing from the rows: 0\n"
    assert main(["--write", str(path), *sources]) == 0
    assert capsys.readouterr().out == f"{path}: unchanged\n"
    path.write_text(path.read_text(encoding="utf-8").replace("| zeros ", "| ones  "), encoding="utf-8")
    assert main(["--check", str(path), *sources]) == 1
    assert "'| ones " in capsys.readouterr().err


def test_a_document_without_tables_is_nothing_checked(
    sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "README.md"
    path.write_text("# R\n", encoding="utf-8")
    assert main(["--check", str(path), *sources]) == 1
    assert "there is nothing to check" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("frequencies", "table 'frequencies': not in the layout"),
        ("components", "components.csv: expected a file of rows"),
    ],
)
def test_what_cannot_be_made_is_told(
    sources: list[str], capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert main([name, *sources]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["cs_source", "--all"], ["--all", "--check", "README.md"]])
def test_exactly_one_thing_is_asked_for(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "expected one of: names of tables, --all, --check FILES, --write FILES" in capsys.readouterr().err
