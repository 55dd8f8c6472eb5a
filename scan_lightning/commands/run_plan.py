"""What a run is, before anything is built: its trainings, its test, and the keys by which they are known again."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scan_lightning.callbacks.record import Row, canonical_json, file_hash

PROG = "scan-lightning run"
ReadRecipe = Callable[[Sequence[str]], Any]
"""From arguments of a subcommand of Lightning to its configuration, a namespace, without building anything."""

PASSIVE_CALLBACKS = (
    "LabelMapCallback",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "MonitorCallback",
    "PlanCallback",
    "ResultsCallback",
    "VisualizationCallback",
)
"""Callbacks that change no weight. A run brings its own of what it needs of them."""

# What cannot change the weights that a training ends with.
_NOT_TRAINING = {
    "trainer": (
        "callbacks",
        "logger",
        "default_root_dir",
        "enable_progress_bar",
        "enable_model_summary",
        "enable_checkpointing",
        "enable_autolog_hparams",
        "log_every_n_steps",
        "limit_test_batches",
        "limit_predict_batches",
        "max_time",
    ),
    "model": ("inference", "text_cache", "export_to", "initial_weights"),
    "data": ("test_size", "eval_batch_size", "num_workers"),
}
# What cannot change the scores of a test.
_NOT_TEST = {
    "trainer": tuple(name for name in _NOT_TRAINING["trainer"] if name != "limit_test_batches"),
    "model": ("text_cache", "export_to", "initial_weights", "optimizer", "loss", "frozen"),
    "data": ("num_workers",),
}
# Files that a configuration names and whose content, not whose place, identifies a training.
_WEIGHTS = (("clip", "model"), ("clip", "weights"), ("clip", "shifted_weights"), ("segmenter", "weights"))


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training that is done once, whoever asks for it.

    Attributes:
        key: Hash of everything in its configuration that can change the weights, and of what it starts from.
        folder: Where its checkpoint and weights lie.
        arguments: Of ``fit``, without those that say where to write.
        start: The training whose weights it starts from.
    """

    key: str
    folder: Path
    arguments: tuple[str, ...]
    start: Training | None = None

    @property
    def checkpoint(self) -> Path:
        """Its last checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def weights(self) -> Path:
        """Its weights as a folder."""
        return self.folder / "weights"

    @property
    def mark(self) -> Path:
        """The file that says that it came to its end."""
        return self.folder / "finished.json"


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A training, where need be, and a test that leaves one row.

    Attributes:
        key: Hash of the training's key and of everything in the test's configuration that can change its scores.
        training: What is trained.
        arguments: Of ``test``, without those that say where to write.
        columns: First columns of the row: ``key``, ``variant``, ``parameters``, ``training_hash``.
        name: Name of the row.
        rows: CSV file of rows.
    """

    key: str
    training: Training
    arguments: tuple[str, ...]
    columns: Row
    name: str
    rows: Path


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the options that are not Lightning's.

    Returns:
        The parser; what it does not know are dotted arguments of ``fit`` and ``test``.
    """
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Train, unless an equal training is there already, test, and add one row to a CSV file. Dotted "
        "options of fit and test may follow: --model.init_args.inference.replace_ratio=0.3",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-c", "--config", action="append", required=True, metavar="FILE", help="the recipe, then overlays")
    add("--test_config", action="append", default=[], metavar="FILE", help="overlay of the test alone, or [A,B,...]")
    add(
        "--start_from",
        metavar="[RECIPE,OVERLAY,...]",
        help="train this first, with the same seed, and start from its weights",
    )
    add(
        "--variant",
        metavar="YAML",
        help="dotted options as one mapping; its 'label' is for tables, its 'overlays' are files",
    )
    add("--seed_everything", type=int, metavar="N", help="all seeds of the training (default: the recipe's)")
    add("--name", help="first column of the row (default: the recipe's file name)")
    add("--rows", type=Path, default=Path("outputs/runs.csv"), help="CSV file of rows (default: %(default)s)")
    add("--runs", type=Path, default=Path("outputs/runs"), help="folder of trainings (default: %(default)s)")
    return parser


def plan_run(arguments: Sequence[str], *, read: ReadRecipe) -> RunPlan:
    """Work out what a run will train and test.

    Args:
        arguments: Of ``scan-lightning run``.
        read: Reads a recipe as Lightning's command line does.

    Returns:
        The plan. Two runs of equal ``key`` give equal scores.

    Raises:
        ValueError: If an option cannot be read.
        SystemExit: If the arguments cannot be parsed, which has been reported.
    """
    options, rest = build_parser().parse_known_args(arguments)
    variant = _mapping("variant", options.variant)
    label, overlays = str(variant.pop("label", "")), _paths("variant.overlays", variant.pop("overlays", []))
    dotted = [*rest, *(f"--{key}={_text(value)}" for key, value in variant.items())]
    configs = [f"--config={path}" for path in options.config]
    tested = [f"--config={path}" for given in options.test_config for path in _paths("test_config", given)]
    swept = [f"--config={path}" for path in overlays]
    start = None
    if options.start_from is not None:
        recipe = [f"--config={path}" for path in _paths("start_from", options.start_from)]
        start = _plan_training(recipe, seed=options.seed_everything, runs=options.runs, read=read)
    training = _plan_training(
        [*configs, *swept, *dotted], seed=options.seed_everything, runs=options.runs, read=read, start=start
    )
    seed = [] if options.seed_everything is None else [f"--seed_everything={options.seed_everything}"]
    test = (*configs, *tested, *swept, *seed, *dotted)
    config = _relevant(read(["test", *test]).as_dict(), _NOT_TEST)
    key = _hash({"training": training.key, "test": config})
    parameters = {**_parameters(rest), **variant, **({"overlays": overlays} if overlays else {})}
    return RunPlan(
        key=key,
        training=training,
        arguments=test,
        columns={
            "key": key,
            "variant": label,
            "parameters": json.dumps(parameters, sort_keys=True),
            "training_hash": training.key,
        },
        name=options.name or Path(options.config[0]).stem,
        rows=options.rows,
    )


def _plan_training(
    arguments: list[str], *, seed: int | None, runs: Path, read: ReadRecipe, start: Training | None = None
) -> Training:
    """Give a training its seeds and its key."""
    config = read(["fit", *arguments]).as_dict()
    if seed is not None:
        seeded = [part for part in ("model", "data") if "seed" in config[part]["init_args"]]
        arguments = [*arguments, f"--seed_everything={seed}", *(f"--{part}.init_args.seed={seed}" for part in seeded)]
        config["seed_everything"] = seed
        for part in seeded:
            config[part]["init_args"]["seed"] = seed
    relevant = _relevant(config, _NOT_TRAINING)
    active = [callback for callback in config["trainer"].get("callbacks") or [] if not is_passive(callback)]
    relevant["callbacks"] = active
    if active:  # one of them may end the training by the scores of a validation
        relevant["inference"] = config["model"]["init_args"].get("inference")
    relevant["start"] = start.key if start else _identity(config["model"]["init_args"].get("initial_weights"))
    key = _hash(relevant)
    return Training(key=key, folder=runs / key[:16], arguments=tuple(arguments), start=start)


def is_passive(callback: Mapping[str, Any]) -> bool:
    """Tell whether a callback leaves the weights alone.

    Args:
        callback: With ``class_path``.

    Returns:
        Whether it is one of `PASSIVE_CALLBACKS`.
    """
    return str(callback["class_path"]).rpartition(".")[2] in PASSIVE_CALLBACKS


def _relevant(config: dict[str, Any], left_out: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Leave out what does not count, and put hashes in the place of files of weights."""
    config = copy.deepcopy({name: config[name] for name in ("seed_everything", "trainer", "model", "data")})
    for part, names in left_out.items():
        section = config[part] if part == "trainer" else config[part]["init_args"]
        for name in names:
            section.pop(name, None)
    network = config["model"]["init_args"].get("network") or {}
    if left_out is _NOT_TRAINING and "clip" in network:
        network["clip"].pop("shifted_weights", None)
    for part, name in _WEIGHTS:
        if name in (network.get(part) or {}):
            network[part][name] = _identity(network[part][name])
    return config


def _identity(path: Any) -> str | None:
    """Give the content of a file or folder of weights as a hash; what is not on the disk is known by its name."""
    if path is None:
        return None
    place = Path(str(path))
    if place.is_file():
        return file_hash(place)
    if place.is_dir():
        return _hash({file.name: file_hash(file) for file in sorted(place.iterdir()) if file.is_file()})
    return str(path)


def _hash(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def _yaml(name: str, text: Any) -> Any:
    """Read a value of the command line."""
    try:
        return yaml.safe_load(text) if isinstance(text, str) else text
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: expected YAML, got {text!r}") from error


def _mapping(name: str, text: str | None) -> dict[str, Any]:
    """Read an option that is a mapping."""
    value = {} if text is None else _yaml(name, text)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a mapping of dotted options, got {text!r}")
    return {str(key): item for key, item in value.items()}


def _paths(name: str, text: Any) -> list[str]:
    """Read an option that is a path or a list of them."""
    value = _yaml(name, text)
    if value is None:
        return []
    paths = value if isinstance(value, list) else [value]
    if not all(isinstance(path, str) for path in paths):
        raise ValueError(f"{name}: expected a path or a list of them, got {text!r}")
    return paths


def _text(value: Any) -> str:
    """Write a value as a dotted option takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _parameters(dotted: Sequence[str]) -> dict[str, Any]:
    """Read dotted options back as values."""
    pairs = (option.removeprefix("--").partition("=") for option in dotted)
    return {key: _yaml(key, value) for key, _, value in pairs}
