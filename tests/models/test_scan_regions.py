from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models import regions as regions_part
from scan_lightning.models.contextual_shift import SUBSTITUTION_SOURCES
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.scan import Scan
from scan_lightning.models.text import TextFeatures

K = 40


def regions_of(
    scan: Scan, text: TextFeatures, settings: InferenceSettings, image_id: str = "a", **changes: Any
) -> Tensor:
    """Probabilities of 6 made-up masks of one image, the fourth empty."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(6, 50, 70)
    for query in (0, 1, 2, 4, 5):
        masks[query, 5 * query : 5 * query + 12, 8 * query : 8 * query + 20] = 0.5 + 0.08 * query
    image = torch.randint(0, 256, (3, 50, 70), generator=generator, dtype=torch.uint8)
    tokens = [torch.randn(17, 48, generator=generator) for _ in range(3)]
    arguments = {"image": image, "masks": masks, "tokens": tokens} | changes
    with torch.no_grad():
        return scan.classify_regions(
            arguments["image"], arguments["masks"], arguments["tokens"], image_id=image_id, text=text, settings=settings
        )


def test_classify_regions_without_shift_by_hand(scan: Scan, text: TextFeatures, settings: InferenceSettings) -> None:
    found = regions_of(scan, text, replace(settings, source="none"))
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 50, 70), generator=generator, dtype=torch.uint8)
    assert torch.equal(found[3], torch.ones(K)), "an empty mask has no opinion"
    for query in (0, 1, 2, 4, 5):
        crop = image[:, 5 * query : 5 * query + 12, 8 * query : 8 * query + 20]
        square = F.interpolate(scan.clip.normalize(crop)[None], size=(32, 32), mode="bicubic")
        with torch.no_grad():
            feature = F.normalize(scan.clip.clip.visual(square)[0], dim=-1)
        expected = (100 * text.features @ feature).softmax(0)
        torch.testing.assert_close(found[query], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("threshold", [0.6, 0.7])
def test_classify_regions_only_above_the_threshold(
    scan: Scan, text: TextFeatures, settings: InferenceSettings, threshold: float
) -> None:
    found = regions_of(scan, text, replace(settings, mask_threshold=threshold))
    counted = [bool(value) for value in (found.sum(1) < 1.001)]
    assert counted == [(0.5 + 0.08 * query > threshold) and query != 3 for query in range(6)]
    assert (found[[not value for value in counted]] == 1).all()


@pytest.mark.parametrize("region_batch", [1, 2, 100])
def test_classify_regions_does_not_depend_on_region_batch(
    scan: Scan, text: TextFeatures, settings: InferenceSettings, region_batch: int
) -> None:
    found = regions_of(scan, text, replace(settings, region_batch=region_batch))
    torch.testing.assert_close(found, regions_of(scan, text, settings), rtol=1e-3, atol=1e-4)


def test_classify_regions_sources_and_draws_matter(scan: Scan, text: TextFeatures, settings: InferenceSettings) -> None:
    masks = torch.zeros(1, 50, 70)
    masks[0, 10:20, 10:20] = masks[0, 40, 60] = 0.9  # most of its box is background
    found = {
        source: regions_of(scan, text, replace(settings, source=source), masks=masks) for source in SUBSTITUTION_SOURCES
    }
    keys = list(found)
    assert not any(torch.equal(found[a], found[b]) for i, a in enumerate(keys) for b in keys[:i])
    plain = regions_of(scan, text, replace(settings, replace_ratio=0), masks=masks)
    assert torch.equal(plain, found["none"])
    assert torch.equal(plain, regions_of(scan, text, replace(settings, replace_layers=()), masks=masks))
    for other in ({"image_id": "b"}, {"settings": replace(settings, seed=1)}):
        drawn = regions_of(scan, text, **({"settings": settings} | other), masks=masks)  # type: ignore[arg-type]
        assert not torch.equal(drawn, found["image_cls"])


def test_classify_regions_draw_follows_the_query_not_its_place(
    scan: Scan, text: TextFeatures, settings: InferenceSettings
) -> None:
    """A mask that another threshold leaves out must not shift the draws of those behind it."""
    all_masks = regions_of(scan, text, settings)
    fewer = regions_of(scan, text, replace(settings, mask_threshold=0.55))
    assert (fewer[0] == 1).all()
    torch.testing.assert_close(fewer[1:], all_masks[1:], rtol=1e-3, atol=1e-4)


def test_classify_regions_in_bfloat16_is_close(scan: Scan, text: TextFeatures, settings: InferenceSettings) -> None:
    full, low = (regions_of(scan, text, replace(settings, clip_bfloat16=flag)).log() for flag in (False, True))
    assert low.dtype == torch.float32
    assert not torch.equal(full, low)
    assert (full - low).abs().mean() < 0.1 * full.std()


@pytest.mark.parametrize("change", [{"ensemble_weight": 0.0}, {"mask_threshold": 1.0}])
def test_no_region_is_encoded_where_none_counts(
    scan: Scan,
    text: TextFeatures,
    batch: dict[str, Any],
    settings: InferenceSettings,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    """Weight 0 asks for no opinion; without a mask above the threshold CLIP's opinion is 1 for every class."""
    calls: list[Any] = []
    monkeypatch.setattr(regions_part, "encode_regions", lambda *arguments, **_: calls.append(arguments))
    labels = scan.predict(**batch, text=text, settings=replace(settings, **change))
    assert [tuple(label.shape) for label in labels] == batch["original_sizes"]
    assert torch.equal(regions_of(scan, text, replace(settings, **change)), torch.ones(6, K))
    assert calls == []
    with pytest.raises(AttributeError):  # the recorder gives no features
        scan.predict(**batch, text=text, settings=settings)
    assert calls


def test_regions_are_encoded_by_the_tuned_tower(
    make_scan: Callable[..., Scan],
    text: TextFeatures,
    settings: InferenceSettings,
    scan_config: Any,
    other_clip_folder: Any,
) -> None:
    config = replace(scan_config.clip, shifted_weights=str(other_clip_folder))
    original, tuned = make_scan(), make_scan(clip=config)
    assert not torch.allclose(regions_of(original, text, settings), regions_of(tuned, text, settings), atol=1e-3)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    first, second = (part.look_at_images(image, [(32, 32)])[0] for part in (original, tuned))
    assert torch.equal(first, second), "the whole image is seen by the original tower"
