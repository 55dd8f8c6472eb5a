"""Checkpoints of training without the frozen CLIP, which is named, checked by its hash, and put back at loading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scan_lightning.models.clip import SHIPPED_MODEL, ClipConfig
from scan_lightning.models.plain import tensor_hash
from scan_lightning.models.scan import Scan

HASH_KEY = "scan_clip_hash"
STATES = ("state_dict", "current_model_state")
"""Entries of a checkpoint that hold a network; the second is there where the first holds averaged weights."""
_CLIP = "network.clip."


def can_be_loaded_again(config: ClipConfig) -> bool:
    """Tell whether a configuration names weights, or leaves an architecture at random.

    Args:
        config: Of the frozen CLIP.

    Returns:
        Whether loading it twice gives the same weights.
    """
    return config.weights is not None or config.model == SHIPPED_MODEL or Path(config.model).is_dir()


def leave_out_clip(checkpoint: dict[str, Any], network: Scan) -> None:
    """Take the frozen CLIP out of a checkpoint, and note its hash; a CLIP that cannot be loaded again stays in.

    Args:
        checkpoint: What Lightning is about to write, changed in place.
        network: The network, which stands under "network." in it.
    """
    if not can_be_loaded_again(network.config.clip):
        return
    for key in STATES:
        if key in checkpoint:
            checkpoint[key] = {name: value for name, value in checkpoint[key].items() if not name.startswith(_CLIP)}
    checkpoint[HASH_KEY] = _original_hash(network)


def complete_checkpoint(checkpoint: Mapping[str, Any], network: Scan) -> list[dict[str, Tensor]]:
    """Undo `leave_out_clip` with the configured CLIP. A checkpoint that holds its CLIP stays as it is.

    Args:
        checkpoint: What Lightning has read; its states are changed in place.
        network: Whose CLIP is put in.

    Returns:
        The states of a network in the checkpoint.

    Raises:
        ValueError: If the checkpoint was trained with another CLIP.
    """
    states = [checkpoint[key] for key in STATES if key in checkpoint]
    if HASH_KEY in checkpoint:
        found = _original_hash(network)
        if found != checkpoint[HASH_KEY]:
            raise ValueError(
                f"checkpoint: trained with a CLIP of hash {checkpoint[HASH_KEY]}, {network.config.clip} has {found}"
            )
        frozen = {f"{_CLIP}{name}": value for name, value in network.clip.state_dict().items()}
        for state in states:
            state.update(frozen)
    return states


def _original_hash(network: Scan) -> str:
    """Identify the original towers; the one that classifies regions is the test's to choose."""
    return tensor_hash(network.clip.clip.state_dict())
