"""The measurement on the tiny network and striped images, beside what its parts give one by one."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from stripes import StripesModule

from scan_lightning.analysis import Collapse, GroupGeometry, Spread, conditions_of, measure_collapse
from scan_lightning.analysis.geometry import EmbeddingGeometry
from scan_lightning.metrics import confusion_matrix, unseen_to_seen
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.scan import Scan
from scan_lightning.types import Batch

SETTINGS = InferenceSettings(replace_layers=(1,), replace_ratio=0.5)


@pytest.fixture(scope="module")
def network(make_scan: Any, segmenter_config: Any) -> Scan:
    scan: Scan = make_scan(0, segmenter=replace(segmenter_config, conv_dim=64))
    return scan


def batches(size: int, batch_size: int = 2) -> list[Batch]:
    data = StripesModule(size=size, eval_batch_size=batch_size)
    data.setup("test")
    return list(data.test_dataloader())


def measure(network: Scan, found: list[Batch]) -> Collapse:
    vocabulary = StripesModule.vocabulary
    return measure_collapse(
        network, found, vocabulary=vocabulary, text=network.encode_vocabulary(vocabulary), settings=SETTINGS
    )


@pytest.fixture(scope="module")
def collapse(network: Scan) -> Collapse:
    return measure(network, batches(3))


def test_collapse_counts_the_pixels_of_predictions(network: Scan, collapse: Collapse) -> None:
    found = collapse
    vocabulary = StripesModule.vocabulary
    expected = {name: torch.zeros(4, 4, dtype=torch.int64) for name in found.confusions}
    images: Any = StripesModule(size=3).build_dataset("test")
    for sample in (images[index] for index in range(3)):
        for name, settings in conditions_of(SETTINGS).items():
            segmented = network.segment(sample.image, vocabulary, settings=settings, image_id=sample.image_id)
            expected[name] += confusion_matrix(segmented.label_map, sample.label_map, 4)
    assert list(expected) == ["with_cs", "without_cs", "in_vocab"]
    for name, confusion in expected.items():
        assert torch.equal(found.confusions[name], confusion), name
    assert found.images == 3
    row = found.columns()
    share = unseen_to_seen(expected["in_vocab"], vocabulary.seen).item()
    assert row["unseen_to_seen_in_vocab"] == share


def test_collapse_conditions_change_one_thing_each() -> None:
    found = conditions_of(SETTINGS)
    assert found["with_cs"] == SETTINGS
    assert found["without_cs"] == replace(SETTINGS, source="none")
    assert found["in_vocab"] == replace(SETTINGS, ensemble_weight=0.0)


def test_collapse_geometry_follows_from_all_images(collapse: Collapse) -> None:
    found = collapse.geometry
    images: Any = StripesModule(size=3).build_dataset("test")
    masks = [len(set(images[index].label_map.unique().tolist()) - {-1}) for index in range(3)]
    assert found.seen.masks + found.unseen.masks == sum(masks)
    assert found.centroids.classes <= 4


def test_collapse_does_not_depend_on_the_batches(network: Scan, collapse: Collapse) -> None:
    alone = measure(network, batches(3, batch_size=1))
    assert collapse.columns() == pytest.approx(alone.columns(), abs=1e-4, nan_ok=True)


def test_collapse_columns_by_hand() -> None:
    confusion = torch.tensor([[6, 1, 3, 0], [2, 7, 0, 1], [0, 1, 4, 2], [2, 1, 1, 5]])
    group = GroupGeometry(
        masks=3, matched=0.5, own_distance=0.4, seen_distance=0.3, margin=-0.1, nearest_seen=1.0, accuracy=0.0
    )
    spread = Spread(classes=2, cosine=0.9, rank=1.5, cosine_unseen_seen=0.8)
    geometry = EmbeddingGeometry(
        seen=replace(group, masks=7), unseen=group, centroids=spread, text=replace(spread, rank=2.0)
    )
    row = Collapse(
        images=1, seen=(True, True, False, False), confusions={"with_cs": confusion}, geometry=geometry
    ).columns()
    assert row["unseen_right_with_cs"] == 9 / 16
    assert row["unseen_within_with_cs"] == 3 / 16
    assert row["unseen_to_seen_with_cs"] == 4 / 16
    assert row["seen_right_with_cs"] == 13 / 20
    assert row["seen_to_unseen_with_cs"] == 4 / 20
    assert row["miou_unseen_with_cs"] == pytest.approx((4 / 11 + 5 / 12) / 2)
    assert (row["unseen_masks"], row["seen_masks"]) == (3, 7)
    assert (row["unseen_margin"], row["unseen_nearest_seen"]) == (-0.1, 1.0)
    assert (row["centroid_rank"], row["text_rank"], row["centroid_cosine_unseen_seen"]) == (1.5, 2.0, 0.8)
    assert len(row) == 8 + 2 * 7 + 2 * 4


def test_collapse_without_an_image_raises(network: Scan) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        measure(network, [])
