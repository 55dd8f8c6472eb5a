"""``scan-lightning benchmark``: how fast training crops load, and what the semantic map costs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from scan_lightning.commands import benchmark_data, benchmark_semantic_map

PROG = "scan-lightning benchmark"


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning benchmark``.

    Args:
        args: Arguments behind the command's name, the first of which names the measurement.

    Returns:
        Exit status: 0 once measured, 1 if the call was wrong or the machine too small, as reported.
    """
    parser = argparse.ArgumentParser(prog=PROG, description="Measure this machine.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="MEASUREMENT")
    for part in (benchmark_data, benchmark_semantic_map):
        command = commands.add_parser(part.NAME, help=part.HELP, description=part.DESCRIPTION, allow_abbrev=False)
        part.add_options(command)
        command.set_defaults(run=part.run)
    options = parser.parse_args(args)
    try:
        options.run(options)
    except (ValueError, OSError, MemoryError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    return 0
