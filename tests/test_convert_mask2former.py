"""Released Mask2Formers as warm starts, and back."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import Tensor
from transformers import Mask2FormerForUniversalSegmentation

from scan_lightning.convert.conversion import convert
from scan_lightning.convert.names import from_released
from scan_lightning.convert.report import IncompleteCheckpointError
from scan_lightning.models.segmenter import MaskSegmenter, SegmenterConfig

State = dict[str, Tensor]
HEAD = "sem_seg_head.predictor.class_embed."


@pytest.fixture(scope="module")
def network(segmenter_config: SegmenterConfig) -> Any:
    """transformers' Mask2Former of the tiny architecture, for 7 classes."""
    config = segmenter_config.to_transformers()
    config.num_labels = 7
    torch.manual_seed(0)
    return Mask2FormerForUniversalSegmentation(config).eval()


@pytest.fixture(scope="module")
def hub_folder(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as the hub has it."""
    folder = tmp_path_factory.mktemp("hub")
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def released(hub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> State:
    """The network under released names."""
    path = tmp_path_factory.mktemp("released") / "model.pth"
    convert(hub_folder, path)
    state: State = torch.load(path, weights_only=True)["model"]
    return state


def same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(v.dtype == expected[k].dtype and torch.equal(v, expected[k]) for k, v in found.items())


def test_released_names_are_those_of_mask2former(network: Any, released: State) -> None:
    weights = network.state_dict()
    assert torch.equal(released[HEAD + "weight"], weights["class_predictor.weight"])
    assert released[HEAD + "bias"].shape == (8,)
    assert released["criterion.empty_weight"].shape == (8,)
    assert released["backbone.layers.2.blocks.1.attn.relative_position_index"].shape == (16, 16)
    # What both have in common is translated as for SCAN, whose names are compared with recorded tensors.
    ours, unknown = from_released(released)
    assert sorted(unknown) == [HEAD + "bias", HEAD + "weight"]
    model = {name.replace("segmenter.model.", "model."): value for name, value in ours.items()}
    same(model, {k: v for k, v in weights.items() if k.startswith("model.") and ".swin.layernorm." not in k})


@pytest.mark.parametrize("kind", ["pkl", "pth", "half"])
def test_released_to_folder_and_back(released: State, tmp_path: Path, kind: str) -> None:
    state = {k: v.half() if kind == "half" and v.is_floating_point() else v for k, v in released.items()}
    source = tmp_path / f"model_final.{'pkl' if kind == 'pkl' else 'pth'}"
    if kind == "pkl":
        arrays = {name: value.numpy() for name, value in state.items()}
        source.write_bytes(pickle.dumps({"model": arrays, "__author__": "a zoo", "matching_heuristics": True}))
    else:
        torch.save({"model": state, "iteration": 160_000}, source)
    report = convert(source, tmp_path / "folder")
    assert (report.what, report.unused, report.missing) == ("Mask2Former", [], [])
    convert(tmp_path / "folder", tmp_path / "back.pth")
    same(torch.load(tmp_path / "back.pth", weights_only=True)["model"], state)


def test_folder_starts_a_segmenter(
    released: State, network: Any, segmenter_config: SegmenterConfig, tmp_path: Path
) -> None:
    torch.save({"model": released}, tmp_path / "m.pth")
    convert(tmp_path / "m.pth", tmp_path / "folder")
    config = replace(segmenter_config, decoder_layers=3, weights=str(tmp_path / "folder"))
    segmenter = MaskSegmenter(config=config, embedding_dim=32)
    weights = network.state_dict()
    loaded = {f"model.{k}": v for k, v in segmenter.model.state_dict().items()}
    assert all(torch.equal(v, weights[k]) for k, v in loaded.items() if k in weights)
    assert {k.split(".layers.")[1][0] for k in loaded if k not in weights} == {"2"}  # the released one has 2 layers


def test_names_of_the_first_release_are_brought_up_to_date(released: State, tmp_path: Path) -> None:
    def first(name: str) -> str:
        return name.replace("query_feat", "static_query").replace("sem_seg_head.pixel_decoder.", "sem_seg_head.")

    torch.save({"model": {first(name): value for name, value in released.items()}}, tmp_path / "old.pth")
    report = convert(tmp_path / "old.pth", tmp_path / "folder")
    changed = sum(first(name) != name for name in released)
    assert report.assumptions[0].startswith(f"{changed} names of an earlier release")
    convert(tmp_path / "folder", tmp_path / "back.pth")
    same(torch.load(tmp_path / "back.pth", weights_only=True)["model"], released)


def test_hub_name_is_fetched_and_copied(
    hub_folder: Path, network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: {"lab/m2f": hub_folder}[name])
    monkeypatch.chdir(tmp_path)
    report = convert("lab/m2f", tmp_path / "copy")
    assert (report.source, report.unused) == (str(hub_folder), [])
    again = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "copy")
    same(again.state_dict(), network.state_dict())


def test_missing_tensors_are_listed(released: State, hub_folder: Path, tmp_path: Path) -> None:
    lacking = "sem_seg_head.predictor.decoder_norm.bias"
    torch.save({"model": {k: v for k, v in released.items() if k != lacking}}, tmp_path / "m.pth")
    with pytest.raises(IncompleteCheckpointError) as caught:
        convert(tmp_path / "m.pth", tmp_path / "folder")
    assert caught.value.report.missing == [lacking]
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({HEAD + "bias": None}, "expected Mask2Former's linear class head"),
        ({"backbone.patch_embed.proj.weight": None}, "expected a Mask2Former with a Swin backbone"),
        ({"sem_seg_head.predictor.decoder_norm.bias": torch.zeros(31)}, r"\(31,\) instead of \(32,\)"),
        (
            {"backbone.norm0.bias": torch.zeros(8).double()},
            "expected tensors of one dtype, found torch.float32, torch.float64",
        ),
    ],
)
def test_other_checkpoints_are_refused(released: State, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    state = {name: value for name, value in {**released, **change}.items() if value is not None}
    torch.save({"model": state}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "m.pth", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_folder_with_another_backbone_is_refused(hub_folder: Path, tmp_path: Path) -> None:
    config = json.loads((hub_folder / "config.json").read_text())
    config["backbone_config"] = {"model_type": "resnet"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="expected a Mask2Former with Swin, found a mask2former with resnet"):
        convert(tmp_path / "other", tmp_path / "x.pth")


@pytest.mark.parametrize("damage", ["truncated", "other config"])
def test_folder_that_is_damaged_is_refused(hub_folder: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(hub_folder, tmp_path / "bad")
    if damage == "truncated":
        weights = tmp_path / "bad" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        config = json.loads((hub_folder / "config.json").read_text())
        (tmp_path / "bad" / "config.json").write_text(json.dumps(config | {"num_queries": 3}))
    with pytest.raises(ValueError, match=r"bad: damaged, or its weights do not fit its config\.json"):
        convert(tmp_path / "bad", tmp_path / "x.pth")


def test_unused_tensors_come_back(released: State, tmp_path: Path) -> None:
    extra = {"proposal_generator.weight": torch.randn(2)}
    torch.save({"model": {**released, **extra}}, tmp_path / "m.pth")
    assert convert(tmp_path / "m.pth", tmp_path / "folder").unused == list(extra)
    convert(tmp_path / "folder", tmp_path / "copy")
    for folder in ("folder", "copy"):
        convert(tmp_path / folder, tmp_path / f"{folder}.pth")
        same(torch.load(tmp_path / f"{folder}.pth", weights_only=True)["model"], {**released, **extra})
