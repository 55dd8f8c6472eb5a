"""Contrastive training of CLIP: the loss, the schedule, zero-shot accuracy and the exported folder."""

import json
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.clip_module import ClipModule, contrastive_loss
from scan_lightning.data.region_text import RegionTextDataModule
from scan_lightning.data.shapes import ShapesDataModule
from scan_lightning.data.shapes_words import look_alike_groups, shapes_vocabulary
from scan_lightning.models.clip import SHIPPED_FOLDER, load_open_clip
from scan_lightning.models.clip_tokenizer import build_tokenizer
from scan_lightning.types import RegionTextBatch, Vocabulary

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "layers": 1, "width": 16, "heads": 2},
}


def module(**options: object) -> ClipModule:
    torch.manual_seed(0)
    return ClipModule(architecture=ARCHITECTURE, **({"warmup_steps": 2} | options))


def features(*rows: list[float]) -> Tensor:
    return F.normalize(torch.tensor(rows), dim=1)


def shapes_regions() -> RegionTextDataModule:
    source = ShapesDataModule(train_size=6, val_size=3, image_size=48, train_on_all=True)
    return RegionTextDataModule(source=source, batch_size=8, samples_per_epoch=24, image_size=32, min_area=30)


def trainer(**options: object) -> Trainer:
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **(settings | {"max_epochs": 1} | options))


def test_contrastive_loss_of_different_texts_is_info_nce() -> None:
    images, texts = features([1.0, 0.2], [0.1, 1.0]), features([1.0, 0.0], [0.5, 1.0])
    logits = 7.0 * images @ texts.T
    rows = sum(-math.log(logits[i].exp()[i] / logits[i].exp().sum()) for i in range(2)) / 2
    columns = sum(-math.log(logits[i, i].exp() / logits[:, i].exp().sum()) for i in range(2)) / 2
    loss = contrastive_loss(images, texts, scale=torch.tensor(7.0), texts=["a", "b"])
    assert float(loss) == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_contrastive_loss_leaves_equal_texts_out_of_the_negatives() -> None:
    images = features([1.0, 0.1], [0.9, 0.0], [0.0, 1.0])
    texts = features([1.0, 0.0], [1.0, 0.0], [0.2, 1.0])
    loss = contrastive_loss(images, texts, scale=torch.tensor(5.0), texts=["star", "star", "ball"])
    logits = 5.0 * images @ texts.T
    rows = [-math.log(logits[i, i].exp() / (logits[i, i].exp() + logits[i, 2].exp())) for i in range(2)]
    rows.append(-math.log(logits[2].exp()[2] / logits[2].exp().sum()))
    columns = [-math.log(logits[i, i].exp() / (logits[i, i].exp() + logits[2, i].exp())) for i in range(2)]
    columns.append(-math.log(logits[:, 2].exp()[2] / logits[:, 2].exp().sum()))
    assert float(loss) == pytest.approx((sum(rows) + sum(columns)) / 6, rel=1e-5)


def test_contrastive_loss_of_unequal_lengths_raises() -> None:
    images = features([1.0, 0.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="got 2 images, 2 text features and 1 texts"):
        contrastive_loss(images, images, scale=torch.tensor(1.0), texts=["a"])


def test_tokenizer_honours_the_context_length() -> None:
    tokens = build_tokenizer(8)(["a photo of a red star and a very large number of other things", "sky"])
    assert tokens.shape == (2, 8)
    assert tokens[0, -1] == 49407  # a cut text keeps the end token
    with pytest.raises(ValueError, match="at least 3"):
        build_tokenizer(2)


def test_training_step_reaches_both_towers_and_clips_the_logit_scale() -> None:
    model = module()
    model.log = lambda *_, **__: None
    with torch.no_grad():
        model.clip.logit_scale.fill_(9.0)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    loss = model.training_step(RegionTextBatch(images=images, texts=["sky", "sand", "red star", "sky"]), 0)
    loss.backward()
    assert float(model.clip.logit_scale.detach().exp()) == pytest.approx(100.0)
    without = [name for name, parameter in model.clip.named_parameters() if parameter.grad is None]
    assert not without


def test_classify_takes_the_best_name_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    model = module()
    model.vocabulary = Vocabulary(names=("a", "b"), synonyms=(("a", "c"), ("b",)))
    directions = {"a": [1.0, 0.0, 0.0], "c": [0.0, 1.0, 0.0], "b": [0.0, 0.6, 0.8]}

    def encode(texts: list[str]) -> Tensor:
        return torch.tensor([directions[text[len("a photo of a ") : -1]] for text in texts])

    monkeypatch.setattr(model, "template_set", "single")
    monkeypatch.setattr(model, "encode_texts", encode)
    monkeypatch.setattr(model, "encode_images", lambda images: images.flatten(1)[:, :3])
    images = torch.tensor([[0.1, 1.0, 0.0], [0.0, 0.5, 0.9], [1.0, 0.0, 0.0]]).view(3, 3, 1, 1)
    assert model.classify(images).tolist() == [0, 1, 0]


def test_classify_without_vocabulary_raises() -> None:
    with pytest.raises(RuntimeError, match="vocabulary: not set"):
        module().classify(torch.zeros(1, 3, 32, 32))


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    model = module(warmup_steps=4)
    rates = [model._rate(step, 24) for step in range(25)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[14] == pytest.approx(0.5)
    assert rates[24] == pytest.approx(0.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_embeddings_of_the_text_tower_have_no_weight_decay() -> None:
    model = module()
    trainer(limit_val_batches=0, limit_train_batches=1).fit(model, datamodule=shapes_regions())
    decayed, plain = ({id(p) for p in group["params"]} for group in model.optimizers().param_groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed | plain == set(names)
    matrices = {names[key] for key in plain if dict(model.named_parameters())[names[key]].ndim > 1}
    assert matrices == {"clip.positional_embedding", "clip.token_embedding.weight"}


def test_wrong_arguments_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="learning_rate"):
        module(learning_rate=0.0)
    with pytest.raises(ValueError, match="warmup_steps"):
        module(warmup_steps=-1)
    with pytest.raises(FileNotFoundError):
        module(initial_weights=str(tmp_path / "none.safetensors"))


def test_fit_lowers_the_loss_validates_and_exports(tmp_path: Path) -> None:
    seed_everything(0)
    model = module(learning_rate=3e-3, export_to=str(tmp_path / "clip"))
    data = shapes_regions()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))

    def loss() -> float:
        with torch.no_grad():
            images, texts = model.encode_images(batch.images), model.encode_texts(batch.texts)
        return float(contrastive_loss(images, texts, scale=torch.tensor(10.0), texts=batch.texts))

    before = loss()
    runner = trainer(max_epochs=4)
    runner.fit(model, datamodule=data)
    assert loss() < before
    assert {"val/accuracy_whole", "val/accuracy_masked"} <= set(runner.callback_metrics)

    clip, tokenizer = load_open_clip(str(tmp_path / "clip"))
    with torch.no_grad():
        expected = model.encode_texts(["a photo of a red star."])
        found = F.normalize(clip.encode_text(tokenizer(["a photo of a red star."])), dim=-1)
    assert torch.allclose(found, expected, atol=5e-3)
    config = json.loads((tmp_path / "clip" / "open_clip_config.json").read_text())
    assert config["model_cfg"] == ARCHITECTURE
    card = (tmp_path / "clip" / "README.md").read_text()
    assert "12 steps" in card
    assert "| mean over classes | " in card
    assert sorted(path.name for path in (tmp_path / "clip").iterdir()) == [
        "README.md",
        "model.safetensors",
        "open_clip_config.json",
    ]


def test_equal_seeds_give_equal_weights() -> None:
    weights = []
    for _ in range(2):
        seed_everything(3)
        model = ClipModule(architecture=ARCHITECTURE)
        trainer(max_steps=2, limit_val_batches=0, num_sanity_val_steps=0).fit(model, datamodule=shapes_regions())
        weights.append(model.clip.visual.proj.detach().clone())
    assert torch.equal(*weights)


def test_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    seed_everything(3)
    straight = ClipModule(architecture=ARCHITECTURE)
    keep = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    runner = trainer(max_epochs=2, enable_checkpointing=True, callbacks=[keep])
    runner.fit(straight, datamodule=shapes_regions())
    resumed = ClipModule(architecture=ARCHITECTURE)
    checkpoint = str(tmp_path / "epoch=0.ckpt")
    trainer(max_epochs=2).fit(resumed, datamodule=shapes_regions(), ckpt_path=checkpoint, weights_only=True)
    for name, value in straight.clip.state_dict().items():
        assert torch.equal(value, resumed.clip.state_dict()[name]), name


def test_initial_weights_are_loaded(tmp_path: Path) -> None:
    first = module()
    first.export(tmp_path)
    torch.manual_seed(1)
    second = ClipModule(architecture=ARCHITECTURE, initial_weights=str(tmp_path / "model.safetensors"))
    assert torch.allclose(first.clip.visual.proj, second.clip.visual.proj, atol=1e-3)


def test_shipped_clip_is_small_and_knows_the_words_of_shapes() -> None:
    config = json.loads((SHIPPED_FOLDER / "open_clip_config.json").read_text())
    assert (SHIPPED_FOLDER / "model.safetensors").stat().st_size < 8_000_000
    weights = str(SHIPPED_FOLDER / "model.safetensors")
    model = ClipModule(architecture=config["model_cfg"], initial_weights=weights).eval()
    model.vocabulary = shapes_vocabulary()
    source = ShapesDataModule(val_size=20)
    data = RegionTextDataModule(source=source, batch_size=1, samples_per_epoch=1, image_size=64)
    data.setup("validate")
    look_alikes = {model.vocabulary.names[label] for group in look_alike_groups() for label in group}
    for loader in data.val_dataloader():
        hits = []
        for batch in loader:
            with torch.no_grad():
                found = model.classify(batch.images).tolist()
            pairs = zip(found, batch.texts, strict=True)
            hits += [model.vocabulary.names[label] == text for label, text in pairs if text not in look_alikes]
        assert len(hits) > 50
        assert sum(hits) / len(hits) > 0.8
