"""``scan-lightning analyse domain``: what masking does to CLIP, and how much of it Contextual Shift undoes."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from scan_lightning.analysis import (
    BinScore,
    RegionCutter,
    RegionScores,
    cut_batches,
    drift_by_layer,
    measure_domain,
    score_by_background,
)
from scan_lightning.callbacks.record import Row
from scan_lightning.commands.analyse_recipe import OUTPUT, Call, add_rows, batches_of, check_folder, device_of, keys_in
from scan_lightning.commands.console import make_table, output_console, print_line
from scan_lightning.models.clip import ClipConfig, FrozenClip
from scan_lightning.models.contextual_shift import SUBSTITUTION_SOURCES
from scan_lightning.models.plain import tensor_hash
from scan_lightning.models.shifted_encoding import ShiftConfig
from scan_lightning.models.text import TextBank
from scan_lightning.types import Vocabulary

NAME = "domain"
HELP = "Domain bias: CLIP on true regions in their boxes, masked, and under CS. What CS is for."
DESCRIPTION = (
    "Measure the zero-shot accuracy of CLIP on the true regions of a split in whole boxes, as masked crops, and as "
    "masked crops under CS, by the share of the box that is masked, and how far [CLS] drifts from that of the box, "
    "layer by layer. No segmenter takes part. What is not given is the recipe's test-time setting."
)
BACKGROUND_NAME = "domain_background.csv"
DRIFT_NAME = "domain_drift.csv"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser: Of the command.
    """
    add = parser.add_argument
    add("--replace_ratio", type=float, metavar="X", help="share of background tokens replaced, 0 to 1")
    add("--replace_layers", type=_numbers, metavar="N,N", help="layers after which they are replaced")
    add("--source", action="append", metavar="NAME", help="what replaces them, or 'every'; may be repeated: "
        f"{', '.join(SUBSTITUTION_SOURCES[:-1])}")  # fmt: skip
    add("--seeds", type=_numbers, default=(0,), metavar="N,N", help="seeds of the draws of replaced tokens (0)")
    add("--shifted_weights", metavar="PATH", help="CLIP whose visual tower was tuned under CS")
    add("--min_area", type=int, default=64, metavar="N", help="regions with fewer pixels are left out (64)")
    add("--group", type=_group, action="append", default=[], metavar="NAME=CLASS,CLASS", help="score some classes on "
        "their own as well; may be repeated")  # fmt: skip
    add("--output", type=Path, default=OUTPUT, metavar="DIR", help=f"folder of {BACKGROUND_NAME} and {DRIFT_NAME} "
        "(%(default)s)")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is to be measured with one CLIP."""

    shifts: tuple[ShiftConfig, ...]
    cutter: RegionCutter
    config: ClipConfig
    groups: Mapping[str, tuple[int, ...]]


def run(options: argparse.Namespace, call: Call) -> None:
    """Measure, print tables and add rows.

    Args:
        options: As `add_options` describes them.
        call: The recipe.

    Raises:
        ValueError: If the recipe or an option is wrong.
        OSError: If a file is missing or the disk is full.
    """
    check_folder(options.output)
    data = call.data(options)
    plan = _plan(options, call, data.vocabulary)
    clip = FrozenClip.from_config(plan.config).to(device_of(options.device))
    record = call.record(
        {"analysis": NAME, "split": options.split, "limit": options.limit, "clip": tensor_hash(clip.state_dict())}
        | {"shifts": [asdict(shift) for shift in plan.shifts], "cutter": asdict(plan.cutter), "groups": plan.groups}
    )
    files = [options.output / name for name in (BACKGROUND_NAME, DRIFT_NAME)]
    console = output_console()
    if all(_last_key(record) in keys_in(path) for path in files):
        print_line(console, f"measured before, the rows are in {files[0]} and {files[1]}")
        return
    text = TextBank(clip=clip, template_set=call.network.template_set, cache=call.text_cache).encode(data.vocabulary)
    images = cut_batches(clip, batches_of(data, options), plan.cutter)
    batch = call.settings.region_batch
    scores = measure_domain(clip, images, text=text, shifts=plan.shifts, region_batch=batch)
    bins = [score_by_background(part, data.vocabulary.seen, groups=plan.groups) for part in scores]
    _print(scores, bins)
    base = {"name": options.name or NAME, "variant": options.variant, **_clip_columns(plan.config, clip)}
    rows = _rows(scores, bins, options.seeds)
    for path, found in zip(files, rows, strict=True):
        keys = [f"{record['key']}-{number}" for number in range(len(found) - 1)] + [_last_key(record)]
        split: Row = {"split": options.split, "min_area": options.min_area}
        add_rows(path, [base | record | split | row | {"key": key} for key, row in zip(keys, found, strict=True)])
    print_line(console, f"rows added to {files[0]} and {files[1]}")


def _last_key(record: Row) -> str:
    """Name the last row of a measurement: where it stands, all of them do."""
    return f"{record['key']}-last"


def _plan(options: argparse.Namespace, call: Call, vocabulary: Vocabulary) -> _Plan:
    """Put the options over the recipe's settings."""
    settings, network = call.settings, call.network
    sources = options.source or [settings.source]
    if "every" in sources:
        sources = [source for source in SUBSTITUTION_SOURCES if source != "none"]
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise ValueError(f"seeds: expected distinct numbers, at least one, got {list(options.seeds)}")
    ratio, layers = (getattr(options, name) for name in ("replace_ratio", "replace_layers"))
    shifts = tuple(
        ShiftConfig(
            replace_ratio=settings.replace_ratio if ratio is None else ratio,
            replace_layers=settings.replace_layers if layers is None else layers,
            source=source,
            seed=seed,
        )
        for seed in options.seeds
        for source in dict.fromkeys(sources)
        if source != "none"
    )
    if not shifts:
        raise ValueError("source: the recipe's is 'none', say with --source what replaces tokens")
    tuned = options.shifted_weights
    return _Plan(
        shifts=shifts,
        cutter=RegionCutter(
            min_area=options.min_area,
            mask_expand=settings.mask_expand,
            whole_image_resize=network.whole_image_resize,
        ),
        config=network.clip if tuned is None else replace(network.clip, shifted_weights=tuned),
        groups={name: _labels(words, vocabulary) for name, words in options.group},
    )


def _labels(words: Sequence[str], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Look class names up."""
    unknown = [word for word in words if word not in vocabulary.names]
    if unknown:
        raise ValueError(f"group: expected classes of the vocabulary, got {', '.join(map(repr, unknown))}")
    return tuple(vocabulary.names.index(word) for word in words)


def _clip_columns(config: ClipConfig, clip: FrozenClip) -> Row:
    """Say which CLIP it was, without the paths of a machine."""
    name = Path(config.model).name if Path(config.model).is_dir() else config.model
    weights = "" if config.weights is None else Path(config.weights).name
    tower = "original" if clip.shifted_visual is None else "tuned"
    return {"clip": name, "clip_weights": weights, "tower": tower, "clip_hash": tensor_hash(clip.state_dict())}


def _rows(
    scores: Sequence[RegionScores], bins: Sequence[Sequence[BinScore]], seeds: Sequence[int]
) -> tuple[list[Row], list[Row]]:
    """Write a measurement as rows by background and rows by layer.

    What draws nothing, boxes and masked crops, has a row for every seed, so that all conditions average alike.
    """
    by_background: list[Row] = []
    by_layer: list[Row] = []
    for part, found in zip(scores, bins, strict=True):
        for seed in seeds if part.shift is None else (part.shift.seed,):
            head = _condition(part) | {"seed": seed}
            by_background += [{**head, **asdict(score)} for score in found]
            regions = len(part.labels)
            layers = enumerate(drift_by_layer(part), start=1)
            by_layer += [{**head, "regions": regions, "layer": layer, "drift": drift} for layer, drift in layers]
    return by_background, by_layer


def _condition(scores: RegionScores) -> Row:
    """Describe a condition."""
    shift = scores.shift
    return {
        "condition": scores.condition,
        "source": "" if shift is None else shift.source,
        "replace_ratio": "" if shift is None else shift.replace_ratio,
        "replace_layers": "" if shift is None else " ".join(map(str, shift.replace_layers)),
    }


def _print(scores: Sequence[RegionScores], bins: Sequence[Sequence[BinScore]]) -> None:
    """Print accuracy by background and drift by layer, means over the seeds, a column for each condition."""
    names = [f"CS {part.shift.source}" if part.shift else part.condition for part in scores]
    columns = list(dict.fromkeys(names))
    members = [[number for number, name in enumerate(names) if name == column] for column in columns]
    headings = [(column, "right") for column in columns]
    table = make_table(
        "accuracy in % of CLIP on true regions, mean over seeds",
        [("classes", "fold"), ("background", "fold"), ("regions", "right"), *headings],
    )
    for line, score in enumerate(bins[0]):
        means = [fmean(bins[number][line].accuracy for number in group) for group in members]
        cells = ["-" if math.isnan(mean) else f"{100 * mean:.2f}" for mean in means]
        table.add_row(score.classes, score.background, f"{score.regions:,}", *cells)
    drift = make_table("drift of [CLS]: 1 - cosine with that of the whole box", [("layer", "right"), *headings])
    by_layer = [drift_by_layer(part) for part in scores]
    for layer in range(len(by_layer[0])):
        means = [fmean(by_layer[number][layer] for number in group) for group in members]
        drift.add_row(str(layer + 1), *(f"{mean:.4f}" for mean in means))
    means = [fmean(bins[number][0].drift for number in group) for group in members]
    drift.add_row("projected", *(f"{mean:.4f}" for mean in means))
    console = output_console()
    console.print(table)
    console.print(drift)


def _group(text: str) -> tuple[str, tuple[str, ...]]:
    """Read a group's name and its classes."""
    name, equals, words = text.partition("=")
    if not name or not equals or not words.strip():
        raise argparse.ArgumentTypeError(f"expected NAME=CLASS,CLASS, got {text!r}")
    return name, tuple(word.strip() for word in words.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    """Read numbers between commas; an empty text gives none."""
    return tuple(int(number) for number in text.split(",")) if text.strip() else ()
