"""CLIP's files of weights: which of a folder's are read, and how they fill a model."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import open_clip
from safetensors import SafetensorError

DAMAGE = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, struct.error, zipfile.BadZipFile)
"""What reading a file of tensors raises about bytes that are none, beside `pickle.UnpicklingError`."""


def clip_weight_files(folder: Path) -> list[Path]:
    """List a CLIP folder's weights, those that are read first.

    Args:
        folder: The folder.

    Returns:
        safetensors, else other files; first those of open_clip, beside which hubs keep another form.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted([*folder.glob("*.bin"), *folder.glob("*.pt")])
    return sorted(files, key=lambda file: not file.name.startswith("open_clip"))


def load_clip_weights(clip: open_clip.CLIP, path: Path) -> None:
    """Load a file of CLIP weights in place; pickled code is refused, never run.

    Args:
        clip: The model to fill.
        path: A .safetensors file, or a PyTorch file that holds tensors only; OpenAI's and open_clip's key names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds anything but tensors, or does not fit the model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"clip weights: no file {path}")
    try:
        open_clip.load_checkpoint(clip, str(path), weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, *DAMAGE) as error:
        raise ValueError(f"{path}: damaged, not plain tensors, or of another CLIP: {error}") from error
