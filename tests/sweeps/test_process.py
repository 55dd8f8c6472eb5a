"""The process of a trial: how it ends, whoever ends it, and what is read of its report."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scan_lightning.sweeps.process import Report, TrialProcess, trial_environment

SLEEP = "import time; time.sleep(100)"
# Starts a child in the same group, writes both process ids, and sleeps.
FAMILY = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "{SLEEP}"])
open("ids.part", "w").write(f"{{os.getpid()}} {{child.pid}}")
os.rename("ids.part", "ids")
time.sleep(100)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrialProcess]:
    """Function that starts Python code: ``started(code, grace=5)``."""
    monkeypatch.chdir(tmp_path)

    def start(code: str, grace: float = 20.0) -> TrialProcess:
        return TrialProcess(
            command=[sys.executable, "-S", "-c", code],
            log=tmp_path / "log",
            environment=os.environ,
            grace=grace,
        )

    return start


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until a condition holds; give what it gave."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def ids(folder: Path) -> list[int]:
    """Process ids that the family has written."""
    path = wait_for(lambda: (folder / "ids").is_file() and folder / "ids")
    return [int(number) for number in path.read_text().split()]


def is_alive(number: int) -> bool:
    """Whether a process runs, zombies aside."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_exit_status_and_output_are_kept(started: Callable[..., TrialProcess], tmp_path: Path) -> None:
    process = started("import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)")
    assert wait_for(lambda: process.poll() is not None)
    assert process.poll() == 3
    assert process.stop() == 3
    first, *rest = (tmp_path / "log").read_text().splitlines()
    assert first.startswith("$ ")
    assert rest == ["out", "err"]


def test_status_of_a_signal_is_that_of_shells(started: Callable[..., TrialProcess]) -> None:
    process = started("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert wait_for(lambda: process.poll() is not None)
    assert process.poll() == 128 + signal.SIGKILL


def test_command_that_is_not_there_says_so(tmp_path: Path) -> None:
    process = TrialProcess(command=["no-such-tool"], log=tmp_path / "log", environment=os.environ, grace=1)
    assert wait_for(lambda: process.poll() is not None)
    assert process.poll() == 127
    assert "cannot run no-such-tool: No such file or directory" in (tmp_path / "log").read_text()


def test_standard_input_is_empty(started: Callable[..., TrialProcess]) -> None:
    process = started("import sys; sys.exit(len(sys.stdin.read()))")
    assert wait_for(lambda: process.poll() is not None)
    assert process.poll() == 0


def test_stop_ends_children_too(started: Callable[..., TrialProcess], tmp_path: Path) -> None:
    process = started(FAMILY)
    family = ids(tmp_path)
    assert process.stop() == 128 + signal.SIGTERM
    assert not any(map(is_alive, family))


def test_stop_kills_what_ignores_the_request(started: Callable[..., TrialProcess], tmp_path: Path) -> None:
    process = started(STUBBORN + FAMILY, grace=0.2)
    family = ids(tmp_path)
    assert process.stop() == 128 + signal.SIGKILL
    assert not any(map(is_alive, family))


def test_children_do_not_outlive_their_parent(started: Callable[..., TrialProcess], tmp_path: Path) -> None:
    process = started(FAMILY.replace("time.sleep(100)\n", "sys.exit(5)\n"))
    assert wait_for(lambda: process.poll() is not None)
    assert process.poll() == 5
    wait_for(lambda: not any(map(is_alive, ids(tmp_path))))


def test_death_of_the_worker_ends_the_trial(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from scan_lightning.sweeps.process import TrialProcess\n"
        f"TrialProcess(command=[sys.executable, '-S', '-c', {FAMILY!r}], log=Path('log'), environment=os.environ, "
        "grace=20)\ntime.sleep(100)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    family = ids(tmp_path)
    assert all(map(is_alive, family))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    wait_for(lambda: not any(map(is_alive, family)))


def test_report_counts_different_steps_of_one_metric(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    report = Report(path=path, metric="a")
    assert report.new_values() == []
    path.write_text('{"step": 10, "metrics": {"a": 0.5, "b": 1}}\n{"step": 15, "metrics": {"b": 1}}\n{"step": 20, "me')
    assert report.new_values() == [(0, 0.5)]
    assert report.new_values() == []
    with path.open("a") as file:  # the rest of the line, then the same step again, as after a checkpoint
        file.write('trics": {"a": 0.25}}\n{"step": 10, "metrics": {"a": 0.75}}\n{"step": 30, "metrics": {"a": NaN}}\n')
    assert report.new_values()[0] == (1, 0.25)
    assert len(report.new_values()) == 0
    assert report.last is not None
    assert report.last != report.last
    assert report.names == {"a", "b"}


@pytest.mark.parametrize("line", ["nothing", "[]", '{"metrics": {"a": 1}}', '{"step": 1, "metrics": {"a": "x"}}'])
def test_report_that_cannot_be_read_says_what_is_expected(tmp_path: Path, line: str) -> None:
    (tmp_path / "report.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r'report\.jsonl: expected lines such as \{"step": 10, .*got b'):
        Report(path=tmp_path / "report.jsonl", metric="a").new_values()


def test_trial_of_a_task_of_srun_is_a_run_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would take the number of the worker's task for its own rank, and wait for the other workers."""
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    assert trial_environment(report=Path("/r"), group="toy-1")["SLURM_NTASKS"] == "4", "srun in a command counts by it"
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    environment = trial_environment(report=Path("/r"), group="toy-1")
    assert environment["SLURM_JOB_ID"] == "7"
    assert not environment.keys() & {"SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"}


def test_environment_names_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCAN_LIGHTNING_METRIC", raising=False)
    environment = trial_environment(report=Path("/r"), group="toy-1", metric="val/miou_any")
    assert environment["SCAN_LIGHTNING_METRIC"] == "val/miou_any"
    assert "SCAN_LIGHTNING_METRIC" not in trial_environment(report=Path("/r"), group="toy-1")


def test_environment_is_offline_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("PATH", "/somewhere")
    environment = trial_environment(report=Path("/r"), group="toy-1")
    assert (environment["WANDB_MODE"], environment["WANDB_RUN_GROUP"]) == ("offline", "toy-1")
    assert environment["SCAN_LIGHTNING_REPORT"] == "/r"
    assert environment["PATH"] == f"{Path(sys.executable).parent}:/somewhere"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert trial_environment(report=Path("/r"), group="toy-1")["WANDB_MODE"] == "online"
