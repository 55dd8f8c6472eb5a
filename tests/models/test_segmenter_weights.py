"""Published weights in the forms in which they are published: transformers' hub files, Swin's own file, timm's."""

import json
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm import create_model
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor
from transformers import AutoConfig, Mask2FormerForUniversalSegmentation, SwinForImageClassification

from scan_lightning.models.segmenter import MaskSegmenter, SegmenterConfig
from scan_lightning.models.segmenter_weights import from_swin_names, read_tensors

DIM = 20
BACKBONE = "model.pixel_level_module.encoder."
# What files on the hub call what transformers 5 has renamed; written down from the hub's checkpoints of 2022.
HUB_NAMES = (
    ("attention.q_proj", "attention.self.query"),
    ("attention.k_proj", "attention.self.key"),
    ("attention.v_proj", "attention.self.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("attention.relative_position_bias.relative_position_bias_table", "attention.self.relative_position_bias_table"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)


def build(config: SegmenterConfig, weights: Path | str | None = None) -> MaskSegmenter:
    torch.manual_seed(0)
    config = replace(config, weights=None if weights is None else str(weights))
    return MaskSegmenter(config=config, embedding_dim=DIM).eval()


def hub_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a Swin's tensors to what hub files call them; buffers that such files carry are added."""
    result = {}
    for name, tensor in state.items():
        old = name
        for ours, theirs in HUB_NAMES if ".blocks." in name else ():
            old = old.replace(ours, theirs)
        result[old] = tensor.clone().contiguous()
        if old.endswith("relative_position_bias_table"):
            result[old.replace("bias_table", "index")] = torch.zeros(16, 16, dtype=torch.int64)
    return result


@pytest.fixture(scope="module")
def timm_swin(segmenter_config: SegmenterConfig) -> SwinTransformer:
    """timm's Swin of the tiny segmenter's architecture, for images whose stages are whole windows."""
    torch.manual_seed(3)
    config = segmenter_config
    swin = SwinTransformer(
        img_size=128,
        patch_size=config.patch_size,
        window_size=config.window_size,
        embed_dim=config.embed_dim,
        depths=config.depths,
        num_heads=config.num_heads,
        num_classes=7,
        drop_path_rate=0.0,
    ).eval()
    with torch.no_grad():
        for name, parameter in swin.named_parameters():
            if parameter.ndim == 1 or "bias_table" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return swin


def own_names(timm: dict[str, Tensor]) -> dict[str, Tensor]:
    """Write timm's state as Microsoft's file has it: reductions end a stage, and masks and indices are stored."""
    result = {}
    for name, tensor in timm.items():
        stage = re.match(r"layers\.(\d+)\.downsample\.(.*)", name)
        result[f"layers.{int(stage[1]) - 1}.downsample.{stage[2]}" if stage else name.replace("head.fc", "head")] = (
            tensor
        )
    result["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    result["layers.2.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    return result


def write_microsoft(path: Path, swin: SwinTransformer) -> None:
    torch.save({"model": own_names(swin.state_dict())}, path)


def write_timm(path: Path, swin: SwinTransformer) -> None:
    torch.save(swin.state_dict(), path)


def write_timm_safetensors(path: Path, swin: SwinTransformer) -> None:
    save_file({name: tensor.contiguous() for name, tensor in swin.state_dict().items()}, path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("swin.pth", write_microsoft),
        ("pytorch_model.bin", write_timm),
        ("model.safetensors", write_timm_safetensors),
    ],
)
def test_swin_file_computes_what_timm_computes(
    segmenter_config: SegmenterConfig,
    timm_swin: SwinTransformer,
    tmp_path: Path,
    name: str,
    write: Callable[[Path, SwinTransformer], None],
) -> None:
    write(tmp_path / name, timm_swin)
    backbone: Any = build(segmenter_config, tmp_path / name).model.pixel_level_module.encoder
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = timm_swin.forward_features(x)  # (1, 4, 4, C), after the final norm
        found = backbone.swin(x).last_hidden_state.view_as(expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.5


def test_swin_file_leaves_the_rest_alone(
    segmenter_config: SegmenterConfig, timm_swin: SwinTransformer, tmp_path: Path
) -> None:
    write_microsoft(tmp_path / "swin.pth", timm_swin)
    loaded, plain = build(segmenter_config, tmp_path / "swin.pth").state_dict(), build(segmenter_config).state_dict()
    changed = {name for name, tensor in loaded.items() if not torch.equal(tensor, plain[name])}
    assert changed
    assert all(name.startswith(f"{BACKBONE}swin.") for name in changed)


def test_swin_b_of_timm_has_the_tensors_of_the_papers_backbone() -> None:
    """At full size, on the meta device: names and shapes of swin_base_patch4_window12_384, whatever its weights."""
    with torch.device("meta"):
        timm = create_model("swin_base_patch4_window12_384", pretrained=False).state_dict()
        backbone: Any = MaskSegmenter(config=SegmenterConfig(), embedding_dim=512).model.pixel_level_module.encoder
    expected = {name: tensor.shape for name, tensor in backbone.swin.state_dict().items()}
    for state in (timm, own_names(timm)):
        assert {name: tensor.shape for name, tensor in from_swin_names(state).items()} == expected


def test_from_swin_names_splits_the_joint_projection() -> None:
    joint = torch.arange(6.0).view(6, 1)
    found = from_swin_names({"layers.1.blocks.0.attn.qkv.weight": joint, "head.weight": joint})
    stem = "encoder.layers.1.blocks.0.attention."
    assert sorted(found) == [f"{stem}{part}_proj.weight" for part in "kqv"]
    assert torch.equal(found[f"{stem}k_proj.weight"], joint[2:4])


def test_hub_swin_fills_the_backbone(segmenter_config: SegmenterConfig, tmp_path: Path) -> None:
    """The names of microsoft/swin-base-patch4-window12-384-in22k, classifier and all."""
    torch.manual_seed(5)
    published = SwinForImageClassification(segmenter_config.to_transformers().backbone_config)
    state = {name: torch.randn_like(tensor) for name, tensor in published.state_dict().items()}
    save_file(hub_names(state), tmp_path / "model.safetensors", metadata={"format": "pt"})
    published.config.save_pretrained(tmp_path)
    own = build(segmenter_config, tmp_path).model.pixel_level_module.encoder.state_dict()
    for name, tensor in own.items():
        if name.startswith("swin."):
            assert torch.equal(tensor, state[name]), name


def write_hub_mask2former(folder: Path, config: SegmenterConfig, **changes: Any) -> dict[str, Tensor]:
    """Write the names of facebook/mask2former-swin-base-IN21k-ade-semantic: no ``swin.``, no final norm of Swin."""
    published = Mask2FormerForUniversalSegmentation(replace(config, **changes).to_transformers())
    state = {
        name: torch.randn_like(tensor)
        for name, tensor in published.state_dict().items()
        if not name.startswith(f"{BACKBONE}swin.layernorm.")
    }
    files = {name.replace(f"{BACKBONE}swin.", BACKBONE): tensor for name, tensor in hub_names(state).items()}
    save_file(files, folder / "model.safetensors", metadata={"format": "pt"})
    published.config.save_pretrained(folder)
    return state


def test_hub_mask2former_is_a_warm_start(segmenter_config: SegmenterConfig, tmp_path: Path) -> None:
    """The published decoder has one layer less than ours, which keeps its initial values."""
    published = write_hub_mask2former(tmp_path, segmenter_config, decoder_layers=1)
    assert AutoConfig.from_pretrained(tmp_path).decoder_layers == 2
    loaded, plain = build(segmenter_config, tmp_path).state_dict(), build(segmenter_config).state_dict()
    kept = {name for name in loaded if name not in published}
    assert {name.split(".")[0] for name in kept} == {"model", "embedding_head"}
    assert any(".decoder.layers.1." in name for name in kept)
    for name, tensor in loaded.items():
        assert torch.equal(tensor, plain[name] if name in kept else published[name]), name


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def test_damaged_hub_file_is_named(segmenter_config: SegmenterConfig, tmp_path: Path) -> None:
    write_hub_mask2former(tmp_path, segmenter_config)
    damage(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"weights: {tmp_path}: cannot be read"):
        build(segmenter_config, tmp_path)


def test_hub_file_that_lacks_tensors_is_refused(segmenter_config: SegmenterConfig, tmp_path: Path) -> None:
    """transformers itself would only warn and start those from random values."""
    published = Mask2FormerForUniversalSegmentation(segmenter_config.to_transformers())
    state = {name: tensor for name, tensor in published.state_dict().items() if ".mask_embedder." not in name}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    published.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"6 tensors are missing, such as .*mask_embedder"):
        build(segmenter_config, tmp_path)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f'mkdir "{self.path}"',)


def test_file_with_code_is_refused(segmenter_config: SegmenterConfig, tmp_path: Path) -> None:
    torch.save({"model": {"norm.weight": torch.ones(2), "x": Bomb(tmp_path / "exploded")}}, tmp_path / "swin.pth")
    with pytest.raises(ValueError, match=r"swin\.pth: damaged, or more than tensors, which is refused"):
        build(segmenter_config, tmp_path / "swin.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(ValueError, match=r"plain\.pth: damaged, or more than tensors"):
        read_tensors(tmp_path / "plain.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(2)], {"model": {}}])
def test_file_without_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "swin.pth")
    with pytest.raises(ValueError, match=r"swin\.pth: expected tensors by name, found none"):
        read_tensors(tmp_path / "swin.pth")


@pytest.mark.parametrize("kind", ["empty", "half", "text"])
@pytest.mark.parametrize("name", ["swin.pth", "swin.safetensors"])
def test_damaged_file_is_named(timm_swin: SwinTransformer, tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    (write_timm if name.endswith("pth") else write_timm_safetensors)(path, timm_swin)
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes({"empty": b"", "half": half, "text": b"no weights"}[kind])
    with pytest.raises(ValueError, match=rf"weights: {path}: damaged"):
        read_tensors(path)


def test_file_of_another_width_tells_both_shapes(
    segmenter_config: SegmenterConfig, timm_swin: SwinTransformer, tmp_path: Path
) -> None:
    write_microsoft(tmp_path / "swin.pth", timm_swin)
    message = (
        r"swin\.pth does not fit the configured segmenter: \d+ tensors differ, such as .*: \(8.*\) instead of \(16"
    )
    with pytest.raises(ValueError, match=message):
        build(replace(segmenter_config, embed_dim=16), tmp_path / "swin.pth")


def test_file_of_another_model_is_refused(segmenter_config: SegmenterConfig, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(4, 3, 7, 7)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"resnet\.pth does not fit the configured segmenter"):
        build(segmenter_config, tmp_path / "resnet.pth")


@pytest.mark.parametrize("source", ["weights/swin.pth", "./swin", "data/weights/swin"])
def test_missing_path_asks_no_hub(
    segmenter_config: SegmenterConfig, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def ask(*_args: Any, **_options: Any) -> None:
        pytest.fail("asked the hub for a path")

    monkeypatch.setattr("scan_lightning.models.segmenter_weights.AutoConfig.from_pretrained", ask)
    with pytest.raises(FileNotFoundError, match=f"weights: no file or folder '{source}'"):
        build(segmenter_config, source)


def test_unreachable_hub_tells_of_local_copies(
    segmenter_config: SegmenterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise OSError("We couldn't connect to the hub\nand a second line")

    monkeypatch.setattr("scan_lightning.models.segmenter_weights.AutoConfig.from_pretrained", fail)
    with pytest.raises(
        FileNotFoundError, match=r"a copy on disk can be named by its path: We couldn't connect"
    ) as error:
        build(segmenter_config, "someone/swin")
    assert "\n" not in str(error.value)


def test_folder_of_another_format_is_named(segmenter_config: SegmenterConfig, tmp_path: Path) -> None:
    """timm's folders on the hub have a config.json that transformers cannot read."""
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "swin_base_patch4_window12_384"}), "utf-8")
    with pytest.raises(ValueError, match="of a Swin in another format name the file of weights"):
        build(segmenter_config, tmp_path)
