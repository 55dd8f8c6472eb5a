"""A sweep file: W&B's format and nothing else, checked key by key, with an overlay for another size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scan_lightning.sweeps.expansion import DEFAULT_COMMAND, check_command
from scan_lightning.sweeps.parameters import Parameter, check_parameters

METHODS = ("grid", "random", "bayes")
# W&B's schema forbids other keys at the top: `wandb sweep` warns of them, and this suite refuses them.
_TEXTS = ("name", "description", "program", "project", "entity", "apiVersion", "kind", "job", "image_uri")
_KEYS = frozenset({*_TEXTS, "method", "metric", "parameters", "early_terminate", "command", "run_cap", "controller"})
_UNSUPPORTED = frozenset({"metrics", "scheduler"})
_IMPUTE = ("latest", "best", "worst")
_METRIC_CHOICES = {
    "goal": ("minimize", "maximize"),
    "impute": _IMPUTE,
    "impute_while_running": (*_IMPUTE, "false", False),
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a sweep optimises.

    Attributes:
        name: As it is logged, such as "val/miou_any".
        goal: "minimize" (W&B's default) or "maximize".
        target: Once a trial reaches it, no further one begins.
    """

    name: str
    goal: str = "minimize"
    target: float | None = None

    def reached(self, value: float) -> bool:
        """Whether a value is as good as the target.

        Args:
            value: Of the metric.

        Returns:
            False where there is no target.
        """
        if self.target is None:
            return False
        return value >= self.target if self.goal == "maximize" else value <= self.target


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep file and its overlay say.

    Attributes:
        name: The file's ``name``, or else its name without suffix.
        stem: The file's name without suffix.
        description: In words.
        method: "grid", "random" or "bayes".
        metric: What is optimised; None where nothing is.
        parameters: As in the file.
        early_terminate: W&B's hyperband, as in the file; None goes to the end of every trial.
        command: Parts with macros such as ``${args}``.
        program: What ``${program}`` stands for.
        run_cap: The largest number of trials; None knows no bound.
        content: The whole file, overlay applied.
    """

    name: str
    stem: str
    description: str
    method: str
    metric: Metric | None
    parameters: Mapping[str, Parameter]
    early_terminate: Mapping[str, Any] | None
    command: tuple[str, ...]
    program: str | None = None
    run_cap: int | None = None
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_yaml(self) -> str:
        """Write the sweep as a file that `wandb sweep` takes.

        Returns:
            YAML, overlay applied.
        """
        return yaml.safe_dump(dict(self.content), sort_keys=False, allow_unicode=True, width=120)


def load_sweep(path: Path, overlay: Path | None = None) -> Sweep:
    """Read a sweep file.

    Args:
        path: YAML in W&B's format.
        overlay: YAML that replaces keys of the file, and of ``parameters`` single ones; null removes a key. A folder
            stands for the file of the same name in it.

    Returns:
        The sweep.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: With the file and the key that is wrong, what was expected and what came.
    """
    content = _read(path)
    read = str(path)
    if overlay is not None:
        overlay = overlay / path.name if overlay.is_dir() else overlay
        read = f"{path} with {overlay}"
        content = _merge(content, _read(overlay), str(overlay))
    try:
        return _sweep(content, path.stem)
    except ValueError as error:
        raise ValueError(f"{read}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    """Read a YAML mapping."""
    if not path.is_file():
        raise FileNotFoundError(f"no sweep file {path}")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping with method, parameters and command, got {content!r}")
    return content


def _merge(content: dict[str, Any], overlay: dict[str, Any], name: str) -> dict[str, Any]:
    """Lay an overlay over a file."""
    changes = dict(overlay)
    parameters = changes.pop("parameters", {})
    if not isinstance(parameters, dict):
        raise ValueError(f"{name}: parameters: expected a mapping, got {parameters!r}")
    merged = _replace(content, changes, f"{name}: ")
    if parameters:
        merged["parameters"] = _replace(merged.get("parameters") or {}, parameters, f"{name}: parameters.")
    return merged


def _replace(values: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Replace values, and drop those that are null."""
    if absent := [key for key, value in changes.items() if value is None and key not in values]:
        raise ValueError(f"{where}{absent[0]}: null removes what the file has, it has {', '.join(values)}")
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def _sweep(content: dict[str, Any], stem: str) -> Sweep:
    """Check a file's content and take it apart."""
    _check_keys(content)
    method = content.get("method")
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    check_parameters(content.get("parameters"), method)
    metric = _metric(content.get("metric"))
    early_terminate = content.get("early_terminate")
    if metric is None and (method == "bayes" or early_terminate is not None):
        raise ValueError(
            f"metric: {'method bayes' if method == 'bayes' else 'early_terminate'} needs a metric, got none"
        )
    if early_terminate is not None:
        _check_early_terminate(early_terminate)
    command = content.get("command", list(DEFAULT_COMMAND))
    check_command(command, program=content.get("program"))
    return Sweep(
        name=content.get("name", stem),
        stem=stem,
        description=content.get("description", ""),
        method=method,
        metric=metric,
        parameters=content["parameters"],
        early_terminate=early_terminate,
        command=tuple(str(part) for part in command),
        program=content.get("program"),
        run_cap=content.get("run_cap"),
        content=content,
    )


def _check_keys(content: dict[str, Any]) -> None:
    """Raise unless all keys at the top are W&B's."""
    if unsupported := sorted(_UNSUPPORTED & content.keys()):
        raise ValueError(f"{unsupported[0]}: only sweeps of one metric by method {', '.join(METHODS)} run offline")
    if unknown := sorted(map(str, content.keys() - _KEYS)):
        raise ValueError(f"{unknown[0]}: W&B knows no such key, it knows {', '.join(sorted(_KEYS))}")
    for key in _TEXTS:
        if key in content and not isinstance(content[key], str):
            raise ValueError(f"{key}: expected text, got {content[key]!r}")
    cap = content.get("run_cap", 1)
    if isinstance(cap, bool) or not isinstance(cap, int) or cap < 1:
        raise ValueError(f"run_cap: expected a whole number above 0, got {cap!r}")


def _metric(metric: Any) -> Metric | None:
    """Check and read the metric."""
    if metric is None:
        return None
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise ValueError(f"metric: expected a mapping with a name, got {metric!r}")
    if unknown := sorted(map(str, metric.keys() - {"name", "target", *_METRIC_CHOICES})):
        raise ValueError(f"metric.{unknown[0]}: W&B knows no such key")
    for key, choices in _METRIC_CHOICES.items():
        if key in metric and metric[key] not in choices:
            raise ValueError(f"metric.{key}: expected one of {', '.join(map(str, choices))}, got {metric[key]!r}")
    target = metric.get("target")
    if target is not None and (isinstance(target, bool) or not isinstance(target, int | float)):
        raise ValueError(f"metric.target: expected a number, got {target!r}")
    return Metric(name=metric["name"], goal=metric.get("goal", "minimize"), target=target)


def _check_early_terminate(rule: Any) -> None:
    """Raise unless early termination is W&B's hyperband."""
    where = "early_terminate"
    if not isinstance(rule, dict) or rule.get("type") != "hyperband":
        raise ValueError(f"{where}: expected a mapping with type: hyperband, got {rule!r}")
    if unknown := sorted(map(str, rule.keys() - {"type", "min_iter", "max_iter", "s", "eta", "strict"})):
        raise ValueError(f"{where}.{unknown[0]}: W&B knows no such key")
    if "min_iter" not in rule and not {"max_iter", "s"} <= rule.keys():
        raise ValueError(f"{where}: expected min_iter, or max_iter and s, got {rule!r}")
    for key in rule.keys() & {"min_iter", "max_iter", "s"}:
        if isinstance(rule[key], bool) or not isinstance(rule[key], int) or rule[key] < 1:
            raise ValueError(f"{where}.{key}: expected a whole number above 0, got {rule[key]!r}")
    eta = rule.get("eta", 3)
    if isinstance(eta, bool) or not isinstance(eta, int | float) or eta <= 1:
        raise ValueError(f"{where}.eta: expected a number above 1, got {eta!r}")
    if rule.get("max_iter", eta) < eta:
        raise ValueError(f"{where}.max_iter: expected at least eta = {eta}, got {rule['max_iter']}")
    if not isinstance(rule.get("strict", False), bool):
        raise ValueError(f"{where}.strict: expected true or false, got {rule['strict']!r}")
