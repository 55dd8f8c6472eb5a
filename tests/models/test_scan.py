from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scan_lightning.models import regions as regions_part
from scan_lightning.models.inference import InferenceSettings, class_scores, semantic_labels, upsample_masks
from scan_lightning.models.scan import Scan
from scan_lightning.models.semantic_integration import SemanticIntegrationConfig
from scan_lightning.models.text import TextFeatures
from scan_lightning.types import Vocabulary

ImageOf = Callable[[int, int, int], Tensor]
K = 40
SIZES = [(50, 70), (64, 96), (33, 40), (50, 70)]


def part_of(batch: dict[str, Any], indices: list[int]) -> dict[str, Any]:
    chosen: dict[str, Any] = {name: [values[i] for i in indices] for name, values in batch.items() if name != "images"}
    height, width = (max(size[axis] for size in chosen["sizes"]) for axis in (0, 1))
    return chosen | {"images": batch["images"][indices][:, :, :height, :width]}


def test_forward_shapes_in_training(make_scan: Callable[..., Scan], text: TextFeatures, batch: dict[str, Any]) -> None:
    output = make_scan().train()(batch["images"], batch["sizes"], text)
    assert [tuple(x.shape) for x in output.class_logits] == [(4, 5, K + 1)] * 3
    assert [tuple(x.shape) for x in output.mask_logits] == [(4, 5, 16, 24)] * 3
    assert output.embeddings.shape == (4, 5, 32)
    assert [tuple(x.shape) for x in output.image_tokens] == [(4, 17, 48)] * 3
    assert output.padded == (64, 96)


def test_forward_shapes_in_evaluation(scan: Scan, text: TextFeatures, batch: dict[str, Any]) -> None:
    with torch.no_grad():
        output = scan(batch["images"], batch["sizes"], text)
        again = scan(batch["images"], batch["sizes"], text)
    assert [tuple(x.shape) for x in output.class_logits] == [(4, 5, K + 1)]
    assert [tuple(x.shape) for x in output.mask_logits] == [(4, 5, 16, 24)]
    torch.testing.assert_close(output.embeddings.norm(dim=-1), torch.ones(4, 5))
    assert torch.equal(output.class_logits[0], again.class_logits[0]), "evaluation draws nothing"


def test_classify_by_hand(scan: Scan, text: TextFeatures) -> None:
    embeddings = torch.randn(2, 3, 32)
    with torch.no_grad():
        found = scan.classify(embeddings, text)
        unit = embeddings / embeddings.norm(dim=-1, keepdim=True)
        void = scan.non_object_embedding[0] / scan.non_object_embedding.norm()
    expected = 100 * torch.cat([unit @ text.features.T, (unit @ void)[..., None]], dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.abs().max() <= 100


def test_classify_is_float32_under_autocast(scan: Scan, text: TextFeatures) -> None:
    """At a temperature of 100, bfloat16 would be off by up to 0.5 in a logit."""
    embeddings = torch.randn(2, 3, 32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = scan.classify(embeddings, text)
    assert found.dtype == torch.float32
    assert torch.equal(found, scan.classify(embeddings, text).detach())


def test_look_at_images_by_hand(scan: Scan, batch: dict[str, Any]) -> None:
    """Normalised, padded to a multiple of 32 with the mean colour, resized to a square by nearest neighbour."""
    cls, tokens = scan.look_at_images(batch["images"][:1], SIZES[:1])
    pixels = torch.zeros(1, 3, 64, 96)
    pixels[0, :, :50, :70] = scan.clip.normalize(batch["images"][0, :, :50, :70])
    rows, columns = torch.arange(32) * 2, torch.arange(32) * 3
    with torch.no_grad():
        expected = scan.clip.clip.visual(pixels[:, :, rows][..., columns])
    torch.testing.assert_close(cls, expected)
    assert len(tokens) == 3


def test_whole_image_resize_is_an_option(make_scan: Callable[..., Scan], scan: Scan, batch: dict[str, Any]) -> None:
    other = make_scan(whole_image_resize="bicubic")
    near, smooth = (part.look_at_images(batch["images"], SIZES)[0] for part in (scan, other))
    assert near.shape == smooth.shape
    assert not torch.allclose(near, smooth, atol=1e-4)


def loss_of(scan: Scan, batch: dict[str, Any], text: TextFeatures) -> Tensor:
    output = scan(batch["images"], batch["sizes"], text)
    generator = torch.Generator().manual_seed(0)
    terms = [x * torch.randn(x.shape, generator=generator) for x in (*output.class_logits, *output.mask_logits)]
    return torch.stack([term.mean() for term in terms]).sum()


def test_gradients_reach_the_trainable_and_not_clip(
    make_scan: Callable[..., Scan], integration_config: SemanticIntegrationConfig, text: TextFeatures, batch: Any
) -> None:
    # Proposals that attend to one another, since sequences of length 1 leave queries and keys without gradients.
    scan = make_scan(semantic_integration=replace(integration_config, proposal_attention=True)).train()
    with torch.no_grad():  # zero offsets and attention weights would hide the paths through them
        for name, parameter in scan.named_parameters():
            if "sampling_offsets" in name or "attention_weights" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    loss_of(scan, batch, text).backward()
    without = {name for name, p in scan.named_parameters() if p.grad is None or not p.grad.any()}
    frozen = {name for name, p in scan.named_parameters() if not p.requires_grad}
    assert {name for name in frozen if not name.startswith("clip.")} == {
        f"segmenter.model.pixel_level_module.encoder.swin.layernorm.{kind}" for kind in ("weight", "bias")
    }
    assert {name for name, _ in scan.named_parameters() if name.startswith("clip.")} <= frozen
    assert without == frozen


def test_training_seeds_dropout(make_scan: Callable[..., Scan], text: TextFeatures, batch: dict[str, Any]) -> None:
    scan = make_scan().train()
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(loss_of(scan, batch, text).item())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_seeds_build_equal_networks(make_scan: Callable[..., Scan], scan: Scan, seed: int) -> None:
    state, other = scan.state_dict(), make_scan(seed).state_dict()
    different = [name for name in state if not torch.equal(state[name], other[name])]
    assert bool(different) is (seed != 0)
    assert not any(name.startswith("clip.") for name in different)


VARIANTS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "cls": {"layers": (), "sigmas": ()},
    "raw": {"frequencies": "raw"},
    "high": {"frequencies": "high"},
    "tokens": {"use_cls": False},
    "attention": {"proposal_attention": True},
    "one_layer": {"layers": (2,), "sigmas": (3.0,)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_integration_variants_train_and_predict(
    make_scan: Callable[..., Scan],
    integration_config: SemanticIntegrationConfig,
    settings: InferenceSettings,
    text: TextFeatures,
    batch: dict[str, Any],
    variant: str,
) -> None:
    change = VARIANTS[variant]
    plain = replace(integration_config, dropout=0.0)
    scan = make_scan(semantic_integration=None if change is None else replace(plain, **change))
    labels = scan.predict(**batch, text=text, settings=settings)
    assert [tuple(label.shape) for label in labels] == batch["original_sizes"]
    with torch.no_grad():
        final = scan(batch["images"], batch["sizes"], text).class_logits[-1]
    layers = scan.train()(batch["images"], batch["sizes"], text).class_logits
    assert len(layers) == 3
    torch.testing.assert_close(layers[-1].detach(), final, rtol=1e-3, atol=1e-2)  # at a temperature of 100
    layers[0].sum().backward()
    if scan.semantic_integration is not None:
        assert any(p.grad is not None and p.grad.any() for p in scan.semantic_integration.parameters())


def test_proposals_mix_only_with_attention(
    make_scan: Callable[..., Scan], integration_config: SemanticIntegrationConfig
) -> None:
    tokens, cls = [torch.randn(1, 17, 48) for _ in range(3)], torch.randn(1, 32)
    layers = [torch.randn(1, 5, 32) for _ in range(2)]
    for attend in (False, True):
        scan = make_scan(semantic_integration=replace(integration_config, proposal_attention=attend))
        with torch.no_grad():
            before = scan.integrate(layers, cls, tokens)
            changed = [layers[0], layers[1].clone()]
            changed[1][:, 0] += 1
            after = scan.integrate(changed, cls, tokens)
        torch.testing.assert_close(before[0], after[0])  # layers never mix
        assert torch.allclose(before[1][:, 1:], after[1][:, 1:], atol=1e-5) is not attend


def test_predict_equals_its_parts(
    scan: Scan, text: TextFeatures, batch: dict[str, Any], settings: InferenceSettings
) -> None:
    labels = scan.predict(**part_of(batch, [0]), text=text, settings=settings)[0]
    with torch.no_grad():
        output = scan(batch["images"][:1, :, :50, :70], [(50, 70)], text)
        masks = upsample_masks(output.mask_logits[-1][0], padded=(64, 96), size=(50, 70))
        tokens = [layer[0] for layer in output.image_tokens]
        image = batch["images"][0, :, :50, :70]
        seen = scan.classify_regions(image, masks, tokens, image_id="a", text=text, settings=settings)
    expected = semantic_labels(class_scores(output.class_logits[-1][0], seen, settings), masks, size=(50, 70))
    assert torch.equal(labels, expected)
    assert (labels.dtype, tuple(labels.shape)) == (torch.int64, (50, 70))


@pytest.mark.parametrize("change", [{}, {"log_ensemble": True}, {"ensemble_weight": 1.0}, {"source": "noise"}])
def test_predict_of_an_image_does_not_depend_on_its_batch(
    scan: Scan, text: TextFeatures, batch: dict[str, Any], settings: InferenceSettings, change: dict[str, Any]
) -> None:
    settings = replace(settings, **change)
    together = scan.predict(**batch, text=text, settings=settings)
    assert [tuple(label.shape) for label in together] == batch["original_sizes"]
    assert max(len(label.unique()) for label in together) > 1
    for order in ([0], [1], [2], [3], [3, 2], [2, 3, 1, 0]):
        alone = scan.predict(**part_of(batch, order), text=text, settings=settings)
        for index, label in zip(order, alone, strict=True):
            # equal but for pixels where two classes tie within rounding
            assert (label != together[index]).float().mean() < 2e-3


def test_predict_is_repeatable(
    scan: Scan, text: TextFeatures, batch: dict[str, Any], settings: InferenceSettings
) -> None:
    first, second = (scan.predict(**batch, text=text, settings=settings) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_each_image_of_a_batch_gets_its_own_cls(
    scan: Scan, text: TextFeatures, batch: dict[str, Any], settings: InferenceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Tensor] = []
    encode = regions_part.encode_regions

    def recorded(visual: nn.Module, crops: Tensor, **options: Any) -> Tensor:
        given.append(options["replacements"][1])
        return encode(visual, crops, **options)

    monkeypatch.setattr(regions_part, "encode_regions", recorded)
    scan.predict(**part_of(batch, [0, 3]), text=text, settings=replace(settings, mask_threshold=0.0))
    assert len(given) == 2
    for index, cls in zip((0, 3), given, strict=True):
        tokens = scan.look_at_images(batch["images"][index : index + 1], [SIZES[index]])[1]
        torch.testing.assert_close(cls, tokens[1][0, :1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(*given, atol=1e-3)


def test_predict_under_autocast_keeps_crops_and_scores_in_float32(
    scan: Scan, text: TextFeatures, batch: dict[str, Any], settings: InferenceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test in mixed precision may speed the networks up, not round the crops and the class-by-pixel product."""
    dtypes: dict[str, set[torch.dtype]] = {"crops": set(), "scores": set()}
    cut, einsum = regions_part.cut_regions, torch.einsum
    exact: list[bool] = []

    def watched_cut(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        crops, masks = cut(*arguments, **options)
        with torch.autocast("cpu", enabled=False):
            exact.append(torch.equal(crops, cut(*arguments, **options)[0]))
        return crops, masks

    def watched_einsum(equation: str, *operands: Tensor) -> Tensor:
        result = einsum(equation, *operands)
        if equation == "qk,qhw->khw":
            dtypes["scores"].add(result.dtype)
        return result

    monkeypatch.setattr(regions_part, "cut_regions", watched_cut)
    monkeypatch.setattr(torch, "einsum", watched_einsum)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scan.predict(**batch, text=text, settings=replace(settings, mask_threshold=0.0))
    assert exact == [True] * 4
    assert dtypes["scores"] == {torch.float32}


def test_predict_in_training_mode_raises(
    make_scan: Callable[..., Scan], text: TextFeatures, batch: dict[str, Any], settings: InferenceSettings
) -> None:
    with pytest.raises(ValueError, match=r"expected the network in evaluation mode, call eval\(\) first"):
        make_scan().train().predict(**batch, text=text, settings=settings)


@pytest.mark.parametrize("layers", [(3,), (0,), (1, 1)])
def test_predict_layer_that_the_tower_lacks_raises(
    scan: Scan, text: TextFeatures, batch: dict[str, Any], settings: InferenceSettings, layers: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"replace_layers: expected distinct layers in 1\.\.2 of this CLIP"):
        scan.predict(**batch, text=text, settings=replace(settings, replace_layers=layers))


def test_integration_layer_that_the_tower_lacks_raises(
    make_scan: Callable[..., Scan], integration_config: SemanticIntegrationConfig
) -> None:
    wrong = replace(integration_config, layers=(1, 3))
    with pytest.raises(ValueError, match=r"semantic_integration\.layers: expected distinct layers in 1\.\.2"):
        make_scan(semantic_integration=wrong)


@pytest.mark.parametrize("size", [(50, 70), (32, 33), (40, 5)])
def test_segment_one_image(scan: Scan, image_of: ImageOf, settings: InferenceSettings, size: tuple[int, int]) -> None:
    image = image_of(0, *size)
    found = scan.segment(image, [" sky", "red car", "tree"], settings=settings, image_id="here")
    assert (found.image_id, found.words) == ("here", ("sky", "red car", "tree"))
    assert (found.label_map.dtype, tuple(found.label_map.shape)) == (torch.int64, size)
    assert found.class_pixels.tolist() == [int((found.label_map == label).sum()) for label in range(3)]
    again = scan.segment(image, ["sky", "red car", "tree"], settings=settings, image_id="here")
    assert torch.equal(again.label_map, found.label_map)


def test_segment_one_word_and_many(scan: Scan, image_of: ImageOf, settings: InferenceSettings) -> None:
    image = image_of(0, 40, 40)
    assert scan.segment(image, ["sky"], settings=settings).class_pixels.tolist() == [1600]
    many = scan.segment(image, [f"thing {index}" for index in range(300)], settings=settings)
    assert many.class_pixels.shape == (300,)
    assert many.class_pixels.sum() == 1600


def test_segment_takes_a_vocabulary_with_synonyms(scan: Scan, image_of: ImageOf, settings: InferenceSettings) -> None:
    vocabulary = Vocabulary(names=("sky", "car"), synonyms=(("sky", "clouds"), ("car", "auto")))
    found = scan.segment(image_of(0, 40, 40), vocabulary, settings=settings)
    assert found.words == ("sky", "car")
    assert found.class_pixels.shape == (2,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a vocabulary needs at least one word, got none"),
        (["sky", " "], "without surrounding white space, got ''"),
        (["sky", "sky "], "'sky' is given twice"),
        ("sky", "words: expected a list of words, got the text 'sky'"),
    ],
)
def test_segment_bad_words_raise(scan: Scan, image_of: ImageOf, settings: Any, words: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan.segment(image_of(0, 40, 40), words, settings=settings)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 40, 40),
        torch.zeros(1, 3, 40, 40, dtype=torch.uint8),
        torch.zeros(40, 40, 3, dtype=torch.uint8),
        torch.zeros(40, 40, dtype=torch.uint8),
    ],
)
def test_segment_bad_image_raises(scan: Scan, settings: InferenceSettings, image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"image: expected uint8 \(3, H, W\), got torch\."):
        scan.segment(image, ["sky"], settings=settings)


def test_segment_empty_image_raises(scan: Scan, settings: InferenceSettings) -> None:
    with pytest.raises(ValueError, match="sizes: expected within 1 x 1"):
        scan.segment(torch.zeros(3, 0, 40, dtype=torch.uint8), ["sky"], settings=settings)


@pytest.mark.parametrize("layers", [(1,), (9,)])
def test_segment_leaves_the_mode_as_it_was(
    make_scan: Callable[..., Scan], image_of: ImageOf, settings: InferenceSettings, layers: tuple[int, ...]
) -> None:
    scan = make_scan().train()
    settings = replace(settings, replace_layers=layers)
    if layers == (9,):
        with pytest.raises(ValueError, match="replace_layers"):
            scan.segment(image_of(0, 40, 40), ["sky"], settings=settings)
    else:
        scan.segment(image_of(0, 40, 40), ["sky"], settings=settings)
    assert scan.training
    assert scan.segmenter.training
    assert not scan.clip.training
