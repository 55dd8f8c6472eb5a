"""A callback that notes, in each process of a training, what it was configured with."""

import json
import os
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class RankRecord(Callback):
    """Write rank, learning rate and seed of the data to a file of the process.

    Args:
        folder: Where to.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        self.folder.mkdir(exist_ok=True)
        record = {
            "rank": trainer.global_rank,
            "of": trainer.world_size,
            "learning_rate": trainer.optimizers[0].defaults["lr"],
            "seed": trainer.datamodule.seed,  # type: ignore[attr-defined]
        }
        (self.folder / f"{os.getpid()}.json").write_text(json.dumps(record), "utf-8")
