"""``scan-lightning ablate`` by several processes: every run once, none waits for the training of another."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from commands.ablated import ROWS, FakeRunner, ablate, alive, log, rows, summary, write_ablation
from scan_lightning.commands import ablate_run, ablate_workers
from scan_lightning.commands.ablate_plan import AblationRun, plan_ablation
from scan_lightning.commands.ablate_run import Outcome, Status
from scan_lightning.commands.ablate_workers import _Queue, _work

FORK = multiprocessing.get_context("fork")
RATIOS = [0.1, 0.2, 0.3]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are copies of this process, which start at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablate_workers, "get_context", lambda _method: FORK)
    monkeypatch.setattr(ablate_workers, "GLANCE", 0.05)
    monkeypatch.setattr(ablate_run.gc, "collect", lambda: 0)  # nothing is built, and the tests' process is large
    write_ablation(model__ratio=RATIOS, seed_everything=[0, 1, 2])


def wait_for(word: str, count: int = 1) -> None:
    """Wait until the log has lines that begin with a word."""
    end = time.monotonic() + 60
    while len(log(word)) < count:
        assert time.monotonic() < end, f"no {word} in the log"
        time.sleep(0.02)


@pytest.fixture
def started() -> Iterator[list[ForkProcess]]:
    """Commands that a test starts beside itself."""
    processes: list[ForkProcess] = []
    yield processes
    for process in processes:
        process.kill()
        process.join()


def start(started: list[ForkProcess], *arguments: object, runner: FakeRunner) -> ForkProcess:
    started.append(FORK.Process(target=_command, args=(arguments, runner)))
    started[-1].start()
    return started[-1]


def _command(arguments: tuple[object, ...], runner: FakeRunner) -> None:
    os._exit(ablate(*arguments, runner=runner))


def test_workers_do_every_run_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("--workers", 3, runner=FakeRunner(sleeps=0.02)) == 0
    assert len(log("begin")) == len(log("end")) == 9
    assert len(log("train")) == 3
    assert summary() == [("", str(ratio), str(seed)) for ratio in RATIOS for seed in range(3)]
    printed = capsys.readouterr().err
    assert "3 workers print to runs/worker_*.log" in printed
    assert "9 runs: 9 done" in printed
    logs = "".join(path.read_text() for path in Path("runs").glob("worker_*.log"))
    assert logs.count("--- question: ratio") == 9


def test_workers_write_what_one_process_writes() -> None:
    assert ablate("--workers", 2) == 0
    content = (ROWS / "question.csv").read_bytes()
    (ROWS / "question.csv").unlink()
    assert ablate() == 0
    assert (ROWS / "question.csv").read_bytes() == content


def test_workers_do_not_fail_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("--workers", 2, runner=FakeRunner(fails="0.2")) == 1
    assert len(log("begin")) == 9
    assert "9 runs: 6 done, 3 failed" in capsys.readouterr().err


def test_dead_worker_costs_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    write_ablation(model__ratio=RATIOS, seed_everything=[0])
    assert ablate("--workers", 2, runner=FakeRunner(dies="0.2")) == 1
    printed = capsys.readouterr().err
    assert "question: ratio 0.2, seed 0: failed: its process ended (signal SIGKILL) (see runs/worker_" in printed
    assert [ratio for _, ratio, _ in summary()] == ["0.1", "0.3"]
    assert ablate("--workers", 2) == 0
    assert [ratio for _, ratio, _ in summary()] == ["0.1", "0.2", "0.3"]


def test_two_commands_on_one_file_share_the_runs(started: list[ForkProcess]) -> None:
    slow = FakeRunner(sleeps=0.1)
    others = [start(started, runner=slow), start(started, "--workers", 2, runner=slow)]
    for process in others:
        process.join(60)
    assert [process.exitcode for process in others] == [0, 0]
    assert not list((ROWS / ".locks").iterdir())
    assert len(log("begin")) == len(log("end")) == len(rows()) == 9
    assert summary() == [("", str(ratio), str(seed)) for ratio in RATIOS for seed in range(3)]


def test_run_of_a_killed_command_is_done_by_the_other(started: list[ForkProcess]) -> None:
    finish_training(planned(model__ratio=RATIOS, seed_everything=[0])[0])
    first = start(started, runner=FakeRunner(sleeps=30))
    wait_for("begin")
    second = start(started, runner=FakeRunner())
    wait_for("end", 2)  # the two that the first has not in hand
    first.kill()
    second.join(60)
    assert second.exitcode == 0
    assert [ratio for _, ratio, _ in summary()] == ["0.1", "0.2", "0.3"]
    assert len(log("end")) == 3


def test_terminated_command_ends_its_workers(started: list[ForkProcess]) -> None:
    command = start(started, "--workers", 2, runner=FakeRunner(sleeps=30))
    wait_for("train", 2)
    numbers = [int(path.stem.split("_")[1]) for path in Path("runs").glob("worker_*.log")]
    assert len(numbers) == 2
    command.terminate()
    command.join(60)
    assert command.exitcode == 128 + signal.SIGTERM
    assert not any(alive(number) for number in numbers)
    assert ablate("--workers", 2) == 0
    assert len(rows()) == 9


def _wait_as_a_worker(ours: Connection) -> None:
    """A worker as it is started anew: without the handlers of the process that has started it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    class Waits:
        runs = planned(model__ratio=[0.1])

        def __call__(self, index: int, *, wait: bool) -> None:
            Path("begun").touch()
            try:
                time.sleep(60)
            finally:
                Path("ended").touch()

    _work(ours, Waits(), Path())  # type: ignore[arg-type]


def test_worker_that_is_ended_ends_what_it_waits_for(started: list[ForkProcess]) -> None:
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=_wait_as_a_worker, args=(theirs,))
    started.append(process)
    process.start()
    ours.send((0, True))
    end = time.monotonic() + 60
    while not Path("begun").is_file():
        assert time.monotonic() < end
        time.sleep(0.02)
    process.terminate()
    process.join(60)
    assert Path("ended").is_file()
    assert process.exitcode == 128 + signal.SIGTERM


def planned(**parameters: list[object]) -> tuple[AblationRun, ...]:
    path = write_ablation(**parameters)
    folder = Path("runs")
    return plan_ablation(
        path, overlay=None, seeds=None, only=None, rows=ROWS, trainings=folder, runner=FakeRunner()
    ).runs


def finish_training(run: AblationRun) -> None:
    run.plan.training.folder.mkdir(parents=True)
    run.plan.training.mark.touch()


def test_queue_gives_no_run_whose_training_another_has_in_hand() -> None:
    runs = planned(model__ratio=[0.1, 0.2], seed_everything=[0, 1])
    queue = _Queue(runs=runs, waiting=[0, 1, 2, 3])

    def take() -> int | None:
        index = queue._next()
        if index is not None:
            queue.active.add(index)
        return index

    assert [run.seed for run in runs] == ["0", "0", "1", "1"]
    assert (take(), take(), take()) == (0, 2, None)
    finish_training(runs[0])  # its test goes on
    assert (take(), take()) == (1, None)
    assert queue.take_back(0, Outcome(status=Status.DONE))
    assert queue.take_back(2, Outcome(status=Status.FAILED))
    assert (take(), take()) == (3, None)


def test_queue_gives_equal_runs_one_after_the_other() -> None:
    values: list[object] = [{"label": "a", "model.ratio": 1}, {"label": "b", "model.ratio": 1}]
    queue = _Queue(runs=planned(variant=values), waiting=[0, 1])
    finish_training(queue.runs[0])
    queue.active.add(0)
    queue.waiting.remove(0)
    assert queue._next() is None
    queue.take_back(0, Outcome(status=Status.DONE))
    assert queue._next() == 1


def test_queue_leaves_busy_runs_for_the_end() -> None:
    queue = _Queue(runs=planned(model__ratio=[0.1, 0.2]), waiting=[0, 1])
    assert queue._next() == 0
    queue.active.add(0)
    assert not queue.take_back(0, Outcome(status=Status.BUSY))
    assert queue._next() == 1
    queue.active.add(1)
    assert queue.take_back(1, Outcome(status=Status.DONE))
    assert queue._next() == 0
    assert queue.take_back(0, Outcome(status=Status.THERE))
    assert queue._next() is None


@pytest.mark.slow
def test_workers_are_processes_of_their_own(tmp_path: Path) -> None:
    """As the command starts them: nothing is inherited, so that everything must be sent."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "if __name__ == '__main__':\n"
        "    from commands.ablated import FakeRunner, ablate\n"
        "    sys.exit(ablate('--workers', 2, runner=FakeRunner(fails='0.2')))\n"
    )
    (tmp_path / "program.py").write_text(code)
    finished = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, check=False)
    assert finished.returncode == 1, finished.stderr
    assert "9 runs: 6 done, 3 failed" in finished.stderr
    assert len(log("begin")) == 9
