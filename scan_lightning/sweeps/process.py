"""The process of one trial, and what it reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REPORT_VARIABLE = "SCAN_LIGHTNING_REPORT"
"""Environment variable of a trial with the file that it reports to. Any program can write to it."""
METRIC_VARIABLE = "SCAN_LIGHTNING_METRIC"
"""Environment variable of a trial with the name of the metric that its sweep looks for."""
# What tells a task of SLURM's srun which of several it is. Workers may be such tasks; a trial is a run by itself.
_TASK_VARIABLES = ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID")
_GUARD = Path(__file__).with_name("guard.py")


class TrialProcess:
    """A command in a session of its own, which ends with the process that started it, however that ends.

    Args:
        command: Its parts.
        log: File that its output is added to.
        environment: Of the command.
        grace: Seconds between SIGTERM and SIGKILL when it is stopped.
    """

    def __init__(self, *, command: Sequence[str], log: Path, environment: Mapping[str, str], grace: float) -> None:
        with log.open("ab") as output:
            output.write(f"$ {subprocess.list2cmdline(command)}\n".encode())
            output.flush()
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", str(_GUARD), str(grace), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C in the terminal reaches the worker alone
            )

    def poll(self) -> int | None:
        """Look whether the command has ended.

        Returns:
            Its exit status, None while it runs.
        """
        return self._process.poll()

    def stop(self) -> int:
        """End the command and all its processes, and wait for that.

        Returns:
            Its exit status.
        """
        if self._process.stdin is not None:
            self._process.stdin.close()
        return self._process.wait()


class Report:
    """The values of one metric in the file that a trial writes.

    Each line is ``{"step": whole number, "metrics": {name: number}}``; other metrics are passed over. Iterations are
    the different steps at which the metric came, in order of appearance: a trial that is done again, or goes on from a
    checkpoint, repeats steps and makes no new iterations of them.

    Args:
        path: The file; it may come later.
        metric: The metric's name; None looks for none.
    """

    def __init__(self, *, path: Path, metric: str | None) -> None:
        self._path = path
        self._metric = metric
        self._read = 0
        self._steps: list[int] = []
        self.last: float | None = None
        """The last value."""
        self.names: set[str] = set()
        """All metrics that have come."""

    def new_values(self) -> list[tuple[int, float]]:
        """Read what has come since the last call.

        Returns:
            New iterations, counted from 0, and their values.

        Raises:
            ValueError: If a line is not such a line.
        """
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        return [value for line in whole.splitlines() for value in self._values(line)]

    def _values(self, line: bytes) -> list[tuple[int, float]]:
        """Read a line."""
        try:
            entry = json.loads(line)
            step, metrics = int(entry["step"]), {str(name): float(value) for name, value in entry["metrics"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            expected = '{"step": 10, "metrics": {"val/miou_any": 0.5}}'
            raise ValueError(f"{self._path}: expected lines such as {expected}, got {line!r}") from error
        self.names.update(metrics)
        if self._metric is None or self._metric not in metrics:
            return []
        self.last = metrics[self._metric]
        if step in self._steps:
            return []
        self._steps.append(step)
        return [(len(self._steps) - 1, self.last)]


def trial_environment(*, report: Path, group: str, metric: str | None = None) -> dict[str, str]:
    """Make the environment of a trial.

    Args:
        report: File that the trial reports to.
        group: Name under which W&B puts a sweep's runs together.
        metric: Name of the metric that is looked for; None where there is none.

    Returns:
        That of this process, with this installation's programs found first, and W&B offline unless it says otherwise;
        of a task that srun has started, without its number.
    """
    environment = {"WANDB_MODE": "offline", "WANDB_RUN_GROUP": group, **os.environ, REPORT_VARIABLE: str(report)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    if metric is not None:
        environment[METRIC_VARIABLE] = metric
    if "SLURM_STEP_ID" in environment:
        environment = {name: value for name, value in environment.items() if name not in _TASK_VARIABLES}
    return environment
