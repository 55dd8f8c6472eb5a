"""``scan-lightning sweep``: a W&B sweep file without W&B, on Optuna."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scan_lightning.commands.console import at_least_one
from scan_lightning.sweeps import load_sweep

PROG = "scan-lightning sweep"


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning sweep``.

    Args:
        args: Arguments behind the command's name.

    Returns:
        Exit status: 0 if every trial was completed or stopped early, 1 if one failed or the call was wrong, as
        reported, 128 and the signal's number after a signal.
    """
    options = _parser().parse_args(args)
    try:
        sweep = load_sweep(options.file, options.overlay)
        if options.print:
            print(sweep.to_yaml(), end="")
            return 0
        from scan_lightning.commands.sweep_run import run_sweep  # Optuna would slow down the start of all commands

        return run_sweep(sweep, options)
    except (ValueError, OSError, ImportError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Run a W&B sweep file without W&B: grid, random or bayes (Optuna's TPE), with hyperband. The same "
        "command, here or on another machine with the same --storage, joins the work or goes on with it; trials of "
        "workers that died are done again. A trial reports its scores in the file that SCAN_LIGHTNING_REPORT names, as "
        'fit, validate, test and run do by themselves: lines of {"step": 10, "metrics": {"val/miou_any": 0.5}}.',
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", type=Path, help="sweep file; `wandb sweep FILE` takes the same")
    add("-o", "--overlay", type=Path, metavar="PATH", help="file, or folder of the file of the same name, laid over it")
    add(
        "--trials",
        type=at_least_one,
        metavar="N",
        help="trials in all (a grid: all; else run_cap of the file)",
    )
    gpus = "for one on each GPU start the command once for each CUDA_VISIBLE_DEVICES"
    add("--workers", type=at_least_one, default=1, metavar="N", help=f"trials at once (%(default)s); {gpus}")
    add("--storage", metavar="URL", help="database as SQLAlchemy writes it (SQLite in DIR/FILE.db)")
    add("--output", type=Path, default=Path("outputs/sweeps"), metavar="DIR", help="(%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of random and bayes (%(default)s)")
    add("--stop_on_failure", action="store_true", help="begin no trial after a failed one (go on, exit with 1)")
    add("--retry_failed", action="store_true", help="do failed trials again")
    beats = "between signs of life of a trial; when they fail to come it is done again (%(default)s)"
    add("--heartbeat", type=at_least_one, default=15, metavar="SECONDS", help=beats)
    add("--grace", type=float, metavar="SECONDS", help="from SIGTERM to SIGKILL of a trial (two heartbeats)")
    add("--print", action="store_true", help="write the file with its overlay, for `wandb sweep`, and run nothing")
    return parser
