from pathlib import Path
from typing import Any

import pytest

from scan_lightning.reports.layout import load_layout
from scan_lightning.reports.report import Report
from scan_lightning.tables import Spread, to_latex, to_markdown
from tests.reports.made_up import LAYOUT, make_row, write_ablation, write_all, write_rows

METRICS = """
metrics:
  miou_any: {title: mIoU}
  sg_iou_any: {title: SG}
  error: {title: error, best: min, digits: 2}
  regions: {title: regions, kind: count, best: null}
"""
GROUPS = "groups: [{key: variant, title: parts}]"


def make_report(folder: Path, tables: str) -> Report:
    path = folder / "tables.yaml"
    path.write_text(METRICS + "tables:\n" + tables, encoding="utf-8")
    return Report(layout=load_layout(path), folder=folder / "rows")


def write(folder: Path, rows: list[dict[str, Any]], name: str = "a") -> None:
    write_rows(folder / "rows" / f"{name}.csv", rows)


def rows_of(**values: tuple[float, ...]) -> list[dict[str, Any]]:
    return [
        make_row("q", seed, {}, name, miou_any=value, sg_iou_any=1 - value)
        for name, some in values.items()
        for seed, value in enumerate(some)
    ]


def test_table_by_hand(tmp_path: Path) -> None:
    write(tmp_path, rows_of(none=(0.50, 0.52), SIM=(0.53, 0.57)))
    report = make_report(
        tmp_path,
        f"  a: {{title: Parts, question: 'What?', {GROUPS}, columns: [miou_any, sg_iou_any, error],\n"
        "      differences: [{metric: miou_any, baseline: none}],\n"
        "      published: {benchmark: a150, backbone: vit_b16, rows: {SIM: SCAN}}}\n",
    )
    text = to_markdown(report.table("a"))
    assert text.startswith(
        "**Parts** What?\n\n"
        "| parts |           mIoU |     Δ mIoU |             SG | mIoU on A-150, ViT-B/16 (paper) |\n"
        "| ----- | -------------: | ---------: | -------------: | ------------------------------: |\n"
        "| none  |     51.0 ± 1.4 |          - | **49.0 ± 1.4** |                               - |\n"
        "| SIM   | **55.0 ± 2.8** | +4.0 ± 1.4 |     45.0 ± 2.8 |                            30.8 |\n\n"
        "- Mean ± sample standard deviation over 2 seeds (0, 1); bold is the best mean, however close the next.\n"
        "- Δ mIoU: difference from none, run by run of the same seed, then mean ± deviation of these.\n"
        '- "(paper)": published, mIoU (any) on A-150, Liu et al., CVPR 2024, arXiv 2312.04089; not measured here.\n'
        "- mIoU: mean IoU, classes in truth or prediction (SCAN, OVSeg); SG: "
    )
    assert (
        "- Measured by q on 200 images.\n- Rows: 4; configurations: 4; commit 0123456789ab; python 3.11.7; torch"
        in text
    )
    hashes = [row["config_hash"][:8] for row in rows_of(none=(0.50, 0.52))]
    assert f"- Configuration hashes by seed: none: {' '.join(hashes)}; SIM: " in text
    short = report.table("a", notes="short").notes
    assert not [note for note in short if note.startswith(("mIoU:", "Configuration"))]
    assert len(short) == 5
    assert report.table("a", notes="no").notes == ()


def test_rows_of_several_commits_machines_and_numbers_of_seeds_are_told(tmp_path: Path) -> None:
    rows = rows_of(none=(0.5, 0.6), SIM=(0.5,))
    rows[0] |= {"commit": "f" * 40, "dirty": "1", "hardware": "8 x GPU"}
    write(tmp_path, rows)
    table = make_report(tmp_path, f"  a: {{title: T, question: Q, {GROUPS}, columns: [miou_any]}}\n").table("a")
    notes = "\n".join(table.notes)
    assert "Mean ± sample standard deviation over 1 to 2 seeds; bold" in notes
    assert "commit ffffffffffff with changes, 0123456789ab (2 different)" in notes
    assert "hardware 8 x GPU, 2 x x86_64 CPU" in notes
    assert [column.key for column in table.columns][-1] == "seeds"
    assert [row.cells["seeds"] for row in table.rows] == [2, 1]
    assert table.rows[1].cells["miou_any"] == 0.5  # one run has no deviation


def test_one_seed_says_that_nothing_is_known_of_the_spread(tmp_path: Path) -> None:
    write(tmp_path, rows_of(none=(0.5,)))
    table = make_report(tmp_path, f"  a: {{title: T, question: Q, {GROUPS}, columns: [miou_any]}}\n").table("a")
    assert table.notes[0] == "One run each, seed 0: nothing is known of the spread over seeds."


def test_rows_of_as_many_but_other_seeds_are_told(tmp_path: Path) -> None:
    rows = rows_of(none=(0.5, 0.6), SIM=(0.5, 0.6))
    rows[3] |= {"seed": "7"}
    write(tmp_path, rows)
    table = make_report(tmp_path, f"  a: {{title: T, question: Q, {GROUPS}, columns: [miou_any]}}\n").table("a")
    assert "over 2 seeds each, not the same ones; bold" in table.notes[0]


def test_columns_that_wait_for_a_row_are_left_out_until_it_is_measured(tmp_path: Path) -> None:
    folder = tmp_path / "quickstart"
    rows = write_ablation("components", folder)
    tuned = "SIM, CS, tuned CLIP"
    report = Report(layout=load_layout(LAYOUT), folder=folder)
    assert {"published", "difference 0"} <= {column.key for column in report.table("components").columns}
    for absent, lost in ((tuned, {"published"}), ("neither", {"difference 0", "difference 1"})):
        write_rows(folder / "components.csv", [row for row in rows if row["variant"] != absent])
        table = report.table("components")
        assert {"published", "difference 0", "difference 1"} - {column.key for column in table.columns} == lost
        assert f"Not measured yet: {absent}." in table.notes


def test_mistakes_name_the_table(tmp_path: Path) -> None:
    start = f"{{title: T, question: Q, {GROUPS}, columns: [miou_any]"
    report = make_report(
        tmp_path,
        f"  a: {start}, differences: [{{metric: miou_any, baseline: CS}}]}}\n"
        f"  b: {start}, rows: [a], published: {{benchmark: a150, backbone: vit_b16, rows: {{none: OVSeg}}}}}}\n"
        f"  c: {start}}}\n",
    )
    write(tmp_path, rows_of(none=(0.5,)))
    with pytest.raises(ValueError, match="table a: differences: expected one row 'CS', there is none, but none"):
        report.table("a")
    with pytest.raises(ValueError, match="table b: published: no score of OVSeg with vit_b16 on a150 is known"):
        report.table("b")
    with pytest.raises(FileNotFoundError, match=r"c\.csv: expected a file of rows"):
        report.table("c")
    write(tmp_path, rows_of(none=(0.5,)) * 2)
    with pytest.raises(ValueError, match="table a: none: expected one row per seed"):
        report.groups("a")


def test_pivot_lays_conditions_side_by_side(tmp_path: Path) -> None:
    rows = [
        make_row(
            "q", seed, {}, layer=layer, condition=condition, error=layer / 10 + bonus + seed / 100, regions=7 * layer
        )
        for seed in (0, 1)
        for layer in (1, 2)
        for condition, bonus in (("masked", 0.2), ("box", 0.0))
    ]
    write(tmp_path, rows)
    table = make_report(
        tmp_path,
        "  a: {title: T, question: Q, kind: pivot, groups: [{key: layer, title: block}],\n"
        "      pivot: {metric: error, count: regions, by: {key: condition, title: crop}, order: [box]}}\n",
    ).table("a")
    lines = to_markdown(table).splitlines()[2:6]
    assert lines[0] == "| block | regions |          box |       masked |"
    assert lines[2] == "| 1     |       7 | 10.50 ± 0.71 | 30.50 ± 0.71 |"
    assert lines[3] == "| 2     |      14 | 20.50 ± 0.71 | 40.50 ± 0.71 |"
    assert "Columns: crop. Shown: error." in table.notes
    assert "bold" not in table.notes[0]  # nothing is marked


def test_pivot_column_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, [make_row("q", 0, {}, layer=1, condition="box", error=0.1)])
    report = make_report(
        tmp_path,
        "  a: {title: T, question: Q, kind: pivot, groups: [{key: layer, title: block}],\n"
        "      pivot: {metric: error, by: {key: condition, title: crop}, order: [masked]}}\n",
    )
    with pytest.raises(ValueError, match="table a: pivot: no column 'masked', there are box"):
        report.table("a")


RANKED = f"""
  a: {{title: T, question: Q, {GROUPS}, columns: [miou_any]}}
  b: {{title: T, question: Q, {GROUPS}, columns: [miou_any]}}
  ranks: {{title: T, question: Q, kind: ranking, combine: [a, b], columns: [miou_any, sg_iou_any]}}
  swaps: {{title: T, question: Q, kind: swaps, combine: [a, b], columns: [miou_any, sg_iou_any], limit: 2}}
"""


def write_methods(folder: Path) -> None:
    """Four methods: mIoU orders a1 > a2 > b1 > b2, SG-IoU swaps a2 and b1 clearly and b1 and b2 within the noise."""
    scores = {
        ("a", "1"): ((0.60, 0.62), (0.70, 0.72)),
        ("a", "2"): ((0.56, 0.58), (0.60, 0.62)),
        ("b", "1"): ((0.54, 0.56), (0.64, 0.66)),
        ("b", "2"): ((0.50, 0.55), (0.60, 0.71)),
    }
    for name in "ab":
        rows = [
            make_row("q", seed, {"of": name}, variant, miou_any=first[seed], sg_iou_any=second[seed])
            for (file, variant), (first, second) in scores.items()
            if file == name
            for seed in (0, 1)
        ]
        write(folder, rows, name)


def test_ranking_counts_ranks_and_swapped_pairs(tmp_path: Path) -> None:
    write_methods(tmp_path)
    table = make_report(tmp_path, RANKED).table("ranks")
    ranks = {row.cells["method"]: (row.cells["rank miou_any"], row.cells["rank sg_iou_any"]) for row in table.rows}
    assert ranks == {"a: 1": (1, 1), "a: 2": (2, 4), "b: 1": (3, 3), "b: 2": (4, 2)}
    # Of 6 pairs 3 change order: a2 with b1, a2 with b2, b1 with b2. tau = (3 - 3) / 6.
    assert "SG against mIoU: Kendall's tau 0.00, 3 of 6 pairs of methods change order." in table.notes
    assert "Configuration hashes: below the tables a, b." in table.notes


def test_swaps_list_clear_pairs_first(tmp_path: Path) -> None:
    write_methods(tmp_path)
    table = make_report(tmp_path, RANKED).table("swaps")
    pairs = [(row.cells["ahead"], row.cells["behind"], row.cells["clear"]) for row in table.rows]
    assert pairs == [("a: 2", "b: 1", "yes"), ("a: 2", "b: 2", "no")]
    first = table.rows[0].cells
    assert first["miou_any"] == Spread(mean=pytest.approx(0.02), deviation=pytest.approx(0))
    assert first["sg_iou_any"] == Spread(mean=pytest.approx(-0.04), deviation=pytest.approx(0))
    assert any("3 of 6 pairs of methods change order, 1 of them clearly" in note for note in table.notes)
    assert "+2.00 ± 0.00 | -4.00 ± 0.00 | yes" in to_markdown(table)


def test_a_run_that_two_tables_share_counts_once(tmp_path: Path) -> None:
    rows = rows_of(one=(0.5, 0.6), two=(0.6, 0.7))
    write(tmp_path, rows, "a")
    write(tmp_path, [row | {"variant": "same"} for row in rows[:2]], "b")
    table = make_report(tmp_path, RANKED).table("ranks")
    assert [row.cells["method"] for row in table.rows] == ["a: two", "a: one"]
    write(tmp_path, rows[:2], "a")
    with pytest.raises(ValueError, match="table ranks: combine: expected at least two methods with all metrics, got 1"):
        make_report(tmp_path, RANKED).table("ranks")


def test_better_is_less_for_some_metrics(tmp_path: Path) -> None:
    rows = [
        make_row("q", 0, {}, name, miou_any=score, error=error)
        for name, score, error in (("x", 0.6, 0.2), ("y", 0.5, 0.3))
    ]
    write(tmp_path, rows, "a")
    write(tmp_path, [make_row("q", 0, {}, "z", miou_any=0.4, error=0.1)], "b")
    report = make_report(tmp_path, RANKED.replace("sg_iou_any", "error"))
    ranks = {row.cells["method"]: row.cells["rank error"] for row in report.table("ranks").rows}
    assert ranks == {"a: x": 2, "a: y": 3, "b: z": 1}
    pairs = {(row.cells["ahead"], row.cells["behind"]) for row in report.table("swaps").rows}
    assert pairs == {("a: x", "b: z"), ("a: y", "b: z")}


def test_every_table_of_the_project_is_made_from_rows_of_the_quickstart_overlays(tmp_path: Path) -> None:
    write_all(tmp_path / "quickstart")
    report = Report(layout=load_layout(LAYOUT), folder=tmp_path / "quickstart")
    for name in report.layout.tables:
        if any("quickstart" not in path.parts for path in report.files(name)):
            continue  # rows beside the ablations'
        table = report.table(name)
        assert len(table.rows) >= 2, name
        assert not [note for note in table.notes if note.startswith("Not measured")], name
        assert to_latex(table).isascii(), name
    labels = [row.cells["group 0"] for row in report.table("cs_ratio").rows]
    assert labels == ["0", "0.05", "0.1", "0.15", "0.2", "0.3", "0.5", "0.75", "1"]


def test_tables_of_committed_rows_beside_the_ablations() -> None:
    folder = LAYOUT.parent / "quickstart"
    report = Report(layout=load_layout(LAYOUT), folder=folder)
    made = {name: report.table(name) for name in ("quickstart", "camvid", "clip_tuning", "clip_tuning_scan")}
    assert [row.cells["group 0"] for row in made["quickstart"].rows][:2] == ["SCAN", "without Contextual Shift"]
    assert len(made["camvid"].rows) == 6
    for name in ("clip_tuning", "clip_tuning_scan"):
        assert made[name].rows[0].cells["group 0"] == "original"
        assert {"tuned under CS, seen words", "tuned under CS, all words"} <= {
            str(row.cells["group 0"]) for row in made[name].rows if row.cells.get("seeds") == 3
        }
