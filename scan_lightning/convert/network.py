"""Networks without memory, to compare a checkpoint's names and shapes with before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scan_lightning.convert.clip_architecture import empty_clip
from scan_lightning.convert.names import UNUSED
from scan_lightning.models.clip import FrozenClip
from scan_lightning.models.scan import Scan, ScanConfig


def empty_scan(config: ScanConfig, clip: dict[str, Any], *, shifted: bool, source: Path) -> Scan:
    """Build a SCAN without memory for its weights.

    Args:
        config: Its architecture; its CLIP does not count.
        clip: CLIP's architecture, what `build_open_clip` takes.
        shifted: Whether there is a tuned visual tower beside the original.
        source: What it was read from, for messages.

    Returns:
        The network on the meta device.

    Raises:
        ValueError: If it cannot be built.
    """
    model: Any = empty_clip(clip, source)
    with torch.device("meta"):
        frozen = FrozenClip(
            clip=model, tokenizer=_no_tokens, shifted_visual=deepcopy(model.visual) if shifted else None
        )
        return Scan(config=config, clip=frozen)


def _no_tokens(_texts: Sequence[str]) -> Tensor:
    """Stand for a tokenizer in a network that never runs."""
    raise RuntimeError("a network on the meta device encodes no texts")


def unused_tensors(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give initial values to what no released checkpoint holds and nothing uses: the library's last norm of Swin.

    Args:
        expected: The network's state.
        state: What a checkpoint holds.

    Returns:
        The tensors that ``state`` lacks, of the type that most others beside CLIP's have: float32 where there are none.
    """
    others = Counter(value.dtype for name, value in state.items() if not name.startswith("clip."))
    dtype = others.most_common(1)[0][0] if others else torch.float32
    return {
        name: (torch.ones if name.endswith("weight") else torch.zeros)(tensor.shape, dtype=dtype)
        for name, tensor in expected.items()
        if name.startswith(UNUSED) and name not in state
    }
