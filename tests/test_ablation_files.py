"""The ablation files: W&B sweep files whose every combination, at both sizes, is a configuration that can be run."""

import json
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml
from commands.ablated import read as read_nothing

from scan_lightning.cli import main
from scan_lightning.cli_lightning import ScanCLI
from scan_lightning.commands.ablate_plan import SEED, label_of, run_arguments
from scan_lightning.commands.run_plan import RunPlan, build_parser, plan_run
from scan_lightning.models.clip import SHIPPED_FOLDER
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.scan import ScanConfig
from scan_lightning.sweeps import Sweep, expand_command, grid, load_sweep

ROOT = Path(__file__).parents[1]
FOLDER = Path("experiments", "ablations")
QUICKSTART = FOLDER / "quickstart"
FILES = sorted(path.stem for path in (ROOT / FOLDER).glob("*.yaml"))
SIZES = {"real": None, "quickstart": QUICKSTART}
NETWORK, INFERENCE = "model.init_args.network.", "model.init_args.inference."
TEST_TIME = {"cs_layers", "cs_ratio", "cs_source", "ensemble_weight", "mask_threshold"}
QUESTIONS = TEST_TIME | {
    "components",
    "sim_encoder_layers",
    "sim_frequencies",
    "sim_fusion_layers",
    "sim_layers",
    "sim_proposal_attention",
    "sim_sigma",
    "sim_sources",
    "whole_image_resize",
}
BLOCKS = {
    "real": 12,
    "quickstart": json.loads((SHIPPED_FOLDER / "open_clip_config.json").read_text("utf-8"))["model_cfg"]["vision_cfg"][
        "layers"
    ],
}
each_file = pytest.mark.parametrize("name", FILES)
each_size = pytest.mark.parametrize("size", SIZES)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files name one another from the checkout's top."""
    monkeypatch.chdir(ROOT)


def load(name: str, size: str) -> Sweep:
    return load_sweep(FOLDER / f"{name}.yaml", SIZES[size])


def combinations(sweep: Sweep) -> list[dict[str, Any]]:
    """What is asked, with the first seed alone."""
    return [values for values in grid(sweep) if values[SEED] == 0]


def dotted(values: dict[str, Any]) -> dict[str, Any]:
    """The dotted options that a combination sets."""
    variant = {key: value for key, value in values.get("variant", {}).items() if key not in ("label", "overlays")}
    return {key: value for key, value in values.items() if key not in ("variant", SEED)} | variant


def arguments_of(sweep: Sweep, values: dict[str, Any]) -> RunPlan:
    """The plan of a run as far as it tells arguments; recipes are not read."""
    return plan_run(run_arguments(expand_command(sweep, values)), read=read_nothing)


def recipes_of(sweep: Sweep, values: dict[str, Any]) -> dict[str, list[str]]:
    """The files that a command names."""
    options, _ = build_parser().parse_known_args(run_arguments(expand_command(sweep, values)))
    return {
        "config": options.config,
        "test": [file for text in options.test_config for file in yaml.safe_load(text)],
        "start": yaml.safe_load(options.start_from or "[]"),
        "overlays": values.get("variant", {}).get("overlays", []),
    }


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


def test_every_question_has_a_file_at_both_sizes() -> None:
    assert set(FILES) == QUESTIONS
    assert sorted(path.stem for path in QUICKSTART.glob("*.yaml")) == FILES


def test_components_on_photographs_are_those_on_shapes() -> None:
    on_photographs, on_shapes = (
        load_sweep(FOLDER / "components.yaml", FOLDER / folder / "components.yaml")
        for folder in ("camvid", "quickstart")
    )
    assert on_photographs.command[4] == "experiments/camvid.yaml"
    variants = [sweep.parameters["variant"]["values"] for sweep in (on_photographs, on_shapes)]
    assert variants[0] == variants[1][:4]
    assert on_photographs.parameters[SEED] == {"values": [0, 1, 2]}


@each_file
@each_size
def test_ablation_is_a_grid_with_three_seeds(name: str, size: str) -> None:
    sweep = load(name, size)
    assert (sweep.name, sweep.method) == (name, "grid")
    assert sweep.description
    assert sweep.metric is not None
    assert (sweep.metric.name, sweep.metric.goal) == ("test/miou_any", "maximize")
    assert sweep.parameters[SEED] == {"values": [0, 1, 2]}
    assert sweep.command[:3] == ("${env}", "scan-lightning", "run")
    assert sweep.command[-1] == "${args}"
    labels = [label_of(values) for values in combinations(sweep)]
    assert len(set(labels)) == len(labels) >= 2


@each_file
def test_ablation_begins_with_its_question_and_commands(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    comment = [line for line in text.splitlines() if line.startswith("#")]
    file = (FOLDER / f"{name}.yaml").as_posix()
    assert "?" in comment[0]
    assert comment[1].startswith("# Test time:" if name in TEST_TIME else "# Training time")
    for command in (
        f"scan-lightning ablate {file}",
        f"ablate {file} -o {QUICKSTART.as_posix()}",
        f"wandb sweep {file}",
    ):
        assert any(command in line for line in comment), command
    assert max(map(len, text.splitlines())) <= 130


@each_file
def test_readme_of_the_experiments_lists_the_ablation(name: str) -> None:
    assert re.search(rf"`(ablations/)?{name}(\.yaml)?`", Path("experiments", "README.md").read_text("utf-8"))


@each_file
@each_size
def test_named_files_are_there(name: str, size: str) -> None:
    sweep = load(name, size)
    for values in combinations(sweep):
        files = recipes_of(sweep, values)
        assert all(Path(file).is_file() for those in files.values() for file in those), files
        if size == "real":
            assert files["config"] == ["experiments/scan_vit_b16.yaml"]
            assert files["test"] == ["experiments/data/a150.yaml", "experiments/eval/vit_b16/a150.yaml"]
        else:
            assert files["config"][0] == "experiments/quickstart.yaml"
            on_frozen = "experiments/train/sim_on_frozen.yaml" in files["config"]
            assert on_frozen == bool(files["start"]) == (name not in TEST_TIME | {"components"})


@each_file
@each_size
def test_agent_and_command_line_read_the_same_variant(name: str, size: str) -> None:
    """An agent writes a mapping as Python does; the command reads it as YAML."""
    sweep = load(name, size)
    for values in grid(sweep):
        given = json.loads(str(arguments_of(sweep, values).columns["parameters"]))
        overlays = values.get("variant", {}).get("overlays")
        assert given == dotted(values) | ({"overlays": overlays} if overlays else {})


@each_file
@each_size
def test_every_combination_is_a_network_and_settings(name: str, size: str) -> None:
    """Names, types and ranges of every value, and layers that CLIP has."""
    sweep = load(name, size)
    for values in combinations(sweep):
        network, inference = sections(recipes_of(sweep, values)["config"][0])
        for key, value in dotted(values).items():
            place, _, last = key.rpartition(".")
            assert key.startswith((NETWORK, INFERENCE))
            section = inference if key.startswith(INFERENCE) else network
            for part in place.split(".")[3:]:
                section = section[part]
            section[last] = value
        settings = InferenceSettings(**inference)
        sim = network_of(network).semantic_integration
        assert sim is not None
        assert all(1 <= layer <= BLOCKS[size] for layer in (*settings.replace_layers, *sim.layers))
        assert len(set(settings.replace_layers)) == len(settings.replace_layers)
        assert name not in TEST_TIME or all(key.startswith(INFERENCE) for key in dotted(values))


def sections(recipe: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Network and test-time settings of a recipe."""
    arguments = yaml.safe_load(Path(recipe).read_text("utf-8"))["model"]["init_args"]
    return arguments["network"], arguments["inference"]


def network_of(values: dict[str, Any]) -> ScanConfig:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=ScanConfig)
    network: ScanConfig = parser.instantiate_classes(parser.parse_object({"network": values})).network
    return network


def check_force(parser: ArgumentParser, sweep: Sweep, values: dict[str, Any]) -> None:
    """What a combination sets is in force in its training and in its test, whatever overlays say."""
    plan = arguments_of(sweep, values)
    for arguments in (["fit", *plan.training.arguments], ["test", *plan.arguments]):
        config = parser.parse_args(arguments)[arguments[0]].as_dict()
        assert config["seed_everything"] == values[SEED]
        for key, value in dotted(values).items():
            found: Any = config
            for part in key.split("."):
                found = found[part]
            assert (list(found) if isinstance(found, tuple) else found) == value, key


@each_file
@each_size
def test_last_combination_is_in_force(parser: ArgumentParser, name: str, size: str) -> None:
    sweep = load(name, size)
    check_force(parser, sweep, grid(sweep)[-1])


@pytest.mark.slow
@each_file
@each_size
def test_every_combination_is_in_force(parser: ArgumentParser, name: str, size: str) -> None:
    sweep = load(name, size)
    for values in combinations(sweep):
        check_force(parser, sweep, values)


def cases() -> Iterator[Any]:
    """Each file at each size; in the usual run those that differ in how they train."""
    for name in FILES:
        for size in SIZES:
            usual = (name, size) in (("sim_proposal_attention", "quickstart"), ("cs_source", "real"))
            yield pytest.param(name, size, marks=() if usual else pytest.mark.slow)


@pytest.mark.parametrize(("name", "size"), cases())
def test_questions_of_the_test_share_a_training(parser: ArgumentParser, name: str, size: str) -> None:
    def read(arguments: list[str]) -> Any:
        return parser.parse_args(arguments)[arguments[0]]

    sweep = load(name, size)
    runs = [run_arguments(expand_command(sweep, values)) for values in combinations(sweep)]
    plans = [plan_run(run, read=read) for run in runs]
    trainings = {plan.training.key for plan in plans}
    assert len({plan.key for plan in plans}) == len(plans)
    if name in TEST_TIME:
        assert len(trainings) == 1
    else:
        assert len(trainings) == (2 if name == "components" else len(plans))
    starts = {plan.training.start.key for plan in plans if plan.training.start is not None}
    assert len(starts) == (size == "quickstart" and name not in TEST_TIME | {"components"})
