"""Tests of the average of weights: by hand, resumed, and in force where the network is used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from stripes import StripesModule, fit, states_equal, trainer
from torch import Tensor

from scan_lightning.callbacks import ExponentialAverage
from scan_lightning.module import ScanModule

DECAY = 0.75


class Recorder(Callback):
    """Keeps the weights after every step, and those that validation sees."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.steps.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.validated.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def average_of(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The average by its definition."""
    average = dict(states[0])
    for state in states[1:]:
        for name, value in state.items():
            average[name] = DECAY * average[name] + (1 - DECAY) * value if value.is_floating_point() else value
    return average


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def averaged(make_module: Callable[..., ScanModule], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of 6 steps with an average, that validates and saves after every step."""
    folder, module, recorder = tmp_path_factory.mktemp("averaged"), make_module(), Recorder()
    frozen = {name: value.clone() for name, value in module.network.clip.state_dict().items()}
    save = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    callbacks = [ExponentialAverage(decay=DECAY), recorder, save]
    fit(module, folder, callbacks=callbacks, limit_val_batches=1, val_check_interval=1)
    return {"folder": folder, "module": module, "recorder": recorder, "frozen": frozen}


def test_fit_ends_with_the_average(averaged: dict[str, Any]) -> None:
    recorder, module = averaged["recorder"], averaged["module"]
    assert len(recorder.steps) == 6
    assert_close({name: module.state_dict()[name] for name in recorder.steps[0]}, average_of(recorder.steps))
    assert not states_equal(recorder.steps[-1], module.state_dict())


def test_average_leaves_what_is_frozen_and_buffers_as_they_are(
    averaged: dict[str, Any], make_module: Callable[..., ScanModule]
) -> None:
    assert states_equal(averaged["module"].network.clip.state_dict(), averaged["frozen"])
    buffers = dict(averaged["module"].network.named_buffers())
    assert any(not value.is_floating_point() and value.max() > 1 for value in buffers.values())
    assert states_equal(buffers, dict(make_module().network.named_buffers()))


def test_validation_sees_the_average_and_training_goes_on_without(averaged: dict[str, Any]) -> None:
    recorder = averaged["recorder"]
    assert len(recorder.validated) == 6
    for count, seen in enumerate(recorder.validated, start=1):
        assert_close({name: seen[name] for name in recorder.steps[0]}, average_of(recorder.steps[:count]))


def test_checkpoint_holds_the_average_for_the_test_and_no_clip(
    averaged: dict[str, Any], make_module: Callable[..., ScanModule], tmp_path: Path
) -> None:
    path = averaged["folder"] / "step=4.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    states = [checkpoint[key] for key in ("state_dict", "current_model_state")]
    assert not any(name.startswith("network.clip.") for state in states for name in state)
    module = make_module(init_seed=3)
    trainer(tmp_path).test(module, datamodule=StripesModule(size=2), ckpt_path=path, verbose=False)
    expected = average_of(averaged["recorder"].steps[:4])
    assert_close({name: module.state_dict()[name] for name in expected}, expected)


def test_resumed_average_has_the_same_bits(
    averaged: dict[str, Any], make_module: Callable[..., ScanModule], tmp_path: Path
) -> None:
    module, recorder = make_module(init_seed=5), Recorder()
    callbacks = [ExponentialAverage(decay=DECAY), recorder]
    ckpt = averaged["folder"] / "step=4.ckpt"
    fit(module, tmp_path, ckpt=ckpt, callbacks=callbacks, limit_val_batches=1, val_check_interval=1)
    assert len(recorder.steps) == 2
    assert states_equal(recorder.steps[-1], averaged["recorder"].steps[-1])
    assert states_equal(module.network.state_dict(), averaged["module"].network.state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_wrong_decay_raises(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay: expected a share in \[0, 1\), got {decay}"):
        ExponentialAverage(decay=decay)
