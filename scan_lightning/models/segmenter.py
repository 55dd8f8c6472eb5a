"""The mask segmenter: transformers' Mask2Former on Swin, with a proposal embedding for every decoder layer.

Paper section 3.1 and spec section 2. Four things differ from the library's defaults, as training in the paper needs
them: stochastic depth acts on both branches of a Swin block, the pixel decoder always runs in float32, what is trained
from scratch starts as in Mask2Former's own code, and the unused final norm of Swin is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Mask2FormerConfig, Mask2FormerModel, SwinConfig

from scan_lightning.models.preprocessing import normalize_and_pad
from scan_lightning.models.segmenter_weights import load_published
from scan_lightning.types import SegmenterOutput

SegmenterPart = Literal["backbone", "pixel_decoder"]
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
NORM_GROUPS = 32  # of the pixel decoder's GroupNorm layers


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """Architecture of the mask segmenter; the defaults are the paper's (Swin-B, 100 queries).

    Args:
        embed_dim: Channels of Swin's first stage.
        depths: Blocks of its four stages.
        num_heads: Attention heads of its four stages.
        window_size: Side of its attention window in tokens.
        patch_size: Side of its patches in pixels.
        pretrain_image_size: Image side of its pre-training in pixels.
        mlp_ratio: Hidden width of its MLPs over their channels.
        drop_path_rate: Stochastic depth rate of its last block, in [0, 1).
        conv_dim: Channels of the pixel decoder; a multiple of 32.
        mask_dim: Channels of the mask features.
        hidden_dim: Channels of the queries.
        heads: Attention heads of pixel decoder and decoder.
        encoder_layers: Deformable layers of the pixel decoder.
        encoder_feedforward: Hidden width of those layers.
        decoder_layers: Masked-attention layers L; the released network has 10, so 11 outputs.
        dim_feedforward: Hidden width of those layers.
        num_queries: Number of proposals Q.
        embedding_hidden: Hidden width of the head that makes proposal embeddings.
        weights: A published Swin or Mask2Former to start from: hub name or folder in transformers' format, or a file of
            a Swin in its own or timm's names (see `load_published`). None starts from random weights.
    """

    embed_dim: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 12
    patch_size: int = 4
    pretrain_image_size: int = 384
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.3
    conv_dim: int = 256
    mask_dim: int = 256
    hidden_dim: int = 256
    heads: int = 8
    encoder_layers: int = 6
    encoder_feedforward: int = 1024
    decoder_layers: int = 10
    dim_feedforward: int = 2048
    num_queries: int = 100
    embedding_hidden: int = 1024
    weights: str | None = None

    def to_transformers(self) -> Mask2FormerConfig:
        """Translate to transformers' configuration.

        Returns:
            A configuration whose decoder_layers is one more than ours, since the library subtracts one.
        """
        backbone = SwinConfig(
            image_size=self.pretrain_image_size,
            patch_size=self.patch_size,
            embed_dim=self.embed_dim,
            depths=list(self.depths),
            num_heads=list(self.num_heads),
            window_size=self.window_size,
            mlp_ratio=self.mlp_ratio,
            drop_path_rate=self.drop_path_rate,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
        return Mask2FormerConfig(
            backbone_config=backbone,
            feature_size=self.conv_dim,
            mask_feature_size=self.mask_dim,
            hidden_dim=self.hidden_dim,
            encoder_feedforward_dim=self.encoder_feedforward,
            encoder_layers=self.encoder_layers,
            decoder_layers=self.decoder_layers + 1,
            num_attention_heads=self.heads,
            dim_feedforward=self.dim_feedforward,
            dropout=0.0,
            num_queries=self.num_queries,
        )


class MaskSegmenter(nn.Module):
    """Propose Q masks and an embedding for each (spec section 2).

    Args:
        config: Architecture.
        embedding_dim: Dimension D of CLIP's joint space.

    Raises:
        ValueError: If the architecture contradicts itself (widths not divisible by heads or norm groups).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, config: SegmenterConfig, embedding_dim: int) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self._checkpointing = False
        self.model = Mask2FormerModel(config.to_transformers())
        self.embedding_head = nn.Sequential(
            nn.Linear(config.hidden_dim, config.embedding_hidden),
            nn.ReLU(),
            nn.Linear(config.embedding_hidden, embedding_dim),
        )
        initialize_from_scratch(self.model)
        repair_stochastic_depth(self.model)
        if config.weights is not None:
            load_published(self.model, config.weights)
        self.model.pixel_level_module.encoder.swin.layernorm.requires_grad_(False)
        # Decoder layer i reads level i modulo 3. With fewer layers a level's projection is idle, which DDP must know.
        self.model.transformer_module.input_projections[config.decoder_layers :].requires_grad_(False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def checkpoint_activations(self) -> None:
        """Keep less for the backward pass: Swin's blocks and the pixel decoder are computed again in it."""
        backbone: Any = self.model.pixel_level_module.encoder
        backbone.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        for stage in backbone.swin.encoder.layers:
            stage.gradient_checkpointing = False  # its blocks are enough; with both they would run three times
        self._checkpointing = True

    def compile_parts(self, parts: Sequence[SegmenterPart]) -> None:
        """Have torch.compile translate parts at their first use; names of parameters stay what they are.

        Args:
            parts: "backbone", "pixel_decoder".

        Raises:
            ValueError: If a part is unknown or given twice.
        """
        level: Any = self.model.pixel_level_module
        known = {"backbone": level.encoder, "pixel_decoder": level.decoder}
        if set(parts) - set(known) or len(set(parts)) != len(parts):
            raise ValueError(f"compiled: expected distinct parts out of {', '.join(known)}, got {list(parts)}")
        for part in parts:
            known[part].compile()

    def preprocess(self, images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """Normalise by ImageNet's statistics and pad to a multiple of 32.

        Args:
            images: (B, 3, H, W), RGB 0 to 255.
            sizes: Valid (H_i, W_i) of each image.

        Returns:
            float32 (B, 3, H', W').
        """
        return normalize_and_pad(images, sizes, mean=self.mean, std=self.std)

    def forward(self, pixels: Tensor) -> SegmenterOutput:
        """Propose masks.

        Args:
            pixels: float (B, 3, H, W) from `preprocess`, H and W multiples of 32.

        Returns:
            L + 1 proposal embeddings (B, Q, D) and mask logits (B, Q, H / 4, W / 4).

        Raises:
            ValueError: If the pixel decoder's coarsest map has a single value per group of its norm.
        """
        level: Any = self.model.pixel_level_module
        features = [feature.float() for feature in level.encoder(pixels).feature_maps]
        self._check_groups(features[-1])
        with torch.autocast(pixels.device.type, enabled=False):
            if self._checkpointing and self.training:
                decoded = checkpoint(level.decoder, features, use_reentrant=False)
            else:
                decoded = level.decoder(features)
        output = self.model.transformer_module(
            multi_scale_features=decoded.multi_scale_features,
            mask_features=decoded.mask_features,
            output_hidden_states=True,
        )
        embeddings = [self.embedding_head(state.transpose(0, 1)) for state in output.intermediate_hidden_states]
        return SegmenterOutput(proposal_embeddings=embeddings, mask_logits=list(output.masks_queries_logits))

    def _check_groups(self, coarsest: Tensor) -> None:
        """Raise ValueError where GroupNorm would refuse the coarsest map with an unclear message."""
        batch, _, height, width = coarsest.shape
        if batch * height * width * (self.config.conv_dim // NORM_GROUPS) == 1:
            raise ValueError(
                f"image size: with conv_dim {self.config.conv_dim} a single image of one cell of stride 32 leaves one "
                f"value per norm group; expected a side above 32 pixels, or conv_dim {2 * NORM_GROUPS} or more"
            )


def _check(config: SegmenterConfig) -> None:
    """Raise ValueError where the library would fail later with an unclear message."""
    if config.conv_dim % NORM_GROUPS:
        raise ValueError(f"conv_dim: expected a multiple of {NORM_GROUPS} (GroupNorm), got {config.conv_dim}")
    if config.hidden_dim % config.heads or config.conv_dim % config.heads:
        raise ValueError(f"heads: {config.heads} must divide {config.hidden_dim=} and {config.conv_dim=}")
    if not len(config.depths) == len(config.num_heads) == 4:
        raise ValueError(f"depths and num_heads: expected 4 stages, got {config.depths} and {config.num_heads}")


def initialize_from_scratch(model: Mask2FormerModel) -> None:
    """Start pixel decoder and decoder as Mask2Former's own code does, where the library's initial values differ.

    Args:
        model: Changed in place. Convolutions and the encoder's feed-forward layers get Xavier weights (Caffe2's
            variant without input projections' gain), biases of convolutions zero, and the decoder's separate query,
            key and value projections the scale of one joint projection.
    """
    decoder: Any = model.pixel_level_module.decoder
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Conv2d):
            if name.startswith("input_projections"):
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.kaiming_uniform_(module.weight, a=1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for layer in decoder.encoder.layers:
        for linear in (layer.fc1, layer.fc2):
            nn.init.xavier_uniform_(linear.weight)
            bound = 1 / math.sqrt(linear.in_features)
            nn.init.uniform_(linear.bias, -bound, bound)
    for layer in model.transformer_module.decoder.layers:
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            nn.init.xavier_uniform_(projection.weight, gain=math.sqrt(0.5))


def repair_stochastic_depth(model: Mask2FormerModel) -> None:
    """Make stochastic depth act on the MLP branch of each Swin block too, as in Swin's own code.

    Args:
        model: Its blocks get a forward hook on their MLP; nothing changes in evaluation or at rate 0.
    """
    backbone: Any = model.pixel_level_module.encoder
    for stage in backbone.swin.encoder.layers:
        for block in stage.blocks:
            # A partial, whose argument is copied with the model, where a closure would go on using the original's.
            block.mlp.register_forward_hook(partial(_drop_branch, block.drop_path))


def _drop_branch(path: nn.Module, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    """Apply stochastic depth to a branch's output, as a forward hook."""
    return path(output)  # type: ignore[no-any-return]
