from pathlib import Path

import pytest

from scan_lightning.reports.layout import load_layout
from tests.reports.made_up import ABLATIONS, LAYOUT

METRICS = "metrics: {miou_any: {title: mIoU}, zero_share: {title: zeros, best: min}}\n"
TABLE = "{title: T, question: Q, groups: [{key: variant, title: parts}], columns: [miou_any]%s}"

ONE = "tables: {a: " + TABLE % ""


def write(folder: Path, text: str) -> Path:
    path = folder / "tables.yaml"
    path.write_text(METRICS + text, encoding="utf-8")
    return path


def test_layout_of_the_project_has_a_table_for_every_ablation_file() -> None:
    layout = load_layout(LAYOUT)
    names = {path.stem for path in ABLATIONS.glob("*.yaml")}
    assert len(names) >= 14
    assert names <= set(layout.tables)
    for name in names:
        assert layout.tables[name].kind == "groups"
        assert "miou_any" in layout.tables[name].columns
    assert {"metrics", "collapse", "domain", "domain_drift"} <= set(layout.tables)
    assert {plot.kind for plot in layout.plots.values()} == {"curve", "layers", "scatter"}


def test_layout_fills_defaults_in(tmp_path: Path) -> None:
    layout = load_layout(write(tmp_path, "tables:\n  a: " + TABLE % ""))
    assert layout.ablations == tmp_path
    other = write(tmp_path, "ablations: ../grids\ntables:\n  a: " + TABLE % "")
    assert load_layout(other).ablations == tmp_path.parent / "grids"
    assert layout.table("a").groups[0].title == "parts"
    assert layout.metrics["zero_share"].best == "min"
    assert layout.metrics["miou_any"].best == "max"
    with pytest.raises(ValueError, match="table 'b': not in the layout, which has a"):
        layout.table("b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tables: []\nother: 1", "expected a mapping of metrics, tables, plots, ablations, got"),
        ("tables: [a]", "tables: expected a mapping, got list"),
        ("tables: {a: {title: T, question: Q, colums: [miou_any]}}", r"tables\.a: .*colums"),
        ("tables: {a: {title: T}}", r"tables\.a: .*question"),
        ("tables: {a: {title: T, question: Q, columns: [miou_any]}}", "kind 'groups' needs groups"),
        ("tables: {a: " + TABLE % ", kind: pivot" + "}", "kind 'pivot' needs pivot"),
        ("tables: {a: " + TABLE % ", kind: ranking" + "}", "kind 'ranking' needs combine"),
        ("tables: {a: " + TABLE % ", combine: [a]" + "}", "combine belongs to the kind ranking or swaps, got 'groups'"),
        ("tables: {a: " + TABLE % ", kind: swaps, combine: [a]" + "}", "kind 'swaps' needs two metrics"),
        ("tables: {a: " + TABLE % ", differences: [{metric: zero_share, baseline: x}]" + "}", "got zero_share"),
        ("tables: {a: {title: T, question: Q, groups: [{key: k, title: t}], columns: [iou]}}", "metric: expected some"),
        (ONE + ", b: {title: T, question: Q, kind: ranking, combine: [c], columns: [miou_any]}}",
         "combine: expected some of a, got c"),
        (ONE + "}\nplots: {p: {title: P, kind: curve, tables: [a]}}", "kind 'curve' needs metrics"),
        (ONE + "}\nplots: {p: {title: P, kind: layers, tables: [a], metrics: [miou_any]}}",
         "needs layers and baseline"),
        (ONE + "}\nplots: {p: {title: P, kind: curve, tables: [a, a], metrics: [miou_any]}}",
         "needs one table, got"),
        ("plots: {p: {title: P, kind: scatter, tables: []}}", "needs at least one table"),
    ],
)  # fmt: skip
def test_layout_with_a_mistake_names_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_layout(write(tmp_path, text))


def test_layout_that_is_no_file_or_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a layout of tables"):
        load_layout(tmp_path / "absent.yaml")
    with pytest.raises(ValueError, match="not YAML"):
        load_layout(write(tmp_path, "tables: {"))
