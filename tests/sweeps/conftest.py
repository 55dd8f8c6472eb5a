"""A queue of trials in a database of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from scan_lightning.sweeps import load_sweep
from scan_lightning.sweeps.storage import Storage
from scan_lightning.sweeps.trial_queue import TrialQueue
from tests.sweeps.toys import write_sweep


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all tables and no study, which takes a second to make."""
    path = tmp_path_factory.mktemp("storage") / "empty.db"
    Storage(url=f"sqlite:///{path}", heartbeat=1)
    return path


@pytest.fixture
def make_queue(tmp_path: Path, empty_database: Path) -> Callable[..., TrialQueue]:
    """Function that opens a sweep's queue as one more worker: ``make_queue(seed=0, **content of the file)``."""

    shutil.copy(empty_database, tmp_path / "toy.db")

    def make(seed: int = 0, heartbeat: int = 15, **content: Any) -> TrialQueue:
        storage = Storage(url=f"sqlite:///{tmp_path / 'toy.db'}", heartbeat=heartbeat)
        return TrialQueue(sweep=load_sweep(write_sweep(tmp_path, **content)), storage=storage, seed=seed)

    return make
