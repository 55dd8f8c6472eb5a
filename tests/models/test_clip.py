import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scan_lightning.models.clip import (
    IMAGENET_TEMPLATES,
    ClipConfig,
    FrozenClip,
    build_open_clip,
    load_open_clip,
    run_visual,
)
from scan_lightning.models.clip_weights import load_clip_weights

CONFIG = "open_clip_config.json"


def test_folder_loads_config_and_weights(clip_folder: Path) -> None:
    model, tokenizer = load_open_clip(str(clip_folder))
    stored = load_file(clip_folder / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert not model.training
    tokens = tokenizer(["sky", "a red car"])
    assert (tokens.shape, tokens.dtype) == ((2, 24), torch.int64)


def test_frozen_clip_knows_its_sizes(clip: FrozenClip) -> None:
    found = (clip.image_size, clip.patch_size, clip.grid, clip.layers, clip.width, clip.embed_dim)
    assert found == (32, 8, 4, 2, 48, 32)


def test_frozen_clip_stays_frozen_and_in_evaluation(clip_folder: Path) -> None:
    clip = FrozenClip.from_config(ClipConfig(model=str(clip_folder)))
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    clip.train()
    assert not any(module.training for module in clip.modules())


def test_normalize_is_open_clips(clip: FrozenClip) -> None:
    image = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1).expand(2, 3, 4, 5)
    expected = [
        (value / 255 - mean) / std
        for value, mean, std in zip(
            (0, 128, 255), open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, strict=True
        )
    ]
    found = clip.normalize(image)
    assert (found.shape, found.dtype) == ((2, 3, 4, 5), torch.float32)
    torch.testing.assert_close(found[1, :, 2, 3], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_encode_texts_equals_open_clip_one_by_one(clip: FrozenClip) -> None:
    texts = ["sky", "a photo of a red car.", "ein Haus mit Türmen"]
    found = clip.encode_texts(texts)
    for text, feature in zip(texts, found, strict=True):
        with torch.no_grad():
            expected = clip.clip.encode_text(clip.tokenizer([text]))[0]
        torch.testing.assert_close(feature, expected / expected.norm())
    assert not found.requires_grad


def pixels(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_run_visual_without_edit_is_the_tower(clip: FrozenClip) -> None:
    visual = clip.clip.visual
    with torch.no_grad():
        pooled, tokens = run_visual(visual, pixels(), record=True)
        assert torch.equal(pooled, visual(pixels()))
        assert run_visual(visual, pixels())[1] == []
    assert [tuple(layer.shape) for layer in tokens] == [(3, 17, 48)] * 3


def test_run_visual_records_what_a_loop_over_blocks_gives(clip: FrozenClip) -> None:
    visual: Any = clip.clip.visual
    with torch.no_grad():
        pooled, tokens = run_visual(visual, pixels(), record=True)
        patches = visual.conv1(pixels()).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(3, 1, -1), patches], dim=1) + visual.positional_embedding
        x = visual.ln_pre(x)
        torch.testing.assert_close(tokens[0], x)
        for index, block in enumerate(visual.transformer.resblocks, start=1):
            x = block(x)
            torch.testing.assert_close(tokens[index], x)
        torch.testing.assert_close(pooled, visual.ln_post(x[:, 0]) @ visual.proj)


@pytest.mark.parametrize("batch_first", [True, False])
def test_run_visual_edit_goes_on_into_the_next_block(clip_architecture: dict[str, Any], batch_first: bool) -> None:
    torch.manual_seed(0)
    visual: Any = build_open_clip(clip_architecture).visual.eval()
    if not batch_first:  # the layout of older open_clip towers, (tokens, batch, channels)
        visual.transformer.batch_first = False
        for block in visual.transformer.resblocks:
            block.attn.batch_first = False
    calls = []

    def edit(layer: int, tokens: Tensor) -> Tensor:
        calls.append((layer, tuple(tokens.shape)))
        return tokens if layer != 1 else torch.cat([tokens[:, :1], tokens[:, 1:] * 0], dim=1)

    with torch.no_grad():
        pooled, tokens = run_visual(visual, pixels(), edit=edit, record=True)
        x = tokens[1].clone()
        assert calls == [(1, (3, 17, 48)), (2, (3, 17, 48))]
        assert not tokens[1][:, 1:].any()
        block = visual.transformer.resblocks[1]
        x = block(x) if batch_first else block(x.transpose(0, 1)).transpose(0, 1)
        torch.testing.assert_close(tokens[2], x)
        torch.testing.assert_close(pooled, visual.ln_post(x[:, 0]) @ visual.proj)


def test_run_visual_leaves_no_hooks_even_after_an_error(clip: FrozenClip) -> None:
    visual = clip.clip.visual

    def fail(_layer: int, _tokens: Tensor) -> Tensor:
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        run_visual(visual, pixels(), edit=fail, record=True)
    assert not any(module._forward_hooks for module in visual.modules())


def test_region_visual_is_the_tuned_tower(clip_folder: Path, other_clip_folder: Path) -> None:
    config = ClipConfig(model=str(clip_folder), shifted_weights=str(other_clip_folder))
    clip = FrozenClip.from_config(config)
    original, other = (load_file(path / "model.safetensors") for path in (clip_folder, other_clip_folder))
    assert torch.equal(clip.clip.visual.conv1.weight, original["visual.conv1.weight"])
    assert torch.equal(clip.region_visual.conv1.weight, other["visual.conv1.weight"])
    assert torch.equal(clip.clip.token_embedding.weight, original["token_embedding.weight"])
    assert not any(parameter.requires_grad for parameter in clip.region_visual.parameters())
    by_file = ClipConfig(model=str(clip_folder), shifted_weights=str(other_clip_folder / "model.safetensors"))
    assert torch.equal(FrozenClip.from_config(by_file).region_visual.proj, clip.region_visual.proj)


def test_region_visual_is_the_original_without_a_tuned_one(clip: FrozenClip) -> None:
    assert clip.region_visual is clip.clip.visual


def test_weights_argument_wins_over_the_folder(clip_folder: Path, other_clip_folder: Path) -> None:
    model, _ = load_open_clip(str(clip_folder), weights=str(other_clip_folder / "model.safetensors"))
    assert torch.equal(model.visual.proj, load_file(other_clip_folder / "model.safetensors")["visual.proj"])


def test_weights_in_a_pytorch_file(clip_folder: Path, tmp_path: Path, clip_architecture: dict[str, Any]) -> None:
    state = load_file(clip_folder / "model.safetensors")
    torch.save({"state_dict": state}, tmp_path / "weights.pt")
    model = build_open_clip(clip_architecture)
    load_clip_weights(model, tmp_path / "weights.pt")
    assert torch.equal(model.visual.proj, state["visual.proj"])


@pytest.mark.parametrize(
    ("layers", "good"), [((1, 2), True), ((), True), ((0,), False), ((3,), False), ((1, 1), False)]
)
def test_check_layers(clip: FrozenClip, layers: tuple[int, ...], good: bool) -> None:
    if good:
        clip.check_layers(layers, "replace_layers")
        return
    with pytest.raises(ValueError, match=r"replace_layers: expected distinct layers in 1\.\.2"):
        clip.check_layers(layers, "replace_layers")


def without_vision_transformer(architecture: dict[str, Any]) -> None:
    architecture["vision_cfg"] = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}


def with_average_pool(architecture: dict[str, Any]) -> None:
    architecture["vision_cfg"]["pool_type"] = "avg"


@pytest.mark.parametrize("change", [without_vision_transformer, with_average_pool])
def test_another_visual_tower_raises(clip_architecture: dict[str, Any], change: Callable[[Any], None]) -> None:
    change(clip_architecture)
    with pytest.raises(ValueError, match="expected a vision transformer with a"):
        build_open_clip(clip_architecture)


def test_building_leaves_the_architecture_alone(clip_architecture: dict[str, Any]) -> None:
    before = deepcopy(clip_architecture)
    build_open_clip(clip_architecture)
    assert clip_architecture == before


def test_unknown_names_raise(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clip model: expected 'tiny', a folder .* got 'ViT-X-99'"):
        load_open_clip("ViT-X-99")
    with pytest.raises(ValueError, match="clip weights: no file 'nothing', and ViT-B-16 has no such tag"):
        load_open_clip("ViT-B-16", weights="nothing")
    with pytest.raises(FileNotFoundError, match=f"expected {CONFIG} in"):
        load_open_clip(str(tmp_path))
    (tmp_path / CONFIG).write_text((clip_folder / CONFIG).read_text())
    with pytest.raises(FileNotFoundError, match="no weights beside its configuration"):
        load_open_clip(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"clip weights: no file .*missing\.safetensors"):
        load_open_clip(str(clip_folder), weights=str(tmp_path / "missing.safetensors"))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_cfg": {"embed_dim": 8}}', '{"model_cfg": {"x": 1}}'])
def test_damaged_configuration_raises(tmp_path: Path, content: str) -> None:
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(ValueError, match=f"{CONFIG}: expected an open_clip configuration"):
        load_open_clip(str(tmp_path))


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["truncated", "noise", "code", "other"])
def test_damaged_weights_raise_and_run_nothing(clip_folder: Path, tmp_path: Path, kind: str) -> None:
    whole = (clip_folder / "model.safetensors").read_bytes()
    path, mark = tmp_path / ("w.pt" if kind in ("noise", "code") else "w.safetensors"), tmp_path / "exploded"
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "noise":
        path.write_bytes(b"no weights at all" * 100)
    elif kind == "code":
        torch.save({"state_dict": {"visual.proj": Bomb(mark)}}, path)
    else:
        save_file(
            {
                name: tensor[:1].clone()
                for name, tensor in load_file(clip_folder / "model.safetensors").items()
                if tensor.ndim
            },
            path,
        )
    with pytest.raises(ValueError, match=rf"{path.name}: damaged, not plain tensors, or of another CLIP"):
        load_open_clip(str(clip_folder), weights=str(path))
    assert not mark.exists()


def test_statistics_of_the_configuration_are_used(clip_architecture: dict[str, Any]) -> None:
    model = build_open_clip(clip_architecture)
    model.visual.image_mean, model.visual.image_std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    clip = FrozenClip(clip=model, tokenizer=open_clip.SimpleTokenizer(context_length=24))
    torch.testing.assert_close(clip.normalize(torch.full((3, 1, 1), 255)), torch.full((3, 1, 1), 2.0))


def test_folder_of_the_hub_brings_its_statistics_and_open_clips_weights(
    clip_folder: Path, tmp_path: Path, clip_architecture: dict[str, Any]
) -> None:
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (tmp_path / CONFIG).write_text(json.dumps({"model_cfg": clip_architecture, "preprocess_cfg": preprocess}))
    (tmp_path / "open_clip_model.safetensors").write_bytes((clip_folder / "model.safetensors").read_bytes())
    save_file({"vision_model.embeddings.class_embedding": torch.zeros(48)}, tmp_path / "model.safetensors")
    clip = FrozenClip.from_config(ClipConfig(model=str(tmp_path)))
    torch.testing.assert_close(clip.normalize(torch.full((3, 1, 1), 255)), torch.full((3, 1, 1), 2.0))
    stored = load_file(clip_folder / "model.safetensors")
    assert torch.equal(clip.clip.text_projection, stored["text_projection"])


@pytest.mark.parametrize("content", [b".", b"\x80\x02", b"q", b"\x80\x02h\xc8."])
def test_few_bytes_of_anything_are_named_as_damage(clip_folder: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pt: damaged"):
        load_open_clip(str(clip_folder), weights=str(path))


def test_imagenet_templates_have_one_place_each() -> None:
    assert len(IMAGENET_TEMPLATES) == 80
    assert all(template.count("{}") == 1 for template in IMAGENET_TEMPLATES)
