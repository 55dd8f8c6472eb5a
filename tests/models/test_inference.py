from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.contextual_shift import SUBSTITUTION_SOURCES
from scan_lightning.models.inference import (
    InferenceSettings,
    blend,
    class_scores,
    log_ensemble,
    semantic_labels,
    semantic_scores,
    upsample_masks,
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_threshold": -0.1}, r"mask_threshold: expected in \[0, 1\], got -0\.1"),
        ({"ensemble_weight": 1.1}, r"ensemble_weight: expected in \[0, 1\], got 1\.1"),
        ({"replace_ratio": float("nan")}, r"replace_ratio: expected in \[0, 1\], got nan"),
        ({"replace_ratio": -0.01}, r"replace_ratio: expected in \[0, 1\], got -0\.01"),
        ({"replace_ratio": 1.01}, r"replace_ratio: expected in \[0, 1\], got 1\.01"),
        ({"source": "cls"}, "source: expected one of image_cls"),
        ({"mask_expand": 0.5}, r"mask_expand: expected at least 1, got 0\.5"),
        ({"region_batch": 0}, "region_batch: expected at least 1, got 0"),
        ({"scales": ()}, r"scales: expected distinct positive factors, at least one, got \[\]"),
        ({"scales": (1.0, 0.0)}, r"scales: expected distinct positive factors, at least one, got \[1\.0, 0\.0\]"),
        ({"scales": (1.0, float("nan"))}, "scales: expected distinct positive factors"),
        ({"scales": (1.0, float("inf"))}, "scales: expected distinct positive factors"),
        ({"scales": (1.0, 1.5, 1.0)}, "scales: expected distinct positive factors"),
        ({"window": 31}, "window: expected at least 32 pixels, got 31"),
        ({"window": 64, "stride": 0}, r"stride: expected in 1\.\.64, the window's side, got 0"),
        ({"window": 64, "stride": 65}, r"stride: expected in 1\.\.64, the window's side, got 65"),
        ({"stride": 32}, "stride: expected a window with it, got 32 alone"),
    ],
)
def test_settings_out_of_range_raise(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InferenceSettings(**change)


def test_settings_shift_only_where_something_is_overwritten() -> None:
    assert InferenceSettings().shifts
    assert [InferenceSettings(source=source).shifts for source in SUBSTITUTION_SOURCES] == [True] * 5 + [False]
    assert not InferenceSettings(replace_ratio=0).shifts
    assert not InferenceSettings(replace_layers=()).shifts


def test_blend_by_hand() -> None:
    inside, outside = torch.tensor([[[0.25, 0.0]]]), torch.tensor([[[0.04, 0.5]]])
    torch.testing.assert_close(blend(inside, outside, weight=0.5), torch.tensor([[[0.1, 0.0]]]))
    assert torch.equal(blend(inside, outside, weight=0), inside)
    assert torch.equal(blend(inside, outside, weight=1), outside)


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_blend_wrong_weight_raises(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        blend(torch.ones(1, 1, 2), torch.ones(1, 1, 2), weight=weight)


def test_blend_other_shapes_raise() -> None:
    with pytest.raises(ValueError, match=r"shape|\(1, 1, 2\)"):
        blend(torch.ones(1, 1, 2), torch.ones(1, 1, 3), weight=0.5)


def test_log_ensemble_by_hand() -> None:
    scores = torch.tensor([[[0.1, 0.3]], [[0.2, 0.2]]])
    void = torch.tensor([[[0.6]], [[0.0]]])
    # the softmax of logarithms divides by the sum: (1/4, 3/4) and (1/2, 1/2), times 1 - void
    expected = torch.tensor([[[0.1, 0.3]], [[0.5, 0.5]]])
    torch.testing.assert_close(log_ensemble(scores, void), expected, rtol=1e-5, atol=1e-6)


def test_log_ensemble_is_finite_where_every_class_underflows() -> None:
    """A proposal that is no object at all has class probabilities of exactly 0 in float32; it must not poison a sum."""
    logits = torch.tensor([[[-20.0, -30.0, 95.0]]])
    probabilities = logits.softmax(-1)
    scores = blend(probabilities[..., :-1], torch.tensor([[[0.5, 0.5]]]), weight=0.5)
    assert not scores.any()
    found = log_ensemble(scores, probabilities[..., -1:])
    assert torch.isfinite(found).all()
    assert found.max() < 1e-6


def test_class_scores_both_variants() -> None:
    logits, seen = torch.randn(2, 3, 5), torch.rand(2, 3, 4)
    probabilities = logits.softmax(-1)
    plain = class_scores(logits, seen, InferenceSettings(ensemble_weight=0.3))
    torch.testing.assert_close(plain, probabilities[..., :4] ** 0.7 * seen**0.3)
    log = class_scores(logits, seen, InferenceSettings(ensemble_weight=0.3, log_ensemble=True))
    torch.testing.assert_close(log, log_ensemble(plain, probabilities[..., 4:]))


def test_upsample_masks_equals_interpolate_then_crop() -> None:
    logits = torch.randn(4, 8, 16)
    found = upsample_masks(logits, padded=(32, 64), size=(25, 61))
    whole = F.interpolate(logits[None], size=(32, 64), mode="bilinear", align_corners=False)[0].sigmoid()
    torch.testing.assert_close(found, whole[:, :25, :61])
    assert upsample_masks(logits.bfloat16(), padded=(32, 64), size=(25, 61)).dtype == torch.float32


def scores_and_masks(queries: int = 6, classes: int = 9, size: tuple[int, int] = (18, 25)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = F.interpolate(torch.randn(1, queries, 4, 5, generator=generator), size=size, mode="bilinear")[0]
    return torch.rand(queries, classes, generator=generator), (4 * masks).sigmoid()


SIZES = [(18, 25), (18, 50), (36, 25), (40, 61), (9, 12), (7, 70), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_semantic_scores_equals_interpolated_sum(size: tuple[int, int]) -> None:
    scores, masks = scores_and_masks()
    summed = torch.einsum("qk,qhw->khw", scores, masks)
    expected = F.interpolate(summed[None], size=size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(semantic_scores(scores, masks, size=size), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tile", [1, 700, 5000, 16_000_000])
@pytest.mark.parametrize("size", SIZES)
def test_semantic_labels_equals_argmax_up_to_ties(size: tuple[int, int], tile: int) -> None:
    scores, masks = scores_and_masks()
    found = semantic_labels(scores, masks, size=size, tile_elements=tile)
    summed = torch.einsum("qk,qhw->khw", scores, masks)
    whole = F.interpolate(summed[None], size=size, mode="bilinear", align_corners=False)[0]
    assert (found.shape, found.dtype) == (size, torch.int64)
    best, second = whole.topk(2, dim=0).values
    clear = best - second > 1e-5
    assert torch.equal(found[clear], whole.argmax(0)[clear])
    assert clear.float().mean() > 0.99
    assert size == (1, 1) or len(found.unique()) > 1


@pytest.mark.parametrize("size", [(64, 96), (80, 50)])
def test_semantic_labels_memory_does_not_grow_with_classes(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest product, and the largest piece of the masks, stay below the tile; K x H x W is 25 times that."""
    scores, masks = scores_and_masks(queries=4, classes=400, size=(64, 96))
    largest = []
    einsum = torch.einsum

    def recorded(equation: str, *operands: Tensor) -> Tensor:
        result = einsum(equation, *operands)
        largest.append(max(tensor.numel() for tensor in (result, *operands)))
        return result

    monkeypatch.setattr(torch, "einsum", recorded)
    tile = 400 * size[0] * size[1] // 25
    semantic_labels(scores, masks, size=size, tile_elements=tile)
    assert len(largest) >= 25
    assert max(largest) <= tile


def test_semantic_labels_more_queries_than_classes_bounds_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, masks = scores_and_masks(queries=50, classes=2, size=(16, 16))
    largest = []
    einsum = torch.einsum

    def recorded(equation: str, *operands: Tensor) -> Tensor:
        largest.append(max(tensor.numel() for tensor in operands))
        return einsum(equation, *operands)

    monkeypatch.setattr(torch, "einsum", recorded)
    semantic_labels(scores, masks, size=(32, 32), tile_elements=50 * 32 * 4)
    assert max(largest) <= 50 * 32 * 4
