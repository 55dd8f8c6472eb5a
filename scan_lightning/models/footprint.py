"""What a SCAN takes: parameters by part, operations by stage, memory of a training step.

Nothing is allocated and no weights are read: the network is built of fake tensors, which have shapes and no content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode  # torch documents it under this name
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from scan_lightning.models.clip_architecture import build_untrained
from scan_lightning.models.scan import Scan, ScanConfig
from scan_lightning.models.text import TextFeatures

ADAM_STATES = 2
"""Tensors that AdamW keeps for each trainable one."""
WHOLE_IMAGE = "CLIP of the whole image"
FROZEN_STAGES = (WHOLE_IMAGE,)
"""Stages that are not differentiated in training."""
CHECKPOINTED_STAGES = ("backbone", "pixel decoder")
"""Stages that gradient checkpointing computes a second time."""
_SEGMENTER = {
    "backbone": "model.pixel_level_module.encoder",
    "pixel decoder": "model.pixel_level_module.decoder",
    "mask decoder": "model.transformer_module",
    "embedding head": "embedding_head",
}
"""Stages of the segmenter and the modules that they are."""


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """Parameters of a part of the network.

    Attributes:
        name: The part.
        trainable: Parameters that training changes.
        frozen: Parameters that it does not.
    """

    name: str
    trainable: int
    frozen: int


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a training step of one process takes.

    Attributes:
        parts: The parts of the network, every parameter in one of them.
        flops: Floating point operations of the forward pass for one image, by stage; a multiplication and an addition
            are two. Matrix products, convolutions and attention are counted; norms, sampling and Fourier transforms
            are not.
        activation_bytes: What the forward pass of the batch keeps for the backward pass, without the loss.
        recomputed: Stages whose forward pass runs again in the backward pass.
    """

    parts: tuple[PartSize, ...]
    flops: Mapping[str, int]
    activation_bytes: int
    recomputed: tuple[str, ...] = ()

    @property
    def trainable(self) -> int:
        """Parameters that training changes."""
        return sum(part.trainable for part in self.parts)

    @property
    def frozen(self) -> int:
        """Parameters that it does not change."""
        return sum(part.frozen for part in self.parts)

    @property
    def training_flops(self) -> int:
        """Operations of a training step for one image: the backward pass takes twice the forward pass's."""
        passes = {stage: 1 if stage in FROZEN_STAGES else 3 + (stage in self.recomputed) for stage in self.flops}
        return sum(passes[stage] * count for stage, count in self.flops.items())

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by what they hold; parameters, gradients and AdamW's states are float32."""
        width = torch.finfo(torch.float32).bits // 8
        return {
            "weights": width * (self.trainable + self.frozen),
            "gradients": width * self.trainable,
            "optimiser states": width * ADAM_STATES * self.trainable,
            "activations": self.activation_bytes,
        }


def measure_footprint(
    config: ScanConfig,
    *,
    batch: int,
    side: int,
    words: int,
    autocast: torch.dtype | None = None,
    checkpointing: bool = False,
) -> Footprint:
    """Measure what training a network takes.

    Args:
        config: Architecture; the weights that it names are not looked at.
        batch: Images per process and step.
        side: Side of the square training crop in pixels.
        words: Number of texts that CLIP encodes for the training vocabulary.
        autocast: Precision of mixed-precision training; None is float32.
        checkpointing: Whether backbone and pixel decoder keep less and are computed twice.

    Returns:
        Parameters, operations and memory.

    Raises:
        ValueError: If the architecture contradicts itself.
    """
    scan = build_hollow(config)
    parts = count_parts(scan)
    if checkpointing:
        scan.segmenter.checkpoint_activations()
    with FakeTensorMode(allow_non_fake_inputs=True), _without_fast_path():
        scan.to_empty(device="cpu").train()
        scan.segmenter.model.pixel_level_module.decoder.eval()  # it looks for infinite values when it is trained
        images = torch.zeros(batch, 3, side, side, dtype=torch.uint8)
        text = TextFeatures(torch.zeros(words, scan.clip.embed_dim), torch.zeros(words, dtype=torch.int64), words)
        kept = _KeptTensors(scan)
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None), kept:
            flops = _run_stages(scan, images, text)
    per_image = {stage: count // batch for stage, count in flops.items()}
    return Footprint(
        parts=parts,
        flops=per_image,
        activation_bytes=kept.bytes,
        recomputed=CHECKPOINTED_STAGES if checkpointing else (),
    )


def build_hollow(config: ScanConfig) -> Scan:
    """Build a network without content, on the meta device.

    Args:
        config: Architecture; the weights that it names are not looked at.

    Returns:
        A network whose parameters have shapes only.
    """
    bare = replace(config, segmenter=replace(config.segmenter, weights=None))
    with torch.device("meta"):
        return Scan(config=bare, clip=build_untrained(config.clip))


def count_parts(scan: Scan) -> tuple[PartSize, ...]:
    """Count the parameters of every part; one that two parts share counts in the first.

    Args:
        scan: The network.

    Returns:
        The parts that have parameters.
    """
    segmenter = scan.segmenter
    towers: dict[str, nn.Module | None] = {
        **{stage: segmenter.get_submodule(path) for stage, path in _SEGMENTER.items()},
        "SIM": scan.semantic_integration,
        "CLIP, visual tower": scan.clip.clip.visual,
        "CLIP, tuned visual tower": scan.clip.shifted_visual,
        "CLIP, text tower": scan.clip.clip,
        "non-object embedding": scan,
    }
    known: set[int] = set()
    parts = []
    for name, module in towers.items():
        if module is None:
            continue
        own = [parameter for parameter in module.parameters() if id(parameter) not in known]
        known.update(map(id, own))
        trainable = sum(parameter.numel() for parameter in own if parameter.requires_grad)
        frozen = sum(parameter.numel() for parameter in own) - trainable
        parts.append(PartSize(name=name, trainable=trainable, frozen=frozen))
    return tuple(part for part in parts if part.trainable + part.frozen)


def _run_stages(scan: Scan, images: Tensor, text: TextFeatures) -> dict[str, int]:
    """Run a forward pass as training does and count its operations by stage."""
    sizes = [(images.shape[2], images.shape[3])] * len(images)
    with FlopCounterMode(display=False) as segmenter:
        proposals = scan.segmenter(scan.segmenter.preprocess(images, sizes))
    with FlopCounterMode(display=False) as whole_image:
        cls, tokens = scan.look_at_images(images, sizes)
    with FlopCounterMode(display=False) as integration:
        embeddings = scan.integrate(proposals.proposal_embeddings, cls, tokens)
    with FlopCounterMode(display=False) as words:
        for layer in embeddings:
            scan.classify(layer, text)
    by_module: Mapping[Any, Mapping[Any, int]] = segmenter.get_flop_counts()
    root = type(scan.segmenter).__name__
    return {
        **{stage: sum(by_module[f"{root}.{path}"].values()) for stage, path in _SEGMENTER.items()},
        WHOLE_IMAGE: whole_image.get_total_flops(),
        "SIM": integration.get_total_flops(),
        "comparison with words": words.get_total_flops(),
    }


class _KeptTensors(saved_tensors_hooks):
    """Adds up what autograd keeps for the backward pass, every storage once, parameters and buffers left out."""

    def __init__(self, module: nn.Module) -> None:
        own = [*module.parameters(), *module.buffers()]
        self._own = {_address(tensor) for tensor in own}
        self._kept: dict[int, Tensor] = {}  # held, so that no address is given to a second storage
        super().__init__(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        key = _address(tensor)
        if key not in self._own:
            self._kept[key] = tensor
        return tensor

    @property
    def bytes(self) -> int:
        """Bytes of all of them."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())


def _address(tensor: Tensor) -> int:
    """Identify a tensor's storage, which views share, as long as it lives."""
    reference: Any = StorageWeakRef
    return int(reference(tensor.untyped_storage()).cdata)


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Let attention run through operations that are counted, rather than through the fused one of inference."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
