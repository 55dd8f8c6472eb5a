"""``scan-lightning analyse`` through the command line, with the tiny network on striped images."""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from stripes import StripesModule

from scan_lightning.analysis import (
    RegionCutter,
    cut_batches,
    drift_by_layer,
    measure_collapse,
    measure_domain,
    score_by_background,
)
from scan_lightning.callbacks.record import file_hash
from scan_lightning.cli import main
from scan_lightning.commands.analyse_recipe import add_rows, keys_in
from scan_lightning.commands.evaluate_recipe import folder_hash
from scan_lightning.models.clip import FrozenClip
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import save_scan
from scan_lightning.models.shifted_encoding import ShiftConfig
from scan_lightning.models.text import TextBank
from scan_lightning.module import ScanModule

pytestmark = pytest.mark.usefixtures("stripes_folder")
SETTINGS = InferenceSettings(replace_layers=(1,), replace_ratio=0.5)
ModuleOf = Callable[..., ScanModule]


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_recipe(module: ScanModule, path: str = "recipe.yaml", size: int = 3) -> None:
    network = json.loads(json.dumps(asdict(module.network.config)))
    network["segmenter"]["weights"] = None
    arguments = {"network": network, "inference": {"replace_layers": [1], "replace_ratio": 0.5}}
    recipe = {
        "seed_everything": 7,
        "model": {"class_path": "scan_lightning.module.ScanModule", "init_args": arguments},
        "data": {"class_path": "stripes.StripesModule", "init_args": {"size": size}},
    }
    Path(path).write_text(yaml.safe_dump(recipe), "utf-8")


def write_checkpoint(module: ScanModule, path: str) -> None:
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    checkpoint.pop("scan_architecture")
    torch.save(checkpoint, path)


def collapse(*arguments: str) -> int:
    return main(["analyse", "collapse", "-c", "recipe.yaml", "--device=cpu", "--output=rows.csv", *arguments])


def domain(*arguments: str) -> int:
    return main(["analyse", "domain", "-c", "recipe.yaml", "--device=cpu", "--output=out", *arguments])


def test_collapse_row_is_what_the_function_measures(make_module: ModuleOf, capsys: pytest.CaptureFixture[str]) -> None:
    module = make_module(init_seed=1)
    write_recipe(module)
    write_checkpoint(module, "first.ckpt")
    assert collapse("--ckpt_path=first.ckpt") == 0
    (row,) = rows("rows.csv")
    data = StripesModule(size=3)
    data.setup("test")
    scan = module.network.eval()
    text = scan.encode_vocabulary(data.vocabulary)
    batches: Any = data.test_dataloader()
    expected = measure_collapse(scan, batches, vocabulary=data.vocabulary, text=text, settings=SETTINGS).columns()
    for name, value in expected.items():
        assert row[name] == ("" if value != value else str(round(value, 6))), name
    record = {"name": "collapse", "variant": "with SIM", "seed": "7", "split": "test", "images": "3"}
    assert {name: row[name] for name in record} == record
    assert row["checkpoint_hash"] == file_hash("first.ckpt")
    output = capsys.readouterr().out
    assert "with SIM, seed 7: first.ckpt" in output
    assert f"{100 * expected['unseen_to_seen_in_vocab']:.2f}" in output


def test_collapse_of_several_seeds_measures_each_once(
    make_module: ModuleOf, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        module = make_module(init_seed=seed, network={"semantic_integration": None})
        write_checkpoint(module, f"{seed}.ckpt")
    write_recipe(module, size=2)
    assert collapse("--ckpt_path=0.ckpt", "--seed=4", "--limit=1") == 0
    both = ("--ckpt_path=0.ckpt", "--seed=4", "--ckpt_path=1.ckpt", "--seed=5", "--limit=1", "--variant=mine")
    assert collapse(*both) == 0
    first, second = rows("rows.csv")
    assert [first["seed"], second["seed"]] == ["4", "5"]
    assert [first["variant"], second["variant"]] == ["without SIM", "mine"]
    assert first["images"] == second["images"] == "1"
    assert first["key"] != second["key"]
    assert first["config_hash"] != second["config_hash"]
    assert first["seen_own_distance"] != second["seen_own_distance"]
    assert "0.ckpt: measured before" in capsys.readouterr().out


def test_collapse_of_an_exported_network_is_that_of_its_checkpoint(make_module: ModuleOf) -> None:
    module = make_module(init_seed=1)
    write_recipe(module, size=1)
    write_checkpoint(module, "first.ckpt")
    save_scan(module.network, Path("first"))
    save_scan(make_module(init_seed=2).network, Path("second"))
    assert collapse("--ckpt_path=first.ckpt") == 0
    assert collapse("--weights=first", "--seed=7", "--weights=second", "--seed=8") == 0
    assert collapse("--weights=first") == 0  # measured before
    checkpoint, first, second = rows("rows.csv")
    expected = folder_hash(Path("first"), ("config.json", "model.safetensors"))
    assert first["checkpoint_hash"] == expected != checkpoint["checkpoint_hash"]
    of_this_call = ("key", "config_hash", "checkpoint_hash", "time")
    same = [name for name in first if name not in of_this_call]
    assert {name: first[name] for name in same} == {name: checkpoint[name] for name in same}
    assert second["seed"] == "8"
    assert second["seen_own_distance"] != first["seen_own_distance"]


def test_collapse_takes_checkpoints_or_folders(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--ckpt_path=a.ckpt", "--weights=a"], "not allowed with"),
        ([], "one of the arguments --ckpt_path --weights is required"),
    ):
        with pytest.raises(SystemExit) as stop:
            collapse(*arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt_path=none.ckpt"], "ckpt_path: no file none.ckpt"),
        (["--ckpt_path=saved"], "ckpt_path: expected a checkpoint, saved is a folder; --weights takes exported ones"),
        (["--ckpt_path=saved/model.safetensors"], "is of an exported network: --weights saved"),
        (["--weights=nowhere"], "weights: expected config.json and model.safetensors in nowhere"),
        (["--weights=saved"], "weights: the network in saved has no SIM"),
        (["--weights=saved", "--weights=saved"], "seed: expected one for each of 2 folders, got 0"),
        (["--ckpt_path=good.ckpt", "--ckpt_path=good.ckpt"], "seed: expected one for each of 2 checkpoints, got 0"),
        (["--ckpt_path=good.ckpt", "--limit=0"], "limit: expected at least 1, got 0"),
        (["--ckpt_path=good.ckpt", "--output=folder"], "output: expected a CSV file such as folder/rows.csv, got the"),
        (["--ckpt_path=good.ckpt", "--output=folder.v2"], "output: expected a CSV file such as folder.v2/rows.csv"),
        (["--ckpt_path=good.ckpt", "-c=without_sim.yaml"], "checkpoint: "),
        (["--ckpt_path=good.ckpt", "--data.class_path=seen_stripes.SeenStripes"], "expected unseen classes, all 4"),
    ],
)
def test_collapse_wrong_call_is_told(
    make_module: ModuleOf,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    Path("seen_stripes.py").write_text(
        "from scan_lightning.types import Vocabulary\nfrom stripes import StripesModule\n\n\n"
        "class SeenStripes(StripesModule):\n    vocabulary = Vocabulary(names=('sky', 'car', 'tree', 'road'))\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(Path.cwd())
    without_sim = {"model": {"init_args": {"network": {"semantic_integration": None}}}}
    Path("without_sim.yaml").write_text(yaml.safe_dump(without_sim), "utf-8")
    Path("folder.v2").mkdir()
    save_scan(make_module(network={"semantic_integration": None}).network, Path("saved"))
    module = make_module()
    write_recipe(module)
    write_checkpoint(module, "good.ckpt")
    assert collapse(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("scan-lightning analyse: ")
    assert message in error
    assert not Path("rows.csv").exists()
    assert not Path("folder").exists()


def test_domain_rows_are_what_the_functions_measure(
    make_module: ModuleOf, clip: FrozenClip, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(make_module())
    assert domain("--seeds=0,3", "--min_area=10", "--name=tiny") == 0
    data = StripesModule(size=3)
    data.setup("test")
    batches: Any = data.test_dataloader()
    text = TextBank(clip=clip, template_set="single").encode(data.vocabulary)
    shifts = [ShiftConfig(replace_ratio=0.5, replace_layers=(1,), seed=seed) for seed in (0, 3)]
    images = cut_batches(clip, batches, RegionCutter(min_area=10))
    found = measure_domain(clip, images, text=text, shifts=shifts)
    written = rows("out/domain_background.csv")
    assert len(written) == (2 + 2 + 2) * 18
    assert len({row["key"] for row in written}) == len(written)
    for scores in found:
        seeds = ["0", "3"] if scores.shift is None else [str(scores.shift.seed)]
        mine = [row for row in written if row["condition"] == scores.condition and row["seed"] in seeds]
        expected = score_by_background(scores, data.vocabulary.seen) * len(seeds)
        assert [row["regions"] for row in mine] == [str(score.regions) for score in expected]
        for row, score in zip(mine, expected, strict=True):
            assert (row["classes"], row["background"]) == (score.classes, score.background)
            assert float(row["accuracy"] or "nan") == pytest.approx(score.accuracy, abs=1e-6, nan_ok=True)
    drifts = [row for row in rows("out/domain_drift.csv") if row["condition"] == "shifted" and row["seed"] == "3"]
    assert [row["layer"] for row in drifts] == ["1", "2"]
    assert [float(row["drift"]) for row in drifts] == pytest.approx(drift_by_layer(found[3]), abs=1e-5)
    shifted = drifts[0]
    assert (shifted["name"], shifted["source"], shifted["replace_layers"]) == ("tiny", "image_cls", "1")
    assert (shifted["tower"], shifted["split"], shifted["min_area"]) == ("original", "test", "10")
    assert "accuracy in % of CLIP on true regions" in capsys.readouterr().out


def test_domain_measures_nothing_twice_and_completes_what_was_broken_off(make_module: ModuleOf) -> None:
    write_recipe(make_module(), size=1)
    assert domain("--limit=1", "--min_area=10") == 0
    background, drift = Path("out/domain_background.csv"), Path("out/domain_drift.csv")
    whole = {path: path.read_text("utf-8") for path in (background, drift)}
    assert domain("--limit=1", "--min_area=10") == 0
    assert {path: path.read_text("utf-8") for path in whole} == whole
    lines = whole[background].splitlines(keepends=True)
    background.write_text("".join(lines[:-3]), "utf-8")
    assert domain("--limit=1", "--min_area=10") == 0
    assert {path: path.read_text("utf-8") for path in whole} == whole


def test_domain_options_are_in_force(make_module: ModuleOf, other_clip_folder: Path) -> None:
    write_recipe(make_module(), size=1)
    sources = ("--source=every", "--replace_ratio=1.0", "--replace_layers=2")
    assert domain(*sources, "--min_area=10", "--split=val", "--group=far=sky,road") == 0
    groups = [row["classes"] for row in rows("out/domain_background.csv") if row["background"] == "all"]
    assert groups[:4] == ["all", "seen", "unseen", "far"]
    assert domain(f"--shifted_weights={other_clip_folder}", "--min_area=10") == 0
    drifts = rows("out/domain_drift.csv")
    first = [row for row in drifts if row["split"] == "val" and row["condition"] == "shifted"]
    assert sorted({row["source"] for row in first}) == ["final_cls", "image_cls", "noise", "patch_mean", "zeros"]
    assert {(row["replace_ratio"], row["replace_layers"]) for row in first} == {("1.0", "2")}
    assert [row["tower"] for row in drifts if row["split"] == "test"] == ["tuned"] * 6
    hashes = {row["tower"]: row["clip_hash"] for row in drifts}
    assert hashes["tuned"] != hashes["original"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=snow"], "source: expected one of"),
        (["--source=none"], "source: the recipe's is 'none'"),
        (["--replace_ratio=2"], "replace_ratio: expected in [0, 1], got 2"),
        (["--replace_layers=9"], "replace_layers: expected distinct layers"),
        (["--seeds=1,1"], "seeds: expected distinct numbers"),
        (["--min_area=0"], "min_area: expected at least 1"),
        (["--group=far=sky,snow"], "group: expected classes of the vocabulary, got 'snow'"),
        (["--shifted_weights=nowhere"], "nowhere"),
        (["--output=an.csv"], "output: expected a folder for the CSV files, got the file an.csv"),
        (["--output=recipe.yaml"], "output: expected a folder for the CSV files, got the file recipe.yaml"),
    ],
)
def test_domain_wrong_call_is_told(
    make_module: ModuleOf, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write_recipe(make_module(), size=1)
    assert domain(*arguments) == 1
    assert message in capsys.readouterr().err
    assert not Path("out").exists()
    assert not Path("an.csv").exists()


@pytest.mark.parametrize("group", ["sky", "far=", "=sky"])
def test_domain_group_that_cannot_be_read_is_told(capsys: pytest.CaptureFixture[str], group: str) -> None:
    with pytest.raises(SystemExit) as stop:
        domain(f"--group={group}")
    assert stop.value.code == 2
    assert "expected NAME=CLASS,CLASS" in capsys.readouterr().err


def test_analyse_needs_a_recipe_of_scan(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {
        "model": {"class_path": "scan_lightning.baselines.PriorBaseline"},
        "data": {"class_path": "stripes.StripesModule"},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    Path("any.ckpt").write_bytes(b"")
    assert domain() == 1
    assert "expected a recipe of ScanModule" in capsys.readouterr().err


def test_add_rows_keeps_what_is_there() -> None:
    path = Path("some") / "rows.csv"
    assert keys_in(path) == set()
    add_rows(path, [{"key": "a", "value": 1 / 3}, {"key": "b", "value": float("nan")}])
    add_rows(path, [{"key": "b", "value": 1.0}, {"key": "c", "value": 2}])
    assert [(row["key"], row["value"]) for row in rows(str(path))] == [("a", "0.333333"), ("b", ""), ("c", "2")]
    assert keys_in(path) == {"a", "b", "c"}


def test_domain_settings_are_those_of_the_recipe(make_module: ModuleOf) -> None:
    write_recipe(make_module(), size=1)
    assert domain("--min_area=10", "--model.init_args.inference.replace_ratio=0.25") == 0
    shifted = [row for row in rows("out/domain_drift.csv") if row["condition"] == "shifted"]
    assert {row["replace_ratio"] for row in shifted} == {"0.25"}


def test_domain_names_a_folder_of_clip_without_its_path(make_module: ModuleOf, clip_folder: Path) -> None:
    write_recipe(make_module(), size=1)
    assert domain("--min_area=10") == 0
    text = Path("out/domain_drift.csv").read_text("utf-8")
    assert str(clip_folder) not in text
    assert rows("out/domain_drift.csv")[0]["clip"] == clip_folder.name
