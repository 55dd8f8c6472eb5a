"""ClipModule: contrastive training of both towers of an open_clip model on regions and captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scan_lightning.clip_module.zero_shot import ZeroShotModule
from scan_lightning.data.region_text import CROP_KINDS
from scan_lightning.losses.contrastive import contrastive_loss
from scan_lightning.models.clip import CLIP_MEAN, CLIP_STD, build_open_clip
from scan_lightning.models.clip_tokenizer import build_tokenizer
from scan_lightning.models.clip_weights import load_clip_weights
from scan_lightning.models.prompts import TemplateSet
from scan_lightning.types import RegionTextBatch

MAX_LOGIT_SCALE = 100.0


class ClipModule(ZeroShotModule):
    """Trains both towers of an open_clip model contrastively on `RegionTextBatch`.

    Validation measures zero-shot accuracy (see `ZeroShotModule`) over the datamodule's vocabulary on the loaders of
    `CROP_KINDS`. With several processes the pairs of all of them are one batch.

    Args:
        architecture: What open_clip_config.json holds under "model_cfg": embed_dim, vision_cfg, text_cfg.
        initial_weights: File of weights to start from (.safetensors or tensors only); None starts untrained.
        learning_rate: Peak, of AdamW with betas (0.9, 0.98) as in CLIP.
        weight_decay: For matrices; biases, norms, the text tower's embeddings and the logit scale have none.
        warmup_steps: Steps of linear warm-up; a cosine to zero follows.
        templates: Prompt templates of validation.
        export_to: Folder to write the model to at the end of fit; None for none.

    Raises:
        ValueError: If a rate or number is negative, or the architecture or the weights do not fit.
        FileNotFoundError: If there is no file ``initial_weights``.
    """

    kinds: ClassVar[Sequence[str]] = CROP_KINDS
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        architecture: dict[str, Any],
        initial_weights: str | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_steps: int = 100,
        templates: TemplateSet = "vild",
        export_to: str | None = None,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            templates=templates,
            export_to=export_to,
        )
        self.architecture = architecture
        self.clip = build_open_clip(architecture).train()
        if initial_weights is not None:
            load_clip_weights(self.clip, Path(initial_weights))
        self.tokenizer = build_tokenizer(int(architecture.get("text_cfg", {}).get("context_length", 77)))
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1) * 255, persistent=False)

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: (B, 3, S, S), RGB 0 to 255.

        Returns:
            (B, D), L2-normalised.
        """
        return F.normalize(self.clip.encode_image((images.float() - self.mean) / self.std), dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts.

        Args:
            texts: Strings, cut at the context length.

        Returns:
            (texts, D), L2-normalised.
        """
        return F.normalize(self.clip.encode_text(self.tokenizer(list(texts)).to(self.mean.device)), dim=-1)

    def trained_model(self) -> nn.Module:
        """Give the whole CLIP as it is to be exported."""
        return cast(nn.Module, self.clip)

    def statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        """Give mean and standard deviation of CLIP's normalisation, RGB 0 to 1."""
        return CLIP_MEAN, CLIP_STD

    def training_step(self, batch: RegionTextBatch, batch_idx: int) -> Tensor:
        """Compute and log the contrastive loss.

        Args:
            batch: Pairs.
            batch_idx: Number of the batch in the epoch.

        Returns:
            Scalar loss.
        """
        with self.plain_attention():
            image_features, text_features = self.encode_images(batch.images), self.encode_texts(batch.texts)
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
        scale = self.clip.logit_scale.exp()
        loss = contrastive_loss(image_features, text_features, scale=scale, texts=batch.texts)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.texts))
        self.log("train/logit_scale", scale.detach(), batch_size=len(batch.texts))
        return loss

    def validation_step(self, batch: RegionTextBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Classify regions and count.

        Args:
            batch: Regions with their class names.
            batch_idx: Number of the batch in its loader.
            dataloader_idx: Index into `CROP_KINDS`.
        """
        self.count(dataloader_idx, self.encode_images(batch.images), batch.texts)

    def classify(self, images: Tensor) -> Tensor:
        """Assign each image to a class of the vocabulary.

        Args:
            images: (B, 3, S, S), RGB 0 to 255.

        Returns:
            int64 (B,), labels.
        """
        return self.nearest_classes(self.encode_images(images))
