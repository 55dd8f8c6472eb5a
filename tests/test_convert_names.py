import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scan_lightning.convert import config_from_released, from_released, missing_keys, to_released
from scan_lightning.models.clip import ClipConfig
from scan_lightning.models.scan import Scan, ScanConfig


@pytest.fixture(scope="module")
def state(make_scan: Callable[..., Scan], scan_config: ScanConfig, other_clip_folder: Path) -> dict[str, Tensor]:
    """Our state, every value random, with a tuned visual tower beside the original as released checkpoints have it."""
    clip = ClipConfig(model=scan_config.clip.model, shifted_weights=str(other_clip_folder))
    generator = torch.Generator().manual_seed(0)
    ours = make_scan(clip=clip).state_dict()
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in ours.items()}


@pytest.fixture
def released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return to_released(state)[0]


def test_every_tensor_of_ours_has_a_released_name(state: dict[str, Tensor]) -> None:
    released, unknown = to_released(state)
    assert unknown == []
    ours = sum(tensor.numel() for name, tensor in state.items() if ".encoder.swin.layernorm." not in name)
    assert sum(tensor.numel() for tensor in released.values()) == ours


def test_released_round_trip_is_equal_bit_for_bit(state: dict[str, Tensor], released: dict[str, Tensor]) -> None:
    ours, unknown = from_released(released)
    assert unknown == []
    again, lost = to_released(ours)
    assert lost == []
    assert again.keys() == released.keys()
    assert all(torch.equal(value, released[name]) for name, value in again.items())
    assert all(torch.equal(value, state[name]) for name, value in ours.items())
    assert missing_keys(list(state), ours) == []


def test_translated_state_loads_strictly_but_for_the_unused_norm(
    make_scan: Callable[..., Scan], scan_config: ScanConfig, other_clip_folder: Path, released: dict[str, Tensor]
) -> None:
    clip = ClipConfig(model=scan_config.clip.model, shifted_weights=str(other_clip_folder))
    result = make_scan(clip=clip).load_state_dict(from_released(released)[0], strict=False)
    assert result.unexpected_keys == []
    assert [name.rsplit(".", 2)[1] for name in result.missing_keys] == ["layernorm", "layernorm"]


@pytest.mark.parametrize(
    ("released", "ours"),
    [
        ("learnable_weight", "semantic_integration.cls_weight"),
        ("LFM.conv1.weight", "semantic_integration.enhancement.conv1.weight"),
        ("oriclip_mlp.fc2.bias", "semantic_integration.memory_projection.1.bias"),
        ("fusion_decoder.multiattn.3.in_proj_bias", "semantic_integration.fusion.attentions.3.in_proj_bias"),
        ("fusion_decoder.ln.12.weight", "semantic_integration.fusion.norms.12.weight"),
        ("lightweight_transformer.layers.0.norm2.bias", "semantic_integration.encoder.layers.0.norm2.bias"),
        ("clip_adapter.non_object_embedding", "non_object_embedding"),
        ("clip_adapter.original_clip.conv1.weight", "clip.clip.visual.conv1.weight"),
        ("clip_adapter.clip_model.visual.conv1.weight", "clip.shifted_visual.conv1.weight"),
        ("clip_adapter.clip_model.text_projection", "clip.clip.text_projection"),
        ("sem_seg_head.predictor.class_embed.layers.1.weight", "segmenter.embedding_head.2.weight"),
        ("backbone.norm0.weight", "segmenter.model.pixel_level_module.encoder.hidden_states_norms.stage1.weight"),
        (
            "sem_seg_head.pixel_decoder.adapter_1.norm.bias",
            "segmenter.model.pixel_level_module.decoder.adapter_1.1.bias",
        ),
        (
            "sem_seg_head.pixel_decoder.adapter_1.weight",
            "segmenter.model.pixel_level_module.decoder.adapter_1.0.weight",
        ),
    ],
)
def test_names_by_hand(released: str, ours: str) -> None:
    tensor = torch.randn(3)
    assert {name: id(value) for name, value in from_released({released: tensor})[0].items()} == {ours: id(tensor)}
    assert list(to_released({ours: tensor})[0]) == [released]


SWIN_ATTENTION = "segmenter.model.pixel_level_module.encoder.swin.encoder.layers.2.blocks.17.attention"
DECODER_ATTENTION = "segmenter.model.transformer_module.decoder.layers.9.self_attn"


@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize(
    ("released", "ours"),
    [
        ("backbone.layers.2.blocks.17.attn.qkv.", SWIN_ATTENTION),
        ("sem_seg_head.predictor.transformer_self_attention_layers.9.self_attn.in_proj_", DECODER_ATTENTION),
    ],
)
def test_joint_projections_are_split_in_order(released: str, ours: str, kind: str) -> None:
    joint = torch.arange(12.0).view(6, 2) if kind == "weight" else torch.arange(6.0)
    found, unknown = from_released({released + kind: joint})
    assert unknown == []
    assert list(found) == [f"{ours}.{part}_proj.{kind}" for part in "qkv"]
    assert [value.tolist() for value in found.values()] == [joint[i : i + 2].tolist() for i in (0, 2, 4)]
    again = to_released(dict(reversed(found.items())))[0]
    assert list(again) == [released + kind]
    assert torch.equal(again[released + kind], joint)


def test_unknown_names_are_listed(released: dict[str, Tensor]) -> None:
    strange = ["backbone.layers.0.surplus", "head.weight", "learnable_weights", "backbone.norm7.weight"]
    ours, unknown = from_released(released | {name: torch.zeros(1) for name in strange})
    assert unknown == strange
    assert ours.keys() == from_released(released)[0].keys()
    assert to_released({"module.weight": torch.zeros(1)})[1] == ["module.weight"]


def test_derived_buffers_are_left_out(released: dict[str, Tensor]) -> None:
    buffers = [
        "backbone.layers.0.blocks.1.attn.relative_position_index",
        "criterion.empty_weight",
        "clip_adapter.pixel_mean",
        "clip_adapter.pixel_std",
    ]
    ours, unknown = from_released(released | {name: torch.zeros(1) for name in buffers})
    assert unknown == []
    assert ours.keys() == from_released(released)[0].keys()


def test_missing_names_are_listed(state: dict[str, Tensor], released: dict[str, Tensor]) -> None:
    del released["learnable_weight"]
    del released["backbone.layers.0.blocks.0.attn.qkv.bias"]
    missing = missing_keys(list(state), from_released(released)[0])
    assert len(missing) == 4
    assert "semantic_integration.cls_weight" in missing
    assert sum(re.search(r"blocks\.0\.attention\.[qkv]_proj\.bias", name) is not None for name in missing) == 3


def released_section(config: ScanConfig) -> dict[str, Any]:
    """What a released configuration's MODEL section says of this architecture."""
    part, integration = config.segmenter, config.semantic_integration
    assert integration is not None
    return {
        "SWIN": {
            "EMBED_DIM": part.embed_dim,
            "DEPTHS": list(part.depths),
            "NUM_HEADS": list(part.num_heads),
            "WINDOW_SIZE": part.window_size,
            "PATCH_SIZE": part.patch_size,
            "PRETRAIN_IMG_SIZE": part.pretrain_image_size,
            "MLP_RATIO": part.mlp_ratio,
            "DROP_PATH_RATE": part.drop_path_rate,
        },
        "SEM_SEG_HEAD": {
            "CONVS_DIM": part.conv_dim,
            "MASK_DIM": part.mask_dim,
            "TRANSFORMER_ENC_LAYERS": part.encoder_layers,
            "EMBED_HIDDEN_DIM": part.embedding_hidden,
        },
        "MASK_FORMER": {
            "HIDDEN_DIM": part.hidden_dim,
            "NHEADS": part.heads,
            "DEC_LAYERS": part.decoder_layers,
            "DIM_FEEDFORWARD": part.dim_feedforward,
            "NUM_OBJECT_QUERIES": part.num_queries,
        },
        "SELECT_ORI_CLIP_ID": list(integration.layers),
        "FREQUENCY_SIGMA": [int(sigma) for sigma in integration.sigmas],
        "CLIP_ADAPTER": {"TEXT_TEMPLATES": config.template_set},
    }


def test_configuration_is_read_from_section_and_shapes(scan_config: ScanConfig, released: dict[str, Tensor]) -> None:
    found = config_from_released(released_section(scan_config), released)
    assert found.segmenter == scan_config.segmenter
    expected = scan_config.semantic_integration
    assert expected is not None
    # Heads and dropout are not in the section; the released code has 8 and 0.1.
    assert found.semantic_integration == replace(expected, heads=8, memory_hidden=32)
    assert found.template_set == "single"


def test_configuration_without_an_entry_raises(scan_config: ScanConfig, released: dict[str, Tensor]) -> None:
    section = released_section(scan_config)
    del section["SWIN"]["DEPTHS"]
    with pytest.raises(KeyError, match="DEPTHS"):
        config_from_released(section, released)
