"""Facts of the benchmarks: words, label numbers, seen classes, settings."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import scan_lightning
from scan_lightning.data.benchmarks import BENCHMARK_KEYS, INVALID_LABEL, Benchmark, load_benchmark
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.data.vocabulary import load_vocabulary
from scan_lightning.types import IGNORE_INDEX

PACKAGE = Path(scan_lightning.__file__).parent
EXPERIMENTS = PACKAGE.parent / "experiments"
SHARED = os.environ.get("SCAN_LIGHTNING_SHARED")
CLASSES = {
    "ade20k_150": 150,
    "ade20k_847": 847,
    "pascal_context_59": 59,
    "pascal_context_459": 459,
    "pascal_voc_20": 20,
    "coco_stuff_171": 171,
    "pascal_context_60": 60,
    "pascal_voc_21": 21,
    "cityscapes_19": 19,
}
SEEN = {
    "ade20k_150": 71,
    "ade20k_847": 119,
    "pascal_context_59": 54,
    "pascal_context_459": 97,
    "pascal_voc_20": 20,
    "coco_stuff_171": 171,
    "pascal_context_60": 54,
    "pascal_voc_21": 20,
    "cityscapes_19": 17,
}
# Mask threshold, ensemble weight, replacement ratio for ViT-B and ViT-L, and whether the ensemble is the log variant.
SETTINGS = {
    "a847": ((0.25, 0.75, 0.05), (0.3, 0.75, 0.15), True),
    "a150": ((0.4, 0.7, 0.05), (0.55, 0.75, 0.05), False),
    "pc459": ((0.25, 0.7, 0.05), (0.25, 0.65, 0.05), True),
    "pc59": ((0.25, 0.35, 0.05), (0.5, 0.5, 0.05), False),
    "voc20": ((0.2, 0.45, 0.1), (0.2, 0.65, 0.1), False),
}

every_benchmark = pytest.mark.parametrize("key", BENCHMARK_KEYS)


def read(folder: str, key: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((PACKAGE / "data" / folder / f"{key}.json").read_text("utf-8"))
    return content


def table(benchmark: Benchmark, values: list[int], **options: Any) -> list[int]:
    return benchmark.label_table(**options)[values].tolist()


def test_every_file_is_a_benchmark() -> None:
    assert sorted(path.stem for path in (PACKAGE / "data" / "vocabularies").iterdir()) == sorted(BENCHMARK_KEYS)
    assert sorted(CLASSES) == sorted(BENCHMARK_KEYS)


@every_benchmark
def test_names_are_unique_stripped_and_complete(key: str) -> None:
    benchmark = load_benchmark(key)
    names = benchmark.vocabulary().names
    assert benchmark.num_classes == len(names) == len(set(names)) == CLASSES[key]
    assert all(name == " ".join(name.split()) != "" for name in names)
    assert [entry["id"] for entry in read("vocabularies", key)["classes"]] == list(range(CLASSES[key]))
    palette = benchmark.vocabulary().palette
    assert len(palette) == (0 if key in ("ade20k_847", "pascal_context_459") else CLASSES[key])
    assert load_benchmark(benchmark.short) is benchmark


@every_benchmark
def test_vocabulary_file_is_one_of_the_project(key: str) -> None:
    loaded = load_vocabulary(PACKAGE / "data" / "vocabularies" / f"{key}.json")
    assert loaded == load_benchmark(key).vocabulary(names="aliases")


@every_benchmark
def test_seen_classes_are_as_many_as_published(key: str) -> None:
    benchmark = load_benchmark(key)
    assert sum(benchmark.vocabulary().seen) == SEEN[key]
    assert all(benchmark.vocabulary(seen="all").seen)


def test_seen_classes_of_examples() -> None:
    words = load_benchmark("a150").vocabulary()
    seen = dict(zip(words.names, words.seen, strict=True))
    assert seen["wall"]
    assert seen["window"]
    assert not seen["armchair"]
    assert not load_benchmark("voc21").vocabulary().seen[0]


def test_names_whole_split_or_aliases() -> None:
    benchmark = load_benchmark("a847")
    label = benchmark.vocabulary().names.index("sidewalk, pavement")
    assert benchmark.vocabulary().synonyms[label] == ("sidewalk, pavement",)
    assert benchmark.vocabulary(names="split").synonyms[label] == ("sidewalk", "pavement")
    assert benchmark.vocabulary(names="aliases").synonyms[label] == benchmark.classes[label].aliases
    assert benchmark.vocabulary(names="split").names == benchmark.vocabulary().names
    # shortened to their first synonym, classes would merge
    first = Counter(words[0] for words in benchmark.vocabulary(names="split").synonyms)
    shared = {"bag", "pot", "basket", "screen", "pier", "control panel", "pipe", "grill", "patio"}
    assert {word for word, count in first.items() if count > 1} == shared


def test_unknown_choices_are_named() -> None:
    with pytest.raises(ValueError, match=r"a847 \(ade20k_847\).*got 'a8470'"):
        load_benchmark("a8470")
    benchmark = load_benchmark("a150")
    with pytest.raises(ValueError, match="names: expected released, split or aliases, got 'short'"):
        benchmark.vocabulary(names="short")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seen: expected coco_stuff or all, got 'none'"):
        benchmark.vocabulary(seen="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variant: expected released or cleaned, got 'mine'"):
        benchmark.hierarchy("mine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 'raw', 'released'"):
        benchmark.label_table(labels="raw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="A-150 has no files in alphabetical order"):
        benchmark.label_table(labels="converted", order="alphabetical")
    with pytest.raises(ValueError, match="PAS-21: the published label files hold the labels"):
        load_benchmark("voc21").label_table(labels="converted")


def test_label_tables_by_the_published_rules() -> None:
    assert table(load_benchmark("a150"), list(range(151))) == list(range(-1, 150))
    assert table(load_benchmark("pc459"), list(range(460))) == list(range(-1, 459))
    assert table(load_benchmark("voc20"), list(range(21))) == list(range(-1, 20))
    assert table(load_benchmark("voc21"), list(range(21))) == list(range(21))
    assert table(load_benchmark("voc20"), [255, 21, 254]) == [IGNORE_INDEX, INVALID_LABEL, INVALID_LABEL]
    assert table(load_benchmark("a847"), [2978, 312, 3148, 0, 1, 6655]) == [0, 1, 846, -1, -1, -1]
    assert table(load_benchmark("cityscapes"), [7, 8, 11, 33, 0, 1, 29]) == [0, 1, 2, 18, -1, -1, -1]
    assert len(load_benchmark("cityscapes").label_table()) == 34


def test_label_table_of_coco_stuff_has_the_gaps_of_the_official_ids() -> None:
    found = load_benchmark("coco_stuff").label_table()
    gaps = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]
    assert np.flatnonzero(found[:182] == INVALID_LABEL).tolist() == gaps
    assert found[np.setdiff1d(np.arange(182), gaps)].tolist() == list(range(171))
    assert found[255] == IGNORE_INDEX
    assert (found[182:255] == INVALID_LABEL).all()


def test_label_tables_of_pascal_context_in_two_orders() -> None:
    small, whole = load_benchmark("pc59"), load_benchmark("pc459")
    raw = {entry.name: entry.raw for entry in whole.classes}
    for label, entry in enumerate(small.classes):
        assert raw[entry.name] == entry.raw
        assert table(small, [entry.raw]) == [label]
    listed = np.sort([entry.raw for entry in small.classes])
    released = table(small, listed.tolist())
    assert table(small, list(range(59)), labels="converted") == list(range(59))
    # by sorted ids, as the other projects number them, the value in a file stands for another class in 58 of 59 cases
    assert table(small, list(range(59)), labels="converted", order="alphabetical") == released
    assert sum(value != label for value, label in enumerate(released)) > 50
    assert small.classes[10].name == "table"
    assert (table(small, [0, 1, 460 - 1]), len(small.label_table())) == ([-1, -1, -1], 460)


def test_label_table_with_background_ignores_nothing() -> None:
    small, background = load_benchmark("pc59"), load_benchmark("pc60")
    assert background.vocabulary().names == ("background", *small.vocabulary().names)
    assert (background.label_table() == small.label_table() + 1).all()
    for order in ("released", "alphabetical"):
        values = small.label_table(labels="converted", order=order)  # type: ignore[arg-type]
        expected = np.where(values == INVALID_LABEL, INVALID_LABEL, values + 1)
        assert (background.label_table(labels="converted", order=order) == expected).all()  # type: ignore[arg-type]


@every_benchmark
def test_converted_table_keeps_every_label(key: str) -> None:
    benchmark = load_benchmark(key)
    if benchmark.converted_as is None:
        assert key == "pascal_voc_21"
        return
    found = benchmark.label_table(labels="converted")
    assert len(found) == benchmark.ignore_value + 1 == (65536 if benchmark.num_classes > 255 else 256)
    labels = found[found >= 0].tolist()
    assert sorted(set(labels)) == list(range(benchmark.num_classes))


@every_benchmark
def test_splits_and_sources(key: str) -> None:
    benchmark = load_benchmark(key)
    assert {benchmark.train_split, benchmark.eval_split} <= set(benchmark.splits)
    assert all(count > 1000 or split in ("val", "test") for split, count in benchmark.splits.items())
    assert benchmark.published_at
    assert benchmark.licence
    assert not Path(benchmark.folder).is_absolute()


@pytest.mark.parametrize("short", SETTINGS)
@pytest.mark.parametrize(("backbone", "layers"), [("vit_b16", [1, 3, 5]), ("vit_l14", [1, 3, 5, 7, 9])])
def test_settings_are_those_of_the_released_comments(short: str, backbone: str, layers: list[int]) -> None:
    path = EXPERIMENTS / "eval" / backbone / f"{short}.yaml"
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 15
    threshold, weight, ratio = SETTINGS[short][backbone == "vit_l14"]  # type: ignore[misc]
    assert yaml.safe_load(text) == {
        "model": {
            "init_args": {
                "inference": {
                    "mask_threshold": threshold,
                    "ensemble_weight": weight,
                    "log_ensemble": SETTINGS[short][2],
                    "replace_ratio": ratio,
                    "replace_layers": layers,
                }
            }
        }
    }


@every_benchmark
def test_data_overlay_names_the_benchmark(key: str) -> None:
    content = yaml.safe_load((EXPERIMENTS / "data" / f"{load_benchmark(key).short}.yaml").read_text("utf-8"))
    name = content["data"]["class_path"].removeprefix("scan_lightning.data.")
    assert getattr(scan_lightning.data, name) is DATAMODULES[key]
    assert DATAMODULES[key].key == key


@pytest.mark.skipif(SHARED is None, reason="SCAN_LIGHTNING_SHARED names no folder")
@every_benchmark
def test_facts_are_those_of_the_collected_files(key: str) -> None:
    facts = json.loads((Path(str(SHARED)) / "datasets" / f"{key}.json").read_text("utf-8"))
    benchmark = load_benchmark(key)
    assert list(benchmark.vocabulary().names) == [entry["name"].strip() for entry in facts["classes"]]
    found = benchmark.label_table()
    for raw, label in facts["raw_to_train"].items():
        if int(raw) < 0:  # Cityscapes' license plate, which no label file has
            continue
        assert found[int(raw)] == (IGNORE_INDEX if label == benchmark.ignore_value else label)
    assert [list(entry.aliases) for entry in benchmark.classes] == [entry["aliases"] for entry in facts["classes"]]
    assert [entry.colour for entry in benchmark.classes] == [
        tuple(entry["color"]) if entry.get("color") else None for entry in facts["classes"]
    ]
    assert benchmark.splits == facts["splits"]
    assert (benchmark.folder, benchmark.ignore_value) == (facts["layout"]["root"], facts["ignore_value"])
    if "seen_unseen" in facts:
        seen = {*facts["seen_unseen"]["exact"], *facts["seen_unseen"]["alias"]}
        assert {label for label, entry in enumerate(benchmark.classes) if entry.seen} == seen
    if key == "pascal_context_59":
        assert [entry.alphabetical for entry in benchmark.classes] == [
            entry["alphabetical_id"] for entry in facts["classes"]
        ]
