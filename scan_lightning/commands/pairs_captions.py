"""``scan-lightning pairs captions``: pairs of a segmenter's proposals and the nouns of captions, matched by CLIP."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scan_lightning.callbacks.record import file_hash
from scan_lightning.commands.console import at_least_one, files_progress, output_console, print_line
from scan_lightning.data.benchmarks import load_benchmark
from scan_lightning.data.caption_words import CaptionedImage, NounFinder, read_captions
from scan_lightning.data.images import read_image
from scan_lightning.data.pair_index import MaskText, PairIndexWriter
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.data.transforms import EvaluationTransform
from scan_lightning.data.words import load_words
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import SHIPPED_SCAN, WEIGHTS_NAME, load_scan, recommended_settings
from scan_lightning.models.proposal_words import match_proposals, select_words
from scan_lightning.models.scan import Scan
from scan_lightning.models.text import TextFeatures
from scan_lightning.types import Vocabulary

NAME = "captions"
HELP = "From proposals of a trained segmenter and the nouns of COCO captions."
DESCRIPTION = (
    "Find the nouns of each image's captions, propose masks, and give each noun the proposal whose masked crop CLIP "
    "finds most similar to it. Nouns are found by a list: the longest sequence of words that is in it, in "
    "the singular or plural. Paths of images start at the folder of images."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser: Of the command.
    """
    add = parser.add_argument
    add("output", type=Path, metavar="OUTPUT", help="folder of the index")
    add(
        "--captions",
        type=Path,
        required=True,
        metavar="FILE",
        help="captions in COCO's format, captions_train2017.json",
    )
    add("--images", type=Path, required=True, metavar="DIR", help="folder of the images that the captions name")
    add(
        "--weights",
        type=Path,
        default=SHIPPED_SCAN,
        metavar="DIR",
        help="folder of a trained network (the shipped one)",
    )
    add("--nouns", type=Path, metavar="FILE", help="list of nouns, one a line, or a vocabulary in JSON (the names and "
        "synonyms of all benchmarks)")  # fmt: skip
    add("--mask-threshold", type=float, metavar="P", help="probability above which a pixel belongs to a proposal (as "
        "the weights recommend)")  # fmt: skip
    add("--min-area", type=int, default=64, metavar="N", help="proposals with fewer pixels are left out (64)")
    add(
        "--min-similarity",
        type=float,
        default=-1.0,
        metavar="S",
        help="matches with a lower cosine are left out (none)",
    )
    add("--shortest-side", type=int, default=640, metavar="N", help="the segmenter sees images at this size (640)")
    add("--max-size", type=int, default=2560, metavar="N", help="but no longer than this (2560)")
    add("--limit", type=at_least_one, metavar="N", help="only the first N images with captions")
    add("--images-per-part", type=int, default=100, metavar="N", help="images per file of the index (100)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (auto)")


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is the same for all images."""

    scan: Scan
    settings: InferenceSettings
    finder: NounFinder
    nouns: tuple[str, ...]
    text: TextFeatures
    resize: EvaluationTransform
    options: argparse.Namespace

    def pairs(self, image: CaptionedImage) -> Iterator[MaskText]:
        """Yield the pairs of an image."""
        words = self.finder.find(image.captions)
        if not words:
            return
        path = self.options.images / image.file_name
        if not path.resolve().is_relative_to(self.options.images.resolve()):
            raise ValueError(f"{image.file_name}: expected a path inside {self.options.images}, got one that leads out")
        pixels = read_image(path)
        device = self.text.features.device
        seen, whole = (
            torch.from_numpy(np.ascontiguousarray(each.transpose(2, 0, 1))).to(device)
            for each in (self.resize(pixels), pixels)
        )
        matches = match_proposals(
            self.scan,
            seen,
            whole,
            select_words(self.text, [self.nouns.index(word) for word in words]),
            settings=self.settings,
            min_area=self.options.min_area,
            min_similarity=self.options.min_similarity,
        )
        for match in matches:
            yield MaskText(
                image=image.file_name,
                image_id=Path(image.file_name).stem,
                region=match.query,
                mask=match.mask.numpy(),
                text=words[match.word],
                source="proposal",
                score=match.similarity,
            )


def run(options: argparse.Namespace) -> None:
    """Make the index and print what is in it.

    Args:
        options: As `add_options` describes them.

    Raises:
        ValueError: If an argument, the captions or an image is wrong.
        OSError: If a file is missing or the disk is full.
    """
    for name in ("min_area", "images_per_part"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(options, name)}")
    images = read_captions(options.captions)[: options.limit]
    finder = NounFinder.of_vocabularies([load_words(options.nouns)] if options.nouns else packaged_vocabularies())
    nouns = tuple(dict.fromkeys(finder.nouns.values()))
    settings = recommended_settings(options.weights)
    if options.mask_threshold is not None:
        settings = replace(settings, mask_threshold=options.mask_threshold)
    step = options.images_per_part
    parts = [images[start : start + step] for start in range(0, len(images), step)]
    writer = PairIndexWriter(options.output, made_from=_made_from(options, settings, nouns, images), parts=len(parts))
    missing = writer.missing()
    task = _task(options, settings, finder, nouns) if missing else None
    with files_progress() as progress:
        bar = progress.add_task("images", total=sum(len(parts[part]) for part in missing))
        for part in missing:
            found: list[MaskText] = []
            for image in parts[part]:
                found.extend(task.pairs(image) if task is not None else ())
                progress.advance(bar)
            writer.write(part, found)
    index = writer.finish(images_beside=False, vocabulary=None)
    line = f"{options.output}: {len(index):,} pairs of {len(images):,} images with captions, {len(nouns):,} known nouns"
    print_line(output_console(), line)


def _task(
    options: argparse.Namespace, settings: InferenceSettings, finder: NounFinder, nouns: tuple[str, ...]
) -> _Task:
    """Load the network and encode the nouns."""
    found = torch.cuda.is_available()
    if options.device == "cuda" and not found:
        raise ValueError("device: expected a machine with CUDA, found none")
    scan = load_scan(options.weights).to(torch.device("cuda" if found and options.device != "cpu" else "cpu")).eval()
    return _Task(
        scan=scan,
        settings=settings,
        finder=finder,
        nouns=nouns,
        text=scan.encode_vocabulary(Vocabulary(names=nouns)),
        resize=EvaluationTransform(min_size=options.shortest_side, max_size=options.max_size),
        options=options,
    )


def _made_from(
    options: argparse.Namespace, settings: InferenceSettings, nouns: tuple[str, ...], images: list[CaptionedImage]
) -> dict[str, Any]:
    """Describe what the pairs depend on."""
    names = ("min_area", "min_similarity", "shortest_side", "max_size", "images_per_part")
    return {
        "source": NAME,
        "captions": file_hash(options.captions),
        "weights": file_hash(options.weights / WEIGHTS_NAME),
        "nouns": hashlib.sha256("\n".join(nouns).encode()).hexdigest(),
        "settings": json.loads(json.dumps(asdict(settings))),
        "images": len(images),
        **{name: getattr(options, name) for name in names},
    }


def packaged_vocabularies() -> list[Vocabulary]:
    """Load the vocabularies of all benchmarks.

    Returns:
        One each.
    """
    return [load_benchmark(key).vocabulary(names="aliases") for key in DATAMODULES]
