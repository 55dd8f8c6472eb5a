"""Imports go down only, and each large library has one home (docs/design.md, section 2)."""

import ast
from pathlib import Path

import pytest

PACKAGE = "scan_lightning"
ROOT = Path(__file__).parents[1] / PACKAGE

# A part may import parts of lower rank and itself, never a part of its own rank. A new module needs its line here.
RANKS = {
    "types": 0,
    "files": 0,
    "models": 1,
    "losses": 1,
    "metrics": 1,
    "data": 1,
    "optim": 1,
    "tables": 1,
    "module": 2,
    "clip_module": 2,
    "baselines": 2,
    "convert": 2,
    "record": 2,
    "callbacks": 3,
    "verification": 3,
    "analysis": 4,
    "sweeps": 4,
    "reports": 5,
    "commands": 6,
    "experiments": 6,
    "cli_errors": 6,
    "cli_lightning": 7,
    "cli": 8,
    "__main__": 9,
}

# Library -> the modules that may import it, as prefixes below the package.
HOMES = {
    "open_clip": ("models.clip",),
    "albumentations": ("data",),
    "datasets": ("data",),
    "wandb": ("callbacks", "cli"),
    "lightning": (
        "module",
        "clip_module",
        "baselines",
        "data",
        "callbacks",
        "commands.evaluate",
        "commands.run",
        "cli",
    ),
    "pytorch_lightning": (),  # the old name of lightning
    "lightning_fabric": (),
    "matplotlib": ("reports",),
}


def imported(node: ast.AST) -> list[str]:
    """Dotted names that a statement imports; a relative import is given as it stands, with its dots."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level:
            return ["." * node.level + (node.module or "")]
        # "from scan_lightning import types" names a part; deeper, the module is enough to know the layer.
        if node.module == PACKAGE:
            return [f"{PACKAGE}.{alias.name}" for alias in node.names]
        return [node.module or ""]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("import_module", "__import__"):
            return [str(node.args[0].value)]
    return []


def allowed_home(module: str, homes: tuple[str, ...]) -> bool:
    """Whether a module, named below the package, lies in one of a library's homes."""
    # models/clip.py, models/clip_blocks.py and models/clip/x.py are all at home in "models.clip".
    return any(module == home or module.startswith((f"{home}.", f"{home}_")) for home in homes)


def breach_of(target: str, module: str) -> str | None:
    """What is wrong with one import, or None."""
    if target.startswith("."):
        return f"relative import {target}"
    head, *rest = target.split(".")
    if head != PACKAGE:
        if head in HOMES and not allowed_home(module, HOMES[head]):
            return f"imports {head}, whose home is {', '.join(HOMES[head]) or 'nowhere'}"
        return None
    if len(rest) > 2:
        return f"imports {target}, more than three dotted parts"
    part = module.split(".")[0]
    if not rest or rest[0] == part or rest[0] == "__version__":
        return None
    if rest[0] not in RANKS:
        return f"imports {target}, which has no rank"
    if part == "__init__" or RANKS[rest[0]] >= RANKS[part]:
        return f"imports {target}, which is not below {part}"
    return None


def breaches(source: str, module: str) -> list[str]:
    """Every breach in a module's source; ``module`` is its dotted name below the package."""
    part = module.split(".")[0]
    if part not in RANKS and part != "__init__":
        return [f"{module} has no rank: give {part!r} a line in RANKS"]
    targets = [target for node in ast.walk(ast.parse(source)) for target in imported(node)]
    found = (breach_of(target, module) for target in targets)
    return [f"{module} {message}" for message in found if message]


def modules() -> dict[str, Path]:
    """Modules of the package, by dotted name below it."""
    files = sorted(ROOT.rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}


def test_layers_of_the_package() -> None:
    assert {"types", "models.__init__", "data.__init__", "callbacks.__init__"} <= set(modules())
    found = [breach for name, path in modules().items() for breach in breaches(path.read_text("utf-8"), name)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("types", "from scan_lightning.models.clip import Clip", "not below types"),
        ("models.scan", "import scan_lightning.data.base", "not below models"),
        ("metrics.sg_iou", "from scan_lightning import losses", "not below metrics"),
        ("losses.mask", "def f():\n    from scan_lightning.metrics import confusion", "not below losses"),
        ("module", "from scan_lightning.callbacks import visualization", "not below module"),
        ("module", "from scan_lightning.clip_module import ClipModule", "not below module"),
        ("convert", "from scan_lightning.commands import verify", "not below convert"),
        ("callbacks.results", "import importlib\nimportlib.import_module('scan_lightning.cli')", "not below callbacks"),
        ("__init__", "from scan_lightning.module import ScanModule", "not below __init__"),
        ("module", "from scan_lightning.models.clip.tower import Tower", "three dotted parts"),
        ("models.scan", "from .clip import Clip", "relative import"),
        ("models.scan", "from . import clip", "relative import"),
        ("models.scan", "import open_clip", "imports open_clip"),
        ("models.clipping", "import open_clip", "imports open_clip"),
        ("module", "import albumentations as A", "imports albumentations"),
        ("models.prompts", "from datasets import load_dataset", "imports datasets"),
        ("module", "import wandb", "imports wandb"),
        ("metrics.confusion", "from lightning.pytorch import LightningModule", "imports lightning"),
        ("experiments", "import lightning", "imports lightning"),
        ("cli", "import pytorch_lightning", "imports pytorch_lightning"),
        ("utils", "import torch", "no rank"),
        ("module", "from scan_lightning.utils import thing", "no rank"),
    ],
)
def test_layers_breach_is_found(module: str, source: str, message: str) -> None:
    found = breaches(source, module)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models.scan", "from scan_lightning.models.clip import Clip\nfrom scan_lightning.types import Batch"),
        ("models.clip_blocks", "import open_clip"),
        ("data.transforms", "import albumentations\nfrom datasets import load_dataset\nimport lightning"),
        ("commands.verify", "from scan_lightning.convert import load\nfrom scan_lightning import models"),
        ("callbacks.results", "import wandb\nfrom scan_lightning.types import Vocabulary"),
        ("cli", "from scan_lightning import __version__\nfrom scan_lightning.experiments import run"),
    ],
)
def test_layers_lawful_import_passes(module: str, source: str) -> None:
    assert breaches(source, module) == []
