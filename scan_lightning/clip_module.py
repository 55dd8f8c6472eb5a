"""ClipModule: contrastive training of an open_clip model on regions and captions, and its zero-shot accuracy."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchmetrics.classification import MulticlassStatScores

from scan_lightning.data.region_text import CROP_KINDS
from scan_lightning.models.clip import CLIP_MEAN, CLIP_STD, build_open_clip, load_clip_weights
from scan_lightning.models.clip_export import model_card, save_clip
from scan_lightning.models.clip_tokenizer import build_tokenizer
from scan_lightning.models.prompts import TemplateSet, templates
from scan_lightning.types import RegionTextBatch, Vocabulary

MAX_LOGIT_SCALE = 100.0


def contrastive_loss(image_features: Tensor, text_features: Tensor, *, scale: Tensor, texts: Sequence[str]) -> Tensor:
    """Compute CLIP's symmetric InfoNCE loss; pairs with the same text are not negatives of one another.

    In each row the other pairs of an equal text are left out of the denominator. With all texts different it is plain
    InfoNCE.

    Args:
        image_features: (B, D), L2-normalised.
        text_features: (B, D), L2-normalised.
        scale: Scalar that multiplies the cosine similarity.
        texts: The B texts.

    Returns:
        Scalar float32, the mean of both directions.

    Raises:
        ValueError: If the three disagree on B.
    """
    if not len(image_features) == len(text_features) == len(texts):
        raise ValueError(
            f"expected as many images as texts, got {len(image_features)} images, {len(text_features)} text features "
            f"and {len(texts)} texts"
        )
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    group = torch.tensor([numbers[text] for text in texts], device=image_features.device)
    others = (group[:, None] == group[None, :]).fill_diagonal_(False)
    logits = scale.float() * image_features.float() @ text_features.float().T  # (B images, B texts)
    logits = logits.masked_fill(others, -math.inf)
    own = torch.arange(len(texts), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class ClipModule(LightningModule):
    """Trains both towers of an open_clip model contrastively on `RegionTextBatch`.

    Validation measures zero-shot accuracy over the datamodule's vocabulary on the loaders of `CROP_KINDS`: a region is
    right if its class has the highest score, the score of a class being the maximum over its names of the cosine
    similarity with the mean over prompt templates. Logged are means over the classes that occur. With several processes
    the negatives of a pair are those of its own process.

    Args:
        architecture: What open_clip_config.json holds under "model_cfg": embed_dim, vision_cfg, text_cfg.
        initial_weights: File of weights to start from (.safetensors or tensors only); None starts untrained.
        learning_rate: Peak, of AdamW with betas (0.9, 0.98) as in CLIP.
        weight_decay: For matrices; biases, norms, embeddings and the logit scale have none.
        warmup_steps: Steps of linear warm-up; a cosine to zero follows.
        templates: Prompt templates of validation.
        export_to: Folder to write the model to at the end of fit; None for none.

    Raises:
        ValueError: If a rate or number is negative, or the architecture or the weights do not fit.
        FileNotFoundError: If there is no file ``initial_weights``.
    """

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
        super().__init__()
        for name, value in (("weight_decay", weight_decay), ("warmup_steps", warmup_steps)):
            if value < 0:
                raise ValueError(f"{name}: expected at least 0, got {value}")
        if learning_rate <= 0:
            raise ValueError(f"learning_rate: expected more than 0, got {learning_rate}")
        self.architecture = architecture
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.template_set: TemplateSet = templates
        self.export_to = export_to
        self.clip = build_open_clip(architecture).train()
        if initial_weights is not None:
            load_clip_weights(self.clip, Path(initial_weights))
        self.tokenizer = build_tokenizer(int(architecture.get("text_cfg", {}).get("context_length", 77)))
        self.vocabulary: Vocabulary | None = None
        self.scores = nn.ModuleList()
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1) * 255, persistent=False)
        self._class_features: tuple[Tensor, Tensor] | None = None
        self._accuracies: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        """Take the vocabulary from the datamodule.

        Args:
            stage: The Trainer's stage.
        """
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.vocabulary = datamodule.vocabulary
        classes = datamodule.vocabulary.num_classes
        self.scores = nn.ModuleList(MulticlassStatScores(num_classes=classes, average=None) for _ in CROP_KINDS)

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

    def training_step(self, batch: RegionTextBatch, batch_idx: int) -> Tensor:
        """Compute and log the contrastive loss.

        Args:
            batch: Pairs.
            batch_idx: Number of the batch in the epoch.

        Returns:
            Scalar loss.
        """
        with self._attention():
            image_features, text_features = self.encode_images(batch.images), self.encode_texts(batch.texts)
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
        scale = self.clip.logit_scale.exp()
        loss = contrastive_loss(image_features, text_features, scale=scale, texts=batch.texts)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.texts))
        self.log("train/logit_scale", scale.detach(), batch_size=len(batch.texts))
        return loss

    def _attention(self) -> AbstractContextManager[None]:
        """On a CPU choose plain attention: the fused kernel's backward takes half of a step of the tiny CLIP there."""
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()

    def on_validation_epoch_start(self) -> None:
        """Encode the vocabulary with the current text tower."""
        self._class_features = self._encode_vocabulary()

    def validation_step(self, batch: RegionTextBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Classify regions and count.

        Args:
            batch: Regions with their class names.
            batch_idx: Number of the batch in its loader.
            dataloader_idx: Index into `CROP_KINDS`.
        """
        predicted = self.classify(batch.images)
        labels = {name: label for label, name in enumerate(self._vocabulary().names)}
        truth = torch.tensor([labels[text] for text in batch.texts], device=predicted.device)
        self._scores()[dataloader_idx][1].update(predicted, truth)

    def on_validation_epoch_end(self) -> None:
        """Log the mean over classes of the accuracy for each kind of crop."""
        for kind, metric in self._scores():
            counts = metric.compute()  # (K, 5): true and false positives, true and false negatives, support
            metric.reset()
            accuracy = counts[:, 0] / counts[:, 4]  # NaN for classes that do not occur
            self._accuracies[kind] = accuracy.cpu()
            self.log(f"val/accuracy_{kind}", accuracy.nanmean(), prog_bar=True)

    def _scores(self) -> list[tuple[str, MulticlassStatScores]]:
        """Give the counts of each kind of crop."""
        return [
            (kind, cast(MulticlassStatScores, metric)) for kind, metric in zip(CROP_KINDS, self.scores, strict=True)
        ]

    def classify(self, images: Tensor) -> Tensor:
        """Assign each image to a class of the vocabulary.

        Args:
            images: (B, 3, S, S), RGB 0 to 255.

        Returns:
            int64 (B,), labels.
        """
        if self._class_features is None:
            self._class_features = self._encode_vocabulary()
        features, owners = self._class_features
        embeddings = self.encode_images(images).float()
        with torch.autocast(embeddings.device.type, enabled=False):  # bfloat16 would make ties of close classes
            similarity = embeddings @ features.T  # (B, names)
        best = similarity.new_full((len(images), self._vocabulary().num_classes), -math.inf)
        return best.scatter_reduce(1, owners.expand_as(similarity), similarity, "amax").argmax(dim=1)

    def _vocabulary(self) -> Vocabulary:
        """Give the vocabulary, which the datamodule brings."""
        if self.vocabulary is None:
            raise RuntimeError("vocabulary: not set; fit or validate with a datamodule, or assign it")
        return self.vocabulary

    @torch.no_grad()
    def _encode_vocabulary(self) -> tuple[Tensor, Tensor]:
        """Encode all names: float32 (names, D), means over templates, normalised; int64 (names,), the class of each."""
        vocabulary, forms = self._vocabulary(), templates(self.template_set)
        words = [(word, label) for label, names in enumerate(vocabulary.synonyms) for word in names]
        features = self.encode_texts([form.format(word) for word, _ in words for form in forms]).float()
        means = F.normalize(features.view(len(words), len(forms), -1).mean(dim=1), dim=-1)
        return means, torch.tensor([label for _, label in words], device=means.device)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW with warm-up and cosine decay, step by step."""
        embeddings = {id(self.clip.token_embedding.weight), id(self.clip.positional_embedding)}
        parameters = [parameter for parameter in self.clip.parameters() if parameter.requires_grad]
        plain = [p for p in parameters if p.ndim < 2 or id(p) in embeddings]
        decayed = [p for p in parameters if p.ndim >= 2 and id(p) not in embeddings]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.98), eps=1e-6)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._rate(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int, total: int) -> float:
        """Return the share of the peak learning rate at a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.warmup_steps) / max(1, total - self.warmup_steps))))

    def on_fit_end(self) -> None:
        """Export the model where the recipe asks for it."""
        if self.export_to is not None and self.trainer.is_global_zero:
            self.export(Path(self.export_to))

    def export(self, folder: Path) -> None:
        """Write open_clip_config.json, model.safetensors (float16) and README.md, a card with recipe and accuracies.

        Args:
            folder: Where to; made if it is missing.
        """
        save_clip(
            self.clip,
            folder,
            architecture=self.architecture,
            mean=CLIP_MEAN,
            std=CLIP_STD,
            card=self._card(folder.name),
        )

    def _card(self, name: str) -> str:
        """Describe the model, its training and its accuracies."""
        parameters = sum(parameter.numel() for parameter in self.clip.parameters())
        text = f"An open_clip model of {parameters / 1e6:.2f} million parameters, stored in float16."
        if self._trainer is not None:
            text += (
                f" Trained by `ClipModule` for {self.trainer.global_step} steps: AdamW, learning rate "
                f"{self.learning_rate:g}, {self.warmup_steps} warm-up steps, cosine decay, weight decay "
                f"{self.weight_decay:g}, precision {self.trainer.precision}, "
                f"seed {os.environ.get('PL_GLOBAL_SEED', 'not set')}."
            )
        names = self.vocabulary.names if self.vocabulary is not None else ()
        return model_card(name, text, class_names=names, accuracies=self._accuracies, templates=self.template_set)
