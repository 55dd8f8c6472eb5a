from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models import prediction
from scan_lightning.models import regions as regions_part
from scan_lightning.models.augmentation import View, ViewOutput, merged_labels, plan_views
from scan_lightning.models.inference import InferenceSettings, semantic_labels, upsample_masks
from scan_lightning.models.preprocessing import padded_size
from scan_lightning.models.scan import Scan
from scan_lightning.models.text import TextFeatures

ImageOf = Callable[[int, int, int], Tensor]
SIZE = (50, 70)
PLANS: dict[str, dict[str, Any]] = {
    "flip": {"flip": True},
    "scales": {"scales": (0.7, 1.0, 1.75)},
    "one_scale": {"scales": (1.5,)},
    "window": {"window": 40},
    "window_step": {"window": 43, "stride": 9},
    "window_no_overlap": {"window": 45, "stride": 45},
    "all": {"scales": (0.75, 1.3), "flip": True, "window": 48, "stride": 30},
}


def plan(size: tuple[int, int] = SIZE, **options: Any) -> list[View]:
    return plan_views(size, InferenceSettings(**options))


def made_up(views: list[View], queries: int = 6, classes: int = 9) -> list[ViewOutput]:
    """Outputs with masks and scores drawn at random, other ones for every view."""
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for view in views:
        padded = padded_size(view.size)
        logits = 4 * torch.randn(queries, padded[0] // 4, padded[1] // 4, generator=generator)
        scores = torch.rand(queries, classes, generator=generator)
        outputs.append(ViewOutput(view=view, scores=scores, mask_logits=logits, padded=padded))
    return outputs


def slow_map(outputs: list[ViewOutput], size: tuple[int, int]) -> Tensor:
    """The mean of all views' maps by whole tensors (K, H, W), canvas by canvas."""
    sums: dict[Any, Tensor] = {}
    counts: dict[Any, Tensor] = {}
    for output in outputs:
        view = output.view
        canvas = (view.rows.total, view.columns.total)
        masks = upsample_masks(output.mask_logits, padded=output.padded, size=view.size)
        key = (view.mirrored, canvas)
        total = sums.setdefault(key, torch.zeros(output.scores.shape[1], *canvas))
        count = counts.setdefault(key, torch.zeros(canvas))
        top, left = view.rows.start, view.columns.start
        window = (slice(top, top + view.size[0]), slice(left, left + view.size[1]))
        total[:, window[0], window[1]] += torch.einsum("qk,qhw->khw", output.scores, masks)
        count[window] += 1
    maps = []
    for key, total in sums.items():
        mean = total / counts[key]
        mean = mean.flip(2) if key[0] else mean
        maps.append(F.interpolate(mean[None], size=size, mode="bilinear", align_corners=False)[0])
    return torch.stack(maps).mean(0)


@pytest.mark.parametrize("tile", [700, 16_000_000])
@pytest.mark.parametrize("size", [(50, 70), (31, 90), (100, 35)])
@pytest.mark.parametrize("name", PLANS)
def test_merged_labels_equals_the_mean_of_whole_maps(name: str, size: tuple[int, int], tile: int) -> None:
    outputs = made_up(plan(**PLANS[name]))
    found = merged_labels(outputs, size=size, tile_elements=tile)
    whole = slow_map(outputs, size)
    best, second = whole.topk(2, dim=0).values
    clear = best - second > 1e-4
    assert (found.shape, found.dtype) == (size, torch.int64)
    assert torch.equal(found[clear], whole.argmax(0)[clear])
    assert clear.float().mean() > 0.99
    assert len(found.unique()) > 3


def test_merged_labels_of_one_view_are_those_of_the_image() -> None:
    (output,) = made_up(plan())
    masks = upsample_masks(output.mask_logits, padded=output.padded, size=SIZE)
    expected = semantic_labels(output.scores, masks, size=(60, 44))
    assert (merged_labels([output], size=(60, 44)) != expected).float().mean() < 2e-3


def test_merged_labels_memory_does_not_grow_with_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = made_up(plan((96, 96), flip=True, scales=(0.5, 1.5), window=64), queries=4, classes=400)
    largest = []
    einsum = torch.einsum

    def recorded(equation: str, *operands: Tensor) -> Tensor:
        result = einsum(equation, *operands)
        largest.append(max(tensor.numel() for tensor in (result, *operands)))
        return result

    monkeypatch.setattr(torch, "einsum", recorded)
    tile = 400 * 96 * 96 // 24
    merged_labels(outputs, size=(96, 96), tile_elements=tile)
    assert len(largest) > 24
    assert max(largest) <= tile


@pytest.mark.parametrize("stride", [None, 1, 11, 32])
@pytest.mark.parametrize("length", [32, 33, 50, 64, 97])
def test_windows_cover_the_image_and_end_with_it(length: int, stride: int | None) -> None:
    views = plan((length, 40), window=32, stride=stride)
    starts = sorted({view.rows.start for view in views})
    assert starts[0] == 0
    assert starts[-1] == max(0, length - 32)
    assert all(0 < b - a <= (stride or 22) for a, b in pairwise(starts))
    assert len({(view.rows.start, view.columns.start) for view in views}) == len(views)
    assert len(starts) == 1 + -(-max(0, length - 32) // (stride or 22))


def test_views_have_sizes_and_names_of_their_own() -> None:
    views = plan(scales=(1.0, 1.5), flip=True)
    assert [view.suffix for view in views] == ["", "@flip", "@1.5", "@flip@1.5"]
    assert [view.size for view in views] == [(50, 70), (50, 70), (75, 105), (75, 105)]
    many = plan(**PLANS["all"])
    assert len({view.suffix for view in many}) == len(many)
    assert all(view.suffix for view in many)


def test_window_as_large_as_the_image_is_no_window() -> None:
    assert plan(window=70) == plan() == plan(window=700, stride=3)
    assert [view.size for view in plan(window=60)] == [(50, 60), (50, 60)]


def test_cut_by_hand(image_of: ImageOf) -> None:
    image = image_of(0, 50, 70)
    whole, mirrored = plan(flip=True)
    assert torch.equal(whole.cut(image), image.float())
    assert torch.equal(mirrored.cut(image), image.float().flip(2))
    window = plan(window=40)[-1]
    assert torch.equal(window.cut(image), image[:, 10:, 30:].float())
    half = plan((50, 70), scales=(0.5,))[0].cut(image)
    assert half.shape == (3, 25, 35)
    assert (half.mean((1, 2)) - image.float().mean((1, 2))).abs().max() < 1, "antialiased: the mean colour stays"


@torch.no_grad()
@pytest.mark.parametrize("name", ["flip", "scales", "window", "all"])
def test_predict_equals_its_views(
    scan: Scan, text: TextFeatures, batch: dict[str, Any], settings: InferenceSettings, name: str
) -> None:
    """Every view is what `predict` makes of its cut; the maps are averaged."""
    settings = replace(settings, **PLANS[name])
    image = batch["images"][0, :, :50, :70]
    found = scan.predict(
        image[None], sizes=[SIZE], original_sizes=[(60, 44)], image_ids=["a"], text=text, settings=settings
    )[0]
    outputs = []
    for view in plan_views(SIZE, settings):
        pixels = view.cut(image)
        output = scan(pixels[None], [view.size], text)
        masks = upsample_masks(output.mask_logits[-1][0], padded=output.padded, size=view.size)
        seen = scan.classify_regions(
            pixels, masks, [x[0] for x in output.image_tokens], image_id="a" + view.suffix, text=text, settings=settings
        )
        scores = prediction.class_scores(output.class_logits[-1][0], seen, settings)
        logits = output.mask_logits[-1][0]
        outputs.append(ViewOutput(view=view, scores=scores, mask_logits=logits, padded=output.padded))
    assert (slow_map(outputs, (60, 44)).argmax(0) != found).float().mean() < 2e-3


def test_predict_with_a_window_as_large_as_the_images_gives_the_same_bits(
    scan: Scan, text: TextFeatures, batch: dict[str, Any], settings: InferenceSettings
) -> None:
    plain = scan.predict(**batch, text=text, settings=settings)
    windowed = scan.predict(**batch, text=text, settings=replace(settings, window=96, stride=10))
    assert all(torch.equal(a, b) for a, b in zip(plain, windowed, strict=True))
    small = scan.predict(**batch, text=text, settings=replace(settings, window=48))
    assert not all(torch.equal(a, b) for a, b in zip(plain, small, strict=True))


@pytest.mark.parametrize("name", ["flip", "window"])
def test_predict_with_views_does_not_depend_on_the_batch(
    scan: Scan, text: TextFeatures, batch: dict[str, Any], settings: InferenceSettings, name: str
) -> None:
    settings = replace(settings, **PLANS[name])
    together = scan.predict(**batch, text=text, settings=settings)
    for index in (1, 2):
        part = {key: [values[index]] for key, values in batch.items() if key != "images"}
        height, width = batch["sizes"][index]
        images = batch["images"][[index], :, :height, :width]
        (alone,) = scan.predict(images=images, **part, text=text, settings=settings)
        assert (alone != together[index]).float().mean() < 2e-3


def test_flip_of_a_symmetric_image_is_symmetric(
    scan: Scan, image_of: ImageOf, text: TextFeatures, settings: InferenceSettings
) -> None:
    half = image_of(10, 64, 48)
    image = torch.cat([half, half.flip(2)], dim=2)
    labels = {}
    for flip in (False, True):
        (labels[flip],) = scan.predict(
            image[None],
            sizes=[(64, 96)],
            original_sizes=[(64, 96)],
            image_ids=["a"],
            text=text,
            settings=replace(settings, source="none", flip=flip),
        )
    assert (labels[True] != labels[True].flip(1)).float().mean() < 2e-3
    assert len(labels[True].unique()) > 2
    assert (labels[False] != labels[False].flip(1)).float().mean() > 0.1, "the network itself is not symmetric"


def test_each_view_draws_and_is_batched_on_its_own(
    scan: Scan, text: TextFeatures, batch: dict[str, Any], settings: InferenceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    widths: list[int] = []
    draw, forward = regions_part.draw_background_tokens, Scan.forward

    def recorded(*arguments: Any, image_ids: list[str], **options: Any) -> Tensor:
        names.extend(image_ids)
        return draw(*arguments, image_ids=image_ids, **options)

    def counted(self: Scan, images: Tensor, *arguments: Any) -> Any:
        widths.append(len(images))
        return forward(self, images, *arguments)

    monkeypatch.setattr(regions_part, "draw_background_tokens", recorded)
    monkeypatch.setattr(Scan, "forward", counted)
    part = {key: values[:2] for key, values in batch.items()}
    given = replace(settings, mask_threshold=0.0, flip=True, scales=(1.0, 1.5), window=64)
    scan.predict(**part, text=text, settings=given)
    assert {name.split("@")[0] for name in names} == {"a", "b"}
    assert len(set(names)) == len(plan_views((50, 70), given)) + len(plan_views((64, 96), given))
    assert "a@flip@1.5@11,0" in names
    assert max(widths) <= 2
