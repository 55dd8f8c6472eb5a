"""Parents by similarity of text features."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.clip import FrozenClip
from scan_lightning.models.hierarchy_text import parents_by_similarity
from scan_lightning.models.text import TextBank, TextFeatures
from scan_lightning.types import Vocabulary


def features_of(rows: Tensor, owners: list[int] | None = None) -> TextFeatures:
    labels = owners or list(range(len(rows)))
    return TextFeatures(F.normalize(rows, dim=1), torch.tensor(labels), max(labels) + 1)


def clusters() -> Tensor:
    """Two clusters around a common direction: 0 near the middle of 0 to 2, 3 near the middle of 3 to 5."""
    return torch.tensor(
        [
            [5.0, 1.0, 0.0, 0.0, 0.0],
            [5.0, 2.0, 0.0, 0.9, 0.0],
            [5.0, 2.0, 0.0, -0.9, 0.0],
            [5.0, 0.0, 1.0, 0.0, 0.0],
            [5.0, 0.0, 2.0, 0.0, 0.9],
            [5.0, 0.0, 2.0, 0.0, -0.9],
        ]
    )


def test_parent_is_the_similar_class_nearer_to_the_mean() -> None:
    found = parents_by_similarity(features_of(clusters()), threshold=0.5)
    assert sorted((pair.child, pair.parent) for pair in found) == [(1, 0), (2, 0), (4, 3), (5, 3)]


def test_numbers_equal_a_slow_loop() -> None:
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).double() + 1
    rows = rows / rows.norm(dim=1, keepdim=True)
    mean = rows.mean(dim=0)
    expected = {}
    for child in range(7):
        for parent in range(7):
            if float(rows[parent] @ mean) > float(rows[child] @ mean):
                a, b = rows[child] - mean, rows[parent] - mean
                cosine = float(a @ b / (a.norm() * b.norm()))
                if cosine >= 0.1 and cosine > expected.get(child, (0, -1.0))[1]:
                    expected[child] = (parent, cosine)
    found = parents_by_similarity(features_of(rows), threshold=0.1)
    assert {pair.child: pair.parent for pair in found} == {child: parent for child, (parent, _) in expected.items()}
    similarities = sorted((cosine for _, cosine in expected.values()), reverse=True)
    assert [pair.similarity for pair in found] == pytest.approx(similarities, abs=1e-12)
    assert len(found) > 1


def test_threshold_only_takes_away() -> None:
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    low, middle, high = (parents_by_similarity(features_of(rows), threshold=value) for value in (-1, 0.2, 1))
    assert len(low) == 6  # every class but the most general has a parent
    assert middle == [pair for pair in low if pair.similarity >= 0.2]
    assert 0 < len(middle) < 6
    assert high == []


def test_common_direction_does_not_count() -> None:
    shifted = clusters() + torch.tensor([50.0, 0, 0, 0, 0])  # all raw cosines above 0.99
    found = parents_by_similarity(features_of(shifted), threshold=0.5)
    assert sorted((pair.child, pair.parent) for pair in found) == [(1, 0), (2, 0), (4, 3), (5, 3)]


def test_class_counts_with_the_mean_of_its_words() -> None:
    rows = clusters()
    split = torch.cat((rows, rows[1:2] + 1, rows[1:2] - 1))
    words = F.normalize(split, dim=1)
    owners = [0, 2, 2, 3, 4, 5, 1, 1]  # class 1 is the mean of the last two rows
    merged = F.normalize(torch.stack([words[[label == c for label in owners]].mean(dim=0) for c in range(6)]), dim=1)
    several = parents_by_similarity(TextFeatures(words, torch.tensor(owners), 6), threshold=0.0)
    single = parents_by_similarity(features_of(merged), threshold=0.0)
    assert [(pair.child, pair.parent) for pair in several] == [(pair.child, pair.parent) for pair in single]
    assert [pair.similarity for pair in several] == pytest.approx([pair.similarity for pair in single], abs=1e-5)


def test_equal_features_are_no_parents_of_each_other() -> None:
    rows = clusters()
    found = parents_by_similarity(features_of(torch.cat((rows, rows[:1]))), threshold=0.5)
    assert {(0, 6), (6, 0)}.isdisjoint((pair.child, pair.parent) for pair in found)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_words_give_nothing(count: int) -> None:
    assert parents_by_similarity(features_of(clusters()[:count])) == []


@pytest.mark.parametrize("threshold", [-1.1, 1.1, float("nan")])
def test_threshold_outside_its_range_raises(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold: expected a cosine in \[-1, 1\]"):
        parents_by_similarity(features_of(clusters()), threshold=threshold)


def test_features_of_a_text_bank_are_taken(clip: FrozenClip) -> None:
    words = Vocabulary(names=("sky", "car", "dog"), synonyms=(("sky",), ("car", "automobile"), ("dog",)))
    features = TextBank(clip=clip, template_set="single").encode(words)
    found = parents_by_similarity(features, threshold=-1)
    assert len(found) == 2
    assert all(0 <= pair.parent < 3 and pair.parent != pair.child for pair in found)


@pytest.mark.skipif("SCAN_LIGHTNING_SHARED" not in os.environ, reason="SCAN_LIGHTNING_SHARED names no folder")
def test_plausible_with_features_of_a_real_clip() -> None:
    shared = Path(os.environ["SCAN_LIGHTNING_SHARED"])
    names = [entry["name"] for entry in json.loads((shared / "datasets/coco_stuff_171.json").read_text())["classes"]]
    rows = torch.from_numpy(np.load(shared / "data/clip_text/coco_stuff_171_vitb16_single.npy").astype(np.float32))
    found = {names[pair.child]: names[pair.parent] for pair in parents_by_similarity(features_of(rows))}
    expected = {
        "apple": "fruit",
        "banana": "fruit",
        "carrot": "vegetable",
        "flower": "plant-other",
        "sea": "water-other",
        "clouds": "sky-other",
        "wall-stone": "wall-other",
        "chair": "furniture-other",
    }
    assert {child: found.get(child) for child in expected} == expected
