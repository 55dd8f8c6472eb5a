"""What the command line says when something is wrong: one message, the innermost first, and no page of options."""

from __future__ import annotations

import difflib
import pickle
import re
import sys
from collections.abc import Sequence

LONGEST_REST = 400
"""Characters up to which what lies around the innermost message is told as well."""
LONGEST_LINE = 500
"""Characters after which a line, which then holds a whole configuration, is cut."""

# Lines of jsonargparse that frame the messages of nested settings, and of alternatives that nobody has meant.
_FRAME = re.compile(
    r"(Does not validate against any of the Union subtypes|Subtypes: |Errors:$|Given value type: |Given value: "
    r"|- Expected a <class 'NoneType'>|- a class path \(str\)|- a dict with)"
)

_NESTED = re.compile(r"Parser key|Does not validate against|Problem with given class_path|Namespace\(")
_PLACE = re.compile(r"line \d+, column \d+")


def shorten(message: str) -> str:
    r"""Put the innermost part of a nested message first, and the rest behind it if that is short.

    Args:
        message: Of jsonargparse, nested by indentation; any other stays as it is.

    Returns:
        The message in one line, without values that are whole configurations.

    Example:
        >>> shorten("Parser key 'trainer':\n  Does not validate against any of the Union subtypes\n    - no 3")
        "no 3 (in: Parser key 'trainer')"
    """
    if not _NESTED.search(message):
        return message
    lines = [_cut(line) for line in message.splitlines() if line.strip(" ^") and not _FRAME.match(line.strip())]
    if _PLACE.search(message):  # of YAML, which tells line and column in an order of its own
        return " ".join(line.strip() for line in lines)
    deepest = max(map(_depth, lines), default=0)
    inner = [line.strip().removeprefix("- ") for line in lines if _depth(line) == deepest]
    rest = "; ".join(line.strip().removeprefix("- ").rstrip(":") for line in lines if _depth(line) < deepest)
    return "; ".join(inner) + (f" (in: {rest})" if rest and len(rest) <= LONGEST_REST else "")


def _depth(line: str) -> int:
    """Count the spaces before a line, as if the dash of an item were one of them."""
    return len(line) - len(line.lstrip(" -"))


def _cut(line: str) -> str:
    """Leave out a configuration that a line quotes, and the end of a line that is still too long."""
    line = re.sub(r"\.? Got value: (Namespace\(|\{).*", "", line)
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..."


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
        print(f"scan-lightning: {shorten(str(error))}", file=sys.stderr)
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
