from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from stripes import Stripes, StripesModule, fit, states_equal, trainer

from scan_lightning.data.base import EvaluationDataset, Split, TrainingDataset
from scan_lightning.metrics import SegmentationMetrics
from scan_lightning.models.scan import Scan
from scan_lightning.module import ScanModule
from scan_lightning.optim import OptimizerConfig
from scan_lightning.types import Batch, Segmentation, Vocabulary


def test_fit_trains_the_network_and_leaves_clip_alone(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    module = make_module()
    before = {name: tensor.clone() for name, tensor in module.network.state_dict().items()}
    losses = fit(module, tmp_path, max_epochs=3)
    assert len(losses) == 9
    assert np.isfinite(losses).all()
    changed = {name for name, value in module.network.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("clip.") for name in changed)
    assert {name.split(".")[0] for name in changed} == {"segmenter", "semantic_integration", "non_object_embedding"}
    assert not any(".encoder.swin.layernorm." in name for name in changed)


def test_fit_lowers_the_loss_of_one_batch(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    module = make_module(optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=2))
    losses = fit(module, tmp_path, overfit_batches=1, max_epochs=15, gradient_clip_val=1.0)
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_fit_twice_gives_the_same_bits_and_another_seed_others(
    make_module: Callable[..., ScanModule], tmp_path: Path
) -> None:
    runs = []
    for seed in (0, 0, 1):
        module = make_module(seed=seed)
        torch.manual_seed(len(runs))  # what else draws from the global stream must not matter
        fit(module, tmp_path, max_epochs=1)
        runs.append(module.state_dict())
    assert states_equal(runs[0], runs[1])
    assert not states_equal(runs[0], runs[2])


def test_draws_of_a_step_do_not_depend_on_the_batch_order_of_images(make_module: Callable[..., ScanModule]) -> None:
    """Points belong to images: the loss of a batch is the same when its images change places."""
    module = make_module(network={"semantic_integration": None}).eval()
    data = StripesModule(batch_size=3)
    data.setup("fit")
    module.training_vocabulary = data.training_vocabulary
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    module.network.segmenter.train = lambda mode=True: module.network.segmenter  # type: ignore[method-assign]
    batch = next(iter(data.train_dataloader()))
    turned = Batch(
        images=batch.images.flip(0),
        **{name: getattr(batch, name)[::-1] for name in ("sizes", "image_ids", "original_sizes", "masks", "labels")},
    )
    losses = [module.training_step(part, 0).item() for part in (batch, turned)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_non_finite_loss_names_step_and_images(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    module = make_module()

    class Poison(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, _: int) -> None:
            if trainer.global_step == 2:
                with torch.no_grad():
                    module.network.non_object_embedding.fill_(torch.nan)

    with pytest.raises(
        FloatingPointError, match=r"non-finite loss nan at step 2 in .*loss_ce.*, images: stripes_\d, stripes_\d"
    ):
        fit(module, tmp_path, callbacks=[Poison()])


def test_validation_and_test_score_the_whole_vocabulary(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    module, data = make_module(), StripesModule()
    runner = trainer(tmp_path, limit_val_batches=1.0)
    (validated,) = runner.validate(module, datamodule=data, verbose=False)
    (tested,) = runner.test(module, datamodule=data, verbose=False)
    assert {name.removeprefix("val/") for name in validated} == {name.removeprefix("test/") for name in tested}
    assert {name.split("/")[0] for name in tested} == {"test"}
    expected = SegmentationMetrics(num_classes=4, seen=data.vocabulary.seen, hierarchy=data.hierarchy)
    predicted = runner.predict(module, datamodule=data)
    found = [one for part in predicted for one in part["segmentations"]]  # type: ignore[index,union-attr,call-overload]
    for index, one in enumerate(found):
        expected.update(one.label_map, torch.from_numpy(Stripes(7)[index].label_map))
    for name, value in expected.compute().items():
        assert tested[f"test/{name}"] == pytest.approx(float(value), nan_ok=True), name


def test_words_of_which_none_was_trained_on_can_be_tested(
    make_module: Callable[..., ScanModule], tmp_path: Path
) -> None:
    class Unseen(StripesModule):
        @property
        def vocabulary(self) -> Vocabulary:
            return replace(super().vocabulary, seen=(False,) * 4)

    (tested,) = trainer(tmp_path).test(make_module(), datamodule=Unseen(), verbose=False)
    assert 0 <= tested["test/miou_unseen"] <= 1


def test_prediction_gives_named_segmentations(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    parts = trainer(tmp_path).predict(make_module(), datamodule=StripesModule(size=3))
    found: list[Segmentation] = [one for part in parts for one in part["segmentations"]]  # type: ignore[union-attr,index,call-overload]
    assert [one.image_id for one in found] == ["stripes_0", "stripes_1", "stripes_2"]
    assert [tuple(one.label_map.shape) for one in found] == [(32, 32), (32, 64), (32, 32)]
    for one in found:
        assert one.words == ("sky", "car", "tree", "road")
        assert one.class_pixels.tolist() == [int((one.label_map == label).sum()) for label in range(4)]


def test_predictions_do_not_depend_on_the_batch_size(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    module, maps = make_module(), []
    for size in (1, 3):
        parts = trainer(tmp_path).predict(module, datamodule=StripesModule(size=5, eval_batch_size=size))
        maps.append([one.label_map for part in parts for one in part["segmentations"]])  # type: ignore[union-attr,index,call-overload]
    for alone, together in zip(*maps, strict=True):
        assert (alone != together).float().mean() < 2e-3


def test_datamodule_without_truth_or_hierarchy(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    class Blind(StripesModule):
        vocabulary = Vocabulary.from_words(["sky", "car", "tree", "road"])
        hierarchy = None

        def build_dataset(self, split: Split) -> TrainingDataset | EvaluationDataset:
            dataset = super().build_dataset(split)
            if split == "predict":
                source, plain = dataset.source, dataset.source.__getitem__
                source.__class__ = type(
                    "Source", (Stripes,), {"__getitem__": lambda _, i: replace(plain(i), label_map=None)}
                )
            return dataset

    data = Blind(size=2)
    assert len(trainer(tmp_path).predict(make_module(), datamodule=data)) == 1  # type: ignore[arg-type]
    (scores,) = trainer(tmp_path).test(make_module(), datamodule=data, verbose=False)
    assert scores


def test_mixed_precision_trains_and_tests(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    module = make_module()
    losses = fit(module, tmp_path, max_steps=2, precision="bf16-mixed", limit_val_batches=1, val_check_interval=1)
    assert np.isfinite(losses).all()
    (scores,) = trainer(tmp_path, precision="bf16-mixed").test(module, datamodule=StripesModule(), verbose=False)
    assert scores


def test_text_features_are_encoded_once_per_vocabulary(
    make_module: Callable[..., ScanModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, calls = make_module(), []
    encode = Scan.encode_vocabulary

    def counted(self: Scan, vocabulary: Vocabulary) -> Any:
        calls.append(vocabulary.names)
        return encode(self, vocabulary)

    monkeypatch.setattr(Scan, "encode_vocabulary", counted)
    vocabulary = Vocabulary.from_words(["sky", "sea"])
    first = module.text_features(vocabulary)
    assert torch.equal(module.text_features(vocabulary).features, first.features)
    assert calls == [("sky", "sea")]
    # Vocabularies that live for one call only: a later one may take the place in memory of an earlier one.
    for index in range(50):
        assert module.text_features(Vocabulary.from_words([f"thing {index}", "sea", "sky"])).num_classes == 3
    assert len(calls) == 51


def test_fit_without_an_end_raises(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_steps, max_epochs: expected a limit in one of them"):
        fit(make_module(), tmp_path, max_epochs=-1, max_steps=-1)


def test_optimizer_covers_the_network(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    module = make_module(optimizer=OptimizerConfig(learning_rate=1.0, backbone_multiplier=0.1, warmup_steps=0))
    fit(module, tmp_path, max_steps=1)
    optimizer: Any = module.optimizers(use_pl_optimizer=False)
    members = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert members == {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
    rates = {group["name"]: group["initial_lr"] for group in optimizer.param_groups}
    assert rates == {"backbone": 0.1, "backbone_no_decay": 0.1, "head": 1.0, "head_no_decay": 1.0}
