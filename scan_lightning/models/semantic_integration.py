"""Semantic Integration Module (SIM): frozen CLIP's view of the whole image, mixed into every proposal embedding.

Paper section 3.2, spec section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Frequencies = Literal["low", "high", "raw"]


@dataclass(frozen=True, kw_only=True)
class SemanticIntegrationConfig:
    """Architecture of SIM; the defaults are the paper's for ViT-B/16.

    Args:
        layers: Blocks of CLIP's visual tower, from 1, whose patch tokens form the memory. Empty leaves only [CLS].
        sigmas: For each layer the width of the Gaussian of the frequency filter, in grid cells.
        frequencies: "low" is the paper's low-frequency enhancement, "high" its complement, "raw" no filter.
        use_cls: Whether the final [CLS] is added to the proposals.
        fusion_layers: Cross-attention layers of the fusion decoder.
        encoder_layers: Layers of the transformer encoder behind it.
        heads: Attention heads of both.
        feedforward: Hidden width of the encoder layers.
        memory_hidden: Width between the two linear layers that make the memory; None takes the joint dimension.
        dropout: Dropout rate of the encoder layers in training, in [0, 1).
        proposal_attention: Whether proposals attend to one another in the encoder. The released code runs each alone
            (sequences of length 1), which is the default.

    Raises:
        ValueError: If there is not one sigma per layer, a sigma is not positive, or neither tokens nor [CLS] are used.
    """

    layers: tuple[int, ...] = (6, 9, 12)
    sigmas: tuple[float, ...] = (9.0, 7.0, 3.0)
    frequencies: Frequencies = "low"
    use_cls: bool = True
    fusion_layers: int = 5
    encoder_layers: int = 5
    heads: int = 8
    feedforward: int = 2048
    memory_hidden: int | None = None
    dropout: float = 0.1
    proposal_attention: bool = False

    def __post_init__(self) -> None:
        """Check the fields against one another."""
        if len(self.layers) != len(self.sigmas):
            raise ValueError(f"sigmas: expected one per layer {self.layers}, got {self.sigmas}")
        if any(sigma <= 0 for sigma in self.sigmas):
            raise ValueError(f"sigmas: expected positive numbers, got {self.sigmas}")
        if self.frequencies not in ("low", "high", "raw"):
            raise ValueError(f"frequencies: expected 'low', 'high' or 'raw', got {self.frequencies!r}")
        if not self.layers and not self.use_cls:
            raise ValueError("semantic integration: without layers and without [CLS] there is nothing to integrate")


def frequency_weights(height: int, width: int, sigma: float, *, device: torch.device | None = None) -> Tensor:
    """Give the factors of low-frequency enhancement on an unshifted spectrum.

    Args:
        height: Rows of the spectrum.
        width: Columns of the spectrum.
        sigma: Width of the Gaussian in cells.
        device: Where to make them; the CPU by default.

    Returns:
        float32 (height, width), 1 minus a Gaussian centred at (height // 2, width // 2), where an unshifted spectrum
        has its high frequencies: near 1 at low frequencies, 0 at the highest.

    Example:
        >>> frequency_weights(4, 4, 1.0)[2, 2].item()
        0.0
    """
    rows = torch.arange(height, dtype=torch.float32, device=device)[:, None] - height // 2
    columns = torch.arange(width, dtype=torch.float32, device=device)[None] - width // 2
    return 1 - torch.exp(-(rows**2 + columns**2) / (2 * sigma**2))


class FrequencyEnhancement(nn.Module):
    """Add a learnt function of the weighted spectrum of a token map to the map (paper section 3.2, "LFE").

    Args:
        channels: Channels C of the token maps.
        keep: "low" damps high frequencies, "high" damps low ones.
    """

    def __init__(self, *, channels: int, keep: Literal["low", "high"] = "low") -> None:
        super().__init__()
        self.keep = keep
        self.conv1 = nn.Conv2d(2 * channels, 2 * channels, kernel_size=1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, kernel_size=1)

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        """Enhance one map.

        Args:
            x: float (B, C, H, W).
            sigma: Width of the Gaussian in cells.

        Returns:
            float32 (B, C, H, W). The transform runs in float32 whatever the precision around it.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            weights = frequency_weights(x.shape[-2], x.shape[-1], sigma, device=x.device)
            spectrum = torch.fft.fft2(x) * (weights if self.keep == "low" else 1 - weights)
            mixed = self.conv2(F.relu(self.conv1(torch.cat([spectrum.real, spectrum.imag], dim=1))))
            real, imaginary = mixed.chunk(2, dim=1)
            enhanced: Tensor = torch.fft.ifft2(torch.complex(real, imaginary)).real + x
            return enhanced


class FusionDecoder(nn.Module):
    """Let proposals gather from the memory by repeated cross-attention (paper section 3.2).

    Args:
        dim: Channels D.
        heads: Attention heads.
        layers: Number of layers; all but the last are followed by a norm.
    """

    def __init__(self, *, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(nn.MultiheadAttention(dim, heads, batch_first=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(max(layers - 1, 0)))

    def forward(self, proposals: Tensor, memory: Tensor) -> Tensor:
        """Attend from proposals to memory.

        Args:
            proposals: float (B, Q, D).
            memory: float (B, N, D).

        Returns:
            float (B, Q, D).
        """
        for index, attention in enumerate(self.attentions):
            proposals = proposals + attention(proposals, memory, memory, need_weights=False)[0]
            if index < len(self.norms):
                proposals = self.norms[index](proposals)
        return proposals


class SemanticIntegrationModule(nn.Module):
    """Mix the whole image's CLIP tokens and [CLS] into proposal embeddings (paper section 3.2, spec section 3).

    Args:
        config: Architecture.
        token_dim: Channels C of CLIP's visual tokens.
        dim: Dimension D of the joint space.

    Raises:
        ValueError: If ``dim`` is not divisible by the number of heads.
    """

    def __init__(self, *, config: SemanticIntegrationConfig, token_dim: int, dim: int) -> None:
        super().__init__()
        if dim % config.heads:
            raise ValueError(f"heads: {config.heads} must divide the joint dimension {dim}")
        self.config = config
        self.enhancement: FrequencyEnhancement | None = None
        self.memory_projection: nn.Sequential | None = None
        self.fusion: FusionDecoder | None = None
        if config.layers:
            if config.frequencies != "raw":
                self.enhancement = FrequencyEnhancement(channels=token_dim, keep=config.frequencies)
            hidden = dim if config.memory_hidden is None else config.memory_hidden
            self.memory_projection = nn.Sequential(nn.Linear(token_dim, hidden), nn.Linear(hidden, dim))
            self.fusion = FusionDecoder(dim=dim, heads=config.heads, layers=config.fusion_layers)
        self.cls_weight = nn.Parameter(torch.tensor([0.1])) if config.use_cls else None
        layer = nn.TransformerEncoderLayer(
            dim, config.heads, config.feedforward, dropout=config.dropout, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.encoder_layers, enable_nested_tensor=False)
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def enhance(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Turn the chosen layers' tokens into enhanced maps.

        Args:
            tokens: One (B, 1 + N, C) per chosen layer, [CLS] first, N a square.

        Returns:
            One float (B, C, g, g) per layer.
        """
        maps = []
        for layer_tokens, sigma in zip(tokens, self.config.sigmas, strict=True):
            batch, count, channels = layer_tokens[:, 1:].shape
            grid = round(count**0.5)
            token_map = layer_tokens[:, 1:].transpose(1, 2).reshape(batch, channels, grid, grid)
            maps.append(token_map if self.enhancement is None else self.enhancement(token_map, sigma))
        return maps

    def memory(self, tokens: Sequence[Tensor]) -> Tensor | None:
        """Build what the fusion decoder attends to.

        Args:
            tokens: One (B, 1 + N, C) per chosen layer.

        Returns:
            float (B, layers * N, D), or None when SIM uses no tokens.
        """
        if self.memory_projection is None:
            return None
        flat = torch.cat([token_map.flatten(2).transpose(1, 2) for token_map in self.enhance(tokens)], dim=1)
        projected: Tensor = self.memory_projection(flat)
        return projected

    def encode(self, proposals: Tensor) -> Tensor:
        """Run the transformer encoder, each proposal alone unless `proposal_attention` is set.

        Args:
            proposals: float (B, Q, D).

        Returns:
            float (B, Q, D).
        """
        if self.config.proposal_attention:
            return self.encoder(proposals)  # type: ignore[no-any-return]
        batch, queries, dim = proposals.shape
        return self.encoder(proposals.reshape(batch * queries, 1, dim)).view(batch, queries, dim)  # type: ignore[no-any-return]

    def forward(self, proposals: Tensor, memory: Tensor | None, cls: Tensor) -> Tensor:
        """Calibrate proposal embeddings.

        Args:
            proposals: float (B, Q, D), from one decoder layer.
            memory: float (B, M, D) from `memory`.
            cls: float (B, D), the whole image's final projected [CLS].

        Returns:
            float (B, Q, D).
        """
        if self.fusion is not None and memory is not None:
            proposals = self.fusion(proposals, memory)
        if self.cls_weight is not None:
            proposals = proposals + self.cls_weight * F.normalize(cls, dim=-1)[:, None]
        return self.encode(proposals)
