"""What ``ablate`` has to do: every combination of an ablation's file with every seed, as a run with its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from scan_lightning.callbacks.record import canonical_json
from scan_lightning.commands.ablate_rows import Combination, combination_of, rows_path
from scan_lightning.commands.run_plan import RunPlan, Training
from scan_lightning.sweeps import Sweep, expand_command, grid, load_sweep

PROGRAM = "scan-lightning"
SEED = "seed_everything"
"""The parameter of a sweep file that holds the seeds."""
PARSE_ERROR = 2
"""Status that a process exits with when its arguments cannot be parsed, as argparse has it."""


class Runner(Protocol):
    """What plans and carries out runs, see `scan_lightning.commands.run`; it can be sent to another process."""

    def plan(self, arguments: Sequence[str]) -> RunPlan:
        """Work out what the arguments behind ``scan-lightning run`` ask for."""

    def execute(self, plan: RunPlan) -> object:
        """Train if need be, test, and add the row to the plan's file of rows."""


@dataclass(frozen=True, kw_only=True)
class AblationRun:
    """One combination with one seed.

    Attributes:
        name: Of the ablation.
        label: Text of the combination, for messages.
        seed: Text of the seed; empty if the file sets none.
        combination: What tells the combination in a row, see `combination_of`.
        arguments: Behind ``scan-lightning run``.
        plan: Made from them.
    """

    name: str
    label: str
    seed: str
    combination: Combination
    arguments: tuple[str, ...]
    plan: RunPlan

    @property
    def key(self) -> str:
        """Hash of everything that the row depends on."""
        return self.plan.key

    @property
    def trainings(self) -> tuple[Training, ...]:
        """The trainings that it needs, that which it starts from first."""
        found = [self.plan.training]
        while found[0].start is not None:
            found.insert(0, found[0].start)
        return tuple(found)

    @property
    def missing_trainings(self) -> frozenset[str]:
        """Keys of those trainings that are not finished on disk."""
        return frozenset(training.key for training in self.trainings if not training.mark.is_file())

    @property
    def title(self) -> str:
        """Ablation, combination and seed."""
        return f"{self.name}: {self.label}" + (f", seed {self.seed}" if self.seed else "")


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """An ablation's file and its runs.

    Attributes:
        name: The file's name without suffix.
        order: The combinations of the file, in its order.
        runs: Those asked for; runs that share a training follow one another.
    """

    name: str
    order: tuple[Combination, ...]
    runs: tuple[AblationRun, ...]


def plan_ablation(
    path: Path,
    *,
    overlay: Path | None,
    seeds: Sequence[int] | None,
    only: str | None,
    rows: Path,
    trainings: Path | None,
    runner: Runner,
) -> Ablation:
    """Read an ablation's file and plan its runs.

    Args:
        path: A sweep file of method grid.
        overlay: See `load_sweep`.
        seeds: In place of those of the file.
        only: Text that the label or a parameter of a run must hold, whatever the case; None takes all.
        rows: Folder of the rows.
        trainings: Folder of the trainings; None leaves it to the command.
        runner: Plans.

    Returns:
        The ablation.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the file is not one of an ablation; with what was expected.
    """
    sweep = load_sweep(path, overlay)
    if sweep.method != "grid":
        raise ValueError(
            f"{path}: method: an ablation needs grid, got {sweep.method}; `{PROGRAM} sweep` runs the others"
        )
    places = [f"--name={sweep.stem}", f"--rows={rows_path(rows, sweep.stem)}"]
    places += [] if trainings is None else [f"--runs={trainings}"]
    try:
        runs = [_plan_run(sweep, values, places, runner) for values in _with_seeds(grid(sweep), seeds)]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    asked = [run for run in runs if only is None or only.lower() in f"{run.label} {run.combination}".lower()]
    order = tuple(dict.fromkeys(run.combination for run in runs))
    return Ablation(name=sweep.stem, order=order, runs=_by_training(asked))


def _with_seeds(combinations: list[dict[str, Any]], seeds: Sequence[int] | None) -> list[dict[str, Any]]:
    """Put other seeds in the place of those of the combinations."""
    if seeds is None:
        return combinations
    if any(SEED not in values for values in combinations):
        raise ValueError(f"seeds: expected a parameter {SEED} whose values they replace, got none")
    different = {canonical_json(_but_seed(values)): values for values in combinations}
    return [values | {SEED: seed} for seed in dict.fromkeys(seeds) for values in different.values()]


def _plan_run(sweep: Sweep, values: Mapping[str, Any], places: Sequence[str], runner: Runner) -> AblationRun:
    """Plan one run."""
    arguments = (*run_arguments(expand_command(sweep, values)), *places)
    label = label_of(values)
    try:
        plan = runner.plan(arguments)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    except SystemExit as stop:
        raise ValueError(f"{label}: its arguments cannot be parsed, as reported") from stop
    return AblationRun(
        name=sweep.stem,
        label=label,
        seed=str(values.get(SEED, "")),
        combination=combination_of(plan.columns),
        arguments=arguments,
        plan=plan,
    )


def run_arguments(command: Sequence[str]) -> tuple[str, ...]:
    """Take the arguments of ``scan-lightning run`` out of a command.

    Args:
        command: As an agent would start it, with or without ``/usr/bin/env`` in front.

    Returns:
        What follows ``run``.

    Raises:
        ValueError: If it is another command.

    Example:
        >>> run_arguments(["/usr/bin/env", "scan-lightning", "run", "-c", "experiments/quickstart.yaml"])
        ('-c', 'experiments/quickstart.yaml')
    """
    parts = list(command)
    if parts and Path(parts[0]).name == "env":
        parts = parts[1:]
    if len(parts) < 2 or Path(parts[0]).name != PROGRAM or parts[1] != "run":
        raise ValueError(
            f"command: expected ${{env}}, {PROGRAM}, run and its arguments, got {' '.join(parts[:3])!r}; "
            f"`{PROGRAM} sweep` runs any command"
        )
    return tuple(parts[2:])


def label_of(values: Mapping[str, Any]) -> str:
    """Write a combination for people.

    Args:
        values: Of a sweep's parameters; a mapping's ``label`` stands for it, the seed is left out.

    Returns:
        The text.

    Example:
        >>> label_of({"model.init_args.inference.replace_ratio": 0.15, "seed_everything": 0})
        'replace_ratio 0.15'
    """
    parts = []
    for name, value in _but_seed(values).items():
        if isinstance(value, Mapping) and "label" in value:
            parts.append(str(value["label"]))
        else:
            parts.append(f"{name.rsplit('.', 1)[-1]} {value}")
    return ", ".join(parts) or "as the recipe"


def _but_seed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the seed."""
    return {name: value for name, value in values.items() if name != SEED}


def _by_training(runs: Sequence[AblationRun]) -> tuple[AblationRun, ...]:
    """Order runs so that those of one training follow one another, and trainings that start from the same one."""
    first: dict[str, int] = {}
    for run in runs:
        for training in run.trainings:
            first.setdefault(training.key, len(first))
    return tuple(sorted(runs, key=lambda run: [first[training.key] for training in run.trainings]))
