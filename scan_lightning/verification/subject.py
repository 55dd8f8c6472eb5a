"""The network under test: built from a folder's configuration and weights, with a view of all its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scan_lightning.convert import config_from_released, from_released, missing_keys
from scan_lightning.models.clip import FrozenClip, build_open_clip
from scan_lightning.models.clip_tokenizer import build_tokenizer
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.preprocessing import SIZE_DIVISIBILITY
from scan_lightning.models.scan import Scan, ScanOutput
from scan_lightning.models.segmenter import IMAGENET_MEAN, IMAGENET_STD
from scan_lightning.models.semantic_integration import SemanticIntegrationModule
from scan_lightning.models.text import TextFeatures
from scan_lightning.types import Vocabulary
from scan_lightning.verification.reference import ImageInfo, Reference

SIM_ENCODER = "lightweight_transformer."
"""Released prefix of SIM's transformer encoder, the part that a compact folder may omit."""


@dataclass(frozen=True)
class Call:
    """One call of a module: its positional inputs and its output."""

    inputs: tuple[Any, ...]
    output: Any


@dataclass(frozen=True)
class View:
    """A forward pass and what its modules did.

    Attributes:
        output: The network's output.
        calls: For each watched module its calls, in order.
    """

    output: ScanOutput
    calls: Mapping[str, list[Call]]


class Subject:
    """The network with a folder's weights, in evaluation mode and without dropout.

    Args:
        reference: The folder.

    Attributes:
        network: The network.
        text: Features of the folder's class names.
        settings: The test-time settings of the folder's configuration.

    Raises:
        ValueError: If the configuration has what this project lacks, or the weights do not fit it.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        _check_supported(reference.model)
        self.network = _build(reference)
        self.text: TextFeatures = self.network.encode_vocabulary(Vocabulary.from_words(reference.config["class_names"]))
        adapter = reference.model["CLIP_ADAPTER"]
        self.settings = InferenceSettings(
            mask_threshold=adapter["MASK_THR"],
            ensemble_weight=adapter["CLIP_ENSEMBLE_WEIGHT"],
            replace_ratio=adapter["REPLACE_RATIO"],
            replace_layers=tuple(adapter["REPLACE_LAYER"]),
            mask_expand=adapter["MASK_EXPAND_RATIO"],
        )
        self._views: dict[str, View] = {}

    @property
    def sim(self) -> SemanticIntegrationModule:
        """The network's SIM; a released network always has one."""
        sim = self.network.semantic_integration
        if sim is None:
            raise ValueError("the network was built without SIM")
        return sim

    @property
    def complete(self) -> bool:
        """Whether the folder has all weights; otherwise SIM's encoder gives NaN."""
        return not self._reference.omits(SIM_ENCODER)

    @property
    def level(self) -> Any:
        """The library's backbone and pixel decoder."""
        return self.network.segmenter.model.pixel_level_module

    def pixels(self, image: ImageInfo) -> Tensor | None:
        """Give an image, uint8 (3, H, W), None where the folder lacks it.

        Args:
            image: Which one.

        Raises:
            ValueError: If it has another size than the configuration says.
        """
        pixels = self._reference.get(f"{image.name}/image")
        if pixels is not None and tuple(pixels.shape) != (3, *image.size):
            raise ValueError(f"{image.name}/image: expected (3, *{image.size}), got {tuple(pixels.shape)}")
        return pixels

    def view(self, image: ImageInfo) -> View | None:
        """Run one image alone, once, and watch all stages; None where the folder lacks the image.

        Args:
            image: Which one.
        """
        pixels = self.pixels(image)
        if pixels is not None and image.name not in self._views:
            with torch.no_grad():
                self._views[image.name] = self.watch(pixels[None], [image.size])
        return self._views.get(image.name)

    def batch(self) -> tuple[Tensor, list[tuple[int, int]]] | None:
        """Put all images into one batch, padded on the right and bottom: uint8 (B, 3, H, W) and sizes."""
        images = self._reference.images
        sizes = [image.size for image in images]
        result = torch.zeros(len(images), 3, *(max(size[axis] for size in sizes) for axis in (0, 1)), dtype=torch.uint8)
        for index, image in enumerate(images):
            pixels = self.pixels(image)
            if pixels is None:
                return None
            result[index, :, : image.size[0], : image.size[1]] = pixels
        return result, sizes

    def watch(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> View:
        """Run the network and keep what every stage gets and gives.

        Args:
            images: uint8 (B, 3, H, W).
            sizes: Valid sizes.
        """
        decoder: Any = self.network.segmenter.model.transformer_module.decoder
        watched: dict[str, nn.Module | None] = {
            "clip": self.network.clip.clip.visual,
            "lfm": self.sim.enhancement,
            "memory": self.sim.memory_projection,
            "fusion": self.sim.fusion,
            "encoder": self.sim.encoder,
            "backbone": self.level.encoder,
            "pixel_decoder": self.level.decoder,
            "pixel_encoder": self.level.decoder.encoder,
            "embedding_head": self.network.segmenter.embedding_head,
            "mask_predictor": decoder.mask_predictor,
        }
        calls: dict[str, list[Call]] = {name: [] for name in watched}

        def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
            return lambda _module, inputs, output: calls[name].append(Call(inputs, output))

        with ExitStack() as stack:
            for name, module in watched.items():
                if module is not None:
                    stack.callback(module.register_forward_hook(keep(name)).remove)
            output = self.network(images, sizes, self.text)
        return View(output, calls)


def _check_supported(model: Mapping[str, Any]) -> None:
    """Raise where the configuration has a value that this project fixes to another one."""
    adapter = model["CLIP_ADAPTER"]
    for name, value, expected in (
        ("PIXEL_MEAN", tuple(model["PIXEL_MEAN"]), IMAGENET_MEAN),
        ("PIXEL_STD", tuple(model["PIXEL_STD"]), IMAGENET_STD),
        ("MASK_FORMER.SIZE_DIVISIBILITY", model["MASK_FORMER"]["SIZE_DIVISIBILITY"], SIZE_DIVISIBILITY),
        ("CLIP_ADAPTER.MASK_FILL", adapter["MASK_FILL"], "mean"),
        ("CLIP_ADAPTER.MASK_MATTING", adapter["MASK_MATTING"], False),
        ("CLIP_ADAPTER.CLIP_ENSEMBLE", adapter["CLIP_ENSEMBLE"], True),
    ):
        if value != expected:
            raise ValueError(f"config.json: MODEL.{name}: expected {expected}, got {value}")


def _build(reference: Reference) -> Scan:
    """Build the network and load the weights."""
    architecture = reference.config["clip_model"]
    clip = build_open_clip(architecture)
    tokenizer = build_tokenizer(int(architecture["text_cfg"].get("context_length", 77)))
    frozen = FrozenClip(clip=clip, tokenizer=tokenizer, shifted_visual=deepcopy(clip.visual))
    try:
        config = config_from_released(reference.model, reference.weights)
    except KeyError as error:
        raise ValueError(f"config.json or model.safetensors lacks {error}") from error
    integration = config.semantic_integration
    config = replace(
        config,
        segmenter=replace(config.segmenter, drop_path_rate=0.0),
        semantic_integration=None if integration is None else replace(integration, dropout=0.0),
    )
    network = Scan(config=config, clip=frozen)
    state, unknown = from_released(reference.weights)
    missing = missing_keys(list(network.state_dict()), state)
    if unknown or missing:
        what = [f"has no {_some(missing)}"] if missing else []
        what += [f"has unknown {_some(unknown)}"] if unknown else []
        raise ValueError("model.safetensors " + " and ".join(what))
    try:
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"model.safetensors does not fit config.json: {error}") from error
    return network.eval()


def _some(names: Sequence[str]) -> str:
    """Name a few of many."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
