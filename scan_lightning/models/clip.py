"""CLIP through open_clip: loading, the frozen pair of towers, and per-layer access to the visual tower's tokens.

The visual tower is reached through forward hooks on its blocks, so any open_clip vision transformer works unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scan_lightning.models.clip_weights import clip_weight_files, load_clip_weights

Tokenizer = Callable[[Sequence[str]], Tensor]
TokenEdit = Callable[[int, Tensor], Tensor]

IMAGENET_TEMPLATES: tuple[str, ...] = tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
"""The 80 templates of the CLIP paper (Radford et al., 2021), as open_clip lists them (MIT)."""

CLIP_MEAN: tuple[float, ...] = open_clip.OPENAI_DATASET_MEAN
"""Mean of CLIP's training images, RGB 0 to 1 (Radford et al., 2021)."""
CLIP_STD: tuple[float, ...] = open_clip.OPENAI_DATASET_STD
"""Standard deviation of CLIP's training images, RGB 0 to 1 (Radford et al., 2021)."""
CONFIG_NAME = "open_clip_config.json"

SHIPPED_MODEL = "tiny"
SHIPPED_FOLDER = Path(__file__).parent.parent / "assets" / "tiny_clip"


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Which CLIP classifies and feeds SIM.

    Args:
        model: An open_clip architecture ("ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-B-16-quickgelu"), a folder that
            holds open_clip_config.json with weights beside it, or "tiny", the small model that the package ships.
        weights: An open_clip tag ("datacomp_xl_s13b_b90k") or a file of weights. None takes those of the folder, or
            leaves the named architecture untrained.
        shifted_weights: File or folder of a CLIP whose visual tower was fine-tuned under Contextual Shift (spec
            section 6). It classifies the regions; SIM and the inserted [CLS] tokens keep the original tower. None uses
            the original tower for both.
    """

    model: str = SHIPPED_MODEL
    weights: str | None = None
    shifted_weights: str | None = None


def build_open_clip(model_cfg: dict[str, Any]) -> open_clip.CLIP:
    """Build an untrained CLIP from an architecture dictionary.

    Args:
        model_cfg: What open_clip_config.json holds under "model_cfg": embed_dim, vision_cfg, text_cfg, quick_gelu.

    Returns:
        The model, with open_clip's initial weights.

    Raises:
        ValueError: If the vision tower is not a vision transformer with a [CLS] token.
    """
    model = open_clip.CLIP(**deepcopy(model_cfg))
    _require_vision_transformer(model)
    return model


def load_open_clip(model: str, *, weights: str | None = None) -> tuple[open_clip.CLIP, Tokenizer]:
    """Load a CLIP and its tokenizer; see `ClipConfig` for what the arguments may be.

    Args:
        model: Architecture name, folder, or "tiny".
        weights: open_clip tag, file of weights, or None.

    Returns:
        The model in evaluation mode in float32 on the CPU, and a function from texts to int64 tokens (texts, context).

    Raises:
        FileNotFoundError: If a folder or file does not exist, or the hub does not give a tag's weights.
        ValueError: If a configuration or a file of weights cannot be read, holds code, or does not fit the model.
    """
    folder = SHIPPED_FOLDER if model == SHIPPED_MODEL else Path(model)
    if folder.is_dir():
        return _load_folder(folder, weights)
    if model not in open_clip.list_models():
        raise ValueError(
            f"clip model: expected 'tiny', a folder with {CONFIG_NAME}, or an open_clip architecture such as "
            f"'ViT-B-16', got {model!r}"
        )
    is_file = weights is not None and Path(weights).is_file()
    if weights is not None and not is_file and weights not in open_clip.list_pretrained_tags_by_model(model):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise ValueError(f"clip weights: no file {weights!r}, and {model} has no such tag (known: {tags})")
    try:
        clip = open_clip.create_model(model, pretrained=None if is_file else weights, load_weights=weights is not None)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"clip weights: {weights!r} of {model} could not be loaded from the hub or its cache; a copy on disk can "
            f"be named by its path: {next(iter(str(error).splitlines()), type(error).__name__)}"
        ) from error
    _require_vision_transformer(clip)
    if is_file:
        load_clip_weights(clip, Path(str(weights)))
    return clip.float().eval(), open_clip.get_tokenizer(model)


def _load_folder(folder: Path, weights: str | None) -> tuple[open_clip.CLIP, Tokenizer]:
    """Build from a folder's configuration and load ``weights``, else the folder's own."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"clip model: expected {CONFIG_NAME} in {folder}, found none")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        model_cfg, preprocess = config["model_cfg"], config.get("preprocess_cfg", {})
        clip = build_open_clip(model_cfg)
        if "mean" in preprocess and "std" in preprocess:  # not every CLIP was trained with OpenAI's
            open_clip.set_model_preprocess_cfg(clip, preprocess)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected an open_clip configuration with a 'model_cfg': {error}") from error
    files = clip_weight_files(folder)
    if weights is None and not files:
        raise FileNotFoundError(
            f"clip model: {folder} has no weights beside its configuration (*.safetensors, *.bin, *.pt)"
        )
    load_clip_weights(clip, Path(weights) if weights is not None else files[0])
    context = int(model_cfg.get("text_cfg", {}).get("context_length", 77))
    return clip.float().eval(), open_clip.SimpleTokenizer(context_length=context)


def _require_vision_transformer(clip: Any) -> None:
    """Raise ValueError unless the visual tower is a ViT whose pooled output is its [CLS] token."""
    visual = getattr(clip, "visual", None)
    if not isinstance(visual, open_clip.transformer.VisionTransformer) or visual.pool_type != "tok":
        raise ValueError(f"clip model: expected a vision transformer with a [CLS] token, got {type(visual).__name__}")
    if not isinstance(clip, open_clip.CLIP):
        raise ValueError("clip model: expected open_clip's CLIP with its own text tower, got another text tower")


class FrozenClip(nn.Module):
    """A frozen CLIP: the original towers, and the visual tower that classifies regions.

    Args:
        clip: The original CLIP; its text tower is locked, its visual tower feeds SIM and gives the [CLS] tokens.
        tokenizer: Texts to tokens (texts, context length).
        shifted_visual: A visual tower fine-tuned under Contextual Shift, or None to classify with the original one.

    Attributes:
        image_size: Side S of CLIP's square input in pixels.
        patch_size: Side of a patch in pixels.
        grid: Side g of the token grid, so N = g * g patch tokens.
        layers: Number of blocks of the visual tower.
        width: Channels of its tokens.
        embed_dim: Dimension D of the joint space.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, clip: open_clip.CLIP, tokenizer: Tokenizer, shifted_visual: nn.Module | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.shifted_visual = shifted_visual
        self.tokenizer = tokenizer
        visual: Any = clip.visual
        self.image_size = int(visual.image_size[0])
        self.patch_size = int(visual.patch_size[0])
        self.grid = int(visual.grid_size[0])
        self.layers = len(visual.transformer.resblocks)
        self.width = int(visual.conv1.out_channels)
        self.embed_dim = int(visual.output_dim)
        mean = getattr(visual, "image_mean", None) or CLIP_MEAN
        std = getattr(visual, "image_std", None) or CLIP_STD
        self.register_buffer("mean", torch.tensor(mean).mul(255.0).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).mul(255.0).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_config(cls, config: ClipConfig) -> FrozenClip:
        """Load what ``config`` names.

        Args:
            config: Model, weights and the tuned visual tower.

        Returns:
            The frozen CLIP on the CPU in float32.

        Raises:
            FileNotFoundError: If a folder or file does not exist.
            ValueError: If a file cannot be read or does not fit.
        """
        clip, tokenizer = load_open_clip(config.model, weights=config.weights)
        shifted = None
        if config.shifted_weights is not None:
            tuned = deepcopy(clip)
            path = Path(config.shifted_weights)
            load_clip_weights(tuned, next(iter(clip_weight_files(path)), path) if path.is_dir() else path)
            shifted = tuned.visual
        return cls(clip=clip, tokenizer=tokenizer, shifted_visual=shifted)

    def train(self, mode: bool = True) -> FrozenClip:
        """Stay in evaluation mode whatever ``mode`` says, since CLIP is frozen."""
        return super().train(False)

    @property
    def region_visual(self) -> nn.Module:
        """The visual tower that classifies regions: the tuned one where there is one."""
        return self.clip.visual if self.shifted_visual is None else self.shifted_visual

    def normalize(self, images: Tensor) -> Tensor:
        """Bring RGB 0 to 255 to CLIP's range.

        Args:
            images: (..., 3, H, W), any dtype.

        Returns:
            float32, same shape, (x - mean) / std.
        """
        return (images.float() - self.mean) / self.std

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts with the locked text tower.

        Args:
            texts: Strings; longer ones than the context are cut by the tokenizer.

        Returns:
            float32 (texts, D), L2-normalised.
        """
        with torch.no_grad():
            tokens = self.tokenizer(list(texts)).to(self.mean.device)
            return F.normalize(self.clip.encode_text(tokens).float(), dim=-1)

    def check_layers(self, layers: Sequence[int], what: str) -> None:
        """Raise unless the visual tower has these layers.

        Args:
            layers: Block numbers, from 1.
            what: Name of the setting, for the message.

        Raises:
            ValueError: If a layer is outside [1, number of blocks] or given twice.
        """
        wrong = [layer for layer in layers if not 1 <= layer <= self.layers]
        if wrong or len(set(layers)) != len(layers):
            raise ValueError(f"{what}: expected distinct layers in 1..{self.layers} of this CLIP, got {list(layers)}")


def run_visual(
    visual: nn.Module, images: Tensor, *, edit: TokenEdit | None = None, record: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Run a vision transformer with a view of, and a hand on, the tokens after each block.

    Args:
        visual: An open_clip vision transformer.
        images: float (B, 3, S, S), normalised.
        edit: Called as ``edit(layer, tokens)`` after each block, layer from 1, tokens (B, 1 + N, C) with [CLS] first;
            what it returns goes on into the next block. None leaves the tokens alone.
        record: Whether to return the tokens.

    Returns:
        The projected [CLS] (B, D), not normalised, and with ``record`` a list of (B, 1 + N, C): index 0 after the first
        norm, index l after block l; otherwise an empty list.
    """
    tokens: list[Tensor] = []
    blocks: Any = visual.transformer.resblocks  # type: ignore[union-attr]
    batch_first = bool(getattr(visual.transformer, "batch_first", True))

    def swap(x: Tensor) -> Tensor:
        return x if batch_first else x.transpose(0, 1)

    def after(layer: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
            changed = None
            if edit is not None:
                changed = edit(layer, swap(output))
            if record:
                tokens.append(swap(output) if changed is None else changed)
            return None if changed is None else swap(changed)

        return hook

    def first(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        tokens.append(output)

    with ExitStack() as stack:
        if record:
            stack.callback(visual.ln_pre.register_forward_hook(first).remove)  # type: ignore[union-attr]
        for layer, block in enumerate(blocks, start=1):
            stack.callback(block.register_forward_hook(after(layer)).remove)
        pooled = visual(images)
    return pooled, tokens
