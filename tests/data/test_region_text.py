"""Regions of label maps, their crops, and the captioned pairs drawn from them."""

import numpy as np
import pytest
import torch

from scan_lightning.data.base import RawSample
from scan_lightning.data.region_pairs import PLAIN_CAPTION, RegionTextMixture, RegionTexts
from scan_lightning.data.region_text import RegionTextDataModule
from scan_lightning.data.regions import MASK_FILL, LabelledImage, cut, find_regions
from scan_lightning.data.sampling import Draw
from scan_lightning.data.shapes import ShapesDataModule
from scan_lightning.types import IGNORE_INDEX, ClassHierarchy, Vocabulary

VOCABULARY = Vocabulary(names=("ground", "box", "crate"), synonyms=(("ground", "floor"), ("box",), ("crate",)))


def two_boxes() -> RawSample:
    """40 x 60 pixels: ground 0, two boxes of label 1 of which one touches an ignored strip, one crate."""
    label_map = np.zeros((40, 60), dtype=np.int64)
    label_map[5:15, 10:20] = 1
    label_map[20:32, 40:56] = 1
    label_map[20:32, 56:60] = IGNORE_INDEX
    label_map[25:35, 5:15] = 2
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[label_map == 1] = (255, 0, 0)
    image[label_map == 2] = (0, 0, 255)
    return RawSample(image=image, image_id="boxes", label_map=label_map)


def pairs(mixture: RegionTextMixture, **options: object) -> RegionTexts:
    image = LabelledImage.from_raw(two_boxes(), kind="component", min_area=20)
    settings = {"hierarchy": None, "image_size": 16, "per_epoch": 50, "seed": 0} | options
    return RegionTexts(images=[image], vocabulary=VOCABULARY, mixture=mixture, **settings)


def test_find_regions_by_component() -> None:
    regions = find_regions(two_boxes().label_map)
    assert [region.label for region in regions] == [0, 1, 1, 2]
    assert [region.box for region in regions] == [(0, 0, 40, 60), (5, 10, 15, 20), (20, 40, 32, 56), (25, 5, 35, 15)]
    assert [region.around for region in regions] == [1, 0, 0, 0]
    assert regions[1].mask.all()
    assert regions[0].mask.sum() == 40 * 60 - 100 - 12 * 20 - 100


def test_find_regions_by_class_and_area() -> None:
    label_map = two_boxes().label_map
    assert [r.box for r in find_regions(label_map, kind="class") if r.label == 1] == [(5, 10, 32, 56)]
    assert [r.label for r in find_regions(label_map, min_area=101)] == [0, 1]


def test_cut_fills_the_background_of_a_masked_crop() -> None:
    image = np.full((8, 8, 3), 200, dtype=np.uint8)
    mask = np.zeros((4, 4), dtype=bool)
    mask[:, :2] = True
    crop = cut(image, (2, 2, 6, 6), size=4, mask=mask)
    assert (crop[:, :2] == 200).all()
    assert (crop[:, 2:] == MASK_FILL).all()
    assert cut(image, (0, 0, 8, 3), size=5).shape == (5, 5, 3)


def test_labelled_image_without_fitting_label_map_raises() -> None:
    raw = two_boxes()
    raw.label_map = None
    with pytest.raises(ValueError, match="got no label map"):
        LabelledImage.from_raw(raw, kind="component", min_area=1)


def test_pairs_are_a_function_of_seed_epoch_and_number() -> None:
    first, second = pairs(RegionTextMixture()), pairs(RegionTextMixture())
    for key in (Draw(0, 3), Draw(2, 3)):
        assert torch.equal(first[key][0], second[key][0])
        assert first[key][1] == second[key][1]
    texts = [[dataset[Draw(epoch, n)][1] for n in range(50)] for dataset, epoch in ((first, 0), (first, 1))]
    assert texts[0] != texts[1]
    assert texts[0] != [pairs(RegionTextMixture(), seed=1)[n][1] for n in range(50)]


def test_captions_name_what_the_crop_shows() -> None:
    mixture = RegionTextMixture(scene_share=0, context_share=0, masked_share=1)
    dataset = pairs(mixture)
    for number in range(50):
        image, text = dataset[number]
        centre = tuple(image[:, 8, 8].tolist())
        expected = {"box": (255, 0, 0), "crate": (0, 0, 255)}
        word = next((word for word in expected if word in text), None)
        if word is None:
            assert "ground" in text or "floor" in text
        else:
            assert centre == expected[word]


def test_scene_captions_list_every_class() -> None:
    dataset = pairs(RegionTextMixture(scene_share=1))
    for number in range(10):
        text = dataset[number][1]
        assert text.startswith("a scene with ")
        assert "box" in text
        assert "crate" in text
        assert "ground" in text or "floor" in text


def test_context_captions_name_the_surroundings() -> None:
    dataset = pairs(RegionTextMixture(scene_share=0, context_share=1, patch_share=1))
    texts = [dataset[number][1] for number in range(50)]
    assert any("crate" in text and ("ground" in text or "floor" in text) for text in texts)


def test_parent_captions_use_the_hierarchy() -> None:
    hierarchy = ClassHierarchy(num_classes=3, parents={2: (1,)})
    mixture = RegionTextMixture(scene_share=0, context_share=0, parent_share=1)
    texts = [pairs(mixture, hierarchy=hierarchy)[number][1] for number in range(50)]
    assert not any("crate" in text for text in texts)
    assert any("box" in text for text in texts)


def test_size_words_follow_the_region() -> None:
    mixture = RegionTextMixture(scene_share=0, context_share=0)
    texts = [pairs(mixture)[Draw(epoch, number)][1] for epoch in range(4) for number in range(50)]
    assert any("large ground" in text or "large floor" in text for text in texts)
    assert not any("large crate" in text or "small crate" in text for text in texts)
    assert any(text == PLAIN_CAPTION.format("crate") for text in texts)


def test_mixture_out_of_range_raises() -> None:
    with pytest.raises(ValueError, match="masked_share: expected a share"):
        RegionTextMixture(masked_share=1.5)
    with pytest.raises(ValueError, match="max_margin"):
        RegionTextMixture(max_margin=-1)


def test_pairs_without_regions_raise() -> None:
    with pytest.raises(ValueError, match="at least one region"):
        RegionTexts(
            images=[],
            vocabulary=VOCABULARY,
            hierarchy=None,
            mixture=RegionTextMixture(),
            image_size=8,
            per_epoch=1,
            seed=0,
        )


@pytest.fixture(scope="module")
def datamodule() -> RegionTextDataModule:
    source = ShapesDataModule(train_size=6, val_size=3, image_size=48, train_on_all=True)
    module = RegionTextDataModule(source=source, batch_size=4, samples_per_epoch=10, image_size=32, min_area=30)
    module.prepare_data()
    module.setup("fit")
    return module


def test_datamodule_draws_batches_of_pairs(datamodule: RegionTextDataModule) -> None:
    batches = list(datamodule.train_dataloader())
    assert len(batches) == 2
    assert batches[0].images.shape == (4, 3, 32, 32)
    assert batches[0].images.dtype == torch.uint8
    assert len(batches[0].texts) == 4


def test_datamodule_validates_on_whole_and_masked_regions(datamodule: RegionTextDataModule) -> None:
    whole, masked = (next(iter(loader)) for loader in datamodule.val_dataloader())
    assert whole.texts == masked.texts
    assert set(whole.texts) <= set(datamodule.vocabulary.names)
    changed = (whole.images != masked.images).any(dim=1)
    assert changed.any()
    fill = torch.tensor(MASK_FILL, dtype=torch.uint8).view(1, 3, 1, 1)
    assert (masked.images == fill).all(dim=1).any()


def test_datamodule_with_wrong_arguments_raises(datamodule: RegionTextDataModule) -> None:
    with pytest.raises(ValueError, match="samples_per_epoch: expected at least 8"):
        RegionTextDataModule(source=datamodule.source, batch_size=8, samples_per_epoch=4)
    with pytest.raises(ValueError, match="stage"):
        datamodule.setup("test")


def test_colour_jitter_changes_colours_but_not_the_fill() -> None:
    drawn = [pairs(RegionTextMixture(scene_share=0, masked_share=1, colour_jitter=True))[i] for i in range(50)]
    again = [pairs(RegionTextMixture(scene_share=0, masked_share=1, colour_jitter=True))[i] for i in range(50)]
    assert all(torch.equal(one[0], two[0]) for one, two in zip(drawn, again, strict=True))
    fill = torch.tensor(MASK_FILL, dtype=torch.uint8).view(3, 1, 1)
    ground = [pixels for pixels, text in drawn if "ground" in text or "floor" in text]
    assert ground
    assert all((pixels == fill).all(0).any() for pixels in ground)
    # the boxes fill their crops: pure red without jitter
    boxes = torch.stack([pixels for pixels, text in drawn if "box" in text])
    assert (boxes.flatten(2).float().std(2) < 1e-3).all()
    assert len(boxes.flatten(2)[..., 0].unique(dim=0)) > len(boxes) / 4
