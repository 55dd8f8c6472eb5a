"""A network of two-layer parts, for every test that needs one: nothing is downloaded, all sizes are tiny."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from scan_lightning.losses.mask_classification import LossConfig
from scan_lightning.models.clip import CONFIG_NAME, ClipConfig, FrozenClip, build_open_clip
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.scan import Scan, ScanConfig
from scan_lightning.models.segmenter import SegmenterConfig
from scan_lightning.models.semantic_integration import SemanticIntegrationConfig
from scan_lightning.module import ScanModule
from scan_lightning.optim import OptimizerConfig

CLIP_ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 32,
    "quick_gelu": False,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 48, "head_width": 12},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
SEGMENTER = SegmenterConfig(
    embed_dim=8,
    depths=(1, 1, 2, 1),
    num_heads=(1, 2, 2, 4),
    window_size=4,
    pretrain_image_size=32,
    drop_path_rate=0.0,
    conv_dim=32,
    mask_dim=16,
    hidden_dim=32,
    heads=4,
    encoder_layers=1,
    encoder_feedforward=32,
    decoder_layers=2,
    dim_feedforward=32,
    num_queries=5,
    embedding_hidden=24,
)
INTEGRATION = SemanticIntegrationConfig(
    layers=(1, 2), sigmas=(3.0, 2.0), fusion_layers=2, encoder_layers=1, heads=4, feedforward=32
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and one thread gives the same bits everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def clip_architecture() -> dict[str, Any]:
    """The tiny CLIP's architecture: 2 layers, 32 pixels, a grid of 4 x 4 tokens, 32 joint dimensions."""
    return deepcopy(CLIP_ARCHITECTURE)


def write_clip(folder: Path, seed: int, architecture: dict[str, Any]) -> None:
    """Write an untrained CLIP as open_clip stores it, its visual tower scaled so that it tells images apart."""
    torch.manual_seed(seed)
    clip = build_open_clip(architecture)
    state = {name: tensor.detach().contiguous() for name, tensor in clip.state_dict().items()}
    state["visual.conv1.weight"] *= 10
    state["visual.class_embedding"] *= 0.1
    for name, tensor in state.items():
        if name.startswith("visual.") and name.endswith(("in_proj_weight", "out_proj.weight", "c_proj.weight")):
            tensor *= 8
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / CONFIG_NAME).write_text(json.dumps({"model_cfg": architecture}), encoding="utf-8")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny CLIP: configuration and weights."""
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder, 0, CLIP_ARCHITECTURE)
    return folder


@pytest.fixture(scope="session")
def other_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a CLIP of the same architecture with other weights."""
    folder = tmp_path_factory.mktemp("other_clip")
    write_clip(folder, 1, CLIP_ARCHITECTURE)
    return folder


@pytest.fixture(scope="session")
def clip(clip_folder: Path) -> FrozenClip:
    """The tiny frozen CLIP, shared: read only."""
    return FrozenClip.from_config(ClipConfig(model=str(clip_folder)))


@pytest.fixture(scope="session")
def segmenter_config() -> SegmenterConfig:
    """A tiny segmenter: 5 queries, 2 decoder layers."""
    return SEGMENTER


@pytest.fixture(scope="session")
def integration_config() -> SemanticIntegrationConfig:
    """A tiny SIM over both layers of the tiny CLIP."""
    return INTEGRATION


@pytest.fixture(scope="session")
def scan_config(clip_folder: Path) -> ScanConfig:
    """The tiny network."""
    return ScanConfig(
        segmenter=SEGMENTER,
        clip=ClipConfig(model=str(clip_folder)),
        semantic_integration=INTEGRATION,
        template_set="single",
    )


@pytest.fixture(scope="session")
def make_scan(scan_config: ScanConfig) -> Callable[..., Scan]:
    """Function that builds the tiny network in evaluation mode: ``make_scan(seed=0, **changes of the config)``."""

    def make(seed: int = 0, **changes: Any) -> Scan:
        torch.manual_seed(seed)
        scan = Scan(config=ScanConfig(**{**vars(scan_config), **changes}))
        with torch.no_grad():  # masks and embeddings that differ from query to query and from pixel to pixel
            scan.segmenter.model.transformer_module.queries_features.weight.mul_(3)
            scan.segmenter.model.pixel_level_module.decoder.mask_projection.weight.mul_(30)
            scan.segmenter.embedding_head[0].weight.mul_(4)
        return scan.eval()

    return make


@pytest.fixture(scope="session")
def scan(make_scan: Callable[..., Scan]) -> Scan:
    """The tiny network in evaluation mode, shared: read only."""
    return make_scan()


@pytest.fixture
def settings() -> InferenceSettings:
    """Test-time settings that fit the tiny network."""
    return InferenceSettings(replace_layers=(1,), replace_ratio=0.5)


def make_image(seed: int, height: int, width: int) -> Tensor:
    """A uint8 image (3, H, W) of smooth colours with some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 5, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    noise = torch.rand(3, height, width, generator=generator) * 40 - 20
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="session")
def image_of() -> Callable[[int, int, int], Tensor]:
    """Function that makes an image from (seed, height, width)."""
    return make_image


@pytest.fixture(scope="session")
def make_module(scan_config: ScanConfig) -> Callable[..., ScanModule]:
    """Function that builds a tiny module: ``make_module(network={...}, **arguments)``."""

    def make(*, network: dict[str, Any] | None = None, init_seed: int = 0, **arguments: Any) -> ScanModule:
        torch.manual_seed(init_seed)
        defaults: dict[str, Any] = {
            "loss": LossConfig(num_points=30),
            "optimizer": OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
            "inference": InferenceSettings(replace_layers=(1,), replace_ratio=0.5),
        }
        config = replace(scan_config, segmenter=replace(scan_config.segmenter, conv_dim=64, drop_path_rate=0.2))
        return ScanModule(network=replace(config, **(network or {})), **(defaults | arguments))

    return make
