"""A runner that neither trains nor tests, and what it leaves: for tests of ``scan-lightning ablate``."""

import csv
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from scan_lightning.callbacks.record import append_row, canonical_json
from scan_lightning.commands.ablate import main
from scan_lightning.commands.run_plan import RunPlan, plan_run

NAME = "question.yaml"
FILE = Path("ablations", NAME)
ROWS = Path("rows")
LOG = Path("log.txt")
COMMAND = ["${env}", "scan-lightning", "run", "-c", "recipe.yaml", "${args}"]


class Config:
    """Stands for the namespace of a recipe that was read."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    def as_dict(self) -> dict[str, Any]:
        """Trained is what is called ``trained``, and the seed; everything else is the test's."""
        given = {name: value for name, value in self.values.items() if name.startswith("model.")}
        trained = {name: value for name, value in given.items() if "trained" in name}
        tested = {name: value for name, value in given.items() if "trained" not in name}
        seed = self.values.get("seed_everything", "0")
        arguments = {"inference": tested, "network": trained}
        return {
            "seed_everything": seed,
            "trainer": {},
            "model": {"init_args": arguments},
            "data": {"init_args": {"files": self.values.get("start")}},
        }


def read(arguments: Sequence[str]) -> Config:
    """Read a recipe that has nothing but dotted arguments."""
    pairs = [argument.removeprefix("--").split("=", 1) for argument in arguments[1:]]
    return Config({name: value for name, value in pairs if name != "config"})


@dataclass(frozen=True, kw_only=True)
class FakeRunner:
    """Writes a line for every training and test.

    Args:
        fails: A run whose row holds this text fails.
        dies: A run whose row holds this text takes its process with it.
        sleeps: A run takes so many seconds.
    """

    fails: str = "nothing"
    dies: str = "nothing"
    sleeps: float = 0.0

    def plan(self, arguments: Sequence[str]) -> RunPlan:
        """Plan as the command does."""
        if any("unreadable" in argument for argument in arguments):
            sys.exit(2)
        return plan_run(arguments, read=read)  # type: ignore[arg-type]

    def execute(self, plan: RunPlan) -> None:
        """Leave the row."""
        parameters = str(plan.columns["parameters"])
        seed = read(["test", *plan.arguments]).values.get("seed_everything", "")
        write(f"begin {plan.columns['variant']} {parameters} {seed}")
        if self.fails in parameters:
            raise ValueError("this one fails")
        if self.dies in parameters:
            os.kill(os.getpid(), signal.SIGKILL)
        plan.training.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(plan.training.folder / "lock"):
            if not plan.training.mark.is_file():
                write(f"train {plan.training.folder.name}")
                time.sleep(self.sleeps)
                plan.training.mark.touch()
        time.sleep(self.sleeps)
        score = int(plan.key[:6], 16) / 16**6
        append_row(plan.rows, {"name": plan.name, **plan.columns, "seed": seed, "miou_any": score})
        write(f"end {plan.columns['variant']} {parameters} {seed}")


def write(text: str) -> None:
    """Add a line to the log, whole."""
    with LOG.open("a") as file:
        file.write(text + "\n")


def log(word: str) -> list[str]:
    """Lines of the log that begin with a word."""
    return [line for line in LOG.read_text().splitlines() if line.startswith(word)] if LOG.is_file() else []


def write_ablation(path: Path = FILE, *, command: Sequence[str] = COMMAND, **parameters: list[Any]) -> Path:
    """Write an ablation's file; "__" in a name stands for a dot."""
    named = {name.replace("__", "."): {"values": values} for name, values in parameters.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": named, "command": list(command)}))
    return path


def ablate(*arguments: object, runner: FakeRunner | None = None) -> int:
    """Run the command on the file of the tests."""
    files = () if any(str(argument).endswith(".yaml") for argument in arguments) else (FILE,)
    given = [*files, *arguments, "--rows", ROWS, "--runs", "runs"]
    return main([str(argument) for argument in given], runner=runner or FakeRunner())


def rows(name: str = FILE.stem) -> list[dict[str, str]]:
    """The rows of an ablation."""
    with (ROWS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def summary(name: str = FILE.stem) -> list[tuple[str, str, str]]:
    """Label, values and seed of each row."""
    return [
        (
            row["variant"],
            " ".join(canonical_json({"": value})[4:-1] for value in json.loads(row["parameters"]).values()),
            row["seed"],
        )
        for row in rows(name)
    ]


def drop_row(index: int, name: str = FILE.stem) -> None:
    """Delete one line of the rows."""
    path = ROWS / f"{name}.csv"
    lines = path.read_text().splitlines(keepends=True)
    del lines[index + 1]
    path.write_text("".join(lines))


def alive(number: int) -> bool:
    """Whether a process is there."""
    with suppress(OSError):
        os.kill(number, 0)
        return True
    return False
