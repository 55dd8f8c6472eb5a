"""What the modules that train CLIP share: zero-shot accuracy, optimiser and schedule, the exported folder."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchmetrics.classification import MulticlassStatScores

from scan_lightning.models.clip_export import model_card, save_clip
from scan_lightning.models.prompts import TemplateSet, templates
from scan_lightning.types import Vocabulary

_UNDECAYED = ("clip.positional_embedding", "token_embedding.weight")
"""Embeddings without weight decay; the visual tower's positions have it, as in open_clip."""


class ZeroShotModule(LightningModule, ABC):
    """Trains something of a CLIP and measures the zero-shot accuracy on several kinds of crops.

    A region is right if its class has the highest score, the score of a class being the maximum over its names of the
    cosine similarity with the mean over prompt templates. Logged are means over the classes that occur. A subclass
    gives the two encoders and the steps.

    Args:
        learning_rate: Peak, of AdamW with betas (0.9, 0.98) as in CLIP.
        weight_decay: For matrices; biases, norms, the text tower's embeddings and the logit scale have none.
        warmup_steps: Steps of linear warm-up; a cosine to zero follows.
        templates: Prompt templates of validation.
        export_to: Folder to write the model to at the end of fit; None for none.

    Raises:
        ValueError: If a rate or number is negative.
    """

    kinds: ClassVar[Sequence[str]]
    architecture: dict[str, Any]

    def __init__(
        self,
        *,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        templates: TemplateSet,
        export_to: str | None,
    ) -> None:
        super().__init__()
        for name, value in (("weight_decay", weight_decay), ("warmup_steps", warmup_steps)):
            if value < 0:
                raise ValueError(f"{name}: expected at least 0, got {value}")
        if learning_rate <= 0:
            raise ValueError(f"learning_rate: expected more than 0, got {learning_rate}")
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.template_set: TemplateSet = templates
        self.export_to = export_to
        self.vocabulary: Vocabulary | None = None
        self.scores = nn.ModuleList()
        self._class_features: tuple[Tensor, Tensor] | None = None
        self._accuracies: dict[str, Tensor] = {}

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts.

        Args:
            texts: Strings, cut at the context length.

        Returns:
            (texts, D), L2-normalised.
        """

    @abstractmethod
    def trained_model(self) -> nn.Module:
        """Give the whole CLIP as it is to be exported."""

    @abstractmethod
    def statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        """Give mean and standard deviation of CLIP's normalisation, RGB 0 to 1."""

    def setup(self, stage: str) -> None:
        """Take the vocabulary from the datamodule.

        Args:
            stage: The Trainer's stage.
        """
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.vocabulary = datamodule.vocabulary
        classes = datamodule.vocabulary.num_classes
        self.scores = nn.ModuleList(MulticlassStatScores(num_classes=classes, average=None) for _ in self.kinds)

    def plain_attention(self) -> AbstractContextManager[None]:
        """On a CPU choose plain attention: the fused kernel's backward takes half of a step of the tiny CLIP there."""
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()

    def on_validation_epoch_start(self) -> None:
        """Encode the vocabulary with the current text tower."""
        self._class_features = self._encode_vocabulary()

    def count(self, kind: int, embeddings: Tensor, texts: Sequence[str]) -> None:
        """Classify regions and count the right ones.

        Args:
            kind: Index into ``kinds``.
            embeddings: (R, D), L2-normalised.
            texts: Their class names.
        """
        labels = {name: label for label, name in enumerate(self._vocabulary().names)}
        truth = torch.tensor([labels[text] for text in texts], device=embeddings.device)
        cast(MulticlassStatScores, self.scores[kind]).update(self.nearest_classes(embeddings), truth)

    def on_validation_epoch_end(self) -> None:
        """Log the mean over classes of the accuracy for each kind of crop."""
        for kind, module in zip(self.kinds, self.scores, strict=True):
            metric = cast(MulticlassStatScores, module)
            counts = metric.compute()  # (K, 5): true and false positives, true and false negatives, support
            metric.reset()
            accuracy = counts[:, 0] / counts[:, 4]  # NaN for classes that do not occur
            self._accuracies[kind] = accuracy.cpu()
            self.log(f"val/accuracy_{kind}", accuracy.nanmean(), prog_bar=True)

    def nearest_classes(self, embeddings: Tensor) -> Tensor:
        """Assign each embedding to a class of the vocabulary.

        Args:
            embeddings: (R, D), L2-normalised.

        Returns:
            int64 (R,), labels.
        """
        if self._class_features is None:
            self._class_features = self._encode_vocabulary()
        features, owners = self._class_features
        with torch.autocast(embeddings.device.type, enabled=False):  # bfloat16 would make ties of close classes
            similarity = embeddings.float() @ features.T  # (R, names)
        best = similarity.new_full((len(embeddings), self._vocabulary().num_classes), -math.inf)
        return best.scatter_reduce(1, owners.expand_as(similarity), similarity, "amax").argmax(dim=1)

    def _vocabulary(self) -> Vocabulary:
        """Give the vocabulary, which the datamodule brings."""
        if self.vocabulary is None:
            raise RuntimeError("vocabulary: not set; fit or validate with a datamodule, or assign it")
        return self.vocabulary

    @torch.no_grad()
    def _encode_vocabulary(self) -> tuple[Tensor, Tensor]:
        """Encode all names: float32 (names, D), means over templates, normalised; int64 (names,), the class of each."""
        vocabulary = self._vocabulary()
        words = [(word, label) for label, names in enumerate(vocabulary.synonyms) for word in names]
        means = self.encode_words([word for word, _ in words])
        return means, torch.tensor([label for _, label in words], device=means.device)

    def encode_words(self, words: Sequence[str]) -> Tensor:
        """Encode words in all prompt templates.

        Args:
            words: Names of things.

        Returns:
            float32 (words, D), means over templates, L2-normalised.
        """
        forms = templates(self.template_set)
        features = self.encode_texts([form.format(word) for word in words for form in forms]).float()
        return F.normalize(features.view(len(words), len(forms), -1).mean(dim=1), dim=-1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW with warm-up and cosine decay, step by step."""
        named = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        plain = [p for name, p in named if p.ndim < 2 or name.endswith(_UNDECAYED)]
        kept = {id(parameter) for parameter in plain}
        decayed = [parameter for _, parameter in named if id(parameter) not in kept]
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
        model, (mean, std) = self.trained_model(), self.statistics()
        card = self._card(folder.name, sum(parameter.numel() for parameter in model.parameters()))
        save_clip(model, folder, architecture=self.architecture, mean=mean, std=std, card=card)

    def _card(self, name: str, parameters: int) -> str:
        """Describe the model, its training and its accuracies."""
        text = f"An open_clip model of {parameters / 1e6:.2f} million parameters, stored in float16."
        if self._trainer is not None:
            text += (
                f" Trained by `{type(self).__name__}` for {self.trainer.global_step} steps: AdamW, learning rate "
                f"{self.learning_rate:g}, {self.warmup_steps} warm-up steps, cosine decay, weight decay "
                f"{self.weight_decay:g}, precision {self.trainer.precision}, "
                f"seed {os.environ.get('PL_GLOBAL_SEED', 'not set')}."
            )
        names = self.vocabulary.names if self.vocabulary is not None else ()
        return model_card(name, text, class_names=names, accuracies=self._accuracies, templates=self.template_set)
