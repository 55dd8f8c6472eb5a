"""Commands beside those that W&B's own agent makes of the same sweep."""

import copy
import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb import wandb_agent
from wandb.sdk.launch.sweeps import utils

from scan_lightning.sweeps import Sweep, expand_command, load_sweep

VALUES: dict[str, Any] = {
    "model.init_args.inference.replace_ratio": 0.15,
    "seed_everything": 2,
    "data.name": "a b",
    "deep": True,
    "flat": False,
    "nothing": None,
    "layers": [1, 2],
    "tiny": 1e-07,
    "variant": {"label": "both", "a.b": [3], "c": None, "overlays": ["x.yaml"]},
    "text": "",
}
COMMANDS = [
    ["${env}", "scan-lightning", "run", "-c", "recipe.yaml", "${args}"],
    ["${env}", "${interpreter}", "${program}", "${args}"],
    ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}", "--steps", 3, 0.5],
    ["tool", "${args_no_boolean_flags}"],
    ["tool", "${args_no_equals}"],
    ["tool", "${args_json}", "x${args}y"],
    ["tool", "${args_append_hydra}", "${args_override_hydra}"],
    ["tool", "--to=${envvar:SWEEP_PLACE}/${envvar:SWEEP_ABSENT}", "${envvar:SWEEP_PLACE}", "${args}"],
]


@pytest.fixture
def sweep_of(tmp_path: Path) -> Any:
    """Function that makes a sweep with a command."""

    def make(command: list[Any] | None) -> Sweep:
        content: dict[str, Any] = {"method": "grid", "program": "train.py", "parameters": {"a": {"value": 1}}}
        if command is not None:
            content["command"] = command
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content), "utf-8")
        return load_sweep(path)

    return make


class FakeProcess:
    """Keeps the command that an agent starts."""

    started: list[list[str]] = []  # noqa: RUF012

    def __init__(self, command: list[str] | None = None, **_: Any) -> None:
        self.started.append(list(command or []))


@pytest.fixture
def agent_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Function that has W&B's agent start a run, without a server and without a process, and gives its command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "r")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "p")
    monkeypatch.setattr(wandb_agent, "AgentProcess", FakeProcess)
    monkeypatch.setattr(FakeProcess, "started", [])
    logging.getLogger("wandb.wandb_agent").setLevel(logging.ERROR)

    def start(command: list[Any] | None, values: dict[str, Any]) -> list[str]:
        agent = wandb_agent.Agent(None, multiprocessing.Queue(), sweep_id="s")
        agent._sweep_command = copy.deepcopy(command) or []
        arguments = {name: {"value": values[name]} for name in sorted(values)}
        agent._command_run({"run_id": "r", "program": "train.py", "args": arguments})
        return FakeProcess.started[-1]

    return start


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_command_is_the_one_that_wandbs_agent_starts(
    sweep_of: Any, agent_command: Any, monkeypatch: pytest.MonkeyPatch, command: list[Any] | None
) -> None:
    monkeypatch.setenv("SWEEP_PLACE", "/some where")
    monkeypatch.delenv("SWEEP_ABSENT", raising=False)
    expected = agent_command(command, VALUES)
    assert len(expected) >= 2
    assert expand_command(sweep_of(command), VALUES) == expected


@pytest.mark.parametrize("macro", ["args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags", "args_json"])
def test_arguments_are_those_of_wandbs_own_function(sweep_of: Any, macro: str) -> None:
    expected = utils.create_sweep_command_args({"args": {name: {"value": VALUES[name]} for name in sorted(VALUES)}})
    assert expand_command(sweep_of([f"${{{macro}}}"]), VALUES) == expected[macro]


def test_file_of_arguments_holds_the_values(sweep_of: Any, agent_command: Any, tmp_path: Path) -> None:
    command = ["tool", "${args_json_file}"]
    _, path = agent_command(command, VALUES)
    found = expand_command(sweep_of(command), VALUES, arguments_file=tmp_path / "arguments.json")
    assert found == ["tool", str(tmp_path / "arguments.json")]
    assert json.loads((tmp_path / "arguments.json").read_text("utf-8")) == json.loads(Path(path).read_text("utf-8"))
    with pytest.raises(ValueError, match=r"the command has \$\{args_json_file\}, expected a file for it"):
        expand_command(sweep_of(command), VALUES)


def test_whole_fraction_reaches_the_command_as_a_whole_number_as_from_wandbs_server(sweep_of: Any) -> None:
    found = expand_command(sweep_of(["${args}"]), {"a": 1.0, "b": {"c": [2.0, 0.5]}, "d": 1e22, "e": 1e20})
    assert found == ["--a=1", "--b={'c': [2, 0.5]}", "--d=1e+22", "--e=100000000000000000000"]


def test_expansion_leaves_the_sweep_as_it_was(sweep_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of(["${envvar:SWEEP_PLACE}", "${args}"])
    monkeypatch.setenv("SWEEP_PLACE", "one")
    assert expand_command(sweep, {"a": 1}) == ["one", "--a=1"]
    monkeypatch.setenv("SWEEP_PLACE", "two")
    assert expand_command(sweep, {"a": 1}) == ["two", "--a=1"]
