"""What ``evaluate`` has to do: the benchmarks on disk, the settings of each, and the key that its row is kept by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule
from torch.utils.data import IterableDataset

from scan_lightning.callbacks.record import canonical_json
from scan_lightning.commands.evaluate_recipe import RecipeParser, Section, Subject, named_files_hash, read_section
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import load_benchmark
from scan_lightning.data.layout import DataLayoutError
from scan_lightning.data.registry import DATAMODULES

# What an image gets, and so a row, does not depend on these.
_NOT_IN_KEY = {
    "model": ("loss", "optimizer", "seed", "text_cache", "initial_weights", "export_to", "gradient_checkpointing"),
    "data": ("batch_size", "eval_batch_size", "num_workers", "seed", "train_transform"),
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A benchmark to evaluate on.

    Attributes:
        name: Short name, "a150", or that of the file that describes own data.
        title: Its name in tables, "A-150".
        data: Section ``data`` of the configuration.
    """

    name: str
    title: str
    data: Section


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark that is ready to be run.

    Attributes:
        name: As in `Wanted`.
        title: As in `Wanted`.
        config: The whole configuration, overlay included.
        settings: Where the test-time settings come from.
        datamodule: Set up for the test.
        images: Number of test images, of which ``limit`` may leave some out.
        published: Number of test images that the benchmark has; None for own data.
        limit: Largest number of images to look at; None for all.
        key: Hash of everything that the scores depend on.
    """

    name: str
    title: str
    config: Namespace
    settings: str
    datamodule: LightningDataModule
    images: int
    published: int | None
    limit: int | None
    key: str


def wanted_benchmarks(root: Path, names: Sequence[str]) -> tuple[list[Wanted], list[str]]:
    """Look for benchmarks below a data root.

    Args:
        root: The data root, or a data set's own folder.
        names: Keys or short names; none takes all that are on disk.

    Returns:
        Those to evaluate on, and the titles of those that are not on disk. With names all are to be evaluated on.

    Raises:
        ValueError: If a name is unknown or given twice.
    """
    keys = [load_benchmark(name).key for name in names] or list(DATAMODULES)
    if len(set(keys)) < len(keys):
        raise ValueError(f"benchmarks: expected each benchmark once, got {', '.join(names)}")
    found, absent = [], []
    for key in keys:
        kind, benchmark = DATAMODULES[key], load_benchmark(key)
        if not names and not _is_on_disk(kind(root=root)):
            absent.append(benchmark.paper_name)
            continue
        data = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": {"root": str(root)}}
        found.append(Wanted(name=benchmark.short, title=benchmark.paper_name, data=data))
    return found, absent


def wanted_data(path: Path) -> Wanted:
    """Read own data from a recipe or an overlay; what else stands in the file does not count.

    Args:
        path: YAML file with a section ``data``.

    Returns:
        The data, named after the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no such section.
    """
    section = read_section(path)
    if not isinstance(section.get("data"), dict):
        raise ValueError(f"{path}: expected a section data with class_path and init_args, found none")
    return Wanted(name=path.stem, title=path.stem, data=section["data"])


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Resolves the configuration of each benchmark.

    Attributes:
        subject: The network.
        parser: Resolves configurations.
        settings: Folder of overlays, ``<backbone>/<benchmark>.yaml``; None for none.
        backbone: Name of the folder in it; None for the one that fits the configured CLIP.
        overrides: Options such as ``--trainer.devices=2``, over everything else.
        limit: Largest number of images to look at; None for all.
    """

    subject: Subject
    parser: RecipeParser
    settings: Path | None
    backbone: str | None
    overrides: tuple[str, ...] = ()
    limit: int | None = None

    @property
    def backbone_name(self) -> str | None:
        """The backbone in force; None where nothing tells."""
        return self.backbone or self.subject.backbone

    def overlay(self, name: str) -> Path | None:
        """Find the settings of a benchmark.

        Args:
            name: Its short name.

        Returns:
            The file; None where the recipe's settings are in force.
        """
        if self.settings is None or self.backbone_name is None:
            return None
        path = self.settings / self.backbone_name / f"{name}.yaml"
        return path if path.is_file() else None

    def task(self, wanted: Wanted) -> Task:
        """Resolve the configuration of one benchmark and find its images.

        Args:
            wanted: The benchmark.

        Returns:
            What `run_task` needs.

        Raises:
            ValueError: If a setting is wrong, or the data are not laid out as expected or have no test split.
            OSError: If a file of the data cannot be read.
        """
        overlay = self.overlay(wanted.name)
        base, own = ([], [overlay.as_posix()]) if overlay else ([self.subject.settings_from], [])
        sections = [*self.subject.sections, {"data": wanted.data}, *([read_section(overlay)] if overlay else [])]
        config = self.parser.resolve(sections, self.overrides, what=str(overlay or wanted.name))
        datamodule = self.parser.datamodule(config)
        datamodule.setup("test")
        loader: Any = datamodule.test_dataloader()
        if isinstance(getattr(loader, "dataset", None), IterableDataset):
            raise ValueError("streaming: expected false, the images of a stream cannot be counted beforehand")
        images = len(loader.dataset) if hasattr(loader, "dataset") else 0
        if not images:
            raise ValueError("expected images to test on, the data have no test split")
        official = datamodule if isinstance(datamodule, BenchmarkDataModule) else None
        limit = None if self.limit is None or self.limit >= images else self.limit
        return Task(
            name=wanted.name,
            title=official.benchmark.paper_name if official else wanted.title,
            config=config,
            settings=", ".join([*base, *self.subject.overlays, *own]),
            datamodule=datamodule,
            images=images,
            published=None if official is None else official.benchmark.splits[official.eval_split],
            limit=limit,
            key=_key(self.subject, config, datamodule, images, limit),
        )


def _is_on_disk(module: BenchmarkDataModule) -> bool:
    """Tell whether the folders of any layout are there; whether they are complete is found out later."""
    try:
        folder = module.folder
    except DataLayoutError:
        return False
    return any(files.exists(folder, module.eval_split) for files in module.layouts.values())


def _key(subject: Subject, config: Namespace, datamodule: LightningDataModule, images: int, limit: int | None) -> str:
    """Hash everything that the scores depend on, and nothing that only changes how fast they come."""
    plain = config.as_dict()
    parts: dict[str, Any] = {
        part: {
            "class_path": plain[part]["class_path"],
            **{key: value for key, value in plain[part].get("init_args", {}).items() if key not in _NOT_IN_KEY[part]},
        }
        for part in ("model", "data")
    }
    network = parts["model"].get("network")
    if isinstance(network, Mapping) and isinstance(network.get("clip"), Mapping):
        # What stands in a file counts, not the file's name.
        parts["model"]["network"] = {**network, "clip": {**network["clip"], **named_files_hash(network["clip"])}}
    if "root" in parts["data"]:
        parts["data"]["root"] = Path(parts["data"]["root"]).resolve()
    hierarchy = getattr(datamodule, "hierarchy", None)
    parts |= {
        "checkpoint": subject.checkpoint_hash,
        "vocabulary": datamodule.vocabulary,  # type: ignore[attr-defined]
        "hierarchy": None if hierarchy is None else sorted(hierarchy.parents.items()),
        "images": images,
        "limit": limit,
        "trainer": {name: plain["trainer"].get(name) for name in ("precision", "limit_test_batches")},
        "version": version("scan_lightning"),
    }
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
