"""A network's architecture and test-time settings as plain values and back, and the identity of its tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scan_lightning.models.clip import ClipConfig
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.scan import ScanConfig
from scan_lightning.models.segmenter import SegmenterConfig
from scan_lightning.models.semantic_integration import SemanticIntegrationConfig


def config_from_dict(values: Mapping[str, Any]) -> ScanConfig:
    """Rebuild an architecture from plain values.

    Args:
        values: As `dataclasses.asdict` of a `ScanConfig` gives them, lists for tuples.

    Returns:
        The architecture.

    Raises:
        TypeError: If a key is unknown.
    """
    parts = dict(values)
    integration = parts.pop("semantic_integration")
    return ScanConfig(
        segmenter=SegmenterConfig(**_tuples(parts.pop("segmenter"))),
        clip=ClipConfig(**parts.pop("clip")),
        semantic_integration=None if integration is None else SemanticIntegrationConfig(**_tuples(integration)),
        **parts,
    )


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn lists into tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def settings_from_dict(values: Mapping[str, Any]) -> InferenceSettings:
    """Rebuild test-time settings from plain values.

    Args:
        values: As `dataclasses.asdict` gives them, lists for tuples.

    Returns:
        The settings.

    Raises:
        TypeError: If a key is unknown.
    """
    return InferenceSettings(**_tuples(values))


def tensor_hash(state: Mapping[str, Tensor]) -> str:
    """Identify tensors by their names, values and order; floating point ones count as float32, as they are loaded.

    Args:
        state: Tensors by name.

    Returns:
        16 hexadecimal digits of a SHA-256.
    """
    digest = hashlib.sha256()
    for name, tensor in state.items():
        value = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
