"""``scan-lightning analyse``: measure the paper's two claims, in-vocabulary collapse and domain bias."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from scan_lightning.commands import analyse_collapse, analyse_domain
from scan_lightning.commands.analyse_recipe import Call, ReadRecipe, add_common_options

PROG = "scan-lightning analyse"


def main(args: Sequence[str], *, read: ReadRecipe, check_checkpoint: Callable[[Path], None]) -> int:
    """Run ``scan-lightning analyse``.

    Args:
        args: Arguments behind the command's name, the first of which names the claim.
        read: Reads a recipe as Lightning's commands do.
        check_checkpoint: Raises unless a file is a readable checkpoint.

    Returns:
        Exit status: 0 once measured, 1 if something was wrong, as reported.
    """
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Measure what the paper claims: that proposal embeddings collapse onto the training classes, and "
        "that masked crops are foreign to CLIP. Rows are added to CSV files; what has its rows is not measured again.",
        allow_abbrev=False,
    )
    claims = parser.add_subparsers(required=True, metavar="CLAIM")
    for part in (analyse_collapse, analyse_domain):
        claim = claims.add_parser(
            part.NAME,
            help=part.HELP,
            description=f"{part.DESCRIPTION} Options of test may follow: --data.init_args.num_workers=4",
            allow_abbrev=False,
        )
        add_common_options(claim)
        part.add_options(claim)
        claim.set_defaults(run=part.run)
    options, rest = parser.parse_known_args(args)
    config = read(["test", *(f"--config={path}" for path in options.config), *rest])
    try:
        options.run(options, Call(config=config, check_checkpoint=check_checkpoint))
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    return 0
