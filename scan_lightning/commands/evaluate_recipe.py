"""What ``evaluate`` tests: a recipe and its weights, resolved for one benchmark after the other."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from scan_lightning.callbacks.record import file_hash
from scan_lightning.models.pretrained import CONFIG_NAME, SHIPPED_SCAN, WEIGHTS_NAME, load_scan, recommended_settings

Section = dict[str, Any]
"""A part of a configuration, as a YAML file holds it."""

_PARTS = ("model", "trainer", "data")
_BACKBONE = re.compile(r"ViT-([A-Za-z]+)-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The network that is evaluated.

    Attributes:
        sections: Configurations of model and Trainer, later ones over earlier ones.
        seed: For `seed_everything`.
        ckpt_path: Lightning checkpoint to load, or None where the sections name the weights.
        checkpoint_hash: sha256 of the weights.
        settings_from: Where the test-time settings stand that no overlay changes.
        overlays: Overlays of these settings that hold for every benchmark.
    """

    sections: tuple[Section, ...]
    seed: int
    ckpt_path: Path | None
    checkpoint_hash: str
    settings_from: str
    overlays: tuple[str, ...] = ()

    @property
    def backbone(self) -> str | None:
        """Name of the folder of settings for the configured CLIP, "vit_b16"; None where its name does not tell."""
        found = None
        for section in self.sections:
            clip = _at(section, "model", "init_args", "network", "clip", "model")
            match = _BACKBONE.search(str(clip)) if clip else None
            found = f"vit_{match[1]}{match[2]}".lower() if match else None if clip else found
        return found


def read_subject(
    recipes: Sequence[Path],
    *,
    ckpt_path: Path | None,
    weights: Path | None,
    text_cache: Path,
    check_checkpoint: Callable[[Path], None],
) -> Subject:
    """Find out what is to be evaluated.

    Args:
        recipes: Recipe and overlays of it; overlays alone, or nothing, take the architecture from the weights.
        ckpt_path: Lightning checkpoint of the recipe's network.
        weights: Folder from `save_scan`; None for that of the recipe, without one for the shipped network.
        text_cache: Where text features are remembered if no recipe says so.
        check_checkpoint: Raises unless a file is a readable checkpoint.

    Returns:
        The network.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or the arguments do not go together.
    """
    sections = [read_section(path) for path in recipes]
    for section in sections:
        section.pop("data", None)  # that of training
    seeds = [section.pop("seed_everything", None) for section in sections]
    overlays = tuple(path.as_posix() for path, section in zip(recipes, sections, strict=True) if _is_overlay(section))
    settings_from = "the recipe"
    if not any(_at(section, "model", "class_path") for section in sections):
        if ckpt_path is not None:
            raise ValueError("ckpt_path: expected the recipe of this checkpoint with it, give it with -c")
        weights = weights or SHIPPED_SCAN
        sections.insert(0, _from_weights(weights, text_cache))
        settings_from = "the weights' own"
    if ckpt_path is not None:
        check_checkpoint(ckpt_path)
        digest = file_hash(ckpt_path)
    elif weights is not None:
        digest = folder_hash(weights, (CONFIG_NAME, WEIGHTS_NAME))
    else:
        initial = [_at(section, "model", "init_args", "initial_weights") for section in sections]
        named = next((Path(folder) for folder in reversed(initial) if folder), None)
        if named is None:
            raise ValueError("expected trained weights, give --ckpt_path or --weights")
        weights, digest = named, folder_hash(named, (CONFIG_NAME, WEIGHTS_NAME))
    if any(_at(section, "model", "init_args", "network") for section in sections):
        # What training started from is in the weights already, and need not be there any more.
        started = {"initial_weights": None if weights is None else str(weights)}
        sections.append({"model": {"init_args": {**started, "network": {"segmenter": {"weights": None}}}}})
    return Subject(
        sections=tuple(sections),
        seed=next((int(seed) for seed in reversed(seeds) if type(seed) is int), 0),
        ckpt_path=ckpt_path,
        checkpoint_hash=digest,
        settings_from=settings_from,
        overlays=overlays,
    )


def read_section(path: Path) -> Section:
    """Read model, Trainer and data from a YAML file; callbacks and loggers are those of training and left out.

    Args:
        path: A recipe or an overlay.

    Returns:
        What the file says of ``model``, ``trainer``, ``data`` and ``seed_everything``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML file of keys and values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a YAML file, found no such file")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a configuration in YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys and values, got {type(content).__name__}")
    section = {str(key): content[key] for key in (*_PARTS, "seed_everything") if content.get(key) is not None}
    if isinstance(section.get("trainer"), dict):
        trainer = section["trainer"].items()
        section["trainer"] = {key: value for key, value in trainer if key not in ("callbacks", "logger")}
    return section


class RecipeParser:
    """Resolves sections of model, Trainer and data as Lightning's command line does."""

    def __init__(self) -> None:
        self._parser = ArgumentParser(parser_mode="omegaconf", exit_on_error=False)
        self._parser.add_argument("--config", action="config")
        self._parser.add_class_arguments(Trainer, "trainer", instantiate=False)
        self._parser.add_subclass_arguments(LightningModule, "model", required=True)
        self._parser.add_subclass_arguments(LightningDataModule, "data", required=True)

    def resolve(self, sections: Iterable[Section], overrides: Sequence[str], *, what: str) -> Namespace:
        """Merge sections and check every value.

        Args:
            sections: Later ones over earlier ones.
            overrides: Options such as ``--trainer.devices=2``, over all sections.
            what: Name for errors.

        Returns:
            The configuration, with ``model``, ``trainer`` and ``data``.

        Raises:
            ValueError: If a key is unknown or a value wrong.
        """
        kept = [{part: section[part] for part in _PARTS if section.get(part)} for section in sections]
        arguments = [f"--config={json.dumps(section)}" for section in kept if section]
        try:
            config = self._parser.parse_args([*arguments, *overrides])
        except (argparse.ArgumentError, TypeError) as error:
            raise ValueError(f"{what}: {error}") from error
        return config

    def datamodule(self, config: Namespace) -> LightningDataModule:
        """Make the datamodule of a configuration.

        Args:
            config: From `resolve`.

        Returns:
            The datamodule; nothing is read yet.
        """
        part = config.clone()
        part["model"] = None
        made: LightningDataModule = self._parser.instantiate(part).data
        return made

    def model_and_trainer(self, config: Namespace) -> tuple[LightningModule, dict[str, Any]]:
        """Make the model of a configuration.

        Args:
            config: From `resolve`.

        Returns:
            The model, and the arguments of the Trainer.
        """
        part = config.clone()
        part["data"] = None
        made = self._parser.instantiate(part)
        return made.model, dict(vars(made.trainer))


def named_files_hash(config: Mapping[str, Any]) -> dict[str, str]:
    """Hash the files and folders that a network's CLIP is read from: they may change under the same name.

    Args:
        config: Section ``network.clip``.

    Returns:
        sha256 by key, for values that are paths of files or folders.
    """
    found = {}
    for key, value in config.items():
        path = Path(value) if isinstance(value, str | Path) and str(value) else None
        if path is not None and path.is_file():
            found[key] = file_hash(path)
        elif path is not None and path.is_dir():
            names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
            found[key] = folder_hash(path, names)
    return found


def _from_weights(folder: Path, text_cache: Path) -> Section:
    """Write the recipe's part that a saved network stands for."""
    network = asdict(load_scan(folder).config)
    settings = asdict(recommended_settings(folder))
    arguments = {"network": network, "inference": settings, "text_cache": str(text_cache)}
    return {"model": {"class_path": "scan_lightning.module.ScanModule", "init_args": arguments}}


def _is_overlay(section: Section) -> bool:
    """Tell whether a file changes test-time settings of a model that another one names."""
    names_model = _at(section, "model", "class_path") is not None
    return not names_model and _at(section, "model", "init_args", "inference") is not None


def folder_hash(folder: Path, names: Iterable[str]) -> str:
    """Hash some files of a folder together.

    Args:
        folder: Of a network.
        names: Of its files, in the order of the hash.

    Returns:
        64 hexadecimal digits of a SHA-256.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    digest = hashlib.sha256()
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"weights: expected {name} in {folder}, found no such file")
        digest.update(f"{name}:{file_hash(folder / name)}\n".encode())
    return digest.hexdigest()


def _at(section: Mapping[str, Any], *keys: str) -> Any:
    """Look a value up below several keys; None where there is none."""
    value: Any = section
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
