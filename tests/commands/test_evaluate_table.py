from collections.abc import Mapping

from scan_lightning.callbacks.record import run_record
from scan_lightning.commands.evaluate_table import provenance, published_table, score_table
from scan_lightning.tables import to_csv, to_markdown

BASE = {name: str(value) for name, value in run_record({"a": 1}).items()} | {
    "checkpoint_hash": "c" * 64,
    "precision": "32-true",
    "processes": "1",
    "backbone": "",
    "settings": "the recipe",
    "limit": "",
    "published_images": "",
    "images": "7",
    "miou_any": "0.25",
    "miou_present": "0.5",
    "zero_share": "",
}


def row(title: str, **values: str) -> Mapping[str, str]:
    return {**BASE, "title": title, "benchmark": title.lower(), **values}


def test_score_table_leaves_out_columns_without_a_value() -> None:
    lines = to_csv(score_table([row("One"), row("Two", sg_iou_any="0.125")], ["Not on disk: A."])).splitlines()
    assert lines[0] == "benchmark,images,mIoU (any),mIoU (present),SG-IoU,settings"
    assert lines[1:3] == ["One,7,25.0,50.0,,the recipe", "Two,7,25.0,50.0,12.5,the recipe"]
    assert lines[3] == "# Not on disk: A."
    assert not any("zero share" in line or "(paper)" in line for line in lines)


def test_provenance_names_every_difference() -> None:
    rows = [
        row("One", commit="1" * 40, dirty="1", config_hash="aaaaaaaaaa", torch="2.6.0"),
        row("Two", commit="2" * 40, dirty="0", config_hash="bbbbbbbbbb", torch="2.7.0", processes="8"),
    ]
    (line,) = provenance(rows)
    assert "Configuration: One aaaaaaaa, Two bbbbbbbb; checkpoint cccccccc" in line
    assert "commit 111111111111 with changes, 222222222222;" in line
    assert "torch 2.6.0, 2.7.0;" in line
    assert line.endswith("processes 1, 8")
    assert provenance([]) == ()
    assert "commit unknown" in provenance([row("One", commit="", dirty="")])[0]


def test_published_table_has_one_measured_row_and_marks_no_best() -> None:
    rows = [
        row("A-150", benchmark="a150", backbone="vit_l14", published_images="2000", images="2000", miou_any="0.99"),
        row("PC-59", benchmark="pc59", backbone="vit_l14", published_images="5105", images="5104", limit="9"),
        row("own"),
    ]
    table = published_table(rows)
    assert table is not None
    text = to_markdown(table)
    assert "**99.0**" not in text
    assert "first images only" in text
    assert "PC-59 5,104 of 5,105." in text
    assert "A-150 2,000 of" not in text
    assert text.count("(paper) ") >= 4
    scores = to_markdown(score_table(rows))
    assert "mIoU (any) SCAN ViT-L/14 (paper)" in scores
    assert published_table([row("own")]) is None
