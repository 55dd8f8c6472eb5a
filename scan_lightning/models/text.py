"""Text features of a vocabulary, with templates and synonyms, cached on disk (spec section 3)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.files import whole_file
from scan_lightning.models.clip import FrozenClip
from scan_lightning.models.prompts import TemplateSet, templates
from scan_lightning.types import Vocabulary

TEXT_BATCH = 256


@dataclass(frozen=True)
class TextFeatures:
    """Features of all words of a vocabulary.

    Attributes:
        features: float32 (words, D), L2-normalised.
        owners: int64 (words,), the class of each word.
        num_classes: K.
    """

    features: Tensor
    owners: Tensor
    num_classes: int

    def similarities(self, embeddings: Tensor) -> Tensor:
        """Compare embeddings with every class, the best of its words counting.

        Args:
            embeddings: float (..., D), L2-normalised.

        Returns:
            float (..., K), cosine similarities.
        """
        words = embeddings @ self.features.to(embeddings.dtype).T
        if len(self.owners) == self.num_classes:
            return words
        best = words.new_full((*words.shape[:-1], self.num_classes), -torch.inf)
        return best.scatter_reduce(-1, self.owners.expand(words.shape), words, reduce="amax")

    def to(self, device: torch.device) -> TextFeatures:
        """Move to a device.

        Args:
            device: Where to.

        Returns:
            The same features there.
        """
        return TextFeatures(self.features.to(device), self.owners.to(device), self.num_classes)


class TextBank:
    """Encode vocabularies with a frozen CLIP and remember the features on disk.

    A word's feature is a function of the text tower, its weights, the templates and the word, and so is its file's
    name. It is computed in float32 whatever the precision around it, and may be used in training wherever it was made.

    Args:
        clip: Whose text tower encodes.
        template_set: Which templates are averaged.
        cache: Folder of the cache, made when needed; None computes every time.
    """

    def __init__(self, *, clip: FrozenClip, template_set: TemplateSet = "vild", cache: Path | None = None) -> None:
        self._clip = clip
        self._templates = templates(template_set)
        self._cache = cache
        self._fingerprint: str | None = None

    def encode(self, vocabulary: Vocabulary) -> TextFeatures:
        """Encode all words of a vocabulary.

        Args:
            vocabulary: Each class's synonyms are encoded on their own.

        Returns:
            The features on CLIP's device.
        """
        # Inference tensors, of a validation that comes first, could not take part in training.
        with torch.inference_mode(False), torch.autocast(self._clip.mean.device.type, enabled=False):
            return self._encode(vocabulary)

    def _encode(self, vocabulary: Vocabulary) -> TextFeatures:
        """Look words up, encode the others, and remember them."""
        words = [word for synonyms in vocabulary.synonyms for word in synonyms]
        owners = [index for index, synonyms in enumerate(vocabulary.synonyms) for _ in synonyms]
        known = {word: feature for word in words if (feature := self._read(word)) is not None}
        missing = [word for word in dict.fromkeys(words) if word not in known]
        for start in range(0, len(missing), TEXT_BATCH):
            chunk = missing[start : start + TEXT_BATCH]
            for word, feature in zip(chunk, self._encode_words(chunk), strict=True):
                known[word] = feature
                self._write(word, feature)
        device = self._clip.mean.device
        features = torch.stack([known[word] for word in words]).to(device)
        return TextFeatures(features, torch.tensor(owners, device=device), vocabulary.num_classes)

    def _encode_words(self, words: list[str]) -> Tensor:
        """Average over templates: float32 (words, D), normalised, on the CPU."""
        total = torch.zeros(len(words), self._clip.embed_dim)
        for template in self._templates:
            total += self._clip.encode_texts([template.format(word) for word in words]).cpu()
        return F.normalize(total / len(self._templates), dim=-1)

    def _path(self, word: str) -> Path | None:
        """Name the word's file; None without a cache."""
        if self._cache is None:
            return None
        if self._fingerprint is None:
            digest = hashlib.sha256(repr(self._templates).encode())
            for name, tensor in self._clip.clip.state_dict().items():
                if not name.startswith("visual."):
                    digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
            for block in self._clip.clip.transformer.resblocks:  # activation and heads are not among the weights
                digest.update(f"{block!r}{block.attn.num_heads}".encode())
            digest.update(repr(self._clip.tokenizer(["the tokenizer of this model"]).tolist()).encode())
            self._fingerprint = digest.hexdigest()[:16]
        return self._cache / self._fingerprint / f"{hashlib.sha256(word.encode()).hexdigest()[:32]}.npy"

    def _read(self, word: str) -> Tensor | None:
        """Read a feature; None where there is none or the file is damaged."""
        path = self._path(word)
        if path is None or not path.is_file():
            return None
        try:
            feature = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if feature.shape != (self._clip.embed_dim,) or feature.dtype != np.float32:
            return None
        return torch.from_numpy(feature)

    def _write(self, word: str, feature: Tensor) -> None:
        """Write a feature in one step, so that processes may share the folder; skip a cache that cannot be written."""
        path = self._path(word)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not durable, for speed: what a power cut damages is computed again.
            with whole_file(path, durable=False) as unfinished, unfinished.open("wb") as file:
                np.save(file, feature.numpy(), allow_pickle=False)
        except OSError:
            self._cache = None
