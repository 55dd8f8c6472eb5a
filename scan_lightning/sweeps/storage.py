"""Where studies are kept: a file of SQLite on one machine, PostgreSQL or MySQL for many."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages import RDBStorage

MISSED_BEATS = 4
"""Signs of life that a worker may miss before its trial is done again."""
# Heartbeats are marked as experimental, and as meant for Study.optimize; workers here give them by themselves, see
# https://optuna.readthedocs.io/en/stable/reference/generated/optuna.storages.RDBStorage.html
_HEARTBEAT_WARNINGS = ("Argument ``heartbeat_interval``", ".*fail_stale_trials is", "Heartbeat of storage is supposed")
_SQLITE_PATIENCE = 120.0  # seconds that a write waits for another process's
_LOCK_NAME = "scan-lightning sweep"
_LOCK_KEY = 0x5CA9_11_9478  # the same for PostgreSQL, whose locks are numbers
_LOCK_PATIENCE = 600  # seconds


class Storage:
    """A database of studies, with a lock that all workers on all machines share.

    Optuna hands a waiting trial to one worker alone only where the database locks rows, which SQLite does not; and no
    database keeps two workers from adding the same trials. So whatever chooses or adds trials holds the lock.

    Args:
        url: As SQLAlchemy writes it, such as sqlite:///sweeps.db or postgresql+psycopg://user@host/database.
        heartbeat: Seconds between two signs of life of a running trial.

    Raises:
        ValueError: If the URL cannot be read, or is of a database that has no lock here.
        ModuleNotFoundError: If the database's driver is not installed.
    """

    def __init__(self, *, url: str, heartbeat: int) -> None:
        try:
            self._url = sqlalchemy.make_url(url)
        except sqlalchemy.exc.ArgumentError as error:
            raise ValueError(f"storage: expected a URL such as sqlite:///sweeps.db, got {url!r}") from error
        self._backend = self._url.get_backend_name()
        if self._backend not in ("sqlite", "postgresql", "mysql", "mariadb"):
            raise ValueError(f"storage: expected sqlite, postgresql, mysql or mariadb, got {self._backend}")
        options: dict[str, Any] = {"pool_pre_ping": True}  # a server may have been restarted since the last use
        if self._backend == "sqlite":
            if not self._url.database or self._url.database == ":memory:":
                raise ValueError(f"storage: expected a file, since workers share it, got {url!r}")
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
            options["connect_args"] = {"timeout": _SQLITE_PATIENCE}
        self.heartbeat = heartbeat
        for message in _HEARTBEAT_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        with self.lock():  # two processes must not make the tables at once
            self.rdb = RDBStorage(
                self._url.render_as_string(hide_password=False),
                engine_kwargs=options,
                heartbeat_interval=heartbeat,
                grace_period=MISSED_BEATS * heartbeat,
            )

    def __str__(self) -> str:
        """Give the URL without its password."""
        return str(self._url.render_as_string(hide_password=True))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep all other workers waiting, on all machines; the lock of one that dies is free again.

        Yields:
            Once the lock is there.

        Raises:
            TimeoutError: If another one holds it for ten minutes.
        """
        if self._backend == "sqlite":
            with FileLock(f"{self._url.database}.lock", timeout=_LOCK_PATIENCE):
                yield
            return
        engine = sqlalchemy.create_engine(self._url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            if self._backend == "postgresql":
                connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{_LOCK_PATIENCE}s'"))
                try:
                    connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
                except sqlalchemy.exc.OperationalError as error:
                    raise self._waited() from error
                yield
                return
            parameters = {"name": _LOCK_NAME, "patience": _LOCK_PATIENCE}
            if connection.execute(sqlalchemy.text("SELECT GET_LOCK(:name, :patience)"), parameters).scalar() != 1:
                raise self._waited()
            try:
                yield
            finally:
                connection.execute(sqlalchemy.text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK_NAME})

    def _waited(self) -> TimeoutError:
        return TimeoutError(f"{self}: another worker has held the lock for {_LOCK_PATIENCE} seconds")

    def study_names(self) -> list[str]:
        """List all studies.

        Returns:
            Their names.
        """
        return [str(name) for name in optuna.get_all_study_names(self.rdb)]
