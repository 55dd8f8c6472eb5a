"""The one entry point: ``scan-lightning fit | validate | test | predict`` and the commands beside them.

Lightning and what else takes seconds to import is left to the command that is asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from scan_lightning.cli_errors import report, unknown_command

if TYPE_CHECKING:
    from jsonargparse import Namespace

LIGHTNING = {
    "fit": "Train from a recipe: fit -c experiments/quickstart.yaml",
    "validate": "Score the validation split.",
    "test": "Score the test split: test -c RECIPE -c OVERLAY --ckpt_path FILE",
    "predict": "Segment the images of a data set's prediction split.",
}
"""Lightning's commands, with a line of help each."""
COMMANDS = {
    "ablate": "Answer the questions of ablation files: every combination, every seed, resumable.",
    "analyse": "Measure the paper's two claims: in-vocabulary collapse, domain bias.",
    "benchmark": "Measure this machine: loading of training crops, memory of the semantic map.",
    "convert": "Convert released weights to this project's folders and back.",
    "data": "List, check and prepare data sets; propose parents of classes.",
    "evaluate": "Test a network on all benchmarks on disk: one table, resumable.",
    "pairs": "Make an index of mask-text pairs, to tune CLIP under Contextual Shift on.",
    "plan": "Tell what a recipe takes: parameters, operations, memory, steps.",
    "plot": "Draw plots from rows of results: curves, layers, seen against unseen classes.",
    "run": "Train unless an equal training is there, test, add one row: what sweeps and ablations repeat.",
    "segment": "Segment images by any words: label maps, overlays, JSON.",
    "sweep": "Run a W&B sweep file offline: grid, random, bayes; several workers, resumable.",
    "table": "Make tables from rows of results, in files or within Markdown documents.",
    "verify": "Compare every stage with a folder of reference tensors.",
}
"""The commands beside Lightning's, with a line of help each; modules of `scan_lightning.commands` bear their names."""


def read_recipe(arguments: Sequence[str]) -> Namespace:
    """Read what a subcommand of Lightning would run with.

    Args:
        arguments: The subcommand and its arguments, such as ``["fit", "--config=experiments/quickstart.yaml"]``.

    Returns:
        The configuration of the subcommand.
    """
    from scan_lightning import cli_lightning

    return cli_lightning.read_recipe(arguments)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: Arguments without the program's name; None takes those of the process.

    Returns:
        Exit status: 0 for success, 1 for a failure that has been reported, 128 and the signal's number after a signal.

    Raises:
        SystemExit: With status 2, if the arguments cannot be parsed, as reported.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        _print_help()
        return 0
    if command == "--version":
        print(f"scan-lightning {version('scan-lightning')}")
        return 0
    if not command.startswith("-") and command not in (*LIGHTNING, *COMMANDS):
        print(unknown_command(command, [*LIGHTNING, *COMMANDS]), "see scan-lightning --help", sep="\n", file=sys.stderr)
        raise SystemExit(2)
    try:
        if command in COMMANDS:
            return _run_own(command, arguments[1:])
        _lightning(None if args is None else arguments)
    except Exception as error:
        status = report(error)
        if status is None:
            raise
        return status
    return 0


def _run_own(name: str, arguments: list[str]) -> int:
    """Run one of `COMMANDS` with what it takes from Lightning's part of the command line."""
    module: Any = importlib.import_module(f"scan_lightning.commands.{name}")
    taken: dict[str, Callable[..., Any]] = {}
    if name in ("ablate", "run"):
        from scan_lightning.commands.run import Runner

        return int(module.main(arguments, runner=Runner(read=read_recipe, launch=_lightning)))
    if name in ("analyse", "plan"):
        taken["read"] = read_recipe
    if name in ("analyse", "evaluate"):
        from scan_lightning.cli_lightning import check_checkpoint

        taken["check_checkpoint"] = check_checkpoint
    return int(module.main(arguments, **taken))


def _lightning(arguments: list[str] | None) -> bool:
    """Run one of Lightning's subcommands, see `cli_lightning.run_lightning`; processes of `ablate` get it by name."""
    from scan_lightning import cli_lightning

    return cli_lightning.run_lightning(arguments)


def _print_help() -> None:
    """Print all commands."""
    print("usage: scan-lightning COMMAND [options]   (COMMAND --help tells the options, --version the version)\n")
    for name, text in {**LIGHTNING, **COMMANDS}.items():
        print(f"  {name:10} {text}")


if __name__ == "__main__":
    sys.exit(main())
