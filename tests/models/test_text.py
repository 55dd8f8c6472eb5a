from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scan_lightning.models.clip import ClipConfig, FrozenClip, build_open_clip
from scan_lightning.models.clip_tokenizer import build_tokenizer
from scan_lightning.models.prompts import VILD_TEMPLATES
from scan_lightning.models.text import TextBank, TextFeatures
from scan_lightning.types import Vocabulary

WORDS = Vocabulary.from_words(["sky", "red car", "Straßenbahn 電車", "x" * 1000])


class Watch:
    """Counts the texts that the text tower encodes."""

    def __init__(self, clip: FrozenClip, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        encode = clip.encode_texts

        def watched(texts: Any) -> Tensor:
            self.texts += texts
            return encode(texts)

        monkeypatch.setattr(clip, "encode_texts", watched)

    def take(self) -> list[str]:
        texts, self.texts = self.texts, []
        return texts


@pytest.fixture
def watch(clip: FrozenClip, monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(clip, monkeypatch)


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_encode_averages_templates_by_hand(clip: FrozenClip) -> None:
    found = TextBank(clip=clip).encode(WORDS)
    assert (found.features.shape, found.features.dtype) == ((4, 32), torch.float32)
    assert (found.owners.tolist(), found.num_classes) == ([0, 1, 2, 3], 4)
    for word, feature in zip(WORDS.names, found.features, strict=True):
        mean = sum(clip.encode_texts([template.format(word)])[0] for template in VILD_TEMPLATES) / 14
        torch.testing.assert_close(feature, mean / mean.norm(), rtol=1e-4, atol=1e-5)
    assert not found.features.requires_grad


def test_encode_is_the_same_in_validation_under_autocast(clip: FrozenClip, tmp_path: Path) -> None:
    expected = TextBank(clip=clip).encode(WORDS).features
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = TextBank(clip=clip, cache=tmp_path).encode(WORDS)
    assert torch.equal(found.features, expected)
    assert torch.equal(TextBank(clip=clip, cache=tmp_path).encode(WORDS).features, expected)
    embeddings = torch.ones(32, requires_grad=True)
    found.similarities(embeddings).sum().backward()
    assert embeddings.grad is not None


def test_cache_hit_gives_the_same_bits_without_the_tower(clip: FrozenClip, watch: Watch, tmp_path: Path) -> None:
    fresh = TextBank(clip=clip).encode(WORDS).features
    first = TextBank(clip=clip, cache=tmp_path).encode(WORDS).features
    assert len(watch.take()) == 2 * 4 * 14
    second = TextBank(clip=clip, cache=tmp_path).encode(WORDS.subset([3, 1, 0, 2])).features
    assert watch.take() == []
    assert torch.equal(first, fresh)
    assert torch.equal(second, fresh[[3, 1, 0, 2]])
    assert len(files(tmp_path)) == 4


def test_cache_encodes_only_what_is_missing(clip: FrozenClip, watch: Watch, tmp_path: Path) -> None:
    bank = TextBank(clip=clip, template_set="single", cache=tmp_path)
    bank.encode(Vocabulary.from_words(["sky", "sea"]))
    watch.take()
    bank.encode(Vocabulary.from_words(["sea", "sand", "sky"]))
    assert watch.take() == ["a photo of a sand."]


@pytest.mark.parametrize("damage", [b"", b"rubbish", None, "shape", "dtype", "pickle"])
def test_damaged_cache_file_is_recomputed(clip: FrozenClip, watch: Watch, tmp_path: Path, damage: Any) -> None:
    word = Vocabulary.from_words(["sky"])
    bank = TextBank(clip=clip, template_set="single", cache=tmp_path)
    expected = bank.encode(word).features
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    elif damage is None:
        path.write_bytes(whole[:-4])
    else:
        wrong = {"shape": np.zeros(31, np.float32), "dtype": np.zeros(32), "pickle": np.array([{}])}[damage]
        np.save(path, wrong, allow_pickle=True)
    watch.take()
    assert torch.equal(bank.encode(word).features, expected)
    assert watch.take() == ["a photo of a sky."]
    assert path.read_bytes() == whole, "the damaged file is replaced"


def test_other_templates_and_weights_have_other_files(
    clip: FrozenClip, other_clip_folder: Path, tmp_path: Path
) -> None:
    word = Vocabulary.from_words(["sky"])
    other = FrozenClip.from_config(ClipConfig(model=str(other_clip_folder)))
    features = [
        TextBank(clip=model, template_set=name, cache=tmp_path).encode(word).features
        for model in (clip, other)
        for name in ("vild", "single", "imagenet")
    ]
    assert len(files(tmp_path)) == 6
    again = [
        TextBank(clip=model, template_set=name).encode(word).features
        for model in (clip, other)
        for name in ("vild", "single", "imagenet")
    ]
    assert all(torch.equal(a, b) for a, b in zip(features, again, strict=True))
    assert len({feature.numpy().tobytes() for feature in features}) == 6


@pytest.mark.parametrize("change", ["quick_gelu", "heads"])
def test_equal_weights_in_another_text_tower_have_other_files(
    clip_architecture: dict[str, Any], tmp_path: Path, change: str
) -> None:
    """ViT-B-16 and ViT-B-16-quickgelu share OpenAI's weights, but not what they compute from them."""
    word = Vocabulary.from_words(["sky"])
    model = build_open_clip(clip_architecture)
    if change == "quick_gelu":
        clip_architecture["quick_gelu"] = True
    else:
        clip_architecture["text_cfg"]["heads"] = 4
    other = build_open_clip(clip_architecture)
    other.load_state_dict(model.state_dict())
    found = []
    for part in (model, other):
        frozen = FrozenClip(clip=part, tokenizer=build_tokenizer(24))
        cached = TextBank(clip=frozen, template_set="single", cache=tmp_path).encode(word).features
        assert torch.equal(cached, TextBank(clip=frozen, template_set="single").encode(word).features)
        found.append(cached)
    assert not torch.equal(*found)


def test_cache_that_cannot_be_written_is_left_out(clip: FrozenClip, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way of a folder")
    found = TextBank(clip=clip, template_set="single", cache=blocked).encode(WORDS).features
    assert torch.equal(found, TextBank(clip=clip, template_set="single").encode(WORDS).features)
    assert blocked.read_text() == "in the way of a folder"


def test_synonyms_take_the_maximum(clip: FrozenClip) -> None:
    vocabulary = Vocabulary(
        names=("person", "sky", "car"), synonyms=(("man", "woman", "child"), ("sky",), ("car", "sky"))
    )
    text = TextBank(clip=clip, template_set="single").encode(vocabulary)
    assert text.owners.tolist() == [0, 0, 0, 1, 2, 2]
    embeddings = torch.nn.functional.normalize(torch.randn(2, 7, 32), dim=-1).requires_grad_()
    words = embeddings @ text.features.T
    expected = torch.stack([words[..., :3].amax(-1), words[..., 3], words[..., 4:].amax(-1)], dim=-1)
    found = text.similarities(embeddings)
    torch.testing.assert_close(found, expected)
    assert torch.equal(text.features[3], text.features[5])
    found.sum().backward()
    assert embeddings.grad is not None


def test_similarities_without_synonyms_are_cosines() -> None:
    text = TextFeatures(torch.eye(3)[:2], torch.tensor([0, 1]), 2)
    assert text.similarities(torch.tensor([[0.6, 0.0, 0.8]])).tolist() == [[pytest.approx(0.6), 0.0]]


def test_many_classes_equal_few(clip: FrozenClip) -> None:
    words = Vocabulary.from_words([f"thing {index}" for index in range(2000)])
    bank = TextBank(clip=clip, template_set="single")
    text = bank.encode(words)
    assert text.features.shape == (2000, 32)
    few = [0, 255, 256, 1999]  # across the batches of texts
    torch.testing.assert_close(text.features[few], bank.encode(words.subset(few)).features)
    assert text.similarities(torch.randn(5, 32)).shape == (5, 2000)


def test_one_class(clip: FrozenClip) -> None:
    text = TextBank(clip=clip).encode(Vocabulary.from_words(["everything"]))
    assert text.similarities(torch.randn(2, 3, 32)).shape == (2, 3, 1)


def test_order_does_not_change_a_feature(clip: FrozenClip) -> None:
    bank = TextBank(clip=clip, template_set="single")
    forward = bank.encode(WORDS).features
    torch.testing.assert_close(bank.encode(replace(WORDS, **reverse(WORDS))).features.flip(0), forward)


def reverse(vocabulary: Vocabulary) -> dict[str, Any]:
    return {"names": vocabulary.names[::-1], "synonyms": vocabulary.synonyms[::-1], "seen": vocabulary.seen[::-1]}


def test_long_word_is_cut_not_refused(clip: FrozenClip) -> None:
    text = TextBank(clip=clip, template_set="single").encode(Vocabulary.from_words(["x" * 1000, "y" * 1000]))
    assert torch.isfinite(text.features).all()
    assert not torch.equal(*text.features)
