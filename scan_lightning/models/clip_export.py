"""Writing a CLIP and its model card as a folder that open_clip and `load_open_clip` read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scan_lightning.files import whole_file, write_whole
from scan_lightning.models.clip import CONFIG_NAME

WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"


def save_clip(
    clip: nn.Module,
    folder: Path,
    *,
    architecture: dict[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    card: str,
) -> None:
    """Write configuration, float16 weights and model card; each file appears whole or not at all, the weights last.

    Args:
        clip: The model.
        folder: Where to; made if it is missing, its files of the same names are replaced.
        architecture: What `build_open_clip` made the model of.
        mean: Mean of the normalisation, RGB 0 to 1.
        std: Standard deviation of the normalisation, RGB 0 to 1.
        card: Text of the model card, Markdown.
    """
    side = architecture["vision_cfg"]["image_size"]
    preprocess = {
        "size": [side, side],
        "mode": "RGB",
        "mean": list(mean),
        "std": list(std),
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    config = json.dumps({"model_cfg": architecture, "preprocess_cfg": preprocess}, indent=2) + "\n"
    weights = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in clip.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / CARD_NAME, card)
    write_whole(folder / CONFIG_NAME, config)
    with whole_file(folder / WEIGHTS_NAME) as unfinished:
        save_file(weights, unfinished)


def model_card(
    name: str, text: str, *, class_names: Sequence[str], accuracies: Mapping[str, Tensor], templates: str
) -> str:
    """Write the text of a model card.

    Args:
        name: Title.
        text: What the model is and how it was trained.
        class_names: Names of the K classes.
        accuracies: For each kind of crop the zero-shot accuracy by class, (K,), fractions, NaN for classes that did not
            occur. Empty leaves the table out.
        templates: Name of the prompt templates.

    Returns:
        Markdown.
    """
    lines = [f"# {name}", "", text, ""]
    if accuracies:
        lines += [
            f"Zero-shot accuracy in percent on validation regions (one for each class of an image, in its tight box), "
            f'templates "{templates}"; "whole" is the box as it is, in "masked" the mean colour fills the background:',
            "",
            f"| class | {' | '.join(accuracies)} |",
            f"|---|{'---|' * len(accuracies)}",
            _row("mean over classes", [values.nanmean() for values in accuracies.values()]),
            *(_row(word, [values[k] for values in accuracies.values()]) for k, word in enumerate(class_names)),
            "",
        ]
    return "\n".join(lines)


def _row(name: str, values: Sequence[Tensor]) -> str:
    """Return a table row of percentages, a dash where there is none."""
    return f"| {name} | {' | '.join('-' if value.isnan() else f'{100 * value:.1f}' for value in values)} |"
