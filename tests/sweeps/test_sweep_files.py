"""The sweep files of experiments/: each says how it is run, and its command is one that this project takes."""

from pathlib import Path

import optuna
import pytest

from scan_lightning.cli import read_recipe
from scan_lightning.commands.run_plan import plan_run
from scan_lightning.sweeps import expand_command, load_sweep
from scan_lightning.sweeps.space import make_space

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))


def test_there_are_sweeps() -> None:
    assert {file.stem for file in FILES} >= {"inference", "learning_rate"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_sweep_file_tells_its_command_and_its_trials_are_configurations(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    sweep = load_sweep(file)
    assert f"scan-lightning sweep experiments/sweeps/{file.name}" in file.read_text("utf-8")
    assert sweep.name == file.stem
    assert sweep.metric is not None
    assert sweep.metric.name.startswith("val/"), "settings are chosen on validation images"
    values = make_space(sweep.parameters).draw(optuna.create_study().ask())
    program = expand_command(sweep, values)
    assert program[:2] == ["/usr/bin/env", "scan-lightning"]
    command, arguments = program[2], program[3:]
    if command == "run":
        arguments = list(plan_run(arguments, read=read_recipe).training.arguments)
        command = "fit"
    config = read_recipe([command, *arguments])
    for name, value in values.items():
        assert config[name] == value
