"""``scan-lightning data``: the data sets of the benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from scan_lightning.commands import data_check, data_hierarchy, data_list, data_prepare

PROG = "scan-lightning data"
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "list": (data_list.main, "What is known, what is on disk, where to get the rest, licence and size."),
    "check": (data_check.main, "Look for missing, damaged and wrong files."),
    "prepare": (data_prepare.main, "Convert label files once, to the field's layout; a second run does nothing."),
    "hierarchy": (data_hierarchy.main, "Propose parents of classes for SG-IoU, from a list of words."),
}
"""The commands below ``data``, with a line of help each."""


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning data``.

    Args:
        args: Arguments behind the command's name, the first of which names the command below.

    Returns:
        Exit status: that of the command; 2 where there is no such command.
    """
    if not args or args[0] in ("-h", "--help"):
        _print_help()
        return 0
    if args[0] not in COMMANDS:
        print(f"{PROG}: expected one of {', '.join(COMMANDS)}, got {args[0]!r}", file=sys.stderr)
        return 2
    return COMMANDS[args[0]][0](args[1:])


def _print_help() -> None:
    """Print the commands below."""
    print(f"usage: {PROG} COMMAND [options]   (COMMAND --help tells the options)\n")
    for name, (_, text) in COMMANDS.items():
        print(f"  {name:10} {text}")
