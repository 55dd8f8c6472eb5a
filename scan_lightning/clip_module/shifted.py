"""ShiftedClipModule: fine-tuning of CLIP's visual tower under Contextual Shift (paper figure 2, spec section 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scan_lightning.clip_module.zero_shot import ZeroShotModule
from scan_lightning.losses.contrastive import contrastive_loss
from scan_lightning.models.checkpoints import complete_checkpoint, leave_out_clip
from scan_lightning.models.clip import ClipConfig, FrozenClip
from scan_lightning.models.clip_architecture import clip_architecture
from scan_lightning.models.prompts import TemplateSet
from scan_lightning.models.shifted_encoding import ShiftConfig, encode_shifted
from scan_lightning.types import MaskTextBatch

_ORIGINAL = "original."


class ShiftedClipModule(ZeroShotModule):
    """Tunes CLIP's visual tower on `MaskTextBatch`: masked crops under Contextual Shift against their texts.

    What overwrites background tokens comes from the frozen original tower, which sees the whole images. The text tower
    and the logit scale are locked; a text's feature is the mean over prompt templates, as in SCAN's classifier. Which
    tokens are overwritten follows from seed, epoch, image, region and layer. With several processes the pairs of all of
    them are one batch.

    Validation measures zero-shot accuracy (see `ZeroShotModule`) on the tight boxes as they are ("whole"), on masked
    crops ("masked") and on masked crops under Contextual Shift ("shifted").

    Args:
        clip: The original CLIP; ``shifted_weights`` names a tuned tower to start from.
        shift: What is overwritten by what.
        shift_in_training: Whether training overwrites tokens; without it CLIP is tuned on plain masked crops (an
            ablation), while validation still measures all three.
        learning_rate: Peak, of AdamW with betas (0.9, 0.98) as in CLIP; the paper's.
        weight_decay: For matrices, positions among them, as in open_clip; biases, norms and the [CLS] embedding have
            none.
        warmup_steps: Steps of linear warm-up, the paper's; a cosine to zero follows.
        templates: Prompt templates of training and validation.
        export_to: Folder to write the tuned CLIP to at the end of fit, for ``shifted_weights`` of a `ClipConfig`; None
            for none.

    Raises:
        ValueError: If a rate or number is negative, the weights do not fit or the tower lacks a layer.
        FileNotFoundError: If there are no such weights.
    """

    kinds: ClassVar[Sequence[str]] = ("whole", "masked", "shifted")

    def __init__(
        self,
        *,
        clip: ClipConfig,
        shift: ShiftConfig | None = None,
        shift_in_training: bool = True,
        learning_rate: float = 5e-6,
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
        self.clip_config = clip
        self.architecture = clip_architecture(clip.model)
        self.original = FrozenClip.from_config(clip)
        self.visual = deepcopy(self.original.region_visual).requires_grad_(True).train()
        self.original.shifted_visual = None
        self.shift = shift or ShiftConfig()
        self.original.check_layers(self.shift.replace_layers, "replace_layers")
        self.shift_in_training = shift_in_training
        self._texts: dict[str, Tensor] = {}

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts with the locked text tower.

        Args:
            texts: Strings, cut at the context length.

        Returns:
            float32 (texts, D), L2-normalised.
        """
        return self.original.encode_texts(texts)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Give the features of texts, each distinct one encoded once in the life of the module.

        Args:
            texts: Names of things.

        Returns:
            float32 (texts, D), means over templates, L2-normalised.
        """
        # Inference tensors, of a validation that comes first, could not take part in training. Each text is encoded
        # alone: in a batch its last bits would depend on the others, and a resumed run meets them in another order.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for text in dict.fromkeys(texts):
                if text not in self._texts:
                    self._texts[text] = self.encode_words([text])[0].cpu()
        return torch.stack([self._texts[text] for text in texts]).to(self.device)

    def trained_model(self) -> nn.Module:
        """Give the original CLIP with the tuned visual tower in place of its own."""
        clip: nn.Module = deepcopy(self.original.clip)
        clip.visual = deepcopy(self.visual)
        return clip

    def statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        """Give mean and standard deviation of CLIP's normalisation, RGB 0 to 1."""
        mean, std = ((values.flatten().cpu() / 255).tolist() for values in (self.original.mean, self.original.std))
        return [round(value, 8) for value in mean], [round(value, 8) for value in std]

    def encode_crops(self, crops: Tensor) -> Tensor:
        """Encode crops without Contextual Shift.

        Args:
            crops: (R, 3, S, S), RGB 0 to 255.

        Returns:
            (R, D), L2-normalised.
        """
        return F.normalize(self.visual(self.original.normalize(crops)), dim=-1)

    def training_step(self, batch: MaskTextBatch, batch_idx: int) -> Tensor:
        """Compute and log the contrastive loss.

        Args:
            batch: Masked regions, texts and whole images.
            batch_idx: Number of the batch in the epoch.

        Returns:
            Scalar loss.
        """
        texts = self.text_features(batch.texts)
        with self.plain_attention():
            if self.shift_in_training:
                names = [f"{self.current_epoch}/{name}" for name in batch.image_ids]
                embeddings = encode_shifted(self.visual, self.original, batch, self.shift, names=names)
            else:
                embeddings = self.encode_crops(batch.crops)
        scale = self.original.clip.logit_scale.exp()
        loss = contrastive_loss(embeddings, texts, scale=scale, texts=batch.texts)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.texts))
        return loss

    def validation_step(self, batch: MaskTextBatch, batch_idx: int) -> None:
        """Classify regions three ways and count.

        Args:
            batch: Regions with their class names, and their boxes.
            batch_idx: Number of the batch in its loader.

        Raises:
            ValueError: If the batch has no boxes.
        """
        if batch.boxes is None:
            raise ValueError("batch: expected boxes, which validation needs, got None")
        self.count(0, self.encode_crops(batch.boxes), batch.texts)
        self.count(1, self.encode_crops(batch.crops), batch.texts)
        self.count(2, encode_shifted(self.visual, self.original, batch, self.shift), batch.texts)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the original CLIP out, which the recipe names; one that cannot be loaded again stays in.

        Args:
            checkpoint: What Lightning is about to write.
        """
        leave_out_clip(checkpoint, self.original, self.clip_config, prefix=_ORIGINAL)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Put the original CLIP of the recipe back.

        Args:
            checkpoint: What Lightning has read.

        Raises:
            ValueError: If it was trained with another CLIP.
        """
        complete_checkpoint(checkpoint, self.original, self.clip_config, prefix=_ORIGINAL)
