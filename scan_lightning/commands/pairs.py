"""``scan-lightning pairs``: an index of mask-text pairs, to tune CLIP under Contextual Shift on (spec section 6)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from scan_lightning.commands import pairs_captions, pairs_truth

PROG = "scan-lightning pairs"


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning pairs``.

    Args:
        args: Arguments behind the command's name, the first of which says where the pairs come from.

    Returns:
        Exit status: 0 if the index is whole, 1 if something was wrong, as reported; 130 if it was broken off.
    """
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Make an index of mask-text pairs. Images are not copied: the index holds their paths, masks as "
        "run lengths, and texts. A run that was broken off goes on where it was.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="SOURCE")
    for part in (pairs_truth, pairs_captions):
        command = commands.add_parser(part.NAME, help=part.HELP, description=part.DESCRIPTION, allow_abbrev=False)
        part.add_options(command)
        command.set_defaults(run=part.run)
    options = parser.parse_args(args)
    try:
        options.run(options)
    except KeyboardInterrupt:
        print(f"{PROG}: broken off; run it again to go on", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    return 0
