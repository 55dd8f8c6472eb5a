"""What the command line says when something is wrong."""

from __future__ import annotations

import difflib
import pickle
import sys
from collections.abc import Sequence


def report(error: Exception) -> int | None:
    """Print the message of an error that a user can mend.

    Args:
        error: What a command has raised.

    Returns:
        Exit status: 1, or that of an interrupted training; None if the error is another, of which nothing is printed.
    """
    if isinstance(error, pickle.UnpicklingError):
        print("scan-lightning: a checkpoint was refused: it holds more than tensors and plain values", file=sys.stderr)
        return 1
    if isinstance(error, ValueError | OSError | FloatingPointError):
        print(f"scan-lightning: {error}", file=sys.stderr)
        return 1
    from scan_lightning.callbacks.interruption import Interrupted  # after the fact: it imports Lightning

    if isinstance(error, Interrupted):
        print(f"scan-lightning: {error}", file=sys.stderr)
        return error.status
    return None


def unknown_command(given: str, commands: Sequence[str]) -> str:
    """Tell that there is no such command, and which there are.

    Args:
        given: What was asked for.
        commands: All commands.

    Returns:
        The message, with the most similar command where one is similar.
    """
    similar = difflib.get_close_matches(given, commands, n=1)
    hint = f", did you mean {similar[0]!r}?" if similar else ""
    return f"scan-lightning: error: no command {given!r}{hint} (choose from {', '.join(commands)})"
