"""True regions under the tiny CLIP: by hand, and beside what the network does with proposals of the same shape."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.analysis import (
    ImageRegions,
    RegionCutter,
    RegionScores,
    cut_batches,
    drift_by_layer,
    measure_domain,
    score_by_background,
)
from scan_lightning.data.targets import masks_and_labels
from scan_lightning.models.clip import ClipConfig, FrozenClip, run_visual
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.regions import classify_regions
from scan_lightning.models.shifted_encoding import ShiftConfig
from scan_lightning.models.text import TextFeatures
from scan_lightning.types import IGNORE_INDEX, Batch

SHIFT = ShiftConfig(replace_ratio=0.5, replace_layers=(1,))


@pytest.fixture(scope="module")
def text() -> TextFeatures:
    features = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    return TextFeatures(F.normalize(features, dim=-1), torch.arange(5), 5)


def label_map() -> Tensor:
    """40 x 50 pixels: a triangle of class 3 on class 1, a few pixels of class 4, some ignored."""
    labels = torch.full((40, 50), 1)
    rows, columns = torch.arange(40)[:, None], torch.arange(50)[None]
    labels[(rows >= 10) & (rows < 30) & (columns >= 5) & (columns <= rows)] = 3
    labels[0, :5] = 4
    labels[-3:] = IGNORE_INDEX
    return labels


@pytest.fixture(scope="module")
def regions(clip: FrozenClip, image_of: Any) -> ImageRegions:
    found = RegionCutter().cut(clip, image_of(0, 40, 50), label_map(), image_id="a")
    assert found is not None
    return found


def test_cut_measures_background_in_the_image(regions: ImageRegions) -> None:
    assert regions.labels.tolist() == [1, 3]  # class 4 is smaller than 64 pixels
    triangle = label_map() == 3
    box = 20 * 25
    assert regions.background[1].item() == pytest.approx(1 - int(triangle.sum()) / box)
    assert regions.boxes.shape == regions.crops.shape == (2, 3, 32, 32)
    assert len(regions.tokens) == 3
    assert regions.tokens[0].shape == (17, 48)


def test_a_share_on_the_edge_of_a_bin_belongs_to_it(clip: FrozenClip, image_of: Any) -> None:
    labels = torch.full((40, 50), IGNORE_INDEX)
    labels[5:15, 5:15] = 1
    labels[5:9, 5:10] = IGNORE_INDEX  # 20 of 100 pixels
    found = RegionCutter().cut(clip, image_of(0, 40, 50), labels, image_id="a")
    assert found is not None
    bins = score_by_background(scores([1], [1], found.background.tolist()), [True, True])
    assert [one.background for one in bins if one.regions] == ["all", "0.2-0.4"]


def test_cut_boxes_keep_what_crops_lose(regions: ImageRegions) -> None:
    background = regions.crops[1].abs().sum(0) == 0
    assert background.float().mean() > 0.2
    assert regions.boxes[1].abs().sum(0)[background].min() > 0
    torch.testing.assert_close(regions.boxes[1][:, 16, :4], regions.crops[1][:, 16, :4], rtol=0, atol=1e-4)


def test_cut_without_a_large_region_gives_none(clip: FrozenClip, image_of: Any) -> None:
    ignored = torch.full((40, 50), IGNORE_INDEX)
    assert RegionCutter().cut(clip, image_of(0, 40, 50), ignored, image_id="a") is None
    assert RegionCutter(min_area=2001).cut(clip, image_of(0, 40, 50), label_map(), image_id="a") is None
    with pytest.raises(ValueError, match="min_area: expected at least 1, got 0"):
        RegionCutter(min_area=0)


@pytest.mark.parametrize("source", ["image_cls", "patch_mean", "noise"])
def test_shifted_regions_are_classified_as_proposals_of_their_shape(
    clip: FrozenClip, image_of: Any, text: TextFeatures, regions: ImageRegions, source: Any
) -> None:
    shift = ShiftConfig(replace_ratio=0.5, replace_layers=(1,), source=source, seed=4)
    (_, _, found) = measure_domain(clip, [regions], text=text, shifts=[shift], region_batch=1)
    masks, _ = masks_and_labels(label_map())
    settings = InferenceSettings(replace_ratio=0.5, replace_layers=(1,), source=source, seed=4)
    proposals = classify_regions(
        clip,
        image_of(0, 40, 50),
        masks[:2].float(),
        regions.tokens,
        image_id="a",
        text=text,
        settings=settings,
        temperature=100.0,
    )
    assert found.predictions.tolist() == proposals.argmax(-1).tolist()
    edit = regions.shift(shift, slice(None))
    assert edit is not None
    pooled, _ = run_visual(clip.region_visual, regions.crops, edit=edit)
    probabilities = (100 * text.similarities(F.normalize(pooled, dim=-1))).softmax(-1)
    torch.testing.assert_close(probabilities, proposals, rtol=1e-4, atol=1e-5)


def test_conditions_and_drift_beside_plain_encoding(
    clip: FrozenClip, text: TextFeatures, regions: ImageRegions
) -> None:
    box, masked, shifted = measure_domain(clip, [regions], text=text, shifts=[SHIFT])
    assert [part.condition for part in (box, masked, shifted)] == ["box", "masked", "shifted"]
    assert shifted.shift == SHIFT
    embeddings = [F.normalize(clip.clip.visual(crops), dim=-1) for crops in (regions.boxes, regions.crops)]
    expected = 1 - (embeddings[0] * embeddings[1]).sum(-1)
    torch.testing.assert_close(masked.drift, expected, rtol=0, atol=1e-5)
    assert torch.equal(masked.predictions, text.similarities(embeddings[1]).argmax(-1))
    assert box.drift.abs().max() < 1e-5
    assert box.layer_drift.abs().max() < 1e-5
    # What is overwritten after block 1 reaches [CLS] in block 2.
    assert torch.equal(shifted.layer_drift[:, 0], masked.layer_drift[:, 0])
    assert (shifted.layer_drift[:, 1] - masked.layer_drift[:, 1]).abs().max() > 1e-4
    assert drift_by_layer(masked) == pytest.approx(masked.layer_drift.mean(0).tolist(), abs=1e-6)


def test_shift_that_overwrites_nothing_equals_masked_crops(
    clip: FrozenClip, text: TextFeatures, regions: ImageRegions
) -> None:
    for shift in (ShiftConfig(replace_ratio=0.0), ShiftConfig(source="none"), ShiftConfig(replace_layers=())):
        assert regions.shift(shift, slice(None)) is None
    idle = ShiftConfig(replace_ratio=0.0, replace_layers=(1,))
    _, masked, shifted = measure_domain(clip, [regions], text=text, shifts=[idle])
    assert torch.equal(masked.layer_drift, shifted.layer_drift)
    assert torch.equal(masked.drift, shifted.drift)


def test_scores_do_not_depend_on_how_many_regions_are_encoded_at_once(
    clip: FrozenClip, text: TextFeatures, regions: ImageRegions
) -> None:
    one, many = (measure_domain(clip, [regions], text=text, shifts=[SHIFT], region_batch=size) for size in (1, 64))
    for first, second in zip(one, many, strict=True):
        torch.testing.assert_close(first.layer_drift, second.layer_drift, rtol=0, atol=1e-5)
        assert torch.equal(first.predictions, second.predictions)


def test_tuned_tower_classifies_and_the_original_gives_the_tokens(
    clip_folder: Any, other_clip_folder: Any, image_of: Any, text: TextFeatures, regions: ImageRegions
) -> None:
    tuned = FrozenClip.from_config(ClipConfig(model=str(clip_folder), shifted_weights=str(other_clip_folder)))
    found = RegionCutter().cut(tuned, image_of(0, 40, 50), label_map(), image_id="a")
    assert found is not None
    assert all(torch.equal(here, there) for here, there in zip(found.tokens, regions.tokens, strict=True))
    box = measure_domain(tuned, [found], text=text, shifts=[])[0]
    own = F.normalize(tuned.region_visual(found.boxes), dim=-1)
    assert torch.equal(box.predictions, text.similarities(own).argmax(-1))


def test_cut_batches_reads_the_truth_at_the_size_of_the_image(clip: FrozenClip, image_of: Any) -> None:
    images = torch.zeros(2, 3, 48, 60, dtype=torch.uint8)
    images[0, :, :40, :50] = image_of(0, 40, 50)
    enlarged = label_map().repeat_interleave(2, 0).repeat_interleave(2, 1)
    batch = Batch(
        images=images,
        sizes=[(40, 50), (48, 60)],
        image_ids=["a", "nothing"],
        original_sizes=[(80, 100), (48, 60)],
        label_maps=[enlarged, torch.full((48, 60), IGNORE_INDEX)],
    )
    (found,) = cut_batches(clip, [batch], RegionCutter())
    expected = RegionCutter().cut(clip, image_of(0, 40, 50), label_map(), image_id="a")
    assert expected is not None
    assert found.image_id == "a"
    assert torch.equal(found.crops, expected.crops)


def scores(labels: list[int], predictions: list[int], background: list[float]) -> RegionScores:
    return RegionScores(
        condition="masked",
        shift=None,
        labels=torch.tensor(labels),
        predictions=torch.tensor(predictions),
        background=torch.tensor(background),
        layer_drift=torch.tensor([[0.1, 0.3]] * len(labels)),
        drift=torch.tensor(background) / 2,
    )


def test_bins_by_hand() -> None:
    part = scores([0, 0, 0, 1, 2], [0, 0, 2, 1, 0], [0.0, 0.1, 0.2, 0.95, 0.5])
    found = {(score.classes, score.background): score for score in score_by_background(part, [True, True, False])}
    assert len(found) == 3 * 6
    everything = found["all", "all"]
    assert (everything.regions, everything.accuracy) == (5, 3 / 5)
    assert everything.mean_accuracy == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert everything.drift == pytest.approx(1.75 / 10)
    assert (found["all", "0.0-0.2"].regions, found["all", "0.0-0.2"].accuracy) == (2, 1.0)
    assert (found["seen", "0.2-0.4"].regions, found["seen", "0.2-0.4"].accuracy) == (1, 0.0)
    assert (found["unseen", "all"].regions, found["unseen", "all"].accuracy) == (1, 0.0)
    assert found["seen", "0.8-1.0"].accuracy == 1.0
    assert found["unseen", "0.8-1.0"].regions == 0
    assert math.isnan(found["unseen", "0.8-1.0"].accuracy)
    assert sum(found["all", name].regions for _, name in found if _ == "all" and name != "all") == 5


def test_bins_of_a_group_of_classes() -> None:
    part = scores([0, 0, 0, 1, 2], [0, 0, 2, 1, 0], [0.0, 0.1, 0.2, 0.95, 0.5])
    plain = score_by_background(part, [True, True, False])
    found = score_by_background(part, [True, True, False], groups={"things": (0, 2), "none": ()})
    assert repr(found[: len(plain)]) == repr(plain)  # NaN is not equal to itself
    things = {score.background: score for score in found if score.classes == "things"}
    assert (things["all"].regions, things["all"].accuracy) == (4, 2 / 4)
    assert (things["0.2-0.4"].regions, things["0.2-0.4"].accuracy) == (1, 0.0)
    assert [score.regions for score in found if score.classes == "none"] == [0] * 6
    with pytest.raises(ValueError, match="groups: the name 'seen' is taken"):
        score_by_background(part, [True, True, False], groups={"seen": (0,)})


def test_bins_without_an_unseen_class() -> None:
    found = score_by_background(scores([0], [1], [0.3]), [True, True])
    assert {score.classes for score in found} == {"all"}
    assert drift_by_layer(scores([0], [1], [0.3])) == pytest.approx([0.1, 0.3])


def test_nothing_to_measure_raises(clip: FrozenClip, text: TextFeatures, regions: ImageRegions) -> None:
    with pytest.raises(ValueError, match="at least one region"):
        measure_domain(clip, [], text=text, shifts=[SHIFT])
    with pytest.raises(ValueError, match="replace_layers"):
        measure_domain(clip, [regions], text=text, shifts=[ShiftConfig(replace_layers=(3,))])
