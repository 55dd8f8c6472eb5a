"""Gradient accumulation: several passes make the step that one batch of all their images makes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from stripes import StripesModule, fit
from torch import Tensor, nn
from torch.optim import Optimizer

from scan_lightning.data import base
from scan_lightning.data.accumulation import tell_step_targets
from scan_lightning.data.transforms import TrainingTransform
from scan_lightning.models.scan import ScanConfig
from scan_lightning.module import ScanModule
from scan_lightning.optim import OptimizerConfig
from scan_lightning.types import Batch

STEPS = 3


class Watch(Callback):
    """Keeps the gradients of every optimiser step, and what each batch was told."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.told: list[list[int]] = []
        self.masks: list[list[int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.told.append(batch.step_targets)
        self.masks.append([len(labels) for labels in batch.labels])

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: nn.Module, optimizer: Optimizer) -> None:
        self.gradients.append(
            {
                name: parameter.grad.clone()
                for name, parameter in pl_module.named_parameters()
                if parameter.grad is not None
            }
        )


@pytest.fixture
def train(make_module: Callable[..., ScanModule], scan_config: ScanConfig, tmp_path: Path) -> Callable[..., Watch]:
    """Function that trains without dropout and hardly moves: ``train(batch_size, passes, **options of Trainer)``."""

    def run(batch_size: int, passes: int, **options: Any) -> Watch:
        integration = replace(scan_config.semantic_integration, dropout=0.0)
        slow = OptimizerConfig(learning_rate=1e-8, warmup_steps=0)
        segmenter = replace(scan_config.segmenter, conv_dim=64)
        network = {"semantic_integration": integration, "segmenter": segmenter}
        module, watch = make_module(network=network, optimizer=slow), Watch()
        data = StripesModule(size=24, batch_size=batch_size)
        # A norm over the single cell of a smaller image would make much of rounding.
        data.train_transform = TrainingTransform(shortest_sides=(64,), crop_size=64, colour_jitter=False)
        defaults = {"max_epochs": 1, "accumulate_grad_batches": passes, "callbacks": [watch]}
        fit(module, tmp_path, data=data, **(defaults | options))
        return watch

    return run


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    scale = max(float(value.abs().max()) for value in first.values())
    return max(float((value - second[name]).abs().max()) for name, value in first.items()) / scale


def test_two_passes_give_the_gradients_of_one_batch(
    train: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, split = train(8, 1), train(4, 2)
    assert len(whole.gradients) == len(split.gradients) == STEPS
    assert whole.told == [[]] * STEPS
    for expected, found in zip(whole.gradients, split.gradients, strict=True):
        assert difference(expected, found) < 1e-5
    monkeypatch.setattr(base, "tell_step_targets", lambda _data, _done, batches: batches)
    each_by_its_own_number = train(4, 2)
    assert max(map(difference, whole.gradients, each_by_its_own_number.gradients)) > 1e-3


def test_a_step_ends_with_the_epoch(train: Callable[..., Watch]) -> None:
    watch = train(4, 2, limit_train_batches=5)
    first, second, third, fourth, last = watch.masks
    assert watch.told == [first + second] * 2 + [third + fourth] * 2 + [last]
    assert len(watch.gradients) == STEPS


@pytest.mark.parametrize(
    ("done", "limit", "steps"), [(0, math.inf, [2, 2, 1]), (3, math.inf, [1, 2, 2]), (2, 5, [2, 1])]
)
def test_a_resumed_epoch_keeps_its_steps(done: int, limit: float, steps: list[int]) -> None:
    data: Any = SimpleNamespace(trainer=SimpleNamespace(accumulate_grad_batches=2, num_training_batches=limit))
    batches = [
        Batch(
            images=torch.empty(1, 3, 0, 0), sizes=[], image_ids=[], original_sizes=[], labels=[torch.zeros(number + 1)]
        )
        for number in range(5)
    ]
    told = [batch.step_targets for batch in tell_step_targets(data, done, iter(batches))]
    numbers = iter(range(1, 6))
    expected = [[next(numbers) for _ in range(size)] for size in steps]
    assert told == [step for step in expected for _ in step]


def test_nothing_is_loaded_ahead_without_accumulation() -> None:
    data: Any = SimpleNamespace(trainer=SimpleNamespace(accumulate_grad_batches=1, num_training_batches=9))
    batches: Iterator[Any] = iter("abc")
    assert next(tell_step_targets(data, 0, batches)) == "a"
    assert list(batches) == ["b", "c"]
