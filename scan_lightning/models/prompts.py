"""Prompt templates that turn a class name into texts for CLIP.

The class feature is the mean of the normalised features of all templates of a set, normalised again (spec
section 3).
"""

from __future__ import annotations

from typing import Literal

from scan_lightning.models.clip import IMAGENET_TEMPLATES

TemplateSet = Literal["vild", "imagenet", "single"]

VILD_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""The 14 templates of ViLD (Gu et al., 2021, Apache-2.0), the set that SCAN is trained and tested with."""


def templates(name: TemplateSet) -> tuple[str, ...]:
    """Look up a set of templates.

    Args:
        name: "vild" (14, the paper's), "imagenet" (80, of the CLIP paper), "single" ("a photo of a {}.").

    Returns:
        Format strings with one ``{}`` each.

    Raises:
        ValueError: If there is no set of that name.

    Example:
        >>> len(templates("vild")), templates("single")
        (14, ('a photo of a {}.',))
    """
    if name == "vild":
        return VILD_TEMPLATES
    if name == "single":
        return VILD_TEMPLATES[:1]
    if name == "imagenet":
        return IMAGENET_TEMPLATES
    raise ValueError(f"templates: expected 'vild', 'imagenet' or 'single', got {name!r}")
