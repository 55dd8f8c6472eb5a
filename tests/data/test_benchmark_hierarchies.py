"""SG-IoU parents of the benchmarks: the released tables, what they overwrite, and the cleaned variants."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import scan_lightning
from scan_lightning.data.benchmarks import BENCHMARK_KEYS, load_benchmark

SHARED = os.environ.get("SCAN_LIGHTNING_SHARED")
PACKAGE = Path(scan_lightning.__file__).parent
HIERARCHIES = {"ade20k_150": (33, 33), "ade20k_847": (306, 356), "pascal_context_459": (122, 142)}
MUTUAL_PAIRS = {"ade20k_150": 1, "ade20k_847": 36, "pascal_context_459": 7}


def read(folder: str, key: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((PACKAGE / "data" / folder / f"{key}.json").read_text("utf-8"))
    return content


def cycles(parents: Mapping[int, tuple[int, ...]]) -> set[frozenset[int]]:
    """Groups of classes that are, over any number of steps, parents of one another."""
    above: dict[int, set[int]] = {}
    for start in parents:
        reached, todo = set(), list(parents[start])
        while todo:
            label = todo.pop()
            if label not in reached:
                reached.add(label)
                todo.extend(parents.get(label, ()))
        above[start] = reached
    return {
        frozenset(other for other in above if other in above[label] and label in above[other])
        for label in above
        if label in above[label]
    }


@pytest.mark.parametrize("key", HIERARCHIES)
def test_hierarchy_as_released(key: str) -> None:
    hierarchy = load_benchmark(key).hierarchy()
    assert hierarchy is not None
    assert (len(hierarchy.parents), sum(map(len, hierarchy.parents.values()))) == HIERARCHIES[key]
    content = read("hierarchies", key)
    assert hierarchy.parents == {int(child): tuple(labels) for child, labels in content["parents"].items()}
    pairs = {(child, parent) for child, parents in hierarchy.parents.items() for parent in parents}
    assert len({pair for pair in pairs if pair[::-1] in pairs}) == 2 * MUTUAL_PAIRS[key]


@pytest.mark.skipif(SHARED is None, reason="SCAN_LIGHTNING_SHARED names no folder")
@pytest.mark.parametrize("key", HIERARCHIES)
def test_hierarchy_as_in_the_collected_file(key: str) -> None:
    collected = json.loads((Path(str(SHARED)) / "datasets" / "sg_iou_hierarchy.json").read_text("utf-8"))
    hierarchy = load_benchmark(key).hierarchy()
    assert hierarchy is not None
    assert hierarchy.parents == {int(child): tuple(labels) for child, labels in collected[key].items()}


@pytest.mark.parametrize("key", HIERARCHIES)
def test_hierarchy_cleaned_has_no_cycle_and_tells_every_change(key: str) -> None:
    benchmark = load_benchmark(key)
    released, cleaned = benchmark.hierarchy(), benchmark.hierarchy("cleaned")
    assert released is not None
    assert cleaned is not None
    assert cycles(released.parents)
    assert not cycles(cleaned.parents)
    changes = read("hierarchies", key)["cleaned"]
    names = benchmark.vocabulary().names
    for entry in (*changes["dropped"], *changes["added"]):
        assert entry["names"] == [names[entry["child"]], names[entry["parent"]]]
        assert entry["why"]

    def pairs(parents: Mapping[int, tuple[int, ...]]) -> set[tuple[int, int]]:
        return {(child, parent) for child, labels in parents.items() for parent in labels}

    dropped = {(entry["child"], entry["parent"]) for entry in changes["dropped"]}
    added = {(entry["child"], entry["parent"]) for entry in changes["added"]}
    assert dropped == pairs(released.parents) - pairs(cleaned.parents)
    assert added == pairs(cleaned.parents) - pairs(released.parents)


def test_hierarchy_lists_entries_that_the_source_overwrites() -> None:
    hierarchy = load_benchmark("a847").hierarchy()
    assert hierarchy is not None
    entries = read("hierarchies", "ade20k_847")["overwritten"]
    assert [entry["child"] for entry in entries] == [63, 131, 142, 185, 316, 325, 365, 520, 531, 561, 642]
    for entry in entries:
        assert len(entry["parents_in_source_order"]) == 2
        assert list(hierarchy.parents[entry["child"]]) == entry["parents_in_source_order"][-1]
    assert all(read("hierarchies", key)["overwritten"] == [] for key in HIERARCHIES if key != "ade20k_847")


def test_cycles_are_found() -> None:
    assert cycles({0: (1,), 1: (2,), 2: (0, 3), 4: (0,)}) == {frozenset({0, 1, 2})}
    assert not cycles({0: (1, 2), 1: (2,)})


def test_no_hierarchy_for_the_others() -> None:
    assert all(load_benchmark(key).hierarchy() is None for key in BENCHMARK_KEYS if key not in HIERARCHIES)
