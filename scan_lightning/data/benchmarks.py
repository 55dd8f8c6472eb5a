"""Facts of the field's benchmarks: words, label numbers, splits, sources; read from the package's JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scan_lightning.data.vocabulary import read_json
from scan_lightning.types import IGNORE_INDEX, ClassHierarchy, Vocabulary

BENCHMARK_KEYS = (
    "ade20k_150",
    "ade20k_847",
    "pascal_context_59",
    "pascal_context_459",
    "pascal_voc_20",
    "coco_stuff_171",
    "pascal_context_60",
    "pascal_voc_21",
    "cityscapes_19",
)
"""All benchmarks: the paper's five tests, its training set, and three more tests."""

INVALID_LABEL = -2
"""Entry of a label table for a value that must not occur in a file."""

Names = Literal["released", "split", "aliases"]
Seen = Literal["coco_stuff", "all"]
Order = Literal["released", "alphabetical"]
FileLabels = Literal["original", "converted"]
HierarchyVariant = Literal["released", "cleaned"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkClass:
    """One class of a benchmark.

    Attributes:
        name: The text of the released implementation, without surrounding space; ADE20K's hold several synonyms.
        raw: Its value in the published label files.
        aliases: Synonyms, from the prompt list of FC-CLIP.
        seen: Whether COCO-Stuff-171 has it, see ``seen_rule`` in the JSON file.
        colour: RGB, or None where the benchmark has no palette.
        alphabetical: Its value in label files that are numbered alphabetically (Pascal Context 59 alone).
    """

    name: str
    raw: int
    aliases: tuple[str, ...]
    seen: bool
    colour: tuple[int, int, int] | None = None
    alphabetical: int | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Facts of one benchmark.

    Attributes:
        key: Its name here and that of its JSON file, "ade20k_847".
        short: The name in tables and of settings, "a847".
        paper_name: The paper's name, "A-847".
        title: A descriptive name.
        num_classes: K.
        ignore_value: Value of ignored pixels in converted label files, 255 or 65535.
        folder: Its folder below the data root, "ADE20K_2021_17_01".
        splits: Published names of its splits with their numbers of images.
        train_split: The split to train on.
        eval_split: The split to test on.
        published_at: Where to get it.
        licence: Its terms in short, as the publishers state them.
        download_gigabytes: Size of the published archives, rounded; None where unknown.
        classes: The classes, in the order of the labels.
        raw_ignored: Values in published label files that are ignored.
        raw_other: What any other value up to ``raw_max`` is: "ignored", "refused", or the label it has.
        raw_max: The largest value that a published label file may have.
        converted_as: Key of the benchmark whose converted label files this one reads, mostly its own; None where the
            published files hold the labels already and converted ones would lose some.
        converted_offset: What to add to a value of those files; at 0 their ignored pixels are ignored here too, else
            they have label 0 (the background that those files leave out).
    """

    key: str
    short: str
    paper_name: str
    title: str
    num_classes: int
    ignore_value: int
    folder: str
    splits: Mapping[str, int]
    train_split: str
    eval_split: str
    published_at: str
    licence: str
    download_gigabytes: float | None
    classes: tuple[BenchmarkClass, ...] = field(repr=False)
    raw_ignored: tuple[int, ...]
    raw_other: Literal["ignored", "refused"] | int
    raw_max: int
    converted_as: str | None
    converted_offset: int = 0

    @property
    def ordered_files(self) -> bool:
        """Whether converted label files of this benchmark come in two orders of the classes."""
        return any(entry.alphabetical is not None for entry in self.classes)

    def vocabulary(self, *, names: Names = "released", seen: Seen = "coco_stuff") -> Vocabulary:
        """Give the words, always in the released order of the classes.

        Args:
            names: What CLIP encodes of a class: "released" its whole name, for ADE20K all synonyms in one prompt, as
                the released implementation does; "split" the parts of its name between commas, each alone; "aliases"
                its aliases, each alone.
            seen: "coco_stuff" marks the classes that COCO-Stuff-171 has as seen, "all" marks all, which is what
                training on the benchmark itself asks for.

        Returns:
            K words, unique names, with the palette where there is one.

        Raises:
            ValueError: If ``names`` or ``seen`` is none of the above.
        """
        if names not in ("released", "split", "aliases"):
            raise ValueError(f"names: expected released, split or aliases, got {names!r}")
        if seen not in ("coco_stuff", "all"):
            raise ValueError(f"seen: expected coco_stuff or all, got {seen!r}")
        texts: dict[str, list[tuple[str, ...]]] = {
            "released": [(entry.name,) for entry in self.classes],
            "split": [tuple(part.strip() for part in entry.name.split(",")) for entry in self.classes],
            "aliases": [entry.aliases for entry in self.classes],
        }
        return Vocabulary(
            names=tuple(entry.name for entry in self.classes),
            synonyms=tuple(texts[names]),
            seen=tuple(seen == "all" or entry.seen for entry in self.classes),
            palette=tuple(entry.colour for entry in self.classes if entry.colour is not None),
        )

    def hierarchy(self, variant: HierarchyVariant = "released") -> ClassHierarchy | None:
        """Give the parents of classes for SG-IoU.

        Args:
            variant: "released" is the table of the released evaluator exactly; "cleaned" leaves out its wrong and
                doubtful pairs and one direction of each mutual pair. The JSON file names every change and why.

        Returns:
            The hierarchy, or None where the benchmark has none.

        Raises:
            ValueError: If ``variant`` is none of the above.
        """
        if variant not in ("released", "cleaned"):
            raise ValueError(f"variant: expected released or cleaned, got {variant!r}")
        path = _package_file("hierarchies", self.key)
        if not path.is_file():
            return None
        content = read_json(path)
        parents = {int(child): list(labels) for child, labels in content["parents"].items()}
        if variant == "cleaned":
            for entry in content["cleaned"]["dropped"]:
                parents[entry["child"]].remove(entry["parent"])
            for entry in content["cleaned"]["added"]:
                parents.setdefault(entry["child"], []).append(entry["parent"])
        kept = {child: tuple(labels) for child, labels in sorted(parents.items()) if labels}
        return ClassHierarchy(num_classes=self.num_classes, parents=kept)

    def label_table(self, *, labels: FileLabels = "original", order: Order = "released") -> NDArray[np.int64]:
        """Make the table from values in label files to labels.

        Args:
            labels: Whether the files are the published ones or converted ones.
            order: How converted files are numbered; matters where they come in two orders.

        Returns:
            int64, one entry per value from 0: a label in [0, K), IGNORE_INDEX, or -2 where the value must not occur.

        Raises:
            ValueError: If an argument is none of the above, or the benchmark has no such files.
        """
        if labels == "original":
            return self._original_table()
        if labels != "converted" or order not in ("released", "alphabetical"):
            raise ValueError(
                f"expected labels original or converted and order released or alphabetical, got {labels!r}, {order!r}"
            )
        if self.converted_as is None:
            raise ValueError(
                f"{self.paper_name}: the published label files hold the labels, there are no converted ones"
            )
        if order == "alphabetical" and not self.ordered_files:
            raise ValueError(f"order: {self.paper_name} has no files in alphabetical order")
        table = np.full(self.ignore_value + 1, INVALID_LABEL, dtype=np.int64)
        for label, entry in enumerate(self.classes):
            if label >= self.converted_offset:
                value = entry.alphabetical if order == "alphabetical" else label - self.converted_offset
                table[value] = label
        table[self.ignore_value] = 0 if self.converted_offset else IGNORE_INDEX
        return table

    def _original_table(self) -> NDArray[np.int64]:
        other = {"ignored": IGNORE_INDEX, "refused": INVALID_LABEL}.get(str(self.raw_other), self.raw_other)
        table = np.full(self.raw_max + 1, other, dtype=np.int64)
        table[list(self.raw_ignored)] = IGNORE_INDEX
        for label, entry in enumerate(self.classes):
            table[entry.raw] = label
        return table


@cache
def load_benchmark(key_or_short: str) -> Benchmark:
    """Read the facts of a benchmark.

    Args:
        key_or_short: Its key or its short name.

    Returns:
        The benchmark, the same object at each call.

    Raises:
        ValueError: If there is none of this name; the message lists those that are known.

    Example:
        >>> load_benchmark("a847").num_classes
        847
    """
    if key_or_short in BENCHMARK_KEYS:
        return _parse(read_json(_package_file("vocabularies", key_or_short)))
    known = {}
    for key in BENCHMARK_KEYS:
        benchmark = load_benchmark(key)
        if benchmark.short == key_or_short:
            return benchmark
        known[benchmark.short] = key
    listed = ", ".join(f"{short} ({key})" for short, key in known.items())
    raise ValueError(f"benchmark: expected one of {listed}, got {key_or_short!r}")


def _package_file(folder: str, key: str) -> Path:
    return Path(str(files("scan_lightning"))) / "data" / folder / f"{key}.json"


def _parse(content: Mapping[str, Any]) -> Benchmark:
    """Turn a vocabulary file into a benchmark; keys that only say where its facts come from stay in the file."""
    raw, converted = content["raw"], content["converted"]
    plain = {
        name: content[name]
        for name in (
            *("key", "short", "paper_name", "title", "num_classes", "ignore_value", "folder", "splits"),
            *("train_split", "eval_split", "published_at", "licence", "download_gigabytes"),
        )
    }
    return Benchmark(
        **plain,
        classes=tuple(_parse_class(entry) for entry in content["classes"]),
        raw_ignored=tuple(raw["ignored"]),
        raw_other=raw["other"],
        raw_max=raw["max"],
        converted_as=None if converted is None else converted["files_of"],
        converted_offset=0 if converted is None else converted["offset"],
    )


def _parse_class(entry: Mapping[str, Any]) -> BenchmarkClass:
    return BenchmarkClass(
        name=entry["name"],
        raw=entry["raw"],
        aliases=tuple(entry["aliases"]),
        seen=entry["seen"],
        colour=(entry["color"][0], entry["color"][1], entry["color"][2]) if "color" in entry else None,
        alphabetical=entry.get("alphabetical"),
    )
