"""The schedule of a training, beside what Lightning makes of it, and what the log says of it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stripes import StripesModule, fit, trainer

from scan_lightning.callbacks.plan import PlanCallback, Schedule, peak_memory
from scan_lightning.module import ScanModule


@pytest.mark.parametrize(
    ("values", "effective", "steps", "epochs"),
    [
        ({"images": 118287, "batch": 4, "processes": 8, "max_steps": 120000}, 32, 120000, 120000 / 3696),
        ({"images": 118287, "batch": 4, "accumulation": 8, "max_steps": 120000}, 32, 120000, 120000 / 3697),
        ({"images": 10, "batch": 3, "max_epochs": 2}, 3, 6, 2.0),
        ({"images": 10, "batch": 1, "accumulation": 4, "max_epochs": 2, "max_steps": 5}, 4, 5, 5 / 3),
        ({"images": 10, "batch": 5}, 5, 2000, 1000.0),
        ({"images": 10, "batch": 5, "max_epochs": -1}, 5, None, None),
        ({"images": None, "batch": 2, "max_steps": 7}, 2, 7, None),
        ({"images": None, "batch": 2, "max_epochs": 3}, 2, None, None),
        ({"images": 3, "batch": 4, "max_steps": 7}, 4, 7, None),
        ({"images": 100, "batch": 5, "max_epochs": 3, "limit": 4}, 5, 12, 3.0),
        ({"images": 100, "batch": 5, "max_epochs": 3, "limit": 0.26, "accumulation": 2}, 10, 9, 3.0),
        ({"images": 10, "batch": 5, "max_epochs": 3, "limit": 40}, 5, 6, 3.0),
    ],
)
def test_schedule_counts(values: dict[str, Any], effective: int, steps: int | None, epochs: float | None) -> None:
    schedule = Schedule(**values)
    assert (schedule.effective_batch, schedule.steps, schedule.epochs) == (effective, steps, epochs)


def test_schedule_in_words() -> None:
    lines = Schedule(images=118287, batch=4, processes=8, max_steps=120000, max_epochs=-1).lines()
    assert lines == [
        "effective batch 32 = 4 images x 8 processes x 1 accumulated pass",
        "120,000 steps, 32.5 epochs of 118,287 images (3,696 steps each)",
    ]
    assert (
        Schedule(images=None, batch=1, max_epochs=-1).lines()[1] == "no bound of steps, images of an epoch not counted"
    )


@pytest.mark.parametrize("name", ["batch", "processes", "accumulation"])
def test_schedule_without_anything_raises(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        Schedule(**{"images": 3, "batch": 1, name: 0})


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 2, "accumulate_grad_batches": 2},
        {"max_steps": 3, "max_epochs": -1},
        {"max_epochs": 2, "limit_train_batches": 2},
    ],
)
def test_fit_says_its_plan_and_what_it_took(
    make_module: Callable[..., ScanModule], tmp_path: Path, options: dict[str, Any]
) -> None:
    seen, logger = Lines(), logging.getLogger("lightning.pytorch")
    logger.addHandler(seen)
    try:
        module = make_module()
        fit(module, tmp_path, callbacks=[PlanCallback()], **options)
    finally:
        logger.removeHandler(seen)
    said = [line for line in seen.lines if line.startswith(("plan: ", "done: "))]
    passes = options.get("accumulate_grad_batches", 1)
    trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    assert said[0].startswith(f"plan: {trainable / 1e6:.1f} M trainable and ")
    assert said[1].startswith(f"plan: effective batch {2 * passes} = 2 images x 1 process x {passes} accumulated pass")
    steps = int(module.trainer.estimated_stepping_batches)
    assert steps == module.trainer.global_step
    assert said[2].startswith(f"plan: {steps} steps, ")
    each = min(3, options.get("limit_train_batches", 3))
    assert said[2].endswith(f" epochs of 7 images ({each // passes + each % passes} steps each)")
    assert said[3].startswith(f"done: {steps} steps in ")
    assert len(said) == 4


def test_fit_without_a_step_says_nothing_of_time(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    """As a run that is resumed at its end."""
    seen, logger = Lines(), logging.getLogger("lightning.pytorch")
    logger.addHandler(seen)
    try:
        callback = PlanCallback()
        module, data = make_module(), StripesModule()
        run = trainer(tmp_path, max_steps=1, max_epochs=-1, callbacks=[callback])
        run.fit(module, datamodule=data)
        seen.lines.clear()
        callback._first_step = run.global_step
        callback.on_train_end(run, module)
    finally:
        logger.removeHandler(seen)
    assert seen.lines == []


def test_peak_memory_is_that_of_this_process() -> None:
    before = peak_memory(torch.device("cpu"))
    assert before is not None
    assert 2**26 < before < 2**38
    grown = torch.ones(2**26)  # 256 MiB, at least in part above what was held before
    assert (peak_memory(torch.device("cpu")) or 0) >= before
    assert grown.sum() == 2**26
