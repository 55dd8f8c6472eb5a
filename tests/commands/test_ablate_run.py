"""``scan-lightning ablate`` with a network that is really trained and tested, as small as can be."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from scan_lightning.cli import main

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"
SHORT = """
trainer: {max_steps: 1, enable_progress_bar: false, enable_model_summary: false}
data:
  init_args: {batch_size: 2, train_size: 2, val_size: 2, test_size: 2, image_size: 64}
"""
ROWS = Path("rows", "ratio.csv")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)
    Path("short.yaml").write_text(SHORT, "utf-8")
    ablation = {
        "method": "grid",
        "parameters": {
            "model.init_args.inference.replace_ratio": {"values": [0.9, 0.1]},
            "seed_everything": {"values": [3]},
        },
        "command": ["${env}", "scan-lightning", "run", "-c", str(QUICKSTART), "-c", "short.yaml", "${args}"],
    }
    Path("ratio.yaml").write_text(yaml.safe_dump(ablation), "utf-8")


def ablate(*arguments: str) -> int:
    return main(["ablate", "ratio.yaml", "--rows=rows", *arguments])


def test_row_that_is_made_again_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("--workers=2") == 0
    content = ROWS.read_text("utf-8")
    with ROWS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [json.loads(row["parameters"]) for row in rows] == [
        {"model.init_args.inference.replace_ratio": ratio} for ratio in (0.9, 0.1)
    ]
    assert {(row["name"], row["seed"], row["images"]) for row in rows} == {("ratio", "3", "2")}
    assert len({row["training_hash"] for row in rows}) == len(list(Path("outputs", "runs").glob("*/last.ckpt"))) == 1
    when = ROWS.stat().st_mtime_ns
    assert ablate("--workers=2") == 0
    assert "2 runs: 2 there already" in capsys.readouterr().err
    assert ROWS.stat().st_mtime_ns == when
    lines = content.splitlines(keepends=True)
    ROWS.write_text(lines[0] + lines[2], "utf-8")
    assert ablate() == 0
    assert "2 runs: 1 done, 1 there already" in capsys.readouterr().err
    again = ROWS.read_text("utf-8")
    with ROWS.open(newline="", encoding="utf-8") as file:
        redone = list(csv.DictReader(file))
    may_differ = {"commit", "dirty"}  # of the checkout in which the tests run
    for row, before in zip(redone, rows, strict=True):
        assert {k: v for k, v in row.items() if k not in may_differ} == {
            k: v for k, v in before.items() if k not in may_differ
        }
    assert again.splitlines()[0] == lines[0].rstrip("\n")
