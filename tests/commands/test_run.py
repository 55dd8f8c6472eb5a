"""``scan-lightning run``: what is trained again and what is not, and the row that a run leaves."""

import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scan_lightning import cli
from scan_lightning.cli import main, read_recipe
from scan_lightning.commands import run as run_command
from scan_lightning.commands.run import CutShort, Runner, find_row
from scan_lightning.commands.run_plan import RunPlan, plan_run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
QUICKSTART = f"--config={EXPERIMENTS / 'quickstart.yaml'}"
WITHOUT_SIM = str(EXPERIMENTS / "train" / "without_sim.yaml")
WITHOUT_CS = str(EXPERIMENTS / "eval" / "without_cs.yaml")
ON_FROZEN = f"--config={EXPERIMENTS / 'train' / 'sim_on_frozen.yaml'}"
SHORT = """
trainer: {max_steps: 2, enable_progress_bar: false, enable_model_summary: false}
data:
  init_args: {batch_size: 2, train_size: 4, val_size: 2, test_size: 2, image_size: 64}
"""
SIM = "model.init_args.network.semantic_integration"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    monkeypatch.delenv("SCAN_LIGHTNING_METRIC", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("short.yaml").write_text(SHORT, "utf-8")


def plan(*arguments: str) -> RunPlan:
    return plan_run([QUICKSTART, *arguments], read=read_recipe)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    return plan()


@pytest.mark.parametrize(
    "argument",
    [
        "--model.init_args.inference.replace_ratio=0.9",
        "--model.init_args.inference.mask_threshold=0.1",
        f"--variant={{label: x, overlays: [{WITHOUT_CS}]}}",
        "--data.init_args.test_size=3",
        f"--test_config={WITHOUT_CS}",
    ],
)
def test_test_time_settings_share_a_training(base: RunPlan, argument: str) -> None:
    other = plan(argument)
    assert other.training.key == base.training.key
    assert other.key != base.key


@pytest.mark.parametrize(
    "argument",
    [
        "--model.init_args.optimizer.learning_rate=0.5",
        "--seed_everything=1",
        "--trainer.max_steps=901",
        "--data.init_args.train_size=40",
        f"--variant={{{SIM}.fusion_layers: 1}}",
        f"--variant={{overlays: [{WITHOUT_SIM}]}}",
        "--trainer.callbacks=[{class_path: scan_lightning.callbacks.ExponentialAverage}]",
    ],
)
def test_what_changes_weights_is_another_training(base: RunPlan, argument: str) -> None:
    assert plan(argument).training.key != base.training.key


@pytest.mark.parametrize(
    "argument",
    [
        "--trainer.logger=false",
        "--trainer.callbacks=[{class_path: scan_lightning.callbacks.LabelMapCallback, init_args: {directory: x}}]",
        "--model.init_args.text_cache=elsewhere",
        "--model.init_args.export_to=elsewhere",
        "--data.init_args.num_workers=1",
        "--name=other",
        f"--variant={{label: the default, {SIM}.sigmas: [5, 4, 2]}}",
    ],
)
def test_what_changes_nothing_is_the_same_run(base: RunPlan, argument: str) -> None:
    assert plan(argument).key == base.key


def test_a_tuned_tower_is_the_tests_to_choose(base: RunPlan, tmp_path: Path) -> None:
    tower = tmp_path / "tower"
    tower.mkdir()
    (tower / "model.safetensors").write_bytes(b"one")
    first = plan(f"--model.init_args.network.clip.shifted_weights={tower}")
    assert first.training.key == base.training.key
    (tower / "model.safetensors").write_bytes(b"two")
    second = plan(f"--model.init_args.network.clip.shifted_weights={tower}")
    assert len({base.key, first.key, second.key}) == 3
    moved = tower.rename(tmp_path / "moved")
    assert plan(f"--model.init_args.network.clip.shifted_weights={moved}").key == second.key


def test_all_seeds_of_a_run_follow_one(base: RunPlan) -> None:
    config = read_recipe(["fit", *plan("--seed_everything=7").training.arguments])
    assert config.seed_everything == config.model.init_args.seed == config.data.init_args.seed == 7
    assert config.data.init_args.scene_seed == 0  # the benchmark stays the same


def test_values_come_last(base: RunPlan) -> None:
    swept = plan(f"--test_config={WITHOUT_CS}", "--model.init_args.inference.source=zeros")
    assert read_recipe(["test", *swept.arguments]).model.init_args.inference.source == "zeros"
    variant = plan(f"--variant={{label: '', overlays: [{WITHOUT_CS}], model.init_args.inference.source: noise}}")
    assert read_recipe(["test", *variant.arguments]).model.init_args.inference.source == "noise"


def test_parameters_are_what_was_set() -> None:
    columns = plan("--trainer.max_steps=3", f"--variant={{label: one, {SIM}.fusion_layers: 1}}").columns
    assert columns["variant"] == "one"
    assert json.loads(str(columns["parameters"])) == {"trainer.max_steps": 3, f"{SIM}.fusion_layers": 1}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--variant=[1, 2]", "variant: expected a mapping of dotted options, got '\\[1, 2\\]'"),
        ("--variant={a: [}", "variant: expected YAML"),
        ("--start_from={a: 1}", "start_from: expected a path or a list of them"),
    ],
)
def test_options_that_cannot_be_read(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(argument)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subcommands of Lightning that ran, while they run for real."""
    seen: list[str] = []
    launch: Callable[..., bool] = cli._lightning

    def watch(arguments: list[str], *rest: Any) -> bool:
        if not rest:  # else the recipe is only read
            seen.append(arguments[0])
        return launch(arguments, *rest)

    monkeypatch.setattr(cli, "_lightning", watch)
    return seen


def test_run_trains_once_and_starts_from_a_network_without_sim(launched: list[str], tmp_path: Path) -> None:
    stage = f"--start_from=[{EXPERIMENTS / 'quickstart.yaml'}, short.yaml, {WITHOUT_SIM}]"
    arguments = [QUICKSTART, ON_FROZEN, "--config=short.yaml", stage, "--rows=rows.csv", "--name=tried"]
    assert main(["run", *arguments]) == 0
    assert launched == ["fit", "fit", "test"]  # without SIM, SIM on it
    assert main(["run", *arguments, "--model.init_args.inference.source=zeros"]) == 0
    assert launched[3:] == ["test"]
    first, second = (
        plan_run([*arguments, *more], read=read_recipe) for more in ([], ["--model.init_args.inference.source=zeros"])
    )
    row = find_row(Path("rows.csv"), first.key)
    assert row is not None
    assert row["name"] == "tried"
    assert row["training_hash"] == first.training.key == second.training.key
    assert 0 <= float(row["open_miou"]) <= 1
    assert find_row(Path("rows.csv"), second.key) is not None
    assert first.training.start is not None
    trained = torch.load(first.training.checkpoint, weights_only=True)["state_dict"]
    stage_weights = torch.load(first.training.start.checkpoint, weights_only=True)["state_dict"]
    same = [name for name, value in stage_weights.items() if name.startswith("network.segmenter.")]
    assert same
    assert all(torch.equal(trained[name], stage_weights[name].half().float()) for name in same)
    assert not list(tmp_path.glob("config.yaml"))  # a test's full configuration is kept with its training
    assert list(first.training.folder.glob("tests/*/config.yaml"))


def test_a_training_that_was_cut_short_is_not_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launched: list[str] = []

    def launch(arguments: list[str]) -> bool:
        launched.append(arguments[0])
        return False

    runner = Runner(read=read_recipe, launch=launch)
    run = plan_run([QUICKSTART, "--config=short.yaml"], read=read_recipe)
    with pytest.raises(CutShort, match="ended before its bound; run it again to go on"):
        runner.execute(run)
    assert launched == ["fit"]
    assert not run.training.mark.exists()
    assert run_command.main([QUICKSTART, "--config=short.yaml"], runner=runner) == 1
    assert "ended before its bound" in capsys.readouterr().err


def test_an_error_of_the_training_is_not_taken_for_a_bound() -> None:
    def launch(arguments: list[str]) -> bool:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_command.main([QUICKSTART, "--config=short.yaml"], runner=Runner(read=read_recipe, launch=launch))


@pytest.mark.parametrize(
    ("metric", "again"), [("val/miou_any", ["validate", "test"]), ("test/miou_any", ["test"]), ("", ["test"])]
)
def test_a_sweep_that_looks_at_the_validation_gets_one_of_a_training_that_is_there(
    monkeypatch: pytest.MonkeyPatch, metric: str, again: list[str]
) -> None:
    launched: list[list[str]] = []

    def launch(arguments: list[str]) -> bool:
        launched.append(arguments)
        return True

    monkeypatch.setenv("SCAN_LIGHTNING_METRIC", metric)
    runner, run = Runner(read=read_recipe, launch=launch), plan("--data.init_args.val_size=3")
    runner.execute(run)
    assert [arguments[0] for arguments in launched] == ["fit", "test"]
    runner.execute(run)
    assert [arguments[0] for arguments in launched[2:]] == again
    config = read_recipe(launched[2])
    assert (config.ckpt_path, config.data.init_args.val_size) == (str(run.training.checkpoint), 3)


def test_other_processes_do_not_train_while_the_first_waits_for_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    run, launched = plan(), threading.Event()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "b")
    monkeypatch.setattr(run_command.rank_zero_only, "rank", 1, raising=False)
    runner = Runner(read=read_recipe, launch=lambda arguments: launched.set() is None)
    run.training.folder.mkdir(parents=True)
    (run.training.folder / "job").write_text("  a  ", "utf-8")
    thread = threading.Thread(target=runner.train, args=(run.training,))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    run.training.mark.write_text("{}", "utf-8")
    thread.join(60)
    assert not thread.is_alive()
    assert not launched.is_set()


def test_other_processes_wait_for_the_weights_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan()
    monkeypatch.setattr(run_command.rank_zero_only, "rank", 1, raising=False)
    run.training.folder.mkdir(parents=True)
    (run.training.folder / "job").write_text(run_command._job(), "utf-8")
    first = threading.Timer(0.5, lambda: run.training.mark.write_text("{}", "utf-8"))
    runner = Runner(read=read_recipe, launch=lambda arguments: first.start() is None)
    runner.train(run.training)
    assert run.training.mark.is_file()
    run.training.mark.unlink()
    monkeypatch.setattr(run_command, "_PATIENCE", 0.1)
    with pytest.raises(TimeoutError, match="which the first process writes"):
        Runner(read=read_recipe, launch=lambda arguments: True).train(run.training)


def test_runner_of_the_command_can_be_sent_to_another_process(base: RunPlan) -> None:
    runner = Runner(read=read_recipe, launch=cli._lightning)
    runner.plan([QUICKSTART])
    assert pickle.loads(pickle.dumps(runner)).plan([QUICKSTART]) == base  # noqa: S301


def test_a_wandb_agent_gets_the_run_online(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[list[str]] = []

    def launch(arguments: list[str]) -> bool:
        launched.append(arguments)
        return True

    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    Runner(read=read_recipe, launch=launch).execute(plan())
    for arguments in launched:
        loggers = read_recipe(arguments).trainer.logger
        online = [logger for logger in loggers if logger.class_path.endswith("WandbLogger")]
        assert [logger.init_args.offline for logger in online] == [False]
