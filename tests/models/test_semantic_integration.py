import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.semantic_integration import (
    FrequencyEnhancement,
    FusionDecoder,
    SemanticIntegrationConfig,
    SemanticIntegrationModule,
    frequency_weights,
)

C, D, GRID = 12, 16, 4


def build(config: SemanticIntegrationConfig, seed: int = 0) -> SemanticIntegrationModule:
    torch.manual_seed(seed)
    return SemanticIntegrationModule(config=config, token_dim=C, dim=D).eval()


@pytest.fixture
def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "tokens": [torch.randn(2, 1 + GRID * GRID, C, generator=generator) for _ in range(2)],
        "cls": torch.randn(2, D, generator=generator),
        "proposals": torch.randn(2, 5, D, generator=generator),
    }


def run(sim: SemanticIntegrationModule, inputs: dict[str, Any]) -> Tensor:
    return sim(inputs["proposals"], sim.memory(inputs["tokens"]), inputs["cls"])  # type: ignore[no-any-return]


def test_frequency_weights_by_hand() -> None:
    found = frequency_weights(4, 5, 2.0)
    assert (found.shape, found.dtype) == ((4, 5), torch.float32)
    for row in range(4):
        for column in range(5):
            squared = (row - 2) ** 2 + (column - 2) ** 2
            assert found[row, column].item() == pytest.approx(1 - math.exp(-squared / 8), abs=1e-6)


@pytest.mark.parametrize("keep", ["low", "high"])
def test_enhancement_equals_slow_fourier_sum(keep: Any) -> None:
    torch.manual_seed(0)
    module = FrequencyEnhancement(channels=2, keep=keep)
    x = torch.randn(1, 2, 3, 4)
    weights = frequency_weights(3, 4, 1.5)
    weights = weights if keep == "low" else 1 - weights
    spectrum = torch.zeros(2, 3, 4, dtype=torch.complex64)
    for u in range(3):
        for v in range(4):
            for row in range(3):
                for column in range(4):
                    angle = -2 * math.pi * (u * row / 3 + v * column / 4)
                    turn = complex(math.cos(angle), math.sin(angle))
                    spectrum[:, u, v] += x[0, :, row, column] * turn
            spectrum[:, u, v] *= weights[u, v]
    joined = torch.cat([spectrum.real, spectrum.imag])  # (4, 3, 4)
    first, second = (conv.weight[:, :, 0, 0] for conv in (module.conv1, module.conv2))
    mixed = torch.einsum("oc,chw->ohw", first, joined) + module.conv1.bias[:, None, None]  # type: ignore[index]
    mixed = torch.einsum("oc,chw->ohw", second, mixed.relu()) + module.conv2.bias[:, None, None]  # type: ignore[index]
    back = torch.fft.ifft2(torch.complex(mixed[:2], mixed[2:])).real
    torch.testing.assert_close(module(x, 1.5)[0], back + x[0], rtol=1e-4, atol=1e-4)


def test_enhancement_low_damps_a_checkerboard_and_keeps_a_constant() -> None:
    """With convolutions that change nothing (positive and negative parts apart), what is added is the filtered map."""
    low, high = frequency_weights(8, 8, 2.0), 1 - frequency_weights(8, 8, 2.0)
    constant = torch.ones(8, 8)
    board = 1.0 - 2 * ((torch.arange(8)[:, None] + torch.arange(8)[None]) % 2)
    for pattern, weights, kept in (
        (constant, low, True),
        (board, low, False),
        (constant, high, False),
        (board, high, True),
    ):
        filtered = torch.fft.ifft2(torch.fft.fft2(pattern) * weights).real
        assert filtered.abs().max() == pytest.approx(1 if kept else 0, abs=0.02)


def test_enhancement_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    module, x = FrequencyEnhancement(channels=3), torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(x, 2.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, module(x, 2.0))
    assert module(x.bfloat16(), 2.0).dtype == torch.float32


def test_fusion_equals_attention_by_hand() -> None:
    torch.manual_seed(0)
    fusion = FusionDecoder(dim=8, heads=2, layers=2)
    proposals, memory = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    x = proposals[0]
    for index, attention in enumerate(fusion.attentions):
        query, key, value = attention.in_proj_weight.chunk(3)
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            q, k, v = x @ query.T[:, head], memory[0] @ key.T[:, head], memory[0] @ value.T[:, head]
            heads.append((q @ k.T / 2).softmax(-1) @ v)
        x = x + attention.out_proj(torch.cat(heads, dim=1))
        if index == 0:
            x = F.layer_norm(x, (8,))
    torch.testing.assert_close(fusion(proposals, memory)[0], x, rtol=1e-4, atol=1e-5)
    assert len(fusion.norms) == 1


def test_memory_order_and_projection(integration_config: SemanticIntegrationConfig, inputs: dict[str, Any]) -> None:
    sim = build(replace(integration_config, frequencies="raw"))
    memory = sim.memory(inputs["tokens"])
    assert memory is not None
    assert memory.shape == (2, 2 * GRID * GRID, D)
    first, second = sim.memory_projection  # type: ignore[misc]
    expected = second(first(inputs["tokens"][1][:, 1 + 7]))  # token 7 of the second layer, no activation between
    torch.testing.assert_close(memory[:, GRID * GRID + 7], expected)


def test_enhance_makes_maps_row_by_row(integration_config: SemanticIntegrationConfig, inputs: dict[str, Any]) -> None:
    raw = build(replace(integration_config, frequencies="raw")).enhance(inputs["tokens"])
    assert [tuple(token_map.shape) for token_map in raw] == [(2, C, GRID, GRID)] * 2
    assert torch.equal(raw[0][:, :, 2, 3], inputs["tokens"][0][:, 1 + 2 * GRID + 3])
    sim = build(integration_config)
    for layer, sigma in enumerate(integration_config.sigmas):
        assert sim.enhancement is not None
        torch.testing.assert_close(sim.enhance(inputs["tokens"])[layer], sim.enhancement(raw[layer], sigma))


def test_cls_is_added_by_its_weight(integration_config: SemanticIntegrationConfig, inputs: dict[str, Any]) -> None:
    sim = build(replace(integration_config, layers=(), sigmas=()))
    assert sim.cls_weight is not None
    assert sim.cls_weight.tolist() == [pytest.approx(0.1)]
    assert (sim.memory([]), sim.fusion, sim.enhancement) == (None, None, None)
    unit = inputs["cls"] / inputs["cls"].norm(dim=-1, keepdim=True)
    expected = sim.encode(inputs["proposals"] + 0.1 * unit[:, None])
    torch.testing.assert_close(run(sim, inputs | {"tokens": []}), expected)
    torch.testing.assert_close(run(sim, inputs | {"tokens": [], "cls": 7 * inputs["cls"]}), expected)


def test_without_cls_it_does_not_matter(integration_config: SemanticIntegrationConfig, inputs: dict[str, Any]) -> None:
    sim = build(replace(integration_config, use_cls=False))
    assert sim.cls_weight is None
    assert torch.equal(run(sim, inputs), run(sim, inputs | {"cls": inputs["cls"] * -3}))


@pytest.mark.parametrize("attend", [False, True])
def test_proposals_see_one_another_only_with_attention(
    integration_config: SemanticIntegrationConfig, inputs: dict[str, Any], attend: bool
) -> None:
    sim = build(replace(integration_config, proposal_attention=attend))
    whole = run(sim, inputs)
    assert whole.shape == (2, 5, D)
    alone = run(sim, inputs | {"proposals": inputs["proposals"][:, 2:3]})
    assert torch.allclose(whole[:, 2:3], alone, atol=1e-5) is not attend


def test_encode_alone_equals_loop(integration_config: SemanticIntegrationConfig, inputs: dict[str, Any]) -> None:
    sim = build(integration_config)
    found = sim.encode(inputs["proposals"])
    for image in range(2):
        for query in range(5):
            expected = sim.encoder(inputs["proposals"][image : image + 1, query : query + 1])
            torch.testing.assert_close(found[image, query], expected[0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frequencies", ["low", "high", "raw"])
def test_gradients_reach_everything(
    integration_config: SemanticIntegrationConfig, inputs: dict[str, Any], frequencies: Any
) -> None:
    # With attention among proposals, since a sequence of length 1 leaves queries and keys without gradients.
    sim = build(replace(integration_config, frequencies=frequencies, proposal_attention=True)).train()
    inputs["proposals"].requires_grad_()
    run(sim, inputs).mul(torch.randn(2, 5, D)).sum().backward()
    assert inputs["proposals"].grad.any()
    assert [name for name, p in sim.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_frequencies_give_different_results(
    integration_config: SemanticIntegrationConfig, inputs: dict[str, Any]
) -> None:
    found = [run(build(replace(integration_config, frequencies=kind)), inputs) for kind in ("low", "high", "raw")]
    assert not any(torch.allclose(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_equal_seeds_build_and_drop_equally(
    integration_config: SemanticIntegrationConfig, inputs: dict[str, Any]
) -> None:
    sim, twin = (build(replace(integration_config, dropout=0.5)) for _ in range(2))
    assert torch.equal(run(sim, inputs), run(twin, inputs))
    outputs = []
    for part, seed in ((sim.train(), 0), (twin.train(), 0), (sim, 1)):
        torch.manual_seed(seed)
        outputs.append(run(part, inputs))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_default_is_the_papers() -> None:
    sim = SemanticIntegrationModule(config=SemanticIntegrationConfig(), token_dim=24, dim=32)
    assert sim.fusion is not None
    assert (len(sim.fusion.attentions), len(sim.fusion.norms), len(sim.encoder.layers)) == (5, 4, 5)
    assert sim.config.layers == (6, 9, 12)
    assert sim.config.sigmas == (9.0, 7.0, 3.0)
    assert not sim.config.proposal_attention


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": (1.0,)}, r"sigmas: expected one per layer \(6, 9, 12\), got \(1\.0,\)"),
        ({"sigmas": (1.0, 0.0, 2.0)}, "sigmas: expected positive numbers"),
        ({"frequencies": "middle"}, "frequencies: expected 'low', 'high' or 'raw', got 'middle'"),
        ({"layers": (), "sigmas": (), "use_cls": False}, "there is nothing to integrate"),
    ],
)
def test_wrong_configuration_raises(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticIntegrationConfig(**change)


def test_width_that_heads_do_not_divide_raises(integration_config: SemanticIntegrationConfig) -> None:
    with pytest.raises(ValueError, match="heads: 3 must divide the joint dimension 16"):
        build(replace(integration_config, heads=3))


def test_number_of_token_layers_must_fit(integration_config: SemanticIntegrationConfig, inputs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        build(integration_config).memory(inputs["tokens"][:1])
