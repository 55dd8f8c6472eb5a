"""The record of a run: configuration hash, versions, commit, seed, hardware, and the file that collects such rows."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from scan_lightning.files import whole_file

Row = dict[str, str | int | float]
"""One line of a results file: column name to value."""

_RUN = ("key", "name", "variant", "parameters")
"""Columns that tell the rows of different runs apart."""
LIBRARIES = ("torch", "lightning", "transformers", "open_clip_torch", "scan_lightning")

RESULTS = "experiments/results"
"""Where a checkout keeps its rows: to add one changes nothing that a run computes."""


def canonical_json(config: Mapping[str, Any]) -> str:
    """Write a configuration so that equal ones give equal text: sorted keys, no spaces, no addresses of objects.

    Args:
        config: Nested mappings, lists and values. Paths are written with forward slashes, dataclasses as mappings,
            classes and functions by their name, other objects by the name of their class.

    Returns:
        The text.

    Example:
        >>> canonical_json({"b": 1, "a": [Path("x") / "y", None]})
        '{"a":["x/y",null],"b":1}'
    """
    return json.dumps(config, default=_plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: object) -> object:
    """Turn what JSON does not know into what it does, the same in every run."""
    if isinstance(value, Path):
        return value.as_posix()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def file_hash(path: str | Path) -> str:
    """Compute the sha256 of a file.

    Args:
        path: Of the file.

    Returns:
        64 hexadecimal digits.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_state(folder: Path) -> tuple[str, bool]:
    """Name the commit of a checkout.

    Args:
        folder: The top of the checkout; a folder inside one, such as an installed package's, does not count.

    Returns:
        The commit and whether tracked files other than results differ from it; an empty text and False outside a
        checkout or without git.
    """
    git = shutil.which("git")
    if git is None:
        return "", False

    def ask(*arguments: str) -> str:
        command = [git, "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603

    changes = ("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){RESULTS}")
    try:
        if Path(ask("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return "", False
        return ask("rev-parse", "HEAD"), bool(ask(*changes))
    except (OSError, subprocess.CalledProcessError):
        return "", False


def hardware() -> str:
    """Describe the machine without naming it: processors and accelerators."""
    parts = [f"{os.cpu_count()} x {platform.machine()} CPU"]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        parts += [f"{names.count(name)} x {name}" for name in sorted(set(names))]
    return ", ".join(parts)


def run_record(config: Mapping[str, Any]) -> Row:
    """Collect what one needs to repeat a run: nothing in it depends on the time or the machine's name.

    Args:
        config: The run's full configuration.

    Returns:
        ``config_hash`` (sha256 of `canonical_json`), ``commit`` and ``dirty`` (of the checkout that the package lies
        in, else empty), ``seed`` (what ``seed_everything`` was called with, else empty), ``python`` and the versions of
        the libraries, ``hardware``.
    """
    commit, dirty = git_state(Path(__file__).parents[2])
    versions: Row = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "config_hash": hashlib.sha256(canonical_json(config).encode()).hexdigest(),
        "commit": commit,
        "dirty": int(dirty) if commit else "",
        "seed": os.environ.get("PL_GLOBAL_SEED", ""),
        **versions,
        "hardware": hardware(),
    }


def append_row(path: str | Path, row: Mapping[str, str | int | float]) -> None:
    """Add one line to a CSV file; rows of several processes do not mix, and a kill leaves the old file or the new one.

    Columns that the file lacks are added at the end, empty for older rows; those that the row lacks stay empty in it. A
    row with a ``key`` takes the place of an older one of the same run: a trial that is done again leaves one row.

    Args:
        path: Of the file; it and its folder are made if missing.
        row: Column name to value; NaN is written as an empty field.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        rows: list[Mapping[str, object]] = []
        columns: list[str] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows, columns = list(reader), list(reader.fieldnames or ())
        if row.get("key"):
            rows = [old for old in rows if any(old.get(name) != str(row.get(name, "")) for name in _RUN)]
        rows.append({name: "" if value != value else value for name, value in row.items()})
        columns += [name for name in row if name not in columns]
        with whole_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
