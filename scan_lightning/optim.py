"""Parameter groups and the learning-rate schedule of the paper (spec section 5)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.InstanceNorm2d)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with WarmupPolyLR; the defaults are the paper's.

    Args:
        learning_rate: Base rate.
        weight_decay: Decay of all parameters but norms, embeddings and relative position tables, which have none.
        backbone_multiplier: Factor of the base rate for the backbone.
        warmup_steps: Steps of linear warm-up.
        warmup_factor: Share of the base rate at step 0 (released: 1e-6).
        power: Exponent of the polynomial decay.

    Raises:
        ValueError: If a rate is not positive or a number is negative.
    """

    learning_rate: float = 6e-5
    weight_decay: float = 0.01
    backbone_multiplier: float = 1.0
    warmup_steps: int = 1500
    warmup_factor: float = 1e-6
    power: float = 0.9

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate: expected more than 0, got {self.learning_rate}")
        for name in ("weight_decay", "backbone_multiplier", "warmup_steps", "warmup_factor", "power"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")


def parameter_groups(network: nn.Module, backbone: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups of equal rate and decay (spec section 5).

    Args:
        network: The whole network.
        backbone: The part of it whose rate is multiplied.
        config: Rates and decay.

    Returns:
        Groups for a torch optimizer, each with params, lr, weight_decay and name; without empty ones.
    """
    in_backbone = {id(parameter) for parameter in backbone.parameters()}
    buckets: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    known: set[int] = set()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in known:
                continue
            known.add(id(parameter))
            decays = not isinstance(module, (*_NORMS, nn.Embedding)) and "relative_position_bias_table" not in name
            buckets.setdefault((id(parameter) in in_backbone, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.learning_rate * (config.backbone_multiplier if backbone_part else 1.0),
            "weight_decay": config.weight_decay if decays else 0.0,
            "name": f"{'backbone' if backbone_part else 'head'}{'' if decays else '_no_decay'}",
        }
        for (backbone_part, decays), parameters in sorted(buckets.items())
    ]


def warmup_poly(step: int, total: int, config: OptimizerConfig) -> float:
    """Give the factor of the base rate at a step (WarmupPolyLR of DeepLab in detectron2).

    Args:
        step: Optimizer steps done.
        total: Steps of the whole training.
        config: Warm-up and power.

    Returns:
        Warm-up times (1 - step / total) ** power, in [0, 1].

    Example:
        >>> config = OptimizerConfig(warmup_steps=10, warmup_factor=0.0)
        >>> warmup_poly(0, 100, config), warmup_poly(100, 100, config)
        (0.0, 0.0)
    """
    alpha = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    warmup = config.warmup_factor * (1 - alpha) + alpha
    return float(warmup * max(0.0, 1 - step / max(total, 1)) ** config.power)


def build_optimizer(groups: Iterable[dict[str, Any]], total_steps: float, config: OptimizerConfig) -> Any:
    """Make AdamW and its schedule in the form that Lightning takes.

    Args:
        groups: From `parameter_groups`.
        total_steps: Optimizer steps of the whole training.
        config: Rates.

    Returns:
        A dictionary of optimizer and a scheduler that steps every optimizer step.

    Raises:
        ValueError: If the number of steps is infinite.
    """
    if math.isinf(total_steps):
        raise ValueError(
            "max_steps, max_epochs: expected a limit in one of them, since the learning rate falls to zero at the end "
            "of training, got none"
        )
    optimizer: Optimizer = AdamW(list(groups), lr=config.learning_rate)
    scheduler = LambdaLR(optimizer, lambda step: warmup_poly(step, int(total_steps), config))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
