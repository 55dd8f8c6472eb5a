"""Fine-tuning of CLIP's visual tower under Contextual Shift: what is trained, what overwrites what, what comes out."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scan_lightning.callbacks.accuracy import AccuracyCallback
from scan_lightning.clip_module import ShiftedClipModule, shifted
from scan_lightning.data.mask_text import MaskTextDataModule
from scan_lightning.data.pair_index import PairIndexWriter
from scan_lightning.data.shapes import ShapesDataModule
from scan_lightning.data.truth_pairs import TruthPairs
from scan_lightning.models.clip import ClipConfig, FrozenClip, run_visual
from scan_lightning.models.contextual_shift import draw_background_tokens, encode_regions, foreground_tokens
from scan_lightning.models.shifted_encoding import ShiftConfig, encode_shifted, image_substitutes
from scan_lightning.module import ScanModule
from scan_lightning.types import MaskTextBatch

SHIFT = ShiftConfig(replace_layers=(1,), replace_ratio=0.5)
TEXTS = ["sky", "red star", "sky", "ball"]


def module(folder: Path, **options: object) -> ShiftedClipModule:
    defaults = {"shift": SHIFT, "templates": "single", "warmup_steps": 1, "learning_rate": 1e-3}
    model = ShiftedClipModule(clip=ClipConfig(model=str(folder)), **(defaults | options))
    model.log = lambda *_, **__: None
    return model


def make_batch(*, boxes: bool = False) -> MaskTextBatch:
    """Four regions of two images; the second image has one."""
    generator = torch.Generator().manual_seed(0)

    def pixels(count: int) -> Tensor:
        return torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)

    masks = torch.zeros(4, 32, 32, dtype=torch.bool)
    for number in range(4):
        masks[number, : 8 + 4 * number, :16] = True
    return MaskTextBatch(
        crops=pixels(4),
        region_masks=masks,
        texts=TEXTS,
        images=pixels(2),
        image_ids=["a", "b"],
        owners=torch.tensor([0, 0, 0, 1]),
        regions=torch.tensor([0, 1, 2, 0]),
        boxes=pixels(4) if boxes else None,
    )


def part_of(batch: MaskTextBatch, rows: slice) -> MaskTextBatch:
    fields = {name: getattr(batch, name)[rows] for name in ("crops", "region_masks", "texts", "owners", "regions")}
    return replace(batch, **fields)


def test_only_the_visual_tower_is_trained(clip_folder: Path) -> None:
    model = module(clip_folder)
    before = deepcopy(model.original.state_dict())
    model.training_step(make_batch(), 0).backward()
    without = [name for name, parameter in model.visual.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad is None for parameter in model.original.parameters())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    for name, value in model.original.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not torch.equal(model.visual.proj, model.original.clip.visual.proj)


def test_tokens_are_overwritten_by_the_image_of_each_region_as_a_test_does(clip: FrozenClip) -> None:
    batch = make_batch()
    found = encode_shifted(clip.clip.visual, clip, batch, SHIFT)
    _, tokens = run_visual(clip.clip.visual, clip.normalize(batch.images), record=True)
    for row in range(4):
        image = int(batch.owners[row])
        chosen = draw_background_tokens(
            foreground_tokens(batch.region_masks[row : row + 1], clip.patch_size),
            ratio=0.5,
            layer=1,
            seed=0,
            image_ids=[batch.image_ids[image]],
            owners=torch.zeros(1, dtype=torch.int64),
            regions=batch.regions[row : row + 1],
        )
        crop = clip.normalize(batch.crops[row : row + 1])
        alone = encode_regions(clip.clip.visual, crop, selected={1: chosen}, replacements={1: tokens[1][image, :1]})
        expected = torch.nn.functional.normalize(alone, dim=-1)[0]
        assert torch.allclose(found[row], expected, atol=1e-5)
    plain = encode_shifted(clip.clip.visual, clip, batch, replace(SHIFT, source="none"))
    assert (plain - found).abs().max() > 1e-3


def test_each_image_is_looked_at_once_and_without_gradients(clip: FrozenClip) -> None:
    seen: list[int] = []
    visual = clip.clip.visual
    handle = visual.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    values = image_substitutes(clip, make_batch(), SHIFT)
    handle.remove()
    assert seen == [2]
    assert values[1].shape == (4, 1, clip.width)
    assert not values[1].requires_grad
    assert torch.equal(values[1][0], values[1][2])
    assert not torch.equal(values[1][0], values[1][3])


def test_draws_change_with_the_epoch_and_repeat_within_it(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, losses = module(clip_folder), []
    for epoch in (0, 0, 1):
        monkeypatch.setattr(ShiftedClipModule, "current_epoch", epoch)
        losses.append(float(model.training_step(make_batch(), 0).detach()))
    assert losses[0] == losses[1] != losses[2]


def test_text_features_are_means_over_templates_encoded_once(clip_folder: Path) -> None:
    model = module(clip_folder, templates="vild")
    calls: list[int] = []
    encode = model.original.encode_texts
    model.original.encode_texts = lambda texts: (calls.append(len(texts)), encode(texts))[1]  # type: ignore[method-assign]
    first = model.text_features(["sky", "ball", "sky"])
    again = model.text_features(["ball"])
    assert calls == [14, 14]
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[1], again[0])
    assert torch.allclose(first.norm(dim=1), torch.ones(3))


def test_without_shift_in_training_the_loss_is_of_plain_crops(clip_folder: Path) -> None:
    plain = module(clip_folder, shift_in_training=False)
    none = module(clip_folder, shift=replace(SHIFT, source="none"))
    shifted = module(clip_folder)
    losses = [float(model.training_step(make_batch(), 0).detach()) for model in (plain, none, shifted)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert abs(losses[0] - losses[2]) > 1e-4


def test_wrong_settings_raise(clip_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"replace_layers: expected distinct layers in 1\.\.2"):
        module(clip_folder, shift=ShiftConfig(replace_layers=(1, 3)))
    with pytest.raises(ValueError, match="replace_ratio"):
        ShiftConfig(replace_ratio=1.5)
    with pytest.raises(ValueError, match="source: expected one of"):
        ShiftConfig(source="text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected boxes"):
        module(clip_folder).validation_step(make_batch(), 0)


def worker(rank: int, folder: str, clip_folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    model = module(Path(clip_folder))
    parallel = DistributedDataParallel(_Step(model))
    parallel(part_of(make_batch(), slice(rank * 2, rank * 2 + 2))).backward()
    gradients = {name: p.grad for name, p in model.visual.named_parameters()}
    torch.save(gradients, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


class _Step(torch.nn.Module):
    """The training step as a forward pass, which is what DDP wraps."""

    def __init__(self, model: ShiftedClipModule) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MaskTextBatch) -> Tensor:
        return self.model.training_step(batch, 0)


def test_two_processes_give_the_gradients_of_one_with_the_whole_batch(tmp_path: Path, clip_folder: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path), str(clip_folder)), nprocs=2)
    model = module(clip_folder)
    model.training_step(make_batch(), 0).backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, parameter in model.visual.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-5, msg=name)
    assert max(float(p.grad.abs().max()) for p in model.visual.parameters()) > 1e-3


@pytest.fixture(scope="module")
def indices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the indices ``train`` and ``val`` of a few scenes."""
    folder = tmp_path_factory.mktemp("pairs")
    data = ShapesDataModule(train_size=4, val_size=2, image_size=48)
    for split in ("train", "val"):
        truth = TruthPairs.of(data, split=split, kind="class", min_area=20)
        writer = PairIndexWriter(folder / split, made_from={}, parts=1)
        truth.write((range(len(truth.source)), writer.path(0)))
        writer.finish(images_beside=True, vocabulary=data.vocabulary)
    return folder


def pair_data(indices: Path) -> MaskTextDataModule:
    return MaskTextDataModule(train_index=indices / "train", val_index=indices / "val", batch_size=8, image_size=32)


def trainer(**options: object) -> Trainer:
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 2}
    return Trainer(accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **(settings | options))


def build(folder: Path, **options: object) -> ShiftedClipModule:
    seed_everything(0)
    model = module(folder, **options)
    del model.log
    return model


def test_fit_lowers_the_loss_records_accuracies_and_exports_what_scan_takes(
    clip_folder: Path, indices: Path, tmp_path: Path, make_module: Callable[..., ScanModule]
) -> None:
    model, data = build(clip_folder, export_to=str(tmp_path / "tuned")), pair_data(indices)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    model.log = lambda *_, **__: None
    before = float(model.training_step(batch, 0).detach())
    del model.log
    runner = trainer(max_epochs=4, callbacks=[AccuracyCallback(path=tmp_path / "rows.csv", name="cs")])
    runner.fit(model, datamodule=data)
    model.log = lambda *_, **__: None
    assert float(model.training_step(batch, 0).detach()) < before
    header, row = (tmp_path / "rows.csv").read_text().splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=False))
    assert {"accuracy_whole", "accuracy_masked", "accuracy_shifted"} <= set(values)
    assert values["name"] == "cs"
    assert f",{runner.global_step}," in row

    config = ClipConfig(model=str(clip_folder), shifted_weights=str(tmp_path / "tuned"))
    scan = make_module(network={"clip": config})
    tuned, original = scan.network.clip.region_visual, scan.network.clip.clip.visual
    for name, value in model.visual.state_dict().items():
        assert torch.allclose(tuned.state_dict()[name], value, atol=2e-3), name
    for name, value in model.original.clip.visual.state_dict().items():
        assert torch.equal(original.state_dict()[name], value), name
    assert not torch.allclose(tuned.proj, original.proj, atol=1e-4)
    assert "`ShiftedClipModule` for" in (tmp_path / "tuned" / "README.md").read_text()


def test_validation_counts_three_kinds_and_adds_a_row(clip_folder: Path, indices: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    scores = trainer(callbacks=[AccuracyCallback(path=rows)]).validate(
        build(clip_folder), datamodule=pair_data(indices), verbose=False
    )[0]
    assert set(scores) == {"val/accuracy_whole", "val/accuracy_masked", "val/accuracy_shifted"}
    assert all(0 <= value <= 1 for value in scores.values())
    assert len(rows.read_text().splitlines()) == 2


def test_resumed_run_ends_with_the_same_weights(clip_folder: Path, indices: Path, tmp_path: Path) -> None:
    straight = build(clip_folder)
    keep = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(enable_checkpointing=True, callbacks=[keep]).fit(straight, datamodule=pair_data(indices))
    checkpoint = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert not [name for name in checkpoint["state_dict"] if name.startswith("original.")]
    resumed = build(clip_folder)
    path = str(tmp_path / "epoch=0.ckpt")
    trainer().fit(resumed, datamodule=pair_data(indices), ckpt_path=path, weights_only=True)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def stored(model: ShiftedClipModule) -> dict[str, Any]:
    """What a checkpoint of the model holds."""
    checkpoint: dict[str, Any] = {"state_dict": dict(model.state_dict())}
    model.on_save_checkpoint(checkpoint)
    return checkpoint


def test_checkpoint_of_another_clip_is_refused(clip_folder: Path, other_clip_folder: Path) -> None:
    checkpoint = stored(module(clip_folder))
    expected = r"checkpoint: trained with a CLIP of hash [0-9a-f]{16}, ClipConfig.*other_clip.* has [0-9a-f]{16}"
    with pytest.raises(ValueError, match=expected):
        module(other_clip_folder).on_load_checkpoint(checkpoint)


def test_averaged_weights_leave_the_original_clip_out_too(clip_folder: Path) -> None:
    model = module(clip_folder)
    checkpoint = {"state_dict": dict(model.state_dict()), "current_model_state": dict(model.state_dict())}
    model.on_save_checkpoint(checkpoint)
    for name in ("state_dict", "current_model_state"):
        assert {key.split(".")[0] for key in checkpoint[name]} == {"visual"}
    module(clip_folder).on_load_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() == checkpoint["current_model_state"].keys() == model.state_dict().keys()


def test_untrained_clip_stays_in_the_checkpoint(monkeypatch: pytest.MonkeyPatch, clip: FrozenClip) -> None:
    """Nothing could bring its random weights back."""
    monkeypatch.setattr(FrozenClip, "from_config", lambda _config: deepcopy(clip))
    monkeypatch.setattr(shifted, "clip_architecture", lambda _model: {})
    model = module(Path("ViT-B-16"))
    assert stored(model)["state_dict"].keys() == model.state_dict().keys()
