from pathlib import Path

import pytest

from scan_lightning.reports.groups import Group, group_rows
from scan_lightning.reports.layout import GroupLayout, TableLayout
from scan_lightning.reports.order import find_plan, order_groups, unmeasured
from tests.reports.made_up import make_row

FILE = """
method: grid
command: [scan-lightning, run, '${args}']
parameters:
  variant:
    values: [{label: none}, {label: few, x.layers: [1]}, {label: all, x.layers: [1, 2]}]
  seed_everything: {values: [0, 1]}
"""
OVERLAY = "parameters: {variant: {values: [{label: none}, {label: one}]}}\n"
TABLE = TableLayout(title="T", question="Q", groups=(GroupLayout(key="variant", title="v"),), columns=("m",))


def write(folder: Path) -> Path:
    (folder / "small").mkdir()
    (folder / "a.yaml").write_text(FILE, encoding="utf-8")
    (folder / "small" / "a.yaml").write_text(OVERLAY, encoding="utf-8")
    return folder


def groups(*names: str, seeds: tuple[int, ...] = (0, 1)) -> list[Group]:
    return group_rows([make_row("q", seed, {}, name, m=1) for name in names for seed in seeds], TABLE)


def labels(found: list[Group]) -> list[str]:
    return [group.label for group in found]


def test_rows_stand_in_the_order_of_the_grid(tmp_path: Path) -> None:
    found = groups("all", "none", "few")
    plan = find_plan([Path("a.csv")], TABLE, write(tmp_path), found)
    assert labels(order_groups(found, TABLE, plan)) == ["none", "few", "all"]
    assert unmeasured(plan, found) == ""


def test_the_grid_with_an_overlay_is_found_by_its_rows(tmp_path: Path) -> None:
    folder = write(tmp_path)
    found = groups("one", "none")
    assert labels(order_groups(found, TABLE, find_plan([Path("a.csv")], TABLE, folder, found))) == ["none", "one"]
    found = groups("none")  # in both grids: the smaller one asks for less beyond
    assert unmeasured(find_plan([Path("a.csv")], TABLE, folder, found), found) == "one"


def test_the_overlay_is_that_of_the_rows_folder(tmp_path: Path) -> None:
    folder, found = write(tmp_path), groups("none")
    (folder / "other").mkdir()
    (folder / "other" / "a.yaml").write_text(OVERLAY.replace("label: one", "label: two"), encoding="utf-8")
    for size, missing in (("small", "one"), ("other", "two")):
        assert unmeasured(find_plan([Path(size, "a.csv")], TABLE, folder, found), found) == missing


def test_what_is_not_measured_is_told_with_its_seeds(tmp_path: Path) -> None:
    found = [*groups("all", seeds=(0,)), *groups("few")]
    assert unmeasured(find_plan([Path("a.csv")], TABLE, write(tmp_path), found), found) == "none; all (seed 1)"


def test_rows_without_a_grid_keep_their_order(tmp_path: Path) -> None:
    folder = write(tmp_path)
    found = groups("new", "all")  # no grid asks for "new"
    plan = find_plan([Path("a.csv")], TABLE, folder, found)
    assert plan is None
    assert labels(order_groups(found, TABLE, plan)) == ["new", "all"]
    assert unmeasured(plan, found) == ""
    assert find_plan([Path("b.csv")], TABLE, folder, found) is None


def test_the_order_of_the_layout_comes_first() -> None:
    table = TableLayout(title="T", question="Q", groups=TABLE.groups, columns=("m",), order=("few", "none"))
    assert labels(order_groups(groups("all", "none", "few"), table, None)) == ["few", "none", "all"]
    with pytest.raises(ValueError, match="order: no row 'few', there are all"):
        order_groups(groups("all"), table, None)


def test_a_grid_over_a_parameter_matches_however_numbers_are_written(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "method: grid\ncommand: [x, '${args}']\n"
        "parameters: {ratio: {values: [0.5, 0, 1.0]}, seed_everything: {values: [0]}}\n",
        encoding="utf-8",
    )
    table = TableLayout(title="T", question="Q", groups=(GroupLayout(key="ratio", title="r"),), columns=("m",))
    found = group_rows([make_row("q", 0, {"ratio": ratio}, m=1) for ratio in (0, 1, 0.5)], table)
    assert labels(order_groups(found, table, find_plan([Path("r.csv")], table, tmp_path, found))) == ["0.5", "0", "1"]


def test_a_grid_that_leaves_the_seeds_open_asks_for_each_group_once(tmp_path: Path) -> None:
    text = FILE.replace("  seed_everything: {values: [0, 1]}\n", "")
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    found = groups("few", "none", seeds=(5,))
    plan = find_plan([Path("a.csv")], TABLE, tmp_path, found)
    assert labels(order_groups(found, TABLE, plan)) == ["none", "few"]
    assert unmeasured(plan, found) == "all"
