"""CLIP's tokenizer by context length alone, for models that are built rather than loaded."""

from __future__ import annotations

import open_clip

from scan_lightning.models.clip import Tokenizer


def build_tokenizer(context_length: int) -> Tokenizer:
    """Make open_clip's byte-pair tokenizer; its vocabulary of 49,408 entries comes with open_clip.

    Args:
        context_length: Tokens per text, at least 3; longer texts are cut and keep their end token.

    Returns:
        Function from texts to int64 tokens (texts, context_length).

    Raises:
        ValueError: If ``context_length`` is below 3.

    Example:
        >>> tuple(build_tokenizer(16)(["a photo of a red star."]).shape)
        (1, 16)
    """
    if context_length < 3:
        raise ValueError(f"context_length: expected at least 3, got {context_length}")
    tokenizer: Tokenizer = open_clip.SimpleTokenizer(context_length=context_length)
    return tokenizer
