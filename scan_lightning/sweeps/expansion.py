"""The command of a sweep with its macros filled in, as a W&B agent does it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scan_lightning.sweeps.specification import Sweep

DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
"""W&B's command where the file has none."""
_ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_MACRO = re.compile(r"\$\{(.*)\}", re.DOTALL)
_ARGUMENTS_FILE = "args_json_file"
_MACROS = (
    "env",
    "interpreter",
    "program",
    "args",
    "args_no_equals",
    "args_no_hyphens",
    "args_no_boolean_flags",
    "args_append_hydra",
    "args_override_hydra",
    "args_json",
    _ARGUMENTS_FILE,
)
_JSON_EXPONENT = 1e21  # from here on W&B's server writes whole numbers with an exponent, which Python reads as float


def check_command(command: Any, *, program: str | None) -> None:
    """Raise unless a command is one that both W&B's agent and the offline runner can expand.

    Args:
        command: What stands under ``command`` in the file.
        program: What stands under ``program``.

    Raises:
        ValueError: With what is wrong. A macro that W&B does not know, an agent leaves out without a word.
    """
    if not isinstance(command, list) or not command:
        raise ValueError(f"command: expected a list of parts, got {command!r}")
    for position, part in enumerate(command):
        if isinstance(part, bool) or not isinstance(part, str | int | float):
            raise ValueError(f"command[{position}]: expected text, got {part!r}")
        macro = _MACRO.fullmatch(_ENVIRONMENT.sub("", str(part)))
        if macro and macro.group(1) not in _MACROS:
            raise ValueError(f"command[{position}]: expected one of {', '.join(_MACROS)} or envvar:NAME, got {part}")
    if "${program}" in command and not program:
        raise ValueError("program: the command has ${program}, expected a file, got none")


def expand_command(sweep: Sweep, values: Mapping[str, Any], *, arguments_file: Path | None = None) -> list[str]:
    """Fill in a sweep's command for one trial, as W&B's agent does.

    A mapping or a list reaches the command as Python writes it, such as ``--variant={'label': 'both'}``; a fraction
    that is whole as a whole number; an environment variable that is not set as its own name.

    Args:
        sweep: With the command.
        values: Of its parameters, nested ones as mappings.
        arguments_file: File to write the values to, where the command has ``${args_json_file}``.

    Returns:
        The command's parts.

    Raises:
        ValueError: If the command has ``${args_json_file}`` and none is given.
    """
    seen = {name: _as_received(values[name]) for name in sorted(values)}
    macros = _macro_values(seen, sweep.program)
    parts: list[str] = []
    for part in sweep.command:
        filled = _ENVIRONMENT.sub(lambda match: os.environ.get(match.group(1), match.group(1)), part)
        macro = _MACRO.fullmatch(filled)
        if not macro:
            parts.append(filled)
        elif macro.group(1) == _ARGUMENTS_FILE:
            if arguments_file is None:
                raise ValueError(
                    f"{sweep.name}: the command has ${{{_ARGUMENTS_FILE}}}, expected a file for it, got none"
                )
            arguments_file.write_text(json.dumps(seen), encoding="utf-8")
            parts.append(str(arguments_file))
        else:
            parts += macros.get(macro.group(1), [])
    return parts


def _as_received(value: Any) -> Any:
    """A value as an agent receives it, through JSON that W&B's server writes: a whole fraction is a whole number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _JSON_EXPONENT:
        return int(value)
    if isinstance(value, Mapping):
        return {key: _as_received(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_received(item) for item in value]
    return value


def _macro_values(values: Mapping[str, Any], program: str | None) -> dict[str, list[str]]:
    """What each macro stands for, but the file of arguments."""
    pairs = [f"{name}={value}" for name, value in values.items()]
    switches = [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items() if value is not False
    ]
    return {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [str(program)],
        "args": [f"--{pair}" for pair in pairs],
        "args_no_equals": [part for name, value in values.items() for part in (f"--{name}", str(value))],
        "args_no_hyphens": pairs,
        "args_no_boolean_flags": switches,
        "args_append_hydra": [f"+{pair}" for pair in pairs],
        "args_override_hydra": [f"++{pair}" for pair in pairs],
        "args_json": [json.dumps(values)],
    }
