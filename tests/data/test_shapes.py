"""The generated benchmark: determinism, who stands where, which words are seen."""

from collections import Counter

import numpy as np
import pytest
import torch

from scan_lightning.data.sampling import Draw
from scan_lightning.data.shapes import ShapesDataModule, ShapesSource
from scan_lightning.data.shapes_scene import make_scene
from scan_lightning.data.shapes_textures import TEXTURES
from scan_lightning.data.shapes_words import (
    CATEGORIES,
    COLOURS,
    SHAPE_NAMES,
    look_alike_groups,
    shapes_hierarchy,
    shapes_vocabulary,
)

LABELS = {category.name: label for label, category in enumerate(CATEGORIES)}


def test_scene_is_a_function_of_seed_split_and_index() -> None:
    first = make_scene(seed=1, split="test", index=5)
    make_scene(seed=1, split="test", index=6)
    again = make_scene(seed=1, split="test", index=5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label_map, again.label_map)
    for other in ({"seed": 2}, {"split": "val"}, {"index": 6}):
        arguments = {"seed": 1, "split": "test", "index": 5} | other
        assert not np.array_equal(first.image, make_scene(**arguments).image)


@pytest.mark.parametrize("size", [48, 128])
def test_scene_has_the_size_asked_for(size: int) -> None:
    scene = make_scene(seed=0, split="val", index=0, size=size)
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.label_map.shape == (size, size)


def test_scene_of_unknown_split_or_tiny_size_raises() -> None:
    with pytest.raises(ValueError, match="split: expected one of"):
        make_scene(seed=0, split="training", index=0)
    with pytest.raises(ValueError, match="at least 32"):
        make_scene(seed=0, split="val", index=0, size=31)


def test_training_scenes_hold_seen_categories_only_and_test_scenes_all() -> None:
    found = {
        split: {
            label for index in range(250) for label in np.unique(make_scene(seed=0, split=split, index=index).label_map)
        }
        for split in ("train", "test")
    }
    assert found["train"] == set(shapes_vocabulary().seen_indices)
    assert found["test"] == set(range(len(CATEGORIES)))


def test_scenes_hold_one_to_three_kinds_of_stuff() -> None:
    stuff = {label for label, category in enumerate(CATEGORIES) if category.is_stuff}
    counts = Counter(len(stuff & set(np.unique(make_scene(seed=3, split="val", index=i).label_map))) for i in range(80))
    assert set(counts) == {1, 2, 3}


def test_look_alikes_stand_on_their_own_surroundings() -> None:
    checked = set()
    for index in range(150):
        label_map = make_scene(seed=0, split="val", index=index).label_map
        for label in np.unique(label_map):
            names = CATEGORIES[label].surroundings
            if not names:
                continue
            rows, columns = np.nonzero(label_map == label)
            inner = (rows > 0) & (rows < 127) & (columns > 0) & (columns < 127)
            steps = [(rows[inner] + dy, columns[inner] + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            around = {int(value) for step in steps for value in label_map[step]} - {int(label)}
            stuff = {value for value in around if CATEGORIES[value].is_stuff}
            assert stuff <= {LABELS[name] for name in names}
            checked.add(CATEGORIES[label].name)
    assert checked == {"buoy", "ball", "balloon", "sail", "tent"}


def test_look_alikes_are_drawn_alike_and_each_group_has_an_unseen_one() -> None:
    for group in look_alike_groups():
        members = [CATEGORIES[label] for label in group]
        assert len({(member.colour, member.shape) for member in members}) == 1
        assert {member.seen for member in members} == {True, False}
        surroundings = [name for member in members for name in member.surroundings]
        assert len(set(surroundings)) == len(surroundings)


def test_unseen_painted_things_recombine_seen_colours_and_shapes() -> None:
    painted = [category for category in CATEGORIES if category.shape and not category.surroundings]
    seen = [category for category in painted if category.seen]
    for category in painted:
        assert category.colour in {other.colour for other in seen}
        assert category.shape in {other.shape for other in seen}
    assert len({(category.colour, category.shape) for category in painted}) == len(painted)


def test_categories_can_be_drawn() -> None:
    for category in CATEGORIES:
        if category.is_stuff:
            assert category.name in TEXTURES
        else:
            assert category.colour in COLOURS
            assert category.shape in SHAPE_NAMES
        assert all(name in TEXTURES for name in category.surroundings)


def test_vocabulary_has_unique_words_and_colours() -> None:
    vocabulary = shapes_vocabulary()
    words = [word for words in vocabulary.synonyms for word in words]
    assert len(set(words)) == len(words)
    assert len(set(vocabulary.palette)) == vocabulary.num_classes
    assert all(0 <= value <= 255 for colour in vocabulary.palette for value in colour)


def test_hierarchy_parents_are_seen_categories() -> None:
    vocabulary, hierarchy = shapes_vocabulary(), shapes_hierarchy()
    assert hierarchy.num_classes == vocabulary.num_classes
    assert {parent for parents in hierarchy.parents.values() for parent in parents} <= set(vocabulary.seen_indices)


def test_source_rejects_indices_outside() -> None:
    source = ShapesSource(split="val", length=2, image_size=32, seed=0)
    assert source[1].image_id == "val_000001"
    with pytest.raises(IndexError, match="expected 0 to 1"):
        source[2]


def test_datamodule_training_labels_index_the_seen_words() -> None:
    module = ShapesDataModule(train_size=8, val_size=2, test_size=2, image_size=64, batch_size=4)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch.images.shape == (4, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert module.training_vocabulary.num_classes == 20
    for masks, labels in zip(batch.masks, batch.labels, strict=True):
        assert int(labels.max()) < 20
        assert torch.equal(masks.sum(dim=0), torch.ones(64, 64, dtype=torch.int64))


def test_datamodule_training_relabels_a_scene_to_the_same_words() -> None:
    module = ShapesDataModule(train_size=3, image_size=64)
    sample = module.build_dataset("train")[Draw(0, 2)]
    scene = make_scene(seed=0, split="train", index=2, size=64)
    expected = {CATEGORIES[label].name for label in np.unique(scene.label_map)}
    assert sample.label_map is not None
    assert {module.training_vocabulary.names[label] for label in sample.label_map.unique()} == expected


def test_datamodule_evaluation_keeps_labels_of_all_words() -> None:
    module = ShapesDataModule(test_size=2, image_size=64, eval_batch_size=2)
    module.setup("test")
    batch = next(iter(module.test_dataloader()))
    scene = make_scene(seed=0, split="test", index=1, size=64)
    assert torch.equal(batch.label_maps[1], torch.from_numpy(scene.label_map.astype(np.int64)))
    assert torch.equal(batch.images[1], torch.from_numpy(scene.image.transpose(2, 0, 1)))


def test_datamodule_with_train_on_all_holds_unseen_words_of_its_own_scenes() -> None:
    module = ShapesDataModule(train_size=40, image_size=64, train_on_all=True)
    dataset = module.build_dataset("train")
    labels = {int(label) for index in range(40) for label in dataset[Draw(0, index)].label_map.unique()}
    assert module.training_vocabulary.num_classes == 32
    assert not labels <= set(module.vocabulary.seen_indices)
    assert dataset.source[0].image_id == "clip_000000"


def test_datamodule_with_wrong_sizes_raises() -> None:
    with pytest.raises(ValueError, match="val_size: expected at least 1"):
        ShapesDataModule(val_size=0)
    with pytest.raises(ValueError, match="image_size: expected at least 32"):
        ShapesDataModule(image_size=16)
