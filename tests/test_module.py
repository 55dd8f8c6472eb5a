import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from scan_lightning.data.base import EvaluationDataset, RawSample, SegmentationDataModule, Split, TrainingDataset
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.losses.mask_classification import LossConfig
from scan_lightning.metrics import SegmentationMetrics
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import load_scan
from scan_lightning.models.scan import Scan, ScanConfig
from scan_lightning.module import ScanModule
from scan_lightning.optim import OptimizerConfig
from scan_lightning.types import IGNORE_INDEX, Batch, ClassHierarchy, Segmentation, Vocabulary

SIDE = 32


class _Stripes:
    """Images of coloured stripes; the colour tells the class of 4."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> RawSample:
        rng = np.random.default_rng(index)
        height, width = SIDE, 2 * SIDE if index % 2 else SIDE
        labels = np.repeat(rng.integers(0, 4, 4), height // 4)[:, None].repeat(width, 1)
        colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]])
        image = np.clip(colours[labels] + rng.integers(-20, 20, (height, width, 3)), 0, 255).astype(np.uint8)
        labels[0, :5] = IGNORE_INDEX
        return RawSample(image=image, image_id=f"stripes_{index}", label_map=labels)


class StripesModule(SegmentationDataModule):
    """Three of four words are seen."""

    vocabulary = Vocabulary(names=("sky", "car", "tree", "road"), seen=(True, False, True, True))
    hierarchy = ClassHierarchy(num_classes=4, parents={1: (3,)})

    def __init__(self, *, size: int = 7, **kwargs: Any) -> None:
        transform = TrainingTransform(shortest_sides=(SIDE,), crop_size=SIDE, colour_jitter=False)
        options = {"batch_size": 2, "eval_batch_size": 2} | kwargs
        super().__init__(train_transform=transform, eval_transform=EvaluationTransform(min_size=None), **options)
        self.size = size

    def build_dataset(self, split: Split) -> TrainingDataset | EvaluationDataset:
        source = _Stripes(self.size)
        if split == "train":
            return TrainingDataset(
                source, transform=self.train_transform, seed=self.seed, relabel=self.training_relabel
            )
        return EvaluationDataset(source, transform=self.eval_transform)


@pytest.fixture(scope="module")
def make_module(scan_config: ScanConfig) -> Callable[..., ScanModule]:
    """Function that builds a tiny module: ``make_module(network={...}, **arguments)``."""

    def make(*, network: dict[str, Any] | None = None, init_seed: int = 0, **arguments: Any) -> ScanModule:
        torch.manual_seed(init_seed)
        defaults: dict[str, Any] = {
            "loss": LossConfig(num_points=30),
            "optimizer": OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
            "inference": InferenceSettings(replace_layers=(1,), replace_ratio=0.5),
        }
        config = replace(scan_config, segmenter=replace(scan_config.segmenter, conv_dim=64, drop_path_rate=0.2))
        return ScanModule(network=replace(config, **(network or {})), **(defaults | arguments))

    return make


def trainer(folder: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {"max_epochs": 2, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    callbacks = options.get("callbacks", [])
    return Trainer(
        **(defaults | options),
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        use_distributed_sampler=False,
    )


def states_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


class _Losses(Callback):
    """Collects the training losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


def fit(module: ScanModule, folder: Path, ckpt: Path | None = None, **options: Any) -> list[float]:
    recorder = _Losses()
    callbacks = [recorder, *options.pop("callbacks", [])]
    data = options.pop("data", None) or StripesModule()
    trainer(folder, callbacks=callbacks, **options).fit(module, datamodule=data, ckpt_path=ckpt)
    return recorder.losses


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


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "validating"])
def undisturbed(
    request: pytest.FixtureRequest, make_module: Callable[..., ScanModule], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A run of 6 steps in 2 epochs, with or without validation, that leaves a checkpoint after every step."""
    options = {"limit_val_batches": 1, "val_check_interval": 1} if request.param else {}
    folder, module = tmp_path_factory.mktemp("undisturbed"), make_module()
    save = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    losses = fit(module, folder, callbacks=[save], **options)
    return {"options": options, "folder": folder, "losses": losses, "state": module.state_dict()}


def test_checkpoints_and_validation_do_not_change_a_run(
    make_module: Callable[..., ScanModule], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    module = make_module()
    assert fit(module, tmp_path) == undisturbed["losses"]
    assert states_equal(module.state_dict(), undisturbed["state"])


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_resume_gives_the_same_bits(
    make_module: Callable[..., ScanModule], undisturbed: dict[str, Any], tmp_path: Path, steps: int
) -> None:
    """Interrupted in the middle of the first epoch, at its end, and in the second."""
    module = make_module(init_seed=9)
    losses = fit(module, tmp_path, ckpt=undisturbed["folder"] / f"step={steps}.ckpt", **undisturbed["options"])
    assert len(undisturbed["losses"]) == 6
    assert losses == undisturbed["losses"][steps:]
    assert states_equal(module.state_dict(), undisturbed["state"])


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
        expected.update(one.label_map, torch.from_numpy(_Stripes(7)[index].label_map))
    for name, value in expected.compute().items():
        assert tested[f"test/{name}"] == pytest.approx(float(value), nan_ok=True), name


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
                    "Source", (_Stripes,), {"__getitem__": lambda _, i: replace(plain(i), label_map=None)}
                )
            return dataset

    data = Blind(size=2)
    assert len(trainer(tmp_path).predict(make_module(), datamodule=data)) == 1  # type: ignore[arg-type]
    (scores,) = trainer(tmp_path).test(make_module(), datamodule=data, verbose=False)
    assert scores


def checkpoint_of(module: ScanModule, folder: Path) -> Path:
    save = ModelCheckpoint(dirpath=folder, filename="last", every_n_train_steps=1)
    fit(module, folder, max_steps=1, callbacks=[save])
    return folder / "last.ckpt"


def test_settings_given_to_test_are_in_force_not_the_checkpoints(
    make_module: Callable[..., ScanModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make_module(inference=InferenceSettings(replace_layers=(2,), ensemble_weight=0.1, seed=5))
    path = checkpoint_of(trained, tmp_path)
    given = InferenceSettings(replace_layers=(1,), ensemble_weight=0.9, mask_threshold=0.2, log_ensemble=True)
    used: list[InferenceSettings] = []
    predict = Scan.predict

    def watched(self: Scan, images: Tensor, **options: Any) -> list[Tensor]:
        used.append(options["settings"])
        return predict(self, images, **options)

    monkeypatch.setattr(Scan, "predict", watched)
    module = make_module(inference=given, init_seed=3)
    trainer(tmp_path).test(module, datamodule=StripesModule(), ckpt_path=path, verbose=False)
    assert len(used) == 4
    assert set(used) == {given}
    weight = "semantic_integration.cls_weight"
    assert torch.equal(module.network.state_dict()[weight], trained.network.state_dict()[weight])


def test_checkpoint_stores_no_settings_and_no_hyperparameters(
    make_module: Callable[..., ScanModule], tmp_path: Path
) -> None:
    module = make_module()
    checkpoint = torch.load(checkpoint_of(module, tmp_path), weights_only=True)
    assert "hyper_parameters" not in checkpoint
    text = json.dumps({key: value for key, value in checkpoint.items() if key == "scan_architecture"})
    assert not any(name in text for name in vars(InferenceSettings()))
    assert json.loads(text)["scan_architecture"]["segmenter"]["num_queries"] == 5
    assert set(checkpoint["state_dict"]) == set(module.state_dict())


def test_checkpoint_of_another_vocabulary_and_hierarchy_is_tested(
    make_module: Callable[..., ScanModule], tmp_path: Path
) -> None:
    """No weight, buffer or metric in a checkpoint depends on the words."""

    class Other(StripesModule):
        vocabulary = Vocabulary.from_words(["sea", "car", "sand", "road", "boat"])
        hierarchy = None

    path = checkpoint_of(make_module(), tmp_path)
    (scores,) = trainer(tmp_path).test(make_module(), datamodule=Other(), ckpt_path=path, verbose=False)
    assert scores


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("width", r"checkpoint: does not fit the configured network: \d+ tensors have another shape, such as network"),
        ("depth", r"checkpoint: does not fit the configured network: \d+ missing, such as network"),
        ("without", r"checkpoint: does not fit the configured network: \d+ unknown, such as network\.semantic"),
    ],
)
def test_checkpoint_of_another_network_is_refused(
    make_module: Callable[..., ScanModule], scan_config: ScanConfig, tmp_path: Path, network: str, message: str
) -> None:
    path = checkpoint_of(make_module(), tmp_path)
    segmenter = replace(scan_config.segmenter, conv_dim=64, drop_path_rate=0.2)
    change = {
        "width": {"segmenter": replace(segmenter, hidden_dim=64)},
        "depth": {"segmenter": replace(segmenter, decoder_layers=3)},
        "without": {"semantic_integration": None},
    }[network]
    other = make_module(network=change)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).test(other, datamodule=StripesModule(), ckpt_path=path, verbose=False)
    assert states_equal(other.state_dict(), before)


@pytest.mark.parametrize(("trained_with", "tested_with"), [(None, "other"), ("original", None), ("original", "other")])
def test_checkpoint_is_tested_with_the_configured_region_tower(
    make_module: Callable[..., ScanModule],
    scan_config: ScanConfig,
    clip_folder: Path,
    other_clip_folder: Path,
    tmp_path: Path,
    trained_with: str | None,
    tested_with: str | None,
) -> None:
    """A CLIP fine-tuned under Contextual Shift is the test's to choose, not the checkpoint's."""
    folders = {None: None, "original": str(clip_folder), "other": str(other_clip_folder)}

    def make(tower: str | None) -> ScanModule:
        return make_module(network={"clip": replace(scan_config.clip, shifted_weights=folders[tower])})

    trained = make(trained_with)
    path, module = checkpoint_of(trained, tmp_path), make(tested_with)
    expected = {name: tensor.clone() for name, tensor in module.network.clip.region_visual.state_dict().items()}
    trainer(tmp_path).test(module, datamodule=StripesModule(size=2), ckpt_path=path, verbose=False)
    assert states_equal(module.network.clip.region_visual.state_dict(), expected)
    assert torch.equal(module.network.non_object_embedding, trained.network.non_object_embedding)


def test_export_and_initial_weights_round_trip(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    module = make_module(export_to=tmp_path / "export")
    fit(module, tmp_path, max_epochs=1)
    exported = load_scan(tmp_path / "export").state_dict()
    for name, value in module.network.state_dict().items():
        expected = value if name.startswith("clip.") else value.half().float()
        assert torch.equal(exported[name], expected), name
    started = make_module(init_seed=5, initial_weights=tmp_path / "export")
    assert states_equal(started.network.state_dict(), exported)


def test_initial_weights_with_another_region_tower(
    make_module: Callable[..., ScanModule], scan_config: ScanConfig, other_clip_folder: Path, tmp_path: Path
) -> None:
    fit(make_module(export_to=tmp_path / "export"), tmp_path, max_steps=1)
    tuned = replace(scan_config.clip, shifted_weights=str(other_clip_folder))
    module = make_module(network={"clip": tuned}, initial_weights=tmp_path / "export")
    exported = load_scan(tmp_path / "export")
    assert torch.equal(module.network.non_object_embedding, exported.non_object_embedding)
    assert not torch.equal(module.network.clip.region_visual.proj, exported.clip.region_visual.proj)


def test_initial_weights_of_another_network_raise(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    fit(make_module(export_to=tmp_path / "export"), tmp_path, max_steps=1)
    with pytest.raises(ValueError, match=r"export: does not fit the configured network: \d+ unknown, such as semantic"):
        make_module(network={"semantic_integration": None}, initial_weights=tmp_path / "export")


def test_wrong_layers_raise_at_once(make_module: Callable[..., ScanModule]) -> None:
    with pytest.raises(
        ValueError, match=r"replace_layers: expected distinct layers in 1\.\.2 of this CLIP, got \[1, 3, 5\]"
    ):
        make_module(inference=InferenceSettings())


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


def test_optimizer_covers_the_network(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    module = make_module(optimizer=OptimizerConfig(learning_rate=1.0, backbone_multiplier=0.1, warmup_steps=0))
    fit(module, tmp_path, max_steps=1)
    optimizer: Any = module.optimizers(use_pl_optimizer=False)
    members = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert members == {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
    rates = {group["name"]: group["initial_lr"] for group in optimizer.param_groups}
    assert rates == {"backbone": 0.1, "backbone_no_decay": 0.1, "head": 1.0, "head_no_decay": 1.0}
