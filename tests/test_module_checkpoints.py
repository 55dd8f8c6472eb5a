import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from stripes import StripesModule, checkpoint_of, fit, states_equal, trainer
from torch import Tensor

from scan_lightning.models import checkpoints
from scan_lightning.models.clip import ClipConfig
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.plain import tensor_hash
from scan_lightning.models.pretrained import load_scan
from scan_lightning.models.scan import Scan, ScanConfig
from scan_lightning.module import ScanModule
from scan_lightning.types import Vocabulary


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


def test_hash_of_clip_is_computed_once_until_its_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = torch.nn.Linear(2, 2)

    computed: list[str] = []

    def counted(state: dict[str, Tensor]) -> str:
        computed.append(tensor_hash(state))
        return computed[-1]

    monkeypatch.setattr(checkpoints, "tensor_hash", counted)
    first: Any = Frozen()
    known = checkpoints._original_hash(first)
    assert checkpoints._original_hash(first) == known
    assert len(computed) == 1
    other: Any = Frozen()
    assert checkpoints._original_hash(other) != known
    first.clip.load_state_dict(other.clip.state_dict())
    assert checkpoints._original_hash(first) == checkpoints._original_hash(other) != known
    assert len(computed) == 3


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
    assert not any(f'"{name}":' in text for name in vars(InferenceSettings()))
    assert json.loads(text)["scan_architecture"]["segmenter"]["num_queries"] == 5
    learnt = {name for name in module.state_dict() if not name.startswith("network.clip.")}
    assert set(checkpoint["state_dict"]) == learnt
    assert len(learnt) < len(module.state_dict())


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


def test_checkpoint_of_another_clip_is_refused(
    make_module: Callable[..., ScanModule], scan_config: ScanConfig, other_clip_folder: Path, tmp_path: Path
) -> None:
    path = checkpoint_of(make_module(), tmp_path)
    other = make_module(network={"clip": replace(scan_config.clip, model=str(other_clip_folder))})
    with pytest.raises(ValueError, match=r"checkpoint: trained with a CLIP of hash [0-9a-f]{16}, ClipConfig.* has "):
        trainer(tmp_path).test(other, datamodule=StripesModule(), ckpt_path=path, verbose=False)


@pytest.mark.parametrize("command", ["test", "fit"])
def test_checkpoint_that_holds_its_clip_is_loaded(
    make_module: Callable[..., ScanModule],
    scan_config: ScanConfig,
    other_clip_folder: Path,
    tmp_path: Path,
    command: str,
) -> None:
    """As all did once; its CLIP counts, not the configured one."""
    trained = make_module(network={"clip": replace(scan_config.clip, model=str(other_clip_folder))})
    path = checkpoint_of(trained, tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["scan_clip_hash"]
    checkpoint["state_dict"] = trained.state_dict()
    torch.save(checkpoint, path)
    module = make_module(init_seed=4)
    if command == "test":
        trainer(tmp_path).test(module, datamodule=StripesModule(size=2), ckpt_path=path, verbose=False)
        assert states_equal(module.state_dict(), trained.state_dict())
    else:
        fit(module, tmp_path, ckpt=path, max_steps=2)
        assert states_equal(module.network.clip.state_dict(), trained.network.clip.state_dict())


def test_clip_that_cannot_be_loaded_again_stays_in_the_checkpoint(
    make_module: Callable[..., ScanModule], tmp_path: Path
) -> None:
    module = make_module()
    config = replace(module.network.config, clip=ClipConfig(model="ViT-B-16"))
    module.network.config = config  # as if its towers were those of an architecture without weights
    checkpoint = torch.load(checkpoint_of(module, tmp_path), weights_only=True)
    assert set(checkpoint["state_dict"]) == set(module.state_dict())
    assert "scan_clip_hash" not in checkpoint


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


def test_sim_is_trained_on_the_frozen_segmenter_of_a_network_without_sim(
    make_module: Callable[..., ScanModule], tmp_path: Path
) -> None:
    fit(make_module(network={"semantic_integration": None}, export_to=tmp_path / "export"), tmp_path, max_steps=1)
    exported = load_scan(tmp_path / "export").state_dict()
    module = make_module(init_seed=3, initial_weights=tmp_path / "export", frozen=("segmenter",))
    fresh = {name: value.clone() for name, value in module.network.semantic_integration.state_dict().items()}
    fit(module, tmp_path, max_steps=2)
    after = module.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in exported.items() if name.startswith("segmenter."))
    assert all(not torch.equal(after[f"semantic_integration.{name}"], value) for name, value in fresh.items())
    assert module.network.training
    assert not module.network.segmenter.training  # its drop path is 0.2


def test_what_the_network_lacks_cannot_be_frozen(make_module: Callable[..., ScanModule]) -> None:
    with pytest.raises(ValueError, match="frozen: the network has no semantic_integration"):
        make_module(network={"semantic_integration": None}, frozen=("semantic_integration",))
