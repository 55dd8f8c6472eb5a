from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from scan_lightning.models.scan import Scan
from scan_lightning.optim import OptimizerConfig, build_optimizer, parameter_groups, warmup_poly

CONFIG = OptimizerConfig(learning_rate=1.0, weight_decay=0.3, backbone_multiplier=0.1)


class Toy(nn.Module):
    """One of each kind of parameter, with a shared and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        self.backbone.relative_position_bias_table = nn.Parameter(torch.zeros(3))
        self.head = nn.Linear(2, 2)
        self.twin = self.head
        self.norms = nn.ModuleList([nn.GroupNorm(1, 2), nn.BatchNorm2d(2)])
        self.queries = nn.Embedding(3, 2)
        self.free = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def names_by_group(network: nn.Module, backbone: nn.Module) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, backbone, CONFIG)
    return {group["name"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}


def test_groups_of_a_toy_by_hand() -> None:
    toy = Toy()
    assert names_by_group(toy, toy.backbone) == {
        "backbone": {"backbone.0.weight", "backbone.0.bias"},
        "backbone_no_decay": {"backbone.1.weight", "backbone.1.bias", "backbone.relative_position_bias_table"},
        "head": {"head.weight", "head.bias", "free"},
        "head_no_decay": {f"norms.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")} | {"queries.weight"},
    }
    rates = {
        group["name"]: (group["lr"], group["weight_decay"]) for group in parameter_groups(toy, toy.backbone, CONFIG)
    }
    assert rates == {
        "backbone": (0.1, 0.3),
        "backbone_no_decay": (0.1, 0.0),
        "head": (1.0, 0.3),
        "head_no_decay": (1.0, 0.0),
    }


def test_groups_of_the_network_cover_each_trainable_parameter_once(make_scan: Callable[..., Scan]) -> None:
    scan = make_scan()
    backbone: Any = scan.segmenter.model.pixel_level_module.encoder
    groups = parameter_groups(scan, backbone, CONFIG)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = {id(parameter): name for name, parameter in scan.named_parameters() if parameter.requires_grad}
    assert len(members) == len(set(members))
    assert set(members) == set(trainable)
    for group in groups:
        for parameter in group["params"]:
            name = trainable[id(parameter)]
            assert name.startswith("segmenter.model.pixel_level_module.encoder.") == group["name"].startswith(
                "backbone"
            )
            plain = any(
                part in name
                for part in (
                    "norm",
                    "relative_position_bias_table",
                    "queries_",
                    "adapter_1.1",
                    "layer_1.1",
                    "transformer_module.level_embed",
                )
            )
            plain |= "input_projections" in name and ".1." in name.rsplit("input_projections", 1)[1][2:]
            assert (group["weight_decay"] == 0) == plain, name


def test_warmup_poly_by_hand() -> None:
    config = OptimizerConfig(warmup_steps=10, warmup_factor=0.2, power=2.0)
    assert warmup_poly(0, 100, config) == pytest.approx(0.2)
    assert warmup_poly(5, 100, config) == pytest.approx(0.6 * 0.95**2)
    assert warmup_poly(10, 100, config) == pytest.approx(0.9**2)
    assert warmup_poly(50, 100, config) == pytest.approx(0.25)
    assert warmup_poly(100, 100, config) == 0
    assert warmup_poly(120, 100, config) == 0


def test_warmup_poly_of_the_paper() -> None:
    config = OptimizerConfig()
    assert warmup_poly(0, 120_000, config) == pytest.approx(1e-6)
    assert warmup_poly(1500, 120_000, config) == pytest.approx((1 - 1500 / 120_000) ** 0.9)
    assert warmup_poly(60_000, 120_000, config) == pytest.approx(0.5**0.9)


def test_warmup_poly_without_warmup_or_steps() -> None:
    config = OptimizerConfig(warmup_steps=0)
    assert warmup_poly(0, 10, config) == 1
    assert warmup_poly(0, 0, config) == 1
    assert warmup_poly(1, 0, config) == 0


def test_build_optimizer_steps_the_schedule_on_every_group() -> None:
    toy = Toy()
    config = OptimizerConfig(learning_rate=2.0, backbone_multiplier=0.5, warmup_steps=2, warmup_factor=0.0, power=1.0)
    built = build_optimizer(parameter_groups(toy, toy.backbone, config), 4, config)
    optimizer, schedule = built["optimizer"], built["lr_scheduler"]
    assert isinstance(optimizer, AdamW)
    assert schedule["interval"] == "step"
    rates = []
    for _ in range(5):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule["scheduler"].step()
    factors = [0.0, 0.5 * 0.75, 0.5, 0.25, 0.0]
    assert rates == [pytest.approx([2 * factor, 2 * factor, factor, factor]) for factor in factors]


def test_build_optimizer_for_ever_raises() -> None:
    toy, config = Toy(), OptimizerConfig()
    with pytest.raises(ValueError, match="max_steps, max_epochs: expected a limit in one of them"):
        build_optimizer(parameter_groups(toy, toy.backbone, config), float("inf"), config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, r"learning_rate: expected more than 0, got 0\.0"),
        ({"learning_rate": -1.0}, "learning_rate: expected more than 0"),
        ({"weight_decay": -0.1}, r"weight_decay: expected at least 0, got -0\.1"),
        ({"backbone_multiplier": -1.0}, "backbone_multiplier: expected at least 0"),
        ({"warmup_steps": -1}, "warmup_steps: expected at least 0, got -1"),
        ({"warmup_factor": -1.0}, "warmup_factor: expected at least 0"),
        ({"power": -1.0}, "power: expected at least 0"),
    ],
)
def test_wrong_configuration_raises(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**change)
