import math
from pathlib import Path
from typing import Any

import pytest

from scan_lightning.reports.groups import find_group, group_rows, mean_of, spread_of
from scan_lightning.reports.layout import GroupLayout, TableLayout
from scan_lightning.reports.rows import number, parameters_of, read_rows, value_text
from scan_lightning.tables import Spread
from tests.reports.made_up import make_row, write_rows

RATIO = "model.init_args.inference.replace_ratio"


def layout(*keys: str, **changes: Any) -> TableLayout:
    groups = tuple(GroupLayout(key=key, title=key, labels=changes.pop("labels", {})) for key in keys)
    return TableLayout(title="T", question="Q", groups=groups, columns=("miou_any",), **changes)


def test_rows_are_read_as_texts_and_checked(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", [{"a": 1, "b": "x, y"}])
    assert read_rows(path) == [{"a": "1", "b": "x, y"}]
    with pytest.raises(FileNotFoundError, match=r"b\.csv: expected a file of rows"):
        read_rows(tmp_path / "b.csv")
    for text, message in (("a,b\n", "expected rows, found none"), ("a,b\n1,2\n1\n", "row 3"), ("a\n1,2\n", "row 2")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_rows(path)


def test_spread_is_mean_and_sample_deviation() -> None:
    found = spread_of([0.50, 0.52, 0.57])
    assert isinstance(found, Spread)
    assert found.mean == pytest.approx(0.53)
    assert found.deviation == pytest.approx(math.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2))
    assert spread_of([0.5]) == 0.5
    assert spread_of([]) is None
    assert [mean_of(cell) for cell in (found, 0.5, None, "x")] == [pytest.approx(0.53), 0.5, None, None]


def test_number_of_a_row() -> None:
    assert number({"a": "0.5", "b": "", "c": "nan"}, "a") == 0.5
    assert [number({"b": "", "c": "nan"}, name) for name in "abc"] == [None, None, None]
    with pytest.raises(ValueError, match="a: expected a number, got 'x'"):
        number({"a": "x"}, "a")


def test_parameters_hold_those_of_the_variant() -> None:
    assert parameters_of({"parameters": '{"a": 1, "variant": {"label": "x", "b": [1, 3]}}'})["b"] == [1, 3]
    assert parameters_of({}) == {}
    for text in ("[1]", "{"):
        with pytest.raises(ValueError, match="expected a JSON object, got"):
            parameters_of({"parameters": text})


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.15, "0.15"), (1.0, "1"), (1, "1"), (False, "no"), (None, "none"), ([1, 3], "1, 3"), ([], "none"), ("a", "a"),
     ({"a": [1], "b": 0.5}, "a 1, b 0.5")],
)  # fmt: skip
def test_value_as_text(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_rows_are_grouped_by_parameter_with_seeds_in_order() -> None:
    rows = [make_row("q", seed, {RATIO: ratio}, miou_any=ratio + seed / 100) for seed in (10, 2) for ratio in (0.5, 0)]
    found = group_rows(rows, layout(RATIO))
    assert [(group.labels, group.values, list(group.rows)) for group in found] == [
        (("0.5",), (0.5,), ["2", "10"]),
        (("0",), (0,), ["2", "10"]),
    ]
    assert found[0].by_seed("miou_any") == {"2": 0.52, "10": 0.6}
    assert found[0].by_seed("absent") == {}


def test_differences_pair_seeds_that_both_groups_have() -> None:
    rows = [make_row("q", seed, {}, "a", miou_any=0.5 + seed / 10) for seed in (0, 1, 2)]
    rows += [make_row("q", seed, {}, "b", miou_any=0.4 + seed / 10) for seed in (1, 2, 3)]
    one, other = group_rows(rows, layout("variant"))
    assert one.difference(other, "miou_any") == {"1": pytest.approx(0.1), "2": pytest.approx(0.1)}
    # Every seed differs by the same, which two separate deviations would not tell.
    assert spread_of(list(one.difference(other, "miou_any").values())).deviation == pytest.approx(0)  # type: ignore[union-attr]
    assert one.spread("miou_any").deviation == pytest.approx(0.1)  # type: ignore[union-attr]


def test_labels_rename_and_join_groups() -> None:
    rows = [
        make_row("one", 0, {}, miou_any=0.1),
        make_row("two", 1, {}, miou_any=0.2),
        make_row("x", 0, {}, miou_any=1),
    ]
    found = group_rows(rows, layout("name", labels={"one": "both", "two": "both"}))
    assert [(group.label, list(group.rows)) for group in found] == [("both", ["0", "1"]), ("x", ["0"])]


def test_several_keys_and_joined_keys() -> None:
    rows = [make_row("q", 0, {}, tower="t", condition="a", source="", miou_any=1),
            make_row("q", 0, {}, tower="t", condition="a", source="b", miou_any=1)]  # fmt: skip
    assert [group.labels for group in group_rows(rows, layout("tower", "condition source"))] == [
        ("t", "a"),
        ("t", "a b"),
    ]


def test_rows_without_metric_or_with_another_value_are_left_out() -> None:
    rows = [make_row("q", 0, {}, "a", miou_any=1, split="test"), make_row("q", 0, {}, "b", miou_any=1, split="val")]
    rows += [make_row("q", 0, {}, "c", miou_any="", split="test")]
    assert [group.label for group in group_rows(rows, layout("variant", where={"split": "test"}))] == ["a"]
    with pytest.raises(ValueError, match="none of 3 rows has miou_any with split train"):
        group_rows(rows, layout("variant", where={"split": "train"}))
    with pytest.raises(ValueError, match="no column 'fold'"):
        group_rows(rows, layout("variant", where={"fold": "1"}))


def test_grouping_refuses_two_rows_of_a_seed_and_unknown_keys() -> None:
    rows = [make_row("q", 0, {RATIO: 1}, "a", miou_any=1)] * 2
    with pytest.raises(ValueError, match="a: expected one row per seed, got two of seed 0"):
        group_rows(rows, layout("variant"))
    with pytest.raises(ValueError, match=rf"other: expected a column or a parameter, got rows with parameters {RATIO}"):
        group_rows(rows, layout("other"))


def test_group_is_found_by_label_or_pattern() -> None:
    rows = [make_row("q", 0, {}, label, miou_any=1) for label in ("2, 4 (recipe)", "[CLS]", "all", "a*")]
    groups = group_rows(rows, layout("variant"))
    for label, found in (("* (recipe)", "2, 4 (recipe)"), ("[CLS]", "[CLS]"), ("a*", "a*")):
        assert find_group(groups, label, "w").label == found
    with pytest.raises(ValueError, match=r"w: expected one row 'x', there is none, but 2, 4"):
        find_group(groups, "x", "w")
    with pytest.raises(ValueError, match=r"expected one row '\*', there are 2, 4 \(recipe\), \[CLS\]"):
        find_group(groups, "*", "w")
