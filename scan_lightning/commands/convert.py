"""``scan-lightning convert``: released weights to this project's folders and back."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scan_lightning.convert.conversion import RELEASED_SUFFIX, convert
from scan_lightning.convert.report import Conversion, IncompleteCheckpointError

PROG = "scan-lightning convert"
SHOWN_NAMES = 20
"""Names of a list that the terminal shows; --report has all."""

DESCRIPTION = f"""Convert released weights to a folder of this project, or such a folder to released weights.

INPUT says which weights they are, OUTPUT the direction: a file that ends in {RELEASED_SUFFIX} gets released names,
anything else is a folder. INPUT is one of

  a released SCAN (detectron2's .pth), with or without its fine-tuned CLIP fused in
  a Mask2Former with Swin: detectron2's .pkl or .pth, a folder of transformers, or its hub name
  a CLIP: OpenAI's .pt, open_clip's .safetensors, .bin or .pt, a training checkpoint, or the CLIP in an OVSeg
  a folder of this project: a SCAN, a CLIP, or a Mask2Former

No file gets the chance to run code. OUTPUT is whole or not there at all."""


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning convert``.

    Args:
        args: Arguments behind the command's name.

    Returns:
        Exit status: 0 if the output was written, 1 if not, as reported.
    """
    options = _parser().parse_args(list(args))
    console = Console(stderr=True)
    try:
        with console.status(Text(f"converting {options.input}")):
            report = convert(
                options.input,
                options.output,
                configs=options.config,
                quick_gelu=options.quick_gelu,
                shifted_clip=options.shifted_clip,
                overwrite=options.overwrite,
            )
        _tell(report, options.report)
    except IncompleteCheckpointError as error:
        _tell(error.report, options.report)
        print(f"{PROG}: {error}; nothing was written", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    print(_next_step(report, options.output))
    return 0


def _tell(report: Conversion, path: Path | None) -> None:
    """Print the report, and write it where asked."""
    console = Console(soft_wrap=False)
    title = f"{report.what}: {report.tensors} tensors, {report.parameters:,} numbers"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("from", Text(report.source))
    table.add_row("to", Text(report.output))
    table.add_row("types", ", ".join(f"{count} {dtype}" for dtype, count in report.dtypes.items()))
    for title, names, limit in (
        ("missing", report.missing, SHOWN_NAMES),
        ("unused", report.unused, SHOWN_NAMES),
        ("kept beside", report.kept, 3),
    ):
        table.add_row(f"{title} ({len(names)})", Text(_some(names, limit)))
    for sentence in report.assumptions:
        table.add_row("assumed", Text(sentence))
    console.print(table)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")


def _some(names: Sequence[str], limit: int) -> str:
    """List the first names."""
    rest = len(names) - limit
    return "\n".join([*names[:limit], *([f"and {rest} more (--report has all)"] if rest > 0 else [])]) or "none"


def _next_step(report: Conversion, output: Path) -> str:
    """Say what the output is good for."""
    if output.suffix == RELEASED_SUFFIX:
        return f"written: {output}"
    use = {
        "SCAN": f"scan-lightning segment IMAGE --words WORDS --weights {output}",
        "Mask2Former": f"--model.network.segmenter.weights {output}",
        "CLIP": f"--model.network.clip.model {output}, or --model.network.clip.shifted_weights {output}",
    }
    return f"written; use it by: {use[report.what]}"


def _parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog=PROG, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("input", metavar="INPUT", help="file, folder, or hub name owner/name")
    add("output", metavar="OUTPUT", type=Path, help=f"folder, or file that ends in {RELEASED_SUFFIX}")
    add(
        "--config",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="what the tensors' shapes do not tell: detectron2's YAML, or open_clip_config.json; may be repeated",
    )
    add(
        "--quick-gelu",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether a file's CLIP was trained with QuickGELU (OpenAI's archives: yes; others: no)",
    )
    add("--shifted-clip", metavar="FILE", type=Path, help="fine-tuned CLIP to fuse into a released SCAN")
    add("--overwrite", action="store_true", help="replace an older output")
    add("--report", metavar="FILE.json", type=Path, help="also write the whole report")
    return parser
