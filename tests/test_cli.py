"""Tests of the command line: a recipe through fit, resume and test, bad checkpoints, every file of experiments/."""

import csv
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from scan_lightning.cli import COMMANDS, main
from scan_lightning.cli_lightning import ScanCLI, check_checkpoint
from scan_lightning.models.clip import build_open_clip
from scan_lightning.models.clip_export import save_clip
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.scan import Scan

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
QUICKSTART = EXPERIMENTS / "quickstart.yaml"
# The recipe names layer 6 of CLIP.
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 6, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "layers": 1, "width": 16, "heads": 2},
}
SHORT = """
trainer:
  max_steps: 3
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: outputs/kept, filename: "{step}", save_top_k: -1, every_n_train_steps: 1}
    - class_path: scan_lightning.callbacks.ResultsCallback
      init_args: {name: short}
data:
  init_args: {batch_size: 2, train_size: 8, val_size: 2, test_size: 2, image_size: 64}
"""
OVERLAY = """
model:
  init_args:
    inference: {mask_threshold: 0.1, ensemble_weight: 0.25, replace_ratio: 0.5, replace_layers: [2, 4], source: zeros}
"""
VIEWS = ("flip", "multi_scale", "sliding_window")


@dataclass
class Run:
    """A finished fit of the shortened quickstart."""

    folder: Path
    recipe: list[str]

    def checkpoint(self, step: int) -> Path:
        """Path of the checkpoint after a step."""
        return self.folder / "outputs" / "kept" / f"step={step}.ckpt"


def rows(folder: Path) -> list[dict[str, str]]:
    """Read the rows that a run in ``folder`` has left."""
    with (folder / "outputs" / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("fit")
    clip = build_open_clip(ARCHITECTURE)
    save_clip(clip, folder / "clip", architecture=ARCHITECTURE, mean=(0.5,) * 3, std=(0.25,) * 3, card="untrained")
    (folder / "short.yaml").write_text(SHORT, "utf-8")
    named = f"--model.init_args.network.clip.model={folder / 'clip'}"
    run = Run(folder, [f"--config={QUICKSTART}", f"--config={folder / 'short.yaml'}", named])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")  # which Lightning sets, and the end of the context takes back
        patch.chdir(folder)
        assert main(["fit", *run.recipe]) == 0
    return run


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes write below the working directory."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    """The parser that ``main`` makes, caught where it would parse."""
    caught: list[ArgumentParser] = []

    class Caught(Exception):  # noqa: N818
        pass

    def catch(_cli: ScanCLI, parser: ArgumentParser, _args: Any) -> None:
        caught.append(parser)
        raise Caught

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScanCLI, "parse_arguments", catch)
        with pytest.raises(Caught):
            main(["fit"])
    return caught[0]


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_cli_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == ["fit", "validate", "test", "predict", *COMMANDS]
    assert "segment" in listed


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_cli_help_of_own_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = main([command, "--help"])
    except SystemExit as stop:  # argparse ends so
        status = stop.code
    assert status == 0
    assert f"usage: scan-lightning {command}" in capsys.readouterr().out


def test_cli_help_of_fit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help"])
    assert stop.value.code == 0
    assert "--test_after_fit" in capsys.readouterr().out


def test_cli_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["frobnicate"])
    assert stop.value.code == 2
    assert "'frobnicate'" in capsys.readouterr().err


def test_cli_own_command_gives_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "a.png", "--words=sky,sky", f"--output={tmp_path / 'new'}"]) == 1
    assert "'sky' is given twice" in capsys.readouterr().err


def test_cli_fit_leaves_checkpoints_and_a_tested_row(fitted: Run) -> None:
    checkpoints = sorted(path.name for path in fitted.checkpoint(1).parent.iterdir())
    assert checkpoints == ["step=1.ckpt", "step=2.ckpt", "step=3.ckpt"]
    (row,) = rows(fitted.folder)
    assert row["name"] == "short"
    assert row["images"] == "2"
    assert 0 <= float(row["miou_any"]) <= 1
    state = torch.load(fitted.checkpoint(3), weights_only=True)
    assert state["global_step"] == 3
    assert "hyper_parameters" not in state


def test_cli_resumed_fit_equals_the_undisturbed_one(fitted: Run, tmp_path: Path) -> None:
    resume = ["--test_after_fit=false", f"--ckpt_path={fitted.checkpoint(2)}"]
    assert main(["fit", *fitted.recipe, *resume]) == 0
    assert [path.name for path in (tmp_path / "outputs" / "kept").iterdir()] == ["step=3.ckpt"]
    resumed = torch.load(tmp_path / "outputs" / "kept" / "step=3.ckpt", weights_only=True)
    whole = torch.load(fitted.checkpoint(3), weights_only=True)
    before = torch.load(fitted.checkpoint(2), weights_only=True)["state_dict"]
    assert resumed["global_step"] == 3
    assert all(torch.equal(value, whole["state_dict"][name]) for name, value in resumed["state_dict"].items())
    assert any(not torch.equal(value, before[name]) for name, value in resumed["state_dict"].items())


def test_cli_test_overlay_wins_over_the_checkpoint(
    fitted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[InferenceSettings] = []
    predict = Scan.predict

    def spy(self: Scan, *args: Any, settings: InferenceSettings, **options: Any) -> list[torch.Tensor]:
        seen.append(settings)
        return predict(self, *args, settings=settings, **options)

    monkeypatch.setattr(Scan, "predict", spy)
    (tmp_path / "overlay.yaml").write_text(OVERLAY, "utf-8")
    checkpoint = fitted.checkpoint(3)
    assert main(["test", *fitted.recipe, "--config=overlay.yaml", f"--ckpt_path={checkpoint}"]) == 0
    given = {"mask_threshold": 0.1, "ensemble_weight": 0.25, "replace_ratio": 0.5, "replace_layers": (2, 4)}
    recipe = yaml.safe_load(QUICKSTART.read_text("utf-8"))["model"]["init_args"]["inference"]
    assert all(recipe[name] != value for name, value in given.items())
    expected = InferenceSettings(**{**recipe, **given, "source": "zeros"})
    assert seen == [expected]
    (tested,), (trained,) = rows(tmp_path), rows(fitted.folder)
    assert tested["checkpoint_hash"]
    assert tested["config_hash"] != trained["config_hash"]


def test_cli_overlays_of_views_are_in_force(fitted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[InferenceSettings] = []

    def spy(self: Scan, images: torch.Tensor, *, original_sizes: Any, settings: InferenceSettings, **_: Any) -> Any:
        seen.append(settings)
        return [torch.zeros(size, dtype=torch.int64) for size in original_sizes]

    monkeypatch.setattr(Scan, "predict", spy)
    overlays = [f"--config={EXPERIMENTS / 'eval' / name}.yaml" for name in VIEWS]
    assert main(["test", *fitted.recipe, *overlays, f"--ckpt_path={fitted.checkpoint(3)}"]) == 0
    recipe = yaml.safe_load(QUICKSTART.read_text("utf-8"))["model"]["init_args"]["inference"]
    views: dict[str, Any] = {"flip": True, "scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "window": 640}
    expected = InferenceSettings(
        **{name: tuple(v) if isinstance(v, list) else v for name, v in recipe.items()}, **views
    )
    assert set(seen) == {expected}


def test_cli_checkpoint_of_another_width_is_refused(fitted: Run, capsys: pytest.CaptureFixture[str]) -> None:
    wider = "--model.init_args.network.segmenter.embedding_hidden=56"
    assert main(["test", *fitted.recipe, wider, f"--ckpt_path={fitted.checkpoint(3)}"]) == 1
    error = capsys.readouterr().err
    assert "checkpoint: does not fit the configured network" in error
    assert "have another shape, such as network.segmenter.embedding_head.0.weight: " in error
    assert not Path("outputs", "results.csv").exists()


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f'mkdir "{self.path}"',)


def write_checkpoint(path: Path, kind: str, good: Path) -> Path:
    """Write a bad checkpoint; some go off beside themselves when they are unpickled."""
    bomb = {"state_dict": {}, "callbacks": {"x": Bomb(path.parent / "exploded")}}
    content = good.read_bytes()
    if kind == "code":
        torch.save(bomb, path)
    elif kind == "old code":
        torch.save(bomb, path, _use_new_zipfile_serialization=False)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif kind == "tensors":
        torch.save({"weight": torch.zeros(2)}, path)
    else:
        path.write_bytes({"empty": b"", "text": b"no checkpoint", "half": content[: len(content) // 2]}[kind])
    return path


def test_bomb_goes_off(fitted: Run, tmp_path: Path) -> None:
    for kind in ("code", "old code", "pickle"):
        path = write_checkpoint(tmp_path / "bad.ckpt", kind, fitted.checkpoint(3))
        if kind == "pickle":
            pickle.loads(path.read_bytes())  # noqa: S301
        else:
            torch.load(path, weights_only=False)
        (tmp_path / "exploded").rmdir()  # raises where it has not gone off


@pytest.mark.parametrize("kind", ["code", "old code", "pickle", "empty", "text", "half", "tensors"])
def test_check_checkpoint_refuses_and_names_the_file(fitted: Run, tmp_path: Path, kind: str) -> None:
    path = write_checkpoint(tmp_path / "bad.ckpt", kind, fitted.checkpoint(3))
    with pytest.raises(ValueError, match=r"bad\.ckpt: ") as error:
        check_checkpoint(path)
    expected = {"tensors": "expected a Lightning checkpoint", "code": "refused", "old code": "refused"}
    assert expected.get(kind, "") in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("kind", ["code", "half"])
def test_cli_bad_checkpoint_is_refused(
    fitted: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    path = write_checkpoint(tmp_path / "bad.ckpt", kind, fitted.checkpoint(3))
    assert main([command, *fitted.recipe, "--weights_only=false", f"--ckpt_path={path}"]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert ("refused" if kind == "code" else "damaged") in error
    assert not (tmp_path / "exploded").exists()
    assert not Path("outputs").exists()


def test_cli_missing_checkpoint_is_named(fitted: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", *fitted.recipe, "--ckpt_path=nowhere.ckpt"]) == 1
    assert "nowhere.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('seed_everything: !!python/object/apply:os.mkdir ["exploded"]', "could not determine a constructor"),
        (
            "trainer: {callbacks: [{class_path: subprocess.Popen, init_args: {args: [mkdir, exploded]}}]}",
            "subprocess.Popen does not correspond to a subclass of Callback",
        ),
        (
            "model: {class_path: os.mkdir, init_args: {path: exploded}}",
            "os.mkdir does not correspond to a subclass of LightningModule",
        ),
    ],
)
def test_cli_file_cannot_run_code(fitted: Run, capsys: pytest.CaptureFixture[str], content: str, message: str) -> None:
    Path("bad.yaml").write_text(content, "utf-8")
    with pytest.raises(SystemExit) as stop:
        main(["fit", *fitted.recipe, "--config=bad.yaml"])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("exploded").exists()


def recipes() -> Iterator[Any]:
    """Every configuration under experiments/ with the call that it is for; grids of runs are no configurations."""
    for path in sorted(EXPERIMENTS.rglob("*.yaml")):
        name = path.relative_to(EXPERIMENTS)
        if name.parts[0] in ("ablations", "results", "sweeps"):
            continue
        complete = "class_path" in yaml.safe_load(path.read_text("utf-8")).get("model", {})
        bases = (EXPERIMENTS / f"scan_{path.parent.name}.yaml", path.parent / "clip_cs.yaml", QUICKSTART)
        files = [path] if complete else [next(base for base in bases if base.is_file()), path]
        yield pytest.param("test" if name.parts[0] == "eval" else "fit", files, id=str(name))


@pytest.mark.parametrize(("command", "files"), recipes())
def test_recipe_is_parsed(parser: ArgumentParser, command: str, files: list[Path]) -> None:
    parsed = parser.parse_args([command, *(f"--config={file}" for file in files)])[command]
    last = yaml.safe_load(files[-1].read_text("utf-8"))
    assert set(last) <= set(parsed.as_dict())
    assert parsed.model.class_path.startswith("scan_lightning.")
    assert parsed.data.class_path.startswith("scan_lightning.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trainer: {max_stepz: 3}", "does not accept option 'trainer.max_stepz'"),
        ("trainer: {max_steps: many}", "Got value: many"),
        ("model: {init_args: {network: {queries: 3}}}", "does not accept option 'queries'"),
    ],
)
def test_recipe_with_a_mistake_is_refused(
    parser: ArgumentParser, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    Path("overlay.yaml").write_text(content, "utf-8")
    with pytest.raises(SystemExit):
        parser.parse_args(["fit", f"--config={QUICKSTART}", "--config=overlay.yaml"])
    assert message in capsys.readouterr().err


def test_cli_validate_prints_scores(fitted: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", *fitted.recipe, f"--ckpt_path={fitted.checkpoint(3)}", "--data.init_args.val_size=2"]) == 0
    assert "val/miou_any" in capsys.readouterr().out
