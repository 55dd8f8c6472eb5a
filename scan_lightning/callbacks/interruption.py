"""Ending a training early without losing a step: on a signal, and at the time limit."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from scan_lightning.callbacks.checkpointing import LAST_NAME

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""What a cluster sends before it takes a machine away."""


class Interrupted(Exception):  # noqa: N818
    """A training that a signal has ended, after its checkpoint was written.

    Args:
        message: What happened and how to go on.
        status: Exit status of the process, 128 plus the signal's number as shells have it.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class InterruptionCallback(Callback):
    """Finish the optimiser's step, write last.ckpt and stop, when SIGTERM or SIGUSR1 comes or the Trainer is to stop.

    A signal ends the process; any process of several may receive it. When the Trainer is to stop before its bound, as
    at ``max_time``, training ends as usual, after the checkpoint: one that is written later, at the end of the epoch
    that was cut short, could not be resumed exactly. It must be the last of the Trainer's callbacks. A handler of
    SIGUSR1 that is there already, such as Lightning's under SLURM, is left in place.
    """

    def __init__(self) -> None:
        super().__init__()
        self._received: int | None = None
        self._handlers: dict[int, Any] = {}
        self._stop = False
        self._step = 0
        self._saved = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the signals, where this is the main thread."""
        self._received, self._stop = None, False
        self._step, self._saved = trainer.global_step, -1
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            present = signal.getsignal(number)
            # Lightning's handler of SIGTERM talks to the other processes in the middle of whatever they do.
            if number == signal.SIGTERM or present in (signal.SIG_DFL, None):
                self._handlers[number] = present
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal until the step is done."""
        self._received = number

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember at which step a checkpoint was written last."""
        self._saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop when that is asked for and the step is done.

        Args:
            trainer: The run's trainer.
            pl_module: Not used.
            outputs: Not used.
            batch: Not used.
            batch_idx: Not used.

        Raises:
            Interrupted: If a signal came, in every process.
        """
        self._stop = self._stop or trainer.should_stop
        if trainer.global_step == self._step:  # gradients are being added up, which no checkpoint holds
            trainer.should_stop = False
            return
        self._step = trainer.global_step
        received = trainer.strategy.reduce_boolean_decision(self._received is not None, all=False)
        if not received and not self._stop:
            return
        trainer.should_stop = True
        where = self._save(trainer)
        if not received:
            rank_zero_info(f"stopping at step {trainer.global_step}; {where}")
            return
        number = self._received or signal.SIGTERM
        raise Interrupted(
            f"stopped by {signal.Signals(number).name} at step {trainer.global_step}; {where}", status=128 + number
        )

    def _save(self, trainer: Trainer) -> str:
        """Write last.ckpt unless this step has a checkpoint; tell where it is and how to go on."""
        callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        if not callbacks:
            return "no checkpoint was written, since the Trainer has no ModelCheckpoint"
        callback = callbacks[0]
        path = Path(callback.last_model_path or Path(callback.dirpath or trainer.default_root_dir) / LAST_NAME)
        if not callback.save_last or self._saved != trainer.global_step:
            trainer.save_checkpoint(path)
        return f"{path} is whole, --ckpt_path last goes on from there"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop listening."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self._restore()

    def _restore(self) -> None:
        """Put the handlers back that were there before."""
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)
