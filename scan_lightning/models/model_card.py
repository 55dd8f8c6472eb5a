"""Model cards: what a network is, its scores and the record of the runs that gave them, data, licence, limits."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

if TYPE_CHECKING:  # `Scan` comes with a card
    from scan_lightning.models.scan import Scan

NON_COMMERCIAL = "cc-by-nc-4.0"
"""Licence of the released SCAN, which holds for weights converted from it."""
RELEASED_FORMAT = "released SCAN checkpoint"
"""What the origin of such weights has as its format."""
_RELEASED_DATA = "COCO-Stuff, train2017, 171 classes, as the paper says; CLIP as its authors say."
_SCORES = ("miou", "sg_iou", "open_miou", "fwiou", "mean_accuracy", "pixel_accuracy", "zero_share")
"""How columns of scores start in a results file; all are fractions."""
_VERSIONS = ("python", "torch", "lightning", "transformers", "open_clip_torch", "scan_lightning")
_USE = """```python
from torchvision.io import decode_image
from scan_lightning.models import Scan

scan = Scan.from_pretrained("{name}")  # a folder or a hub name
result = scan.segment(decode_image("photo.jpg", "RGB"), ["sky", "road", "car"])
```"""
_LIMITS = (
    "Every pixel gets one of the given words, also where none fits: give a word for what else there may be.",
    "Words are understood as CLIP understands them, with the biases of the images and texts that it was trained on.",
    "Scores hold for the data and the test-time settings of their row; the two means of IoU differ in the classes that "
    "they count.",
)


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model card says beside what the network itself tells.

    Args:
        name: Title; the hub name is the usual choice.
        results: CSV file of test runs, as `ResultsCallback` writes it: scores, configuration hash, commit, versions.
        rows: Names of its rows that belong to this network; empty takes all.
        record: Further facts of the run by name, such as its seed or steps.
        data: What it was trained on, a sentence or more.
        licence: Licence of the weights, the hub's identifier. None gives that of the released SCAN to weights converted
            from it, and says of others that it was not stated.
        limits: Further limits, a sentence each.
    """

    name: str = "SCAN"
    results: str | Path | None = None
    rows: Sequence[str] = ()
    record: Mapping[str, str | int | float] = field(default_factory=dict)
    data: str | None = None
    licence: str | None = None
    limits: Sequence[str] = ()


def build_card(scan: Scan, facts: CardFacts, data: ModelCardData) -> ModelCard:
    """Write a model card.

    Args:
        scan: The network.
        facts: What it does not tell itself.
        data: The card's metadata; the licence is added.

    Returns:
        The card.

    Raises:
        FileNotFoundError: If the results file is missing.
        ValueError: If the results file has no such row, or holds no scores.
    """
    rows = [] if facts.results is None else read_rows(Path(facts.results), facts.rows)
    licence = facts.licence or (NON_COMMERCIAL if _is_released(scan) else None)
    plain: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    metadata = ModelCardData(**{**plain, **({} if licence is None else {"license": licence})})
    parts = [
        f"# {facts.name}",
        "A SCAN (Liu, Bai, Li, Wang, Tang, [CVPR 2024](https://arxiv.org/abs/2312.04089)) of scan-lightning "
        f"{version('scan-lightning')}: it segments an image by any words.",
        _USE.format(name=facts.name),
        "## Network",
        _list(_network(scan)),
        "## Scores",
        _table(rows) if rows else "No test run was given with these weights.",
        "## Record",
        _list({**_record(rows), **{name: str(value) for name, value in facts.record.items()}}) or "None was given.",
        "## Training data",
        facts.data or (_RELEASED_DATA if _is_released(scan) else "Not stated by who made this card."),
        "## Licence",
        _licence(scan, licence),
        "## Limits",
        "\n".join(f"- {sentence}" for sentence in (*_LIMITS, *facts.limits)),
    ]
    return ModelCard("---\n" + metadata.to_yaml() + "\n---\n\n" + "\n\n".join(parts) + "\n")


def read_rows(path: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Read rows of a results file.

    Args:
        path: CSV with a column "name".
        names: Those to take, in this order; empty for all.

    Returns:
        Column name to text.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a row is missing, or the file has no scores.
    """
    if not path.is_file():
        raise FileNotFoundError(f"results: no file {path}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    if not rows or not any(column.startswith(_SCORES) for column in rows[0]) or "name" not in rows[0]:
        raise ValueError(f"results: expected rows with a name and scores in {path}, found none")
    missing = [name for name in names if name not in {row["name"] for row in rows}]
    if missing:
        raise ValueError(
            f"results: {path} has no row {missing[0]!r}; its rows are {', '.join(row['name'] for row in rows)}"
        )
    return [row for name in names for row in rows if row["name"] == name] if names else rows


def _is_released(scan: Scan) -> bool:
    """Tell whether the weights come from SCAN's authors."""
    return scan.origin is not None and scan.origin.get("format") == RELEASED_FORMAT


def _network(scan: Scan) -> dict[str, str]:
    """Describe the network."""
    config, sim = scan.config, scan.config.semantic_integration
    learnt = sum(value.numel() for name, value in scan.named_parameters() if not name.startswith("clip."))
    facts = {
        "Segmenter": f"Mask2Former on Swin ({config.segmenter.embed_dim} channels, blocks {config.segmenter.depths}), "
        f"{config.segmenter.num_queries} queries, {config.segmenter.decoder_layers} decoder layers",
        "Semantic Integration": "none" if sim is None else f"CLIP's layers {sim.layers}, sigmas {sim.sigmas}",
        "CLIP": f"{scan.clip.layers} layers of {scan.clip.width} channels, {scan.clip.image_size} pixels; "
        + (
            "regions by a fine-tuned visual tower"
            if scan.clip.shifted_visual is not None
            else "regions by the same tower"
        ),
        "Templates": config.template_set,
        "Parameters": f"{learnt:,} beside CLIP, {sum(value.numel() for value in scan.clip.parameters()):,} in CLIP",
    }
    if scan.recommended is not None:
        chosen = scan.recommended
        facts["Recommended at test time"] = (
            f"mask threshold {chosen.mask_threshold}, share of CLIP {chosen.ensemble_weight}, "
            f"replaced share {chosen.replace_ratio} after layers {chosen.replace_layers}"
        )
    if scan.origin:
        facts["Origin"] = ", ".join(f"{name}: {value}" for name, value in scan.origin.items())
    return facts


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Write rows of scores in percent, each with the start of its configuration's hash and its commit."""
    scores = [name for name in rows[0] if name.startswith(_SCORES) and any(row.get(name) for row in rows)]
    header = ["test", "images", *scores, "configuration", "commit"]
    lines = [header, ["---", *["---:"] * (len(scores) + 1), "---", "---"]]
    for row in rows:
        commit = row.get("commit", "")[:10] + (" (changed)" if row.get("dirty") == "1" else "")
        cells = [_percent(row.get(name, "")) for name in scores]
        lines.append([row["name"], row.get("images", ""), *cells, row.get("config_hash", "")[:12], commit])
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    return f"In percent, by `scan-lightning test` or `evaluate`.\n\n{table}"


def _percent(text: str) -> str:
    """Write a fraction as percent, a dash for none."""
    return f"{100 * float(text):.1f}" if text else "-"


def _record(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Collect what the rows say of seeds, versions and hardware."""
    return {
        name: ", ".join(found)
        for name in ("config_hash", "commit", "seed", *_VERSIONS, "hardware", "checkpoint_hash")
        if (found := sorted({row[name] for row in rows if row.get(name)}))
    }


def _licence(scan: Scan, licence: str | None) -> str:
    """Say under which terms the weights stand."""
    code = "The code of scan-lightning is licensed under Apache-2.0."
    if licence is None:
        return f"Not stated for the weights by who made this card. {code}"
    source = " The weights were converted from those that SCAN's authors released." if _is_released(scan) else ""
    return f"Weights: {licence}.{source} {code}"


def _list(facts: Mapping[str, str]) -> str:
    """Write facts as a list."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
