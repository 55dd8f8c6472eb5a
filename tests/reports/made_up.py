"""Made-up rows for the ablation files of this project, and a small layout with rows whose values are known."""

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

from scan_lightning.sweeps import grid, load_sweep

ROOT = Path(__file__).parents[2]
ABLATIONS = ROOT / "experiments" / "ablations"
LAYOUT = ROOT / "experiments" / "results" / "tables.yaml"
RECORD = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": "0",
    "python": "3.11.7",
    "torch": "2.15.0",
    "lightning": "2.6.6",
    "transformers": "5.23.0",
    "open_clip_torch": "3.3.0",
    "scan_lightning": "0.1.0",
    "hardware": "2 x x86_64 CPU",
    "images": "200",
}


def make_row(
    name: str, seed: int | str, parameters: dict[str, Any], variant: str = "", **metrics: Any
) -> dict[str, Any]:
    """One row as `scan-lightning run` writes it."""
    text = json.dumps(parameters, sort_keys=True)
    digest = hashlib.sha256(f"{text} {variant} {seed}".encode()).hexdigest()
    return {
        "name": name,
        "key": digest,
        "variant": variant,
        "parameters": text,
        "seed": str(seed),
        "config_hash": digest[::-1],
        "training_hash": digest,
        **RECORD,
        **metrics,
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as a CSV file; what a row lacks stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_ablation(name: str, folder: Path) -> list[dict[str, Any]]:
    """Write rows of plausible size for every combination of an ablation file at quickstart size."""
    overlay = ABLATIONS / "quickstart" / f"{name}.yaml"
    rows = []
    for combination in grid(load_sweep(ABLATIONS / f"{name}.yaml", overlay)):
        parameters = dict(combination)
        seed = parameters.pop("seed_everything")
        variant = dict(parameters.pop("variant", {}))
        label = variant.pop("label", "")
        rows.append(
            make_row("quickstart", seed, parameters | variant, label, **_scores(name, parameters | variant, seed))
        )
    write_rows(folder / f"{name}.csv", rows)
    return rows


def _scores(name: str, parameters: dict[str, Any], seed: int) -> dict[str, str]:
    """Scores that depend on seed (much) and parameters (a little)."""
    by_seed = random.Random(f"{'' if name.startswith(('cs', 'ens', 'mask')) else parameters} {seed}")  # noqa: S311
    by_choice = random.Random(json.dumps(parameters, sort_keys=True))  # noqa: S311
    both = random.Random(f"{parameters} {seed}")  # noqa: S311
    base = by_seed.gauss(0, 0.008)
    seen = 0.58 + base + by_choice.gauss(0, 0.006) + both.gauss(0, 0.002)
    unseen = 0.46 + 1.5 * base + by_choice.gauss(0, 0.012) + both.gauss(0, 0.004)
    miou = (20 * seen + 12 * unseen) / 32
    values = {
        "miou_any": miou,
        "miou_present": miou,
        "miou_seen": seen,
        "miou_unseen": unseen,
        "miou_harmonic": 2 * seen * unseen / (seen + unseen),
        "unseen_to_seen": 0.3 - 2 * (unseen - 0.46) + both.gauss(0, 0.01),
        "sg_iou_any": miou + 0.01 + both.gauss(0, 0.003),
        "open_miou": miou + 0.05 + both.gauss(0, 0.006),
    }
    return {metric: f"{value:.6f}" for metric, value in values.items()}


def write_analyses(folder: Path) -> None:
    """Write rows of the two analyses, as `scan-lightning analyse` does, two seeds each."""
    collapse, background, drift = [], [], []
    for seed in (0, 1):
        for label, better in (("with SIM", 0.02), ("without SIM", 0.0)):
            shares = {"unseen_to_seen_with_cs": 0.3 - better + seed / 100, "unseen_right_with_cs": 0.5 + better}
            distances = {"unseen_own_distance": 0.4 - better, "centroid_rank": 9.5 + 10 * better}
            collapse.append(make_row("collapse", seed, {}, label, split="test", **shares, **distances))
        for index, (condition, source) in enumerate((("box", ""), ("masked", ""), ("shifted", "image_cls"))):
            head = {"split": "test", "tower": "original", "condition": condition, "source": source}
            for place, share in enumerate(("all", "0.0-0.2", "0.2-0.4", "0.4-0.6")):
                values = {"regions": 400 - 100 * place, "accuracy": 0.9 - 0.03 * index * place - 0.002 * seed}
                for classes in ("all", "seen", "unseen", "look-alike"):
                    group = {"classes": classes, "background": share}
                    background.append(make_row("domain", seed, {}, **head, **group, **values))
            for layer in range(1, 7):
                values = {"layer": layer, "drift": round(0.02 * layer * index / (1 + 0.1 * seed), 6)}
                drift.append(make_row("domain", seed, {}, **head, **values))
    write_rows(folder / "collapse.csv", collapse)
    write_rows(folder / "domain_background.csv", background)
    write_rows(folder / "domain_drift.csv", drift)


def write_all(folder: Path) -> None:
    """Write rows for every ablation file and both analyses."""
    for path in sorted(ABLATIONS.glob("*.yaml")):
        if path != LAYOUT:
            write_ablation(path.stem, folder)
    write_analyses(folder)
