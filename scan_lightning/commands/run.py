"""``scan-lightning run``: train, unless an equal training is there already, test, and leave one row.

What `ablate` and `sweep` repeat, and what a W&B agent calls. Test-time settings are no part of a training, so all
questions about them share one checkpoint.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_only

from scan_lightning.callbacks.record import run_record
from scan_lightning.commands.run_plan import PROG, ReadRecipe, RunPlan, Training, is_passive, plan_run
from scan_lightning.files import write_whole
from scan_lightning.sweeps.process import METRIC_VARIABLE

Launch = Callable[[list[str]], bool]
"""Runs a subcommand of Lightning; tells whether it came to its end and not only to a time limit."""
_PATIENCE = 600.0  # seconds that the other processes of a run give the first one to write the weights


class CutShort(RuntimeError):  # noqa: N818
    """A training that ended before its bound, as at a time limit."""


class Runner:
    """Carries out runs in this process. Recipes are read once each.

    Args:
        read: Reads a recipe as Lightning's command line does.
        launch: Runs a subcommand of Lightning.
    """

    def __init__(self, *, read: ReadRecipe, launch: Launch) -> None:
        self.launch = launch
        self._read = read
        remembered = cache(read)
        self.read: ReadRecipe = lambda arguments: remembered(tuple(arguments))

    def __reduce__(self) -> tuple[Callable[[], Runner], tuple[()]]:
        """Go to another process without the recipes, which it reads by itself."""
        return partial(Runner, read=self._read, launch=self.launch), ()

    def plan(self, arguments: Sequence[str]) -> RunPlan:
        """Work out what a run will train and test, see `plan_run`.

        Args:
            arguments: Of ``scan-lightning run``.

        Returns:
            The plan.
        """
        return plan_run(arguments, read=self.read)

    def execute(self, plan: RunPlan) -> dict[str, str]:
        """Train if need be, and test. Under several processes every one of them must call it.

        Args:
            plan: What to do.

        Returns:
            The row that was added, as it stands in the file; empty in all processes but the first.

        Raises:
            CutShort: If a training ended before its bound.
            Exception: Whatever training and test raise.
        """
        there = plan.training.mark.is_file()
        self.train(plan.training)
        if there and os.environ.get(METRIC_VARIABLE, "").startswith("val/"):  # a training that is there does so no more
            self._score("validate", plan.training.arguments, plan)
        results = {"path": str(plan.rows), "name": plan.name, "columns": plan.columns, "per_class": False}
        callback = {"class_path": "scan_lightning.callbacks.ResultsCallback", "init_args": results}
        self._score("test", plan.arguments, plan, callback)
        return find_row(plan.rows, plan.key) or {}

    def _score(self, subcommand: str, arguments: Sequence[str], plan: RunPlan, *callbacks: dict[str, Any]) -> None:
        """Score the trained weights on one split."""
        kept, loggers = self._kept([subcommand, *arguments])
        self.launch(
            [
                subcommand,
                *arguments,
                f"--ckpt_path={plan.training.checkpoint}",
                f"--trainer.callbacks={json.dumps([*kept, *callbacks])}",
                f"--trainer.logger={json.dumps(loggers or False)}",
                f"--trainer.default_root_dir={plan.training.folder / 'tests' / plan.key[:16]}",  # for config.yaml
                "--model.init_args.initial_weights=null",
            ]
        )

    def train(self, training: Training) -> None:
        """Train, or wait for who is at it, unless it is done already; a training that was cut short goes on.

        Args:
            training: What to train.

        Raises:
            CutShort: If it ended before its bound.
            TimeoutError: If the first of several processes does not come to the end of it.
        """
        first = getattr(rank_zero_only, "rank", 0) == 0
        training.folder.mkdir(parents=True, exist_ok=True)
        lock, owner = FileLock(training.folder / "lock"), training.folder / "job"
        if first:  # the other processes of a run follow the first one
            lock.acquire()
        else:
            _follow(training.mark, owner)
        try:
            if training.mark.is_file():
                return
            if first:
                write_whole(owner, _job())
            if training.start is not None:
                self.train(training.start)
            if not self.launch(["fit", *training.arguments, *self._places(training)]):
                raise CutShort(f"{training.folder}: the training ended before its bound; run it again to go on")
            if first:
                record = {"key": training.key, "arguments": training.arguments, **run_record({})}
                del record["config_hash"]
                write_whole(training.mark, json.dumps(record, indent=1) + "\n")
            else:
                _wait_for(training.mark)  # what comes next may start from the weights that the first one still writes
        finally:
            if first:
                owner.unlink(missing_ok=True)
                lock.release()

    def _places(self, training: Training) -> list[str]:
        """Say where a training writes, and what of it."""
        config = self.read(["fit", *training.arguments])
        kept, loggers = self._kept(["fit", *training.arguments])
        own = [callback for callback in config.trainer.callbacks or [] if _is(callback, "ModelCheckpoint")]
        every = own[0]["init_args"].get("every_n_train_steps") if own else None
        checkpoint = {
            "dirpath": str(training.folder),
            "save_last": True,
            "save_top_k": 0,
            "enable_version_counter": False,
            **({"every_n_train_steps": every} if every else {}),
        }
        kept.append({"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": checkpoint})
        log = {"save_dir": str(training.folder), "name": "log", "version": ""}
        loggers.append({"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": log})
        places = [
            f"--trainer.callbacks={json.dumps(kept)}",
            f"--trainer.logger={json.dumps(loggers)}",
            "--test_after_fit=false",
            "--ckpt_path=last",
        ]
        if "export_to" in config.model.init_args:
            places.append(f"--model.init_args.export_to={training.weights}")
        if training.start is not None:
            places.append(f"--model.init_args.initial_weights={training.start.weights}")
        return places

    def _kept(self, arguments: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Give the recipe's callbacks that count, and its W&B loggers where a W&B agent has started this process."""
        trainer = self.read(arguments).trainer.as_dict()
        kept = [callback for callback in trainer.get("callbacks") or [] if not is_passive(callback)]
        loggers = trainer.get("logger")
        if "WANDB_SWEEP_ID" not in os.environ or not isinstance(loggers, list):
            return kept, []
        wandb = [logger for logger in loggers if _is(logger, "WandbLogger")]
        for logger in wandb:
            logger["init_args"]["offline"] = False
        return kept, wandb


def _is(part: Any, name: str) -> bool:
    """Whether a part of a configuration is of a class."""
    return str(part["class_path"]).rpartition(".")[2] == name


def _job() -> str:
    """Name what all processes of a run have in common where they were started at once, as by torchrun or srun."""
    names = ["SLURM_JOB_ID", "SLURM_STEP_ID"]
    if "TORCHELASTIC_RUN_ID" in os.environ:  # else the first process chooses the port, after this
        names += ["TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"]
    return " ".join(os.environ.get(name, "") for name in names)


def _follow(mark: Path, owner: Path) -> None:
    """Wait until the first process has found a training done, or begins it: another job may be at it for hours."""
    while not mark.is_file():
        with suppress(OSError):
            if owner.read_text("utf-8") == _job():
                return
        time.sleep(0.1)


def _wait_for(path: Path) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + _PATIENCE
    while not path.is_file():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {_PATIENCE:.0f} seconds for {path}, which the first process writes")
        time.sleep(0.1)


def find_row(path: Path, key: str) -> dict[str, str] | None:
    """Look up the row of a run.

    Args:
        path: CSV file of rows; it may be missing.
        key: Of the run's plan.

    Returns:
        The last such row, or None.
    """
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row.get("key") == key]
    return found[-1] if found else None


def main(args: Sequence[str], *, runner: Runner) -> int:
    """Run ``scan-lightning run``.

    Args:
        args: Arguments behind the command's name.
        runner: Carries it out.

    Returns:
        Exit status: 0, or 1 if the training ended before its bound, as reported.
    """
    plan = runner.plan(args)
    done = plan.training.mark.is_file()
    print(f"{PROG}: training {plan.training.folder}{', which is there' if done else ''}", flush=True)
    try:
        runner.execute(plan)
    except CutShort as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    return 0
