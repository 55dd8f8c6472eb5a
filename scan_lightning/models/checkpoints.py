"""Checkpoints of training without the frozen CLIP, which is named, checked by its hash, and put back at loading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from scan_lightning.models.clip import SHIPPED_MODEL, ClipConfig, FrozenClip
from scan_lightning.models.plain import tensor_hash
from scan_lightning.models.pretrained import check_state, load_scan
from scan_lightning.models.scan import Scan

HASH_KEY = "scan_clip_hash"
STATES = ("state_dict", "current_model_state")
"""Entries of a checkpoint that hold a network; the second is there where the first holds averaged weights."""
_REGION_TOWER = "clip.shifted_visual."
_SIM = "semantic_integration."
_HASHES: WeakKeyDictionary[FrozenClip, tuple[list[tuple[int, int]], str]] = WeakKeyDictionary()


def can_be_loaded_again(config: ClipConfig) -> bool:
    """Tell whether a configuration names weights, or leaves an architecture at random.

    Args:
        config: Of the frozen CLIP.

    Returns:
        Whether loading it twice gives the same weights.
    """
    return config.weights is not None or config.model == SHIPPED_MODEL or Path(config.model).is_dir()


def leave_out_clip(checkpoint: dict[str, Any], clip: FrozenClip, config: ClipConfig, *, prefix: str) -> None:
    """Take the frozen CLIP out of a checkpoint, and note its hash; a CLIP that cannot be loaded again stays in.

    Args:
        checkpoint: What Lightning is about to write, changed in place.
        clip: The frozen CLIP.
        config: What it was loaded from.
        prefix: What its names in the checkpoint begin with.
    """
    if not can_be_loaded_again(config):
        return
    for key in STATES:
        if key in checkpoint:
            checkpoint[key] = {name: value for name, value in checkpoint[key].items() if not name.startswith(prefix)}
    checkpoint[HASH_KEY] = _original_hash(clip)


def complete_checkpoint(
    checkpoint: Mapping[str, Any], clip: FrozenClip, config: ClipConfig, *, prefix: str
) -> list[dict[str, Tensor]]:
    """Undo `leave_out_clip` with the configured CLIP. A checkpoint that holds its CLIP stays as it is.

    Args:
        checkpoint: What Lightning has read; its states are changed in place.
        clip: The CLIP that is put in.
        config: What it was loaded from.
        prefix: What its names in the checkpoint begin with.

    Returns:
        The states of a network in the checkpoint.

    Raises:
        ValueError: If the checkpoint was trained with another CLIP.
    """
    states = [checkpoint[key] for key in STATES if key in checkpoint]
    if HASH_KEY in checkpoint:
        found = _original_hash(clip)
        if found != checkpoint[HASH_KEY]:
            raise ValueError(f"checkpoint: trained with a CLIP of hash {checkpoint[HASH_KEY]}, {config} has {found}")
        frozen = {f"{prefix}{name}": value for name, value in clip.state_dict().items()}
        for state in states:
            state.update(frozen)
    return states


def keep_region_tower(state: dict[str, Any], network: Scan, *, prefix: str = "") -> None:
    """Put a network's region tower in the place of a stored one, since it is the test's to choose.

    Args:
        state: Tensors by name, changed in place.
        network: Whose tower is kept; it may have none.
        prefix: What stands before the network's names in ``state``.
    """
    for name in [name for name in state if name.startswith(prefix + _REGION_TOWER)]:
        del state[name]
    own = network.state_dict()
    state.update({prefix + name: tensor for name, tensor in own.items() if name.startswith(_REGION_TOWER)})


def start_from(network: Scan, folder: Path) -> None:
    """Take over the weights of a trained network of the same architecture; one without SIM leaves SIM as it is.

    Args:
        network: What is to be trained, changed in place.
        folder: Written by `save_scan`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a tensor is missing, unknown or of another shape, or CLIP is another one.
    """
    source = load_scan(folder)
    state = source.state_dict()
    keep_region_tower(state, network)
    if source.semantic_integration is None:
        own = network.state_dict()
        state |= {name: tensor for name, tensor in own.items() if name.startswith(_SIM)}
    check_state(network, state, str(folder))
    network.load_state_dict(state)


def _original_hash(clip: FrozenClip) -> str:
    """Identify the original towers; the one that classifies regions is the test's to choose.

    Remembered until a tensor is moved or changed: of a large CLIP it takes seconds, and each checkpoint needs it.
    """
    state = clip.clip.state_dict()
    tensors = [(tensor.data_ptr(), tensor._version) for tensor in state.values()]
    known = _HASHES.get(clip)
    if known is None or known[0] != tensors:
        known = _HASHES[clip] = (tensors, tensor_hash(state))
    return known[1]
