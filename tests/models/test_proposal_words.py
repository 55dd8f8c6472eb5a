"""Matching of proposals and words."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from scan_lightning.models.contextual_shift import cut_regions, region_boxes
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.proposal_words import match_proposals, select_words
from scan_lightning.models.scan import Scan
from scan_lightning.types import Vocabulary


def test_each_word_gets_the_proposal_that_shows_it_best(
    scan: Scan, image_of: Callable[[int, int, int], Tensor], settings: InferenceSettings
) -> None:
    image = image_of(0, 48, 64)
    text = scan.encode_vocabulary(Vocabulary.from_words(["sky", "red star", "ball"]))
    settings = replace(settings, mask_threshold=0.5)
    matches = match_proposals(scan, image, image, text, settings=settings, min_area=1)
    assert matches
    assert len({match.word for match in matches}) == len({match.query for match in matches}) == len(matches)
    clip = scan.clip
    for match in matches:
        assert match.mask.shape == (48, 64)
        masks = match.mask[None]
        crops, _ = cut_regions(clip.normalize(image), masks, region_boxes(masks), size=(32, 32))
        with torch.no_grad():
            embedding = torch.nn.functional.normalize(clip.clip.visual(crops), dim=-1)
        similarities = text.similarities(embedding)[0]
        assert int(similarities.argmax()) == match.word
        assert abs(float(similarities[match.word]) - match.similarity) < 1e-5
    least = max(match.similarity for match in matches)
    kept = match_proposals(scan, image, image, text, settings=settings, min_area=1, min_similarity=least)
    assert [match.similarity for match in kept] == [least]
    assert match_proposals(scan, image, image, text, settings=settings, min_area=48 * 64 + 1) == []


def test_masks_have_the_size_of_the_image_not_of_what_the_segmenter_sees(
    scan: Scan, image_of: Callable[[int, int, int], Tensor], settings: InferenceSettings
) -> None:
    text = scan.encode_vocabulary(Vocabulary.from_words(["sky"]))
    found = match_proposals(scan, image_of(0, 48, 64), image_of(0, 60, 80), text, settings=settings, min_area=1)
    assert found
    assert found[0].mask.shape == (60, 80)


def test_select_words_takes_rows(scan: Scan) -> None:
    text = scan.encode_vocabulary(Vocabulary.from_words(["sky", "red star", "ball"]))
    some = select_words(text, [2, 0])
    assert torch.equal(some.features, text.features[[2, 0]])
    assert some.num_classes == 2
