"""Sweeps whose trials take no time: a program that reports a curve and adds a row to a file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

# Arguments are --name=value; "x" is the score, "seconds" how long each step takes, "steps" how many there are,
# "status" the exit status. Every start is noted, and every end is a row. It hangs at the x that TOY_HANG says.
PROGRAM = r"""
import json, os, sys, time
values = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
def add(name, line):
    descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (line + "\n").encode())
    os.close(descriptor)
add("starts.txt", json.dumps(values, sort_keys=True))
print("working on", values)
if os.environ.get("TOY_HANG") == values.get("x"):
    time.sleep(1000)
for step in range(int(values.get("steps", 1))):
    time.sleep(float(values.get("seconds", 0)))
    score = float(values.get("x", 0)) * (step + 1)
    add(os.environ["SCAN_LIGHTNING_REPORT"], json.dumps({"step": 10 * step, "metrics": {"score": score, "other": 1}}))
if int(values.get("status", 0)) == 0:
    add("rows.txt", json.dumps({**values, "score": score}, sort_keys=True))
sys.exit(int(values.get("status", 0)))
"""
COMMAND = ["${env}", "python", "-S", "toy.py", "${args}"]
METRIC = {"name": "score", "goal": "maximize"}
START = "import sys; from scan_lightning.commands import sweep; sys.exit(sweep.main(sys.argv[1:]))"
"""`scan-lightning sweep` without the start of all other commands."""


def write_sweep(folder: Path, file: str = "toy.yaml", **content: Any) -> Path:
    """Write the program and a sweep file beside it: a grid over x unless the content says otherwise."""
    (folder / "toy.py").write_text(PROGRAM, "utf-8")
    filled = {"method": "grid", "metric": METRIC, "parameters": {"x": {"values": [1, 2, 3]}}, "command": COMMAND}
    path = folder / file
    kept = {key: value for key, value in {**filled, **content}.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False), "utf-8")
    return path


def start_sweep(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start the command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    """Lines of JSON, sorted by arguments; none where there is no file."""
    if not path.is_file():
        return []
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return sorted(found, key=lambda line: sorted((name, str(line[name])) for name in line if name != "score"))
