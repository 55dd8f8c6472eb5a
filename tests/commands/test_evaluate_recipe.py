"""Tests of what ``scan-lightning evaluate`` reads: recipes, checkpoints, settings, wrong calls."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from evaluated import expected_scores, rows, run, table
from stripes import checkpoint_of

from scan_lightning.commands.evaluate_plan import Planner
from scan_lightning.commands.evaluate_recipe import RecipeParser, Subject, read_section
from scan_lightning.models.pretrained import save_scan
from scan_lightning.module import ScanModule

pytestmark = pytest.mark.usefixtures("stripes_folder")
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def write_recipe(module: ScanModule, path: Path, **more: Any) -> None:
    arguments = {"network": json.loads(json.dumps(asdict(module.network.config))), "inference": {"replace_layers": [1]}}
    model = {"class_path": "scan_lightning.module.ScanModule", "init_args": arguments}
    callback = {"class_path": "scan_lightning.callbacks.ResultsCallback", "init_args": {"path": "training.csv"}}
    recipe = {
        "seed_everything": 7,
        "test_after_fit": True,
        "trainer": {"accelerator": "cpu", "max_steps": 5, "callbacks": [callback]},
        "model": model,
        "data": {"class_path": "scan_lightning.data.ShapesDataModule", "init_args": {"test_size": 3}},
        **more,
    }
    path.write_text(yaml.safe_dump(recipe), "utf-8")


def test_evaluate_checkpoint_of_a_recipe(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    module = make_module()
    checkpoint = checkpoint_of(module, tmp_path)
    module.network.config.segmenter.__dict__["weights"] = None
    write_recipe(module, tmp_path / "recipe.yaml")
    overlay = tmp_path / "eval" / "own" / "stripes.yaml"
    overlay.parent.mkdir(parents=True)
    overlay.write_text("model: {init_args: {inference: {replace_ratio: 0.5}}}", "utf-8")
    call = ("-c", tmp_path / "recipe.yaml", "--ckpt_path", checkpoint, "--data=stripes.yaml", "--backbone=own")
    assert run(*call) == 0
    (row,) = rows()
    assert row["seed"] == "7"
    assert not Path("training.csv").exists()
    save_scan(module.network, tmp_path / "trained")
    assert float(row["miou_any"]) == pytest.approx(expected_scores(tmp_path / "trained", 5)["miou_any"], abs=1e-6)
    assert table()[0]["settings"].endswith("eval/own/stripes.yaml")


def test_evaluate_overlay_of_weights_without_a_recipe(saved_scan: Path) -> None:
    flip = (EXPERIMENTS / "eval" / "flip.yaml").as_posix()
    assert run("--weights", saved_scan, "--data=stripes.yaml") == 0
    assert run("--weights", saved_scan, "--data=stripes.yaml", "-c", flip) == 0
    plain, flipped = rows()
    assert (plain["settings"], flipped["settings"]) == ("the weights' own", f"the weights' own, {flip}")
    assert plain["checkpoint_hash"] == flipped["checkpoint_hash"]
    used = [json.loads(path.read_text("utf-8")) for path in Path("out", "configs").iterdir()]
    assert sorted(config["model"]["init_args"]["inference"]["flip"] for config in used) == [False, True]


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.mkdir, (Path("exploded"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt_path=some.ckpt", "--data=stripes.yaml"], "ckpt_path: expected the recipe of this checkpoint"),
        (["--ckpt_path=some.ckpt", "-c=empty.yaml", "--data=stripes.yaml"], "ckpt_path: expected the recipe of this"),
        (["--benchmarks=a150,a999"], "benchmark: expected one of a150"),
        (["--benchmarks=a150,ade20k_150"], "expected each benchmark once"),
        (["--root=nowhere"], "expected benchmarks below nowhere, found none of A-150, A-847"),
        (["--root=recipe.yaml"], "found a file; `scan-lightning data list` tells where"),
        (["--data=none.yaml"], "none.yaml: expected a YAML file, found no such file"),
        (["--data=empty.yaml"], "empty.yaml: expected a section data"),
        (["--data=broken.yaml"], "broken.yaml: not a configuration in YAML"),
        (["--data=stripes.yaml", "--data=stripes.yaml"], "the name 'stripes' of stripes.yaml is taken"),
        (["--data=stripes.yaml", "--settings=nowhere"], "settings: expected a folder"),
        (["--data=stripes.yaml", "--weights=nowhere"], "weights: expected config.json"),
        (["--root=nowhere", "--weights=nope"], "weights: expected config.json"),  # before the benchmarks
        (["--root=nowhere", "-c=recipe.yaml", "--ckpt_path=none.ckpt"], "ckpt_path: no file none.ckpt"),
        (["--data=stripes.yaml", "-c=recipe.yaml"], "expected trained weights, give --ckpt_path or --weights"),
        (["--data=stripes.yaml", "-c=recipe.yaml", "--ckpt_path=none.ckpt"], "ckpt_path: no file none.ckpt"),
        (["--data=stripes.yaml", "-c=recipe.yaml", "--ckpt_path=bomb.ckpt"], "bomb.ckpt: refused"),
        (["--data=stripes.yaml", "--model.init_args.inference.mask_thr=1"], "mask_thr"),
    ],
)
def test_evaluate_wrong_call_is_named(
    saved_scan: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("empty.yaml").write_text("trainer: {max_steps: 3}", "utf-8")
    Path("broken.yaml").write_text("data: [1, 2", "utf-8")
    Path("recipe.yaml").write_text("model: {class_path: scan_lightning.module.ScanModule}", "utf-8")
    torch.save({"state_dict": {}, "bomb": Bomb()}, "bomb.ckpt")
    given = [] if any("weights" in text or "ckpt_path" in text or "-c" in text for text in arguments) else [saved_scan]
    assert run(*arguments, *(f"--weights={folder}" for folder in given)) == 1
    assert message in capsys.readouterr().err
    assert not Path("exploded").exists()
    assert not Path("out", "rows.csv").exists()


@pytest.mark.parametrize("arguments", [["--frobnicate"], ["stray"], ["--trainer.devices=1", "stray"], ["--limit=0"]])
def test_evaluate_unknown_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    assert "scan-lightning evaluate: error" in capsys.readouterr().err


@pytest.mark.parametrize("backbone", ["vit_b16", "vit_l14"])
def test_evaluate_finds_the_settings_of_the_recipes(backbone: str) -> None:
    recipe = EXPERIMENTS / f"scan_{backbone}.yaml"
    subject = Subject(
        sections=(read_section(recipe),), seed=0, ckpt_path=None, checkpoint_hash="", settings_from="the recipe"
    )
    assert subject.backbone == backbone
    planner = Planner(subject=subject, parser=RecipeParser(), settings=EXPERIMENTS / "eval", backbone=None)
    for name in ("a150", "a847", "pc59", "pc459", "voc20"):
        overlay = planner.overlay(name)
        assert overlay == EXPERIMENTS / "eval" / backbone / f"{name}.yaml"
        config = planner.parser.resolve([*subject.sections, read_section(overlay)], (), what=name)
        given = yaml.safe_load(overlay.read_text("utf-8"))["model"]["init_args"]["inference"]
        found = config.model.init_args.inference
        assert {key: getattr(found, key) for key in given} == {
            **given,
            "replace_layers": tuple(given["replace_layers"]),
        }
        assert config.trainer.callbacks is None
    assert planner.overlay("cityscapes") is None
