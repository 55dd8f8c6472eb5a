import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Mask2FormerForUniversalSegmentation,
    Mask2FormerModel,
    SwinForImageClassification,
    SwinModel,
    ViTConfig,
    ViTModel,
)

from scan_lightning.models.segmenter import MaskSegmenter, SegmenterConfig

DIM = 20


def build(config: SegmenterConfig, seed: int = 0) -> MaskSegmenter:
    torch.manual_seed(seed)
    return MaskSegmenter(config=config, embedding_dim=DIM)


@pytest.fixture(scope="module")
def segmenter(segmenter_config: SegmenterConfig) -> MaskSegmenter:
    return build(segmenter_config).eval()


def pixels(count: int = 2, height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 32)])
def test_forward_shapes_of_every_head(segmenter: MaskSegmenter, height: int, width: int) -> None:
    with torch.no_grad():
        output = segmenter(pixels(2, height, width))
    assert [tuple(x.shape) for x in output.proposal_embeddings] == [(2, 5, DIM)] * 3
    assert [tuple(x.shape) for x in output.mask_logits] == [(2, 5, height // 4, width // 4)] * 3
    assert all(x.dtype == torch.float32 for x in (*output.proposal_embeddings, *output.mask_logits))


def test_one_cell_in_groups_of_one_channel_is_named(
    segmenter: MaskSegmenter, segmenter_config: SegmenterConfig
) -> None:
    with pytest.raises(
        ValueError, match=r"image size: with conv_dim 32 a single image of one cell .*conv_dim 64 or more"
    ):
        segmenter(pixels(1, 32, 32))
    assert build(replace(segmenter_config, conv_dim=64))(pixels(1, 32, 32)).mask_logits[-1].shape == (1, 5, 8, 8)


def test_forward_embeddings_are_the_head_on_the_normalised_queries(segmenter: MaskSegmenter) -> None:
    module: Any = segmenter.model.transformer_module
    with torch.no_grad():
        output = segmenter(pixels())
        queries = module.decoder.layernorm(module.queries_features.weight)  # head 0 sees no image
        first = segmenter.embedding_head[2](torch.relu(segmenter.embedding_head[0](queries)))
    torch.testing.assert_close(output.proposal_embeddings[0], first.expand(2, -1, -1))


def test_forward_equals_transformers_own_model(segmenter: MaskSegmenter) -> None:
    """Calling the parts one by one, for precision's sake, changes nothing in float32."""
    with torch.no_grad():
        output = segmenter(pixels())
        theirs = segmenter.model(pixels(), output_hidden_states=True)
    for ours, expected in zip(output.mask_logits, theirs.masks_queries_logits, strict=True):
        torch.testing.assert_close(ours, expected)
    for ours, state in zip(output.proposal_embeddings, theirs.transformer_decoder_intermediate_states, strict=True):
        torch.testing.assert_close(ours, segmenter.embedding_head(state.transpose(0, 1)).detach())


def test_forward_does_not_depend_on_earlier_image_sizes(segmenter_config: SegmenterConfig) -> None:
    """Swin may clamp its window to a small image; it must not remember that."""
    segmenter = build(segmenter_config).eval()
    with torch.no_grad():
        before = segmenter(pixels(1, 128, 128)).mask_logits[-1]
        segmenter(pixels(1, 32, 64))
        assert torch.equal(segmenter(pixels(1, 128, 128)).mask_logits[-1], before)


def test_forward_of_an_image_does_not_depend_on_its_batch(segmenter: MaskSegmenter) -> None:
    with torch.no_grad():
        together = segmenter(pixels(3))
        alone = segmenter(pixels(3)[1:2])
    torch.testing.assert_close(together.mask_logits[-1][1:2], alone.mask_logits[-1], rtol=1e-4, atol=1e-4)


def test_equal_seeds_build_equal_networks(segmenter_config: SegmenterConfig) -> None:
    first, second, other = (build(segmenter_config, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_preprocess_normalises_by_imagenet(segmenter: MaskSegmenter) -> None:
    image = torch.zeros(1, 3, 20, 40, dtype=torch.uint8)
    found = segmenter.preprocess(image, [(20, 40)])
    assert found.shape == (1, 3, 32, 64)
    expected = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(found[0, :, 0, 0], expected, rtol=1e-4, atol=1e-4)
    assert not found[..., 20:, :].any()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_gradients_reach_every_trainable_parameter(segmenter_config: SegmenterConfig, layers: int) -> None:
    """The decoder's layers take the three levels in turn; projections of levels that no layer takes are frozen."""
    segmenter = build(replace(segmenter_config, decoder_layers=layers, conv_dim=64)).train()
    with torch.no_grad():  # zero offsets and attention weights would hide the path through them
        for name, parameter in segmenter.named_parameters():
            if "sampling_offsets" in name or "attention_weights" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    output = segmenter(pixels())
    sum(x.square().mean() for x in (*output.proposal_embeddings, *output.mask_logits)).backward()
    without = [
        name
        for name, parameter in segmenter.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert without == []
    frozen = [name for name, parameter in segmenter.named_parameters() if not parameter.requires_grad]
    idle = [f"transformer_module.input_projections.{level}" for level in range(layers, 3)]
    expected = ["pixel_level_module.encoder.swin.layernorm", *idle]
    assert frozen == [f"model.{module}.{kind}" for module in expected for kind in ("weight", "bias")]


def test_pixel_decoder_runs_in_float32_under_autocast(segmenter: MaskSegmenter) -> None:
    level: Any = segmenter.model.pixel_level_module
    seen: dict[str, set[torch.dtype]] = {"encoder": set(), "decoder": set()}

    def watch(part: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                seen[part].add(output.dtype)

        return hook

    handles = [
        module.register_forward_hook(watch(part))
        for part in seen
        for module in getattr(level, part).modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = segmenter(pixels())
    for handle in handles:
        handle.remove()
    assert seen == {"encoder": {torch.bfloat16}, "decoder": {torch.float32}}
    with torch.no_grad():
        full = segmenter(pixels())
    spread = full.mask_logits[0].std()
    assert (low.mask_logits[0].float() - full.mask_logits[0]).abs().mean() < 0.1 * spread


class Dropped(nn.Module):
    """Stands for a stochastic depth that always drops."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def blocks(segmenter: MaskSegmenter) -> Iterator[Any]:
    for stage in segmenter.model.pixel_level_module.encoder.swin.encoder.layers:  # type: ignore[union-attr]
        yield from stage.blocks


def test_stochastic_depth_drops_both_branches(
    segmenter_config: SegmenterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everything dropped, a Swin block hands its input on unchanged."""
    segmenter = build(replace(segmenter_config, drop_path_rate=0.5)).train()
    last = list(blocks(segmenter))[-1]
    x = torch.randn(3, 12, 64)
    assert last.drop_path.drop_prob == 0.5
    last.drop_path.drop_prob = 1 - 1e-9
    monkeypatch.setattr(last.drop_path, "forward", Dropped().forward)
    assert torch.equal(last(x, (3, 4), always_partition=True)[0], x)


def test_stochastic_depth_keeps_the_mean_of_both_branches(segmenter_config: SegmenterConfig) -> None:
    segmenter = build(replace(segmenter_config, drop_path_rate=0.5))
    last = list(blocks(segmenter))[-1]
    x = torch.randn(1, 12, 64)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(5)
        last.eval()
        whole = last(x, (3, 4), always_partition=True)[0] - x
        last.train()
        torch.manual_seed(0)
        outputs = last(x.expand(400, -1, -1), (3, 4), always_partition=True)[0] - x
        # Four outcomes: attention dropped or not, MLP dropped or not; all dropped leaves the input.
        patterns = {tuple(output.flatten()[:8].mul(1e3).round().tolist()) for output in outputs}
        assert len(patterns) == 4
        dropped = (outputs.abs().flatten(1).amax(1) == 0).float().mean().item()
        assert dropped == pytest.approx(0.25, abs=0.11)  # 5 standard deviations
        mlp = last.mlp(x.expand(4000, -1, -1)).mean(0)
        torch.testing.assert_close(mlp, last.eval().mlp(x)[0], rtol=0.1, atol=0.01)
    assert whole.abs().max() > 0


def test_stochastic_depth_is_off_in_evaluation_and_at_rate_zero(segmenter_config: SegmenterConfig) -> None:
    dropping, plain = build(replace(segmenter_config, drop_path_rate=0.9)), build(segmenter_config)
    with torch.no_grad():
        expected = plain.eval()(pixels()).mask_logits[-1]
        assert torch.equal(dropping.eval()(pixels()).mask_logits[-1], expected)
        assert torch.equal(plain.train()(pixels()).mask_logits[-1], expected)
        assert not torch.equal(dropping.train()(pixels()).mask_logits[-1], expected)


def test_copy_has_its_own_stochastic_depth(segmenter_config: SegmenterConfig) -> None:
    """A copy in evaluation, of averaged weights say, drops nothing, whatever the original does."""
    segmenter = build(replace(segmenter_config, drop_path_rate=0.9)).train()
    twin = copy.deepcopy(segmenter).eval()
    x = torch.randn(50, 12, 64)
    with torch.no_grad():
        assert (list(blocks(twin))[-1].mlp(x).abs().flatten(1).amax(1) > 0).all()
        assert not (list(blocks(segmenter))[-1].mlp(x).abs().flatten(1).amax(1) > 0).all()


def bound_of(weight: Tensor) -> float:
    """The bound of a uniform distribution with this standard deviation."""
    return weight.std().item() * math.sqrt(3)


def test_initial_values_of_the_pixel_decoder(segmenter_config: SegmenterConfig) -> None:
    decoder: Any = build(segmenter_config).model.pixel_level_module.decoder
    for name, module in decoder.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        xavier = math.sqrt(6 / (fan_in + module.out_channels))  # input projections have 1 x 1 kernels
        bound = xavier if name.startswith("input_projections") else math.sqrt(3 / fan_in)
        assert module.weight.abs().max() <= bound, name
        assert bound_of(module.weight) == pytest.approx(bound, rel=0.15), name
        assert module.bias is None or not module.bias.any(), name
    for layer in decoder.encoder.layers:
        for linear in (layer.fc1, layer.fc2):
            bound = math.sqrt(6 / (linear.in_features + linear.out_features))
            assert linear.weight.abs().max() <= bound
            assert bound_of(linear.weight) == pytest.approx(bound, rel=0.1)
            assert linear.bias.abs().max() <= 1 / math.sqrt(linear.in_features)
            assert linear.bias.any()


def test_initial_values_of_the_decoder(segmenter_config: SegmenterConfig) -> None:
    """Separate query, key and value projections start with the scale of one joint (3D, D) Xavier matrix."""
    module: Any = build(segmenter_config).model.transformer_module
    bound = math.sqrt(6 / (32 + 3 * 32))
    for layer in module.decoder.layers:
        attention = layer.self_attn
        for weight in (
            *(attention.get_submodule(f"{part}_proj").weight for part in "qkv"),
            layer.cross_attn.in_proj_weight,
        ):
            assert weight.abs().max() <= bound
            assert bound_of(weight) == pytest.approx(bound, rel=0.1)
    for embedding in (module.queries_features, module.queries_embedder, module.level_embed):
        assert embedding.weight.std().item() == pytest.approx(1, abs=0.25)


def changed(state: dict[str, Tensor], known: dict[str, Tensor]) -> set[str]:
    return {name for name, value in state.items() if not torch.equal(value, known[name])}


@pytest.mark.parametrize("kind", [SwinModel, SwinForImageClassification])
def test_published_swin_fills_the_backbone(segmenter_config: SegmenterConfig, tmp_path: Path, kind: Any) -> None:
    torch.manual_seed(5)
    published = kind(segmenter_config.to_transformers().backbone_config)
    published.save_pretrained(tmp_path)
    segmenter = build(replace(segmenter_config, weights=str(tmp_path)))
    backbone = getattr(published, "swin", published).state_dict()
    state = segmenter.model.pixel_level_module.encoder.swin.state_dict()
    for name, value in state.items():
        assert torch.equal(value, backbone[name]), name
    plain = build(segmenter_config).state_dict()
    others = {name for name in changed(segmenter.state_dict(), plain) if ".encoder.swin." not in name}
    assert others == set(), "nothing but the backbone is touched"


@pytest.mark.parametrize("kind", [Mask2FormerModel, Mask2FormerForUniversalSegmentation])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_published_mask2former_fills_the_model(
    segmenter_config: SegmenterConfig, tmp_path: Path, kind: Any, layers: int
) -> None:
    """With fewer decoder layers than ours the rest keeps its initial values."""
    torch.manual_seed(5)
    published = kind(replace(segmenter_config, decoder_layers=layers).to_transformers())
    published.save_pretrained(tmp_path)
    state = build(replace(segmenter_config, weights=str(tmp_path))).model.state_dict()
    plain = build(segmenter_config).model.state_dict()
    theirs = (published.model if hasattr(published, "model") else published).state_dict()
    for name, value in state.items():
        second = "transformer_module.decoder.layers.1." in name
        assert torch.equal(value, plain[name] if second and layers == 1 else theirs[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": 16}, r"does not fit the configured segmenter: \d+ tensors differ, such as .*: \("),
        ({"window_size": 2}, "relative_position_bias_table"),
        ({"depths": (1, 1, 1, 1)}, r"layers\.2\.blocks\.1\..*: None instead of \("),
        ({"depths": (1, 1, 3, 1)}, r"layers\.2\.blocks\.2\..*\) instead of None"),
    ],
)
def test_published_swin_of_another_architecture_raises(
    segmenter_config: SegmenterConfig, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    SwinModel(replace(segmenter_config, **change).to_transformers().backbone_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        build(replace(segmenter_config, weights=str(tmp_path)))


@pytest.mark.parametrize(
    "change", [{"num_queries": 7}, {"mask_dim": 32}, {"encoder_layers": 2}, {"dim_feedforward": 16}]
)
def test_published_mask2former_of_another_architecture_raises(
    segmenter_config: SegmenterConfig, tmp_path: Path, change: dict[str, Any]
) -> None:
    Mask2FormerModel(replace(segmenter_config, **change).to_transformers()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"weights: {tmp_path.name} does not fit the configured segmenter"):
        build(replace(segmenter_config, weights=str(tmp_path)))


def test_published_weights_of_another_kind_raise(segmenter_config: SegmenterConfig, tmp_path: Path) -> None:
    vit = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
    ViTModel(vit).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"weights: expected a Swin or a Mask2Former at .*, found a 'vit'"):
        build(replace(segmenter_config, weights=str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_dim": 48}, r"conv_dim: expected a multiple of 32 \(GroupNorm\), got 48"),
        ({"heads": 3}, "heads: 3 must divide"),
        ({"depths": (1, 1, 1)}, "depths and num_heads: expected 4 stages"),
        ({"num_heads": (1, 2)}, "depths and num_heads: expected 4 stages"),
    ],
)
def test_contradicting_architecture_raises(
    segmenter_config: SegmenterConfig, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(replace(segmenter_config, **change))


def test_default_is_the_papers() -> None:
    config = SegmenterConfig()
    library = config.to_transformers()
    assert (config.decoder_layers, library.decoder_layers, library.num_queries) == (10, 11, 100)
    assert library.backbone_config.drop_path_rate == 0.3
    assert library.backbone_config.window_size == 12
