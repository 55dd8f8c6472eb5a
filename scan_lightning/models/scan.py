"""The whole SCAN network (CVPR 2024): mask segmenter, SIM and CS around a frozen CLIP. Usable without Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scan_lightning.models.clip import ClipConfig, FrozenClip, run_visual
from scan_lightning.models.hub import HubMixin
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.prediction import predict_labels
from scan_lightning.models.preprocessing import bicubic_resize, nearest_resize, normalize_and_pad
from scan_lightning.models.prompts import TemplateSet
from scan_lightning.models.regions import classify_regions
from scan_lightning.models.segmenter import MaskSegmenter, SegmenterConfig
from scan_lightning.models.semantic_integration import SemanticIntegrationConfig, SemanticIntegrationModule
from scan_lightning.models.text import TextBank, TextFeatures
from scan_lightning.types import Segmentation, Vocabulary


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """Architecture of SCAN.

    Args:
        segmenter: The mask segmenter.
        clip: The frozen CLIP.
        semantic_integration: SIM, or None for the network without it.
        template_set: Prompt templates of the text features.
        whole_image_resize: How the whole image comes to CLIP's square: "nearest" as released, or "bicubic" with
            antialiasing as CLIP was trained (an ablation).
        temperature: Factor of cosine similarities in the logits.
    """

    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    semantic_integration: SemanticIntegrationConfig | None = field(default_factory=SemanticIntegrationConfig)
    template_set: TemplateSet = "vild"
    whole_image_resize: Literal["nearest", "bicubic"] = "nearest"
    temperature: float = 100.0


@dataclass(kw_only=True)
class ScanOutput:
    """Output of the network for a batch, index 0 of the lists the learnable queries, last the final decoder layer.

    Attributes:
        class_logits: L + 1 tensors (B, Q, K + 1), no-object last; in evaluation only the final one.
        mask_logits: L + 1 tensors (B, Q, H' / 4, W' / 4); in evaluation only the final one.
        embeddings: Final proposal embeddings (B, Q, D), L2-normalised, after SIM.
        image_tokens: Tokens of the whole images in the original visual tower, index l after block l, (B, 1 + N, C).
        padded: Size of the padded input, (H', W').
    """

    class_logits: list[Tensor]
    mask_logits: list[Tensor]
    embeddings: Tensor
    image_tokens: list[Tensor]
    padded: tuple[int, int]


class Scan(nn.Module, HubMixin):
    """SCAN (paper figure 2): propose masks, calibrate their embeddings by SIM, classify regions by CLIP under CS.

    Args:
        config: Architecture. Weights that it names are loaded; everything else starts at random.
        clip: The frozen CLIP; None loads what ``config.clip`` names.
        text_cache: Folder in which text features are remembered; None computes them every time.

    Raises:
        ValueError: If SIM names layers that CLIP's visual tower lacks, or the widths do not fit.
    """

    def __init__(self, *, config: ScanConfig, clip: FrozenClip | None = None, text_cache: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.clip = FrozenClip.from_config(config.clip) if clip is None else clip
        dim = self.clip.embed_dim
        self.segmenter = MaskSegmenter(config=config.segmenter, embedding_dim=dim)
        self.semantic_integration: SemanticIntegrationModule | None = None
        if config.semantic_integration is not None:
            self.clip.check_layers(config.semantic_integration.layers, "semantic_integration.layers")
            self.semantic_integration = SemanticIntegrationModule(
                config=config.semantic_integration, token_dim=self.clip.width, dim=dim
            )
        self.non_object_embedding = nn.Parameter(torch.empty(1, dim))
        nn.init.normal_(self.non_object_embedding, std=0.02)
        self._text_cache = text_cache

    def encode_vocabulary(self, vocabulary: Vocabulary) -> TextFeatures:
        """Encode the words of a vocabulary with the locked text tower.

        Args:
            vocabulary: Names and synonyms.

        Returns:
            Text features on the network's device.
        """
        bank = TextBank(clip=self.clip, template_set=self.config.template_set, cache=self._text_cache)
        return bank.encode(vocabulary)

    def look_at_images(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, list[Tensor]]:
        """Run the whole images through the original visual tower (spec section 3.1).

        Args:
            images: (B, 3, H, W), RGB 0 to 255.
            sizes: Valid (H_i, W_i) of each image.

        Returns:
            Final projected [CLS] (B, D), and the tokens (B, 1 + N, C) after the first norm and each block.
        """
        with torch.no_grad():
            pixels = normalize_and_pad(images, sizes, mean=self.clip.mean, std=self.clip.std)
            resize = nearest_resize if self.config.whole_image_resize == "nearest" else bicubic_resize
            return run_visual(self.clip.clip.visual, resize(pixels, self.clip.image_size), record=True)

    def classify(self, embeddings: Tensor, text: TextFeatures) -> Tensor:
        """Compare proposal embeddings with the words and the non-object embedding (spec section 3.7).

        Args:
            embeddings: float (..., D), not necessarily normalised.
            text: Features of K classes.

        Returns:
            float32 (..., K + 1), logits, no-object last.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = F.normalize(embeddings.float(), dim=-1)
            void = unit @ F.normalize(self.non_object_embedding, dim=-1).T
            return self.config.temperature * torch.cat([text.similarities(unit), void], dim=-1)

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]], text: TextFeatures) -> ScanOutput:
        """Propose and classify masks; in training every decoder layer's output, in evaluation the final one.

        Args:
            images: (B, 3, H, W), RGB 0 to 255. All are padded to one size.
            sizes: Valid (H_i, W_i) of each image.
            text: Features of the vocabulary.

        Returns:
            Logits, masks, and the tokens of the whole images.
        """
        pixels = self.segmenter.preprocess(images, list(sizes))
        proposals = self.segmenter(pixels)
        cls, tokens = self.look_at_images(images, sizes)
        embeddings, masks = proposals.proposal_embeddings, proposals.mask_logits
        if not self.training:
            embeddings, masks = embeddings[-1:], masks[-1:]
        embeddings = self.integrate(embeddings, cls, tokens)
        return ScanOutput(
            class_logits=[self.classify(layer, text) for layer in embeddings],
            mask_logits=masks,
            embeddings=F.normalize(embeddings[-1].float(), dim=-1),
            image_tokens=tokens,
            padded=(pixels.shape[2], pixels.shape[3]),
        )

    def integrate(self, embeddings: list[Tensor], cls: Tensor, tokens: list[Tensor]) -> list[Tensor]:
        """Pass each decoder layer's proposal embeddings through SIM, where there is one.

        Args:
            embeddings: Tensors (B, Q, D).
            cls: Final projected [CLS] of the whole images, (B, D).
            tokens: Tokens of the whole images, index l after block l.

        Returns:
            Tensors (B, Q, D).
        """
        sim = self.semantic_integration
        if sim is None:
            return embeddings
        memory = sim.memory([tokens[layer] for layer in sim.config.layers])
        if sim.config.proposal_attention:
            return [sim(layer, memory, cls) for layer in embeddings]
        # Proposals do not see one another, so all layers go through together.
        return list(sim(torch.cat(embeddings, dim=1), memory, cls).split(embeddings[0].shape[1], dim=1))

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        *,
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
        image_ids: Sequence[str],
        text: TextFeatures,
        settings: InferenceSettings,
    ) -> list[Tensor]:
        """Label every pixel. What an image gets does not depend on the others in the batch.

        Scales, flip and windows of the settings make several views of each image, whose maps are averaged.

        Args:
            images: (B, 3, H, W), RGB 0 to 255.
            sizes: Valid (H_i, W_i) of each image.
            original_sizes: Wanted (H0, W0) of each label map.
            image_ids: Names, from which Contextual Shift draws.
            text: Features of the vocabulary.
            settings: Test-time settings.

        Returns:
            Label maps int64 (H0, W0), in the order of the images.

        Raises:
            ValueError: If the settings name layers that CLIP's visual tower lacks.
        """
        if self.training:
            raise ValueError("predict: expected the network in evaluation mode, call eval() first")
        self.clip.check_layers(settings.replace_layers, "replace_layers")
        return predict_labels(
            self, images, sizes=sizes, original_sizes=original_sizes, image_ids=image_ids, text=text, settings=settings
        )

    def classify_regions(
        self,
        image: Tensor,
        masks: Tensor,
        tokens: Sequence[Tensor],
        *,
        image_id: str,
        text: TextFeatures,
        settings: InferenceSettings,
    ) -> Tensor:
        """Classify the proposals of one image by CLIP under Contextual Shift (spec section 4).

        Args:
            image: (3, H, W), RGB 0 to 255.
            masks: float (Q, H, W), probabilities.
            tokens: Tokens of the whole image in the original visual tower, each (1 + N, C).
            image_id: The image's name.
            text: Features of K classes.
            settings: Test-time settings.

        Returns:
            float (Q, K), probabilities; 1 for proposals without a pixel above the threshold, or if no region counts.
        """
        return classify_regions(
            self.clip,
            image,
            masks,
            tokens,
            image_id=image_id,
            text=text,
            settings=settings,
            temperature=self.config.temperature,
        )

    @torch.no_grad()
    def segment(
        self,
        image: Tensor,
        words: Sequence[str] | Vocabulary,
        *,
        settings: InferenceSettings | None = None,
        image_id: str = "image",
    ) -> Segmentation:
        """Segment one image by any words.

        Args:
            image: uint8 (3, H, W), RGB.
            words: Class names, or a vocabulary with synonyms.
            settings: Test-time settings; else those that came with the weights, or `InferenceSettings`' defaults.
            image_id: Name of the image, from which Contextual Shift draws.

        Returns:
            Label map at the image's size.

        Raises:
            ValueError: If there are no words, one is empty or given twice, or the image is not uint8 (3, H, W).
        """
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"image: expected uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
        if isinstance(words, str):
            raise ValueError(f"words: expected a list of words, got the text {words!r}")
        vocabulary = words if isinstance(words, Vocabulary) else Vocabulary.from_words(words)
        size = (image.shape[1], image.shape[2])
        was_training = self.training
        self.eval()
        try:
            label_map = self.predict(
                image[None].to(self.non_object_embedding.device),
                sizes=[size],
                original_sizes=[size],
                image_ids=[image_id],
                text=self.encode_vocabulary(vocabulary),
                settings=settings or self.recommended or InferenceSettings(),
            )[0].cpu()
        finally:
            self.train(was_training)
        pixels = torch.bincount(label_map.flatten(), minlength=vocabulary.num_classes)
        return Segmentation(image_id=image_id, label_map=label_map, class_pixels=pixels, words=vocabulary.names)
