"""Make the reference tensors of this folder from a complete folder: ``python make_compact.py COMPLETE_FOLDER``.

README.md beside this file says what is left out. Nothing is computed: every tensor that stays keeps its bits.
"""

import json
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

KEPT = {
    "text": r"text/.*",
    "inputs": r".*",
    "stages": r"img1/(?!clip/tokens|lfm/).*",
    "shift": r"img1/shift/(?!crops_s16).*",
    "infer": r"img1/infer/.*(class_scores|normal/sem_seg)",
    "batch": r"batch/img0/.*|batch/img1/(?!sem_seg).*",
    "train": r"train/(?!grad/).*(?<!over_points)(?<!rand_points)",
    "isolated": r"iso/(?!lfm_a|lfm_b|lightweight).*",
    "metrics": r".*",
}
"""For each file the names of the tensors that stay."""

OMITTED = re.compile(r"lightweight_transformer\..*")
DERIVED = re.compile(r".*relative_position_index")
EMBEDDING = "clip_adapter.clip_model.token_embedding.weight"


def main(source: Path, target: Path) -> None:
    for name, pattern in KEPT.items():
        tensors = {
            key: tensor
            for key, tensor in load_file(source / f"{name}.safetensors").items()
            if re.fullmatch(pattern, key)
        }
        save_file(tensors, target / f"{name}.safetensors")
    write_weights(source, target)
    for name in ("config.json", "metrics.json"):
        (target / name).write_bytes((source / name).read_bytes())
    values = read_json(source / "values.json")
    train = {key: value for key, value in values["train"].items() if "grad" not in key and key != "frozen"}
    write_json(target / "values.json", {**values, "train": train})
    write_manifest(source, target)


def write_weights(source: Path, target: Path) -> None:
    """Leave weights out; of the token embedding only the rows of the recorded prompts stay."""
    weights = load_file(source / "model.safetensors")
    omitted = {name: list(tensor.shape) for name, tensor in weights.items() if OMITTED.fullmatch(name)}
    kept: dict[str, Tensor] = {
        name: tensor for name, tensor in weights.items() if name not in omitted and not DERIVED.fullmatch(name)
    }
    embedding = kept.pop(EMBEDDING)
    omitted[EMBEDDING] = list(embedding.shape)
    rows = torch.unique(load_file(source / "text.safetensors")["text/tokens"])
    kept[f"{EMBEDDING}#rows"], kept[f"{EMBEDDING}#values"] = rows, embedding[rows.long()].clone()
    save_file(kept, target / "model.safetensors")
    write_json(target / "omitted.json", omitted)


def write_manifest(source: Path, target: Path) -> None:
    """Keep the entries of the tensors that stay, but for those of the weights, one a line."""
    kept = {
        name for file in KEPT for name in load_file(target / f"{file}.safetensors") if file not in ("metrics", "model")
    }
    entries = [entry for entry in read_json(source / "manifest.json")["tensors"] if entry["name"] in kept]
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    (target / "manifest.json").write_text(f'{{"tensors": [\n{lines}\n]}}\n', encoding="utf-8")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)
