"""Lightning's part of the command line: ``scan-lightning fit | validate | test | predict``."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from scan_lightning.callbacks import InterruptionCallback, MonitorCallback, ResultsCallback
from scan_lightning.callbacks.checkpointing import WholeCheckpointIO, checkpoint_folders, newest_good
from scan_lightning.callbacks.report import ReportCallback
from scan_lightning.cli_errors import shorten
from scan_lightning.models.clip_weights import DAMAGE
from scan_lightning.sweeps.process import REPORT_VARIABLE


class ScanArgumentParser(LightningArgumentParser):
    """Lightning's parser, which takes options by their full names and tells errors without all its options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Tell what is wrong and end the process with status 2.

        Args:
            message: What is wrong.
            ex: The error behind it.
        """
        # A parser within a parser raises, its error is part of another; so does jsonargparse's debug mode.
        if not self.exit_on_error or "JSONARGPARSE_DEBUG" in os.environ:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        prog = parser.prog.replace(" [options]", "")
        self.exit(2, f"{prog}: error: {shorten(message)}\nsee {prog} --help\n")


class ScanCLI(LightningCLI):
    """Lightning's command line with OmegaConf files, checked checkpoints, and ``fit --test_after_fit``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what Lightning does not have.

        Args:
            parser: Of one subcommand.
        """
        parser.add_argument(
            "--test_after_fit", type=bool, default=False, help="Whether fit ends with a test of the final weights."
        )
        parser.set_defaults({"trainer.use_distributed_sampler": False})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and look at the checkpoint before anything else opens it.

        Args:
            parser: The whole parser.
            args: Arguments, or None for those of the process.
        """
        super().parse_arguments(parser, args)
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if path and path not in ("last", "best", "hpc", "registry"):
            check_checkpoint(Path(path))

    def before_instantiate_classes(self) -> None:
        """Refuse checkpoints that hold code, and leave the tables to the callbacks."""
        config = self.config[self.config.subcommand]
        config["weights_only"] = True
        if self.config.subcommand != "fit" and not config.get("ckpt_path"):
            print("scan-lightning: no --ckpt_path given, the network keeps its initial weights", file=sys.stderr)
        if "return_predictions" in config:
            config["return_predictions"] = False  # callbacks write them; keeping them all would fill the memory
        config.trainer["logger"] = _importable_loggers(config.trainer.get("logger"))
        if self.config.subcommand == "test":
            config["verbose"] = False  # ResultsCallback prints the table, with the meaning of each score

    def after_instantiate_classes(self) -> None:
        """Give the full configuration to the callbacks that record it; make the run safe and watched."""
        config = self.config[self.config.subcommand]
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ResultsCallback) and callback.config is None:
                callback.config = _plain(config)
        trainer: Trainer = self.trainer
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpointIO()
        present: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if REPORT_VARIABLE in os.environ:  # a sweep has started this process
            present.append(ReportCallback(path=Path(os.environ[REPORT_VARIABLE])))
        if self.config.subcommand == "fit":
            if trainer.loggers and not any(isinstance(callback, LearningRateMonitor) for callback in present):
                present.append(LearningRateMonitor(logging_interval="step"))
            if not any(isinstance(callback, MonitorCallback) for callback in present):
                present.append(MonitorCallback())
            present.append(InterruptionCallback())  # after those that write checkpoints and those that stop
        if config.get("ckpt_path") == "last":
            self._find_last()

    def _find_last(self) -> None:
        """Put the newest undamaged checkpoint in the place of "last"."""
        folders = checkpoint_folders(self.trainer.callbacks)  # type: ignore[attr-defined]
        if not folders:
            return  # Lightning knows where its own folders are
        path = newest_good(folders, check_checkpoint)
        if path is None and self.config.subcommand != "fit":
            raise FileNotFoundError(f"ckpt_path last: no checkpoint in {', '.join(map(str, folders))}")
        self.config_init[self.config.subcommand]["ckpt_path"] = None if path is None else str(path)
        if path is None:
            print("scan-lightning: no last checkpoint yet, training begins anew", file=sys.stderr)

    def after_fit(self) -> None:
        """Test the final weights, where the configuration says so."""
        if self.config[self.config.subcommand].get("test_after_fit"):
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)


def _importable_loggers(loggers: Any) -> Any:
    """Leave out Weights & Biases where it is not installed: the other loggers write the same numbers."""
    if not isinstance(loggers, list) or importlib.util.find_spec("wandb") is not None:
        return loggers
    kept = [logger for logger in loggers if not str(logger.get("class_path")).endswith("WandbLogger")]
    if len(kept) < len(loggers):
        print("scan-lightning: wandb is not installed, the other loggers write the same numbers", file=sys.stderr)
    return kept


def _plain(config: Namespace) -> dict[str, Any]:
    """Turn a parsed configuration into plain values; what is not plain becomes its text."""
    plain: dict[str, Any] = {}
    for key, value in config.as_dict().items():
        plain[key] = value if isinstance(value, dict | list | str | int | float | bool | None) else str(value)
    return plain


class _ParserMade(Exception):  # noqa: N818
    """Ends the command line once its parser is made."""

    def __init__(self, parser: LightningArgumentParser) -> None:
        super().__init__()
        self.parser = parser


class _ParserMaker(ScanCLI):
    """Makes the parser that `ScanCLI` makes, and parses nothing."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Stop."""
        raise _ParserMade(parser)


@cache
def _recipe_parser() -> LightningArgumentParser:
    """Make the parser of Lightning's subcommands, which does not depend on what is parsed."""
    try:
        run_lightning(["fit"], _ParserMaker)
    except _ParserMade as made:
        return made.parser
    raise AssertionError("the command line made no parser")


def read_recipe(arguments: Sequence[str]) -> Namespace:
    """Read what a subcommand of Lightning would run with.

    Args:
        arguments: The subcommand and its arguments, such as ``["fit", "--config=experiments/quickstart.yaml"]``.

    Returns:
        The configuration of the subcommand.
    """
    config = _recipe_parser().parse_args(list(arguments))
    return config[config.subcommand]  # type: ignore[no-any-return]


def check_checkpoint(path: Path) -> None:
    """Raise unless a file is a readable checkpoint of tensors and plain values.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or holds code, which is never run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"ckpt_path: no file {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused, expected a checkpoint of tensors and plain values, found code or another kind of file"
        ) from error
    except (OSError, *DAMAGE) as error:
        reason = str(error).splitlines()[0] if str(error) else "the file is empty"
        raise ValueError(f"{path}: damaged or not a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path}: expected a Lightning checkpoint with a state_dict, found none")


def run_lightning(arguments: list[str] | None, cli: type[ScanCLI] = ScanCLI) -> bool:
    """Run one of Lightning's subcommands.

    Args:
        arguments: The subcommand and its arguments; None takes those of the process.
        cli: The command line that carries it out.

    Returns:
        Whether it came to its end and no time limit ended it.
    """
    # It warns of arguments that do not come from the process; `run` and `ablate` give their own on purpose.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    trainer: Any = cli(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_class=ScanArgumentParser,
        parser_kwargs={"parser_mode": "omegaconf", "prog": "scan-lightning"},
        args=arguments,
    ).trainer
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
    return all((timer.time_remaining() or 0) > 0 for timer in timers)
