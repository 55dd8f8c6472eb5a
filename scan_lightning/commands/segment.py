"""``scan-lightning segment``: images and words to label maps, overlays and JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text
from torch import Tensor

from scan_lightning.callbacks.record import file_hash
from scan_lightning.callbacks.visualization import panel
from scan_lightning.commands.segment_files import check_output, find_images, output_names, output_stems
from scan_lightning.data.images import ImageFileError, read_image
from scan_lightning.data.transforms import EvaluationTransform
from scan_lightning.data.words import load_words, parse_words
from scan_lightning.models.contextual_shift import SUBSTITUTION_SOURCES
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import CONFIG_NAME, SHIPPED_SCAN, WEIGHTS_NAME, load_scan, recommended_settings
from scan_lightning.models.scan import Scan
from scan_lightning.models.text import TextFeatures
from scan_lightning.types import Vocabulary

PROG = "scan-lightning segment"
MAX_CLASSES = 2**16
"""Classes that a 16-bit PNG can tell apart."""
TABLE_ROWS = 20


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning segment``.

    Args:
        args: Arguments behind the command's name.

    Returns:
        Exit status: 0 if every image was segmented, 1 if one could not be read or the call was wrong, as reported.
    """
    options = _parser().parse_args(args)
    try:
        return _run(options)
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is the same for all images: network, words and their features, settings, sizes, hashes, output folder."""

    scan: Scan
    vocabulary: Vocabulary
    text: TextFeatures
    settings: InferenceSettings
    shortest_side: int | None
    max_size: int
    weights: dict[str, str]
    output: Path

    def segment(self, path: Path, image: NDArray[np.uint8], stem: str) -> Tensor:
        """Segment an image and write its files; gives the pixels of each class, int64 (K,)."""
        size = (image.shape[0], image.shape[1])
        resize = EvaluationTransform(min_size=self.shortest_side or min(size), max_size=self.max_size)
        pixels = torch.from_numpy(np.ascontiguousarray(resize(image).transpose(2, 0, 1)))
        seen = (pixels.shape[1], pixels.shape[2])
        label_map = self.scan.predict(
            pixels[None].to(self.text.features.device),
            sizes=[seen],
            original_sizes=[size],
            image_ids=[_utf8(path.stem)],
            text=self.text,
            settings=self.settings,
        )[0].cpu()
        counts = torch.bincount(label_map.flatten(), minlength=self.vocabulary.num_classes)
        classes = zip(self.vocabulary.names, self.vocabulary.synonyms, counts.tolist(), strict=True)
        record = {
            "image": _utf8(path),
            "size": size,
            "network_size": seen,
            "classes": [
                {"id": label, "name": name, "synonyms": words, "pixels": count, "share": count / label_map.numel()}
                for label, (name, words, count) in enumerate(classes)
            ],
            "settings": asdict(self.settings),
            "weights": self.weights,
        }
        self._write(stem, image, label_map.numpy(), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        return counts

    def _write(self, stem: str, image: NDArray[np.uint8], labels: NDArray[np.int64], record: str) -> None:
        """Write the three files of an image, each whole or not at all."""
        depth = np.uint8 if self.vocabulary.num_classes <= 256 else np.uint16
        with tempfile.TemporaryDirectory(dir=self.output, prefix=".unfinished-") as work:
            files = [Path(work) / name for name in output_names(stem)]
            Image.fromarray(labels.astype(depth)).save(files[0])
            panel(image, None, labels, self.vocabulary).save(files[1])
            files[2].write_text(record, encoding="utf-8")
            for file in files:
                file.replace(self.output / file.name)


def _run(options: argparse.Namespace) -> int:
    """Check the whole call, then segment image by image."""
    vocabulary = parse_words(options.words) if options.words_file is None else load_words(options.words_file)
    if vocabulary.num_classes > MAX_CLASSES:
        raise ValueError(f"words: expected at most {MAX_CLASSES} classes, got {vocabulary.num_classes}")
    EvaluationTransform(min_size=options.shortest_side, max_size=options.max_size)  # raises on a bad length
    given = _given(options)
    # raises on a bad value before anything is read; whether a stride has its window, the weights may tell
    InferenceSettings(**{name: value for name, value in given.items() if name != "stride" or "window" in given})
    device = _device(options.device)
    images = find_images(options.images)
    stems = output_stems(images)
    check_output(options.output, options.images, images, stems)
    scan = load_scan(options.weights).to(device)
    settings = replace(recommended_settings(options.weights), **given)
    settings = _fit_layers(settings, scan, given=options.replace_layers is not None)
    task = _Task(
        scan=scan,
        vocabulary=vocabulary,
        text=scan.encode_vocabulary(vocabulary),
        settings=settings,
        shortest_side=options.shortest_side,
        max_size=options.max_size,
        weights=_weights(options.weights),
        output=options.output,
    )
    options.output.mkdir(parents=True, exist_ok=True)
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    counts: list[Tensor] = []
    pairs = list(zip(images, stems, strict=True))
    for path, stem in track(pairs, "segmenting", console=errors, disable=len(pairs) == 1):
        try:
            image = read_image(path)
        except (ImageFileError, FileNotFoundError) as error:
            errors.print(Text(_printable(f"{PROG}: {error}", errors)))
        else:
            counts.append(task.segment(path, image, stem))
    if counts:
        _report(torch.stack(counts), vocabulary, options.output)
    failed = len(images) - len(counts)
    if failed:
        print(f"{PROG}: {failed} of {len(images)} images could not be read", file=sys.stderr)
    return int(failed > 0)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Collect the settings that were given; the others are those that the weights recommend."""
    names = (
        *("replace_ratio", "replace_layers", "mask_threshold", "ensemble_weight", "source", "seed"),
        *("flip", "scales", "window", "stride"),
    )
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _fit_layers(settings: InferenceSettings, scan: Scan, *, given: bool) -> InferenceSettings:
    """Drop default layers that the visual tower lacks, and say so; layers that were given must all be there."""
    layers = settings.replace_layers
    if given:
        scan.clip.check_layers(layers, "replace_layers")
    kept = tuple(layer for layer in layers if layer <= scan.clip.layers)
    if kept != layers:
        reason = f"instead of {list(layers)}: this CLIP has {scan.clip.layers} layers"
        print(f"{PROG}: replace_layers: {list(kept)} {reason}", file=sys.stderr)
    return replace(settings, replace_layers=kept)


def _device(name: str) -> torch.device:
    """Choose the device."""
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ValueError("device: expected a machine with CUDA, found none")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def _weights(folder: Path) -> dict[str, str]:
    """Identify the weights that were loaded."""
    clip = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))["clip_hash"]
    return {"folder": folder.resolve().name, "sha256": file_hash(folder / WEIGHTS_NAME), "clip_hash": clip}


def _report(counts: Tensor, vocabulary: Vocabulary, output: Path) -> None:
    """Print which classes were found, those with most pixels first; ``counts`` are int64 (images, K)."""
    console = Console()
    shares = counts.sum(0).double() / counts.sum()
    order = [label for label in shares.argsort(descending=True, stable=True).tolist() if shares[label] > 0]
    rest = len(order) - TABLE_ROWS
    table = Table(caption=f"and {rest} more" if rest > 0 else None)
    table.add_column("class", overflow="ellipsis", no_wrap=True)
    table.add_column("share of pixels", justify="right", no_wrap=True)
    table.add_column("in images", justify="right", no_wrap=True)
    for label in order[:TABLE_ROWS]:
        name = Text(_printable(vocabulary.names[label], console))
        table.add_row(name, f"{100 * shares[label]:.2f} %", f"{(counts[:, label] > 0).sum()} of {len(counts)}")
    console.print(table)
    console.print(Text(_printable(f"written to {output}", console)), soft_wrap=True)


def _utf8(name: str | Path) -> str:
    """Replace what is not UTF-8 in a file's name."""
    return os.fsencode(name).decode("utf-8", "replace")


def _printable(text: str, console: Console) -> str:
    """Escape what the terminal's encoding lacks."""
    return text.encode(console.encoding, "backslashreplace").decode(console.encoding)


def _layers(text: str) -> tuple[int, ...]:
    """Read layer numbers between commas; an empty text gives none."""
    return tuple(int(number) for number in text.split(",")) if text.strip() else ()


def _scales(text: str) -> tuple[float, ...]:
    """Read factors between commas."""
    return tuple(float(number) for number in text.split(","))


def _parser() -> argparse.ArgumentParser:
    """Make the parser."""
    sources = ", ".join(SUBSTITUTION_SOURCES)
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Segment images by any words. Settings that are not given are those that the weights recommend.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="files, folders (all images in them), patterns such as 'x/*.jpg'")
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument("--words", help='commas between classes, bars between synonyms: "sky, car|automobile, road"')
    words.add_argument("--words-file", type=Path, metavar="FILE", help="a class per line, commas between its synonyms")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the results, made if it is missing")
    add("--weights", type=Path, default=SHIPPED_SCAN, metavar="FOLDER", help="trained network (the shipped one)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes CUDA where there is one (auto)")
    add("--max-size", type=int, default=1024, metavar="N", help="bound of the network input's longer side (1024)")
    add("--shortest-side", type=int, metavar="N", help="network input's shorter side (the image's own)")
    add("--ensemble-weight", type=float, help="share of CLIP's opinion, 0 to 1")
    add("--mask-threshold", type=float, help="of the masks that CLIP classifies, 0 to 1")
    add("--replace-ratio", type=float, help="share of background tokens replaced, 0 to 1")
    add("--replace-layers", type=_layers, metavar="N,N", help="layers after which they are replaced")
    add("--source", help=f"what replaces them: {sources}")
    add("--seed", type=int, help="of the draws of replaced tokens")
    add("--flip", action=argparse.BooleanOptionalAction, help="look at images mirrored as well and average the maps")
    add("--scales", type=_scales, metavar="X,X", help="factors of the image's size, whose maps are averaged")
    add("--window", type=int, metavar="N", help="side of windows that slide over the image")
    add("--stride", type=int, metavar="N", help="step from window to window (two thirds of the window)")
    return parser
