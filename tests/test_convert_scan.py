"""Released SCAN checkpoints to folders and back."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scan_lightning.convert.conversion import convert
from scan_lightning.convert.names import to_released
from scan_lightning.convert.report import IncompleteCheckpointError
from scan_lightning.models.clip import CLIP_MEAN, CLIP_STD, ClipConfig
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import SHIPPED_SCAN, WEIGHTS_NAME, load_scan, recommended_settings, save_scan
from scan_lightning.models.scan import Scan, ScanConfig
from scan_lightning.verification.reference import Reference

State = dict[str, Tensor]
COMPACT = Path(__file__).parent / "parity"
SHARED = os.environ.get("SCAN_LIGHTNING_SHARED")


def same(found: State, expected: State) -> None:
    """Fail unless names, types, shapes and bits are equal, NaN included."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        other = expected[name]
        assert (value.dtype, value.shape) == (other.dtype, other.shape), name
        assert value.contiguous().flatten().view(torch.uint8).equal(other.contiguous().flatten().view(torch.uint8)), (
            name
        )


def load(path: Path) -> State:
    state: State = torch.load(path, weights_only=True)["model"]
    return state


def position_index(window: int) -> Tensor:
    """Number the offsets between the tokens of a window, by a slow loop."""
    tokens = [(row, column) for row in range(window) for column in range(window)]
    side = 2 * window - 1
    return torch.tensor(
        [[(a[0] - b[0] + window - 1) * side + a[1] - b[1] + window - 1 for b in tokens] for a in tokens]
    )


@pytest.fixture(scope="module")
def network(make_scan: Callable[..., Scan], scan_config: ScanConfig, other_clip_folder: Path) -> Scan:
    """The tiny network with a tuned visual tower, every weight random."""
    scan = make_scan(clip=ClipConfig(model=scan_config.clip.model, shifted_weights=str(other_clip_folder)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in scan.named_parameters():
            if not name.startswith("clip."):
                value.copy_(torch.randn(value.shape, generator=generator))
    return scan


@pytest.fixture(scope="module")
def released(network: Scan) -> State:
    """The network as its authors would have released it: translated, with the buffers that detectron2 stores."""
    state = to_released(network.state_dict())[0]
    state |= {
        f"backbone.layers.{stage}.blocks.{block}.attn.relative_position_index": position_index(4)
        for stage, depth in enumerate(network.config.segmenter.depths)
        for block in range(depth)
    }
    weights = torch.ones(172)
    weights[-1] = 0.1
    return state | {
        "clip_adapter.pixel_mean": torch.tensor(CLIP_MEAN).mul(255).view(1, 3, 1, 1),
        "clip_adapter.pixel_std": torch.tensor(CLIP_STD).mul(255).view(1, 3, 1, 1),
        "criterion.empty_weight": weights,
    }


SECTION = {
    "SELECT_ORI_CLIP_ID": [1, 2],
    "FREQUENCY_SIGMA": [3, 2],
    "SWIN": {"DROP_PATH_RATE": 0.0, "PRETRAIN_IMG_SIZE": 32},
    "CLIP_ADAPTER": {"TEXT_TEMPLATES": "single", "MASK_THR": 0.35, "REPLACE_LAYER": [2], "REPLACE_RATIO": 0.5},
}


@pytest.fixture
def configs(tmp_path: Path, clip_architecture: dict[str, Any]) -> list[Path]:
    """What belongs to the checkpoint: detectron2's YAML, with a tag that would run code, and CLIP's architecture."""
    yaml = "INPUT:\n  MIN: !!python/object/apply:os.mkdir ['code_was_run']\nMODEL: " + json.dumps(SECTION)
    (tmp_path / "config.yaml").write_text(yaml)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": clip_architecture}))
    return [tmp_path / "config.yaml", tmp_path / "open_clip_config.json"]


@pytest.fixture
def source(released: State, tmp_path: Path) -> Path:
    torch.save({"model": released, "iteration": 119_999, "trainer": {"iteration": 119_999}}, tmp_path / "SCAN.pth")
    return tmp_path / "SCAN.pth"


def test_converted_network_is_the_network(
    source: Path, configs: list[Path], network: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = convert(source, tmp_path / "net", configs=configs)
    assert not (tmp_path / "code_was_run").exists()
    assert (report.unused, report.missing, report.assumptions) == ([], [], [])
    loaded = Scan.from_pretrained(tmp_path / "net")
    norm = ".encoder.swin.layernorm."  # released checkpoints have none; nothing uses it
    same(
        {name: value for name, value in loaded.state_dict().items() if norm not in name},
        {name: value for name, value in network.state_dict().items() if norm not in name},
    )
    sim = network.config.semantic_integration
    assert sim is not None
    # Heads are not in the shapes; the released code has 8.
    expected = replace(network.config, semantic_integration=replace(sim, heads=8, memory_hidden=32))
    assert replace(loaded.config, clip=expected.clip) == expected
    assert loaded.recommended == InferenceSettings(mask_threshold=0.35, replace_layers=(2,), replace_ratio=0.5)
    assert loaded.origin is not None
    assert (loaded.origin["format"], loaded.origin["file"]) == ("released SCAN checkpoint", "SCAN.pth")


@pytest.mark.parametrize("half", [False, True])
def test_there_and_back_is_equal_bit_for_bit(source: Path, released: State, tmp_path: Path, half: bool) -> None:
    state = {
        name: value.half() if half and value.is_floating_point() and index % 2 else value
        for index, (name, value) in enumerate(released.items())
        if "qkv" not in name and "in_proj" not in name
    }
    state = {**released, **state}
    torch.save({"model": state}, source)
    report = convert(source, tmp_path / "net")
    assert ("float16" in report.dtypes) == half
    load_scan(tmp_path / "net")
    convert(tmp_path / "net", tmp_path / "back.pth")
    same(load(tmp_path / "back.pth"), state)


def test_back_and_there_again_needs_no_configuration(source: Path, configs: list[Path], tmp_path: Path) -> None:
    convert(source, tmp_path / "net", configs=configs)
    convert(tmp_path / "net", tmp_path / "back.pth")
    report = convert(tmp_path / "back.pth", tmp_path / "again")
    assert report.assumptions == []
    records = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("net", "again")]
    assert records[0]["origin"]["file"] == "SCAN.pth"
    assert records[0] == records[1]
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("net", "again")]
    same(files[0], files[1])


def test_network_trained_here_gets_the_buffers_of_a_released_one(
    network: Scan, released: State, tmp_path: Path
) -> None:
    save_scan(network, tmp_path / "own", settings=InferenceSettings(mask_threshold=0.2))
    report = convert(tmp_path / "own", tmp_path / "own.pth")
    same(load(tmp_path / "own.pth"), released)
    assert report.assumptions == ["the released loss has 171 classes, as COCO-Stuff has"]
    convert(tmp_path / "own.pth", tmp_path / "again")
    again = load_scan(tmp_path / "again")
    assert replace(again.config, clip=network.config.clip) == network.config
    assert recommended_settings(tmp_path / "again").mask_threshold == 0.2
    assert "origin" not in json.loads((tmp_path / "again" / "config.json").read_text())  # not the authors' weights


def test_named_clip_and_one_tower_go_both_ways(tmp_path: Path, scan: Scan) -> None:
    """The shipped CLIP is stored in float16 and named, and classifies regions itself."""
    tiny = Scan(config=replace(ScanConfig(), segmenter=scan.config.segmenter, semantic_integration=SIM_OF_TINY))
    save_scan(tiny, tmp_path / "tiny")
    convert(tmp_path / "tiny", tmp_path / "tiny.pth")
    state = load(tmp_path / "tiny.pth")
    towers = [{n[len(p) :]: v for n, v in state.items() if n.startswith(p)} for p in ORIGINAL_AND_TUNED]
    same(towers[0], towers[1])
    assert state["clip_adapter.original_clip.conv1.weight"].dtype == torch.float16
    convert(tmp_path / "tiny.pth", tmp_path / "again")
    again = load_scan(tmp_path / "again")
    assert again.clip.shifted_visual is None
    same(again.state_dict(), tiny.state_dict())


SIM_OF_TINY = replace(ScanConfig().semantic_integration, layers=(2, 4, 6), encoder_layers=1, feedforward=32)  # type: ignore[type-var]
ORIGINAL_AND_TUNED = ("clip_adapter.original_clip.", "clip_adapter.clip_model.visual.")


def test_unused_tensors_are_told_and_come_back(source: Path, released: State, tmp_path: Path) -> None:
    extra = {
        "proposal_generator.weight": torch.randn(2, 3),
        "clip_adapter.clip_model.visual.mask_embedding": torch.randn(4).double(),
    }
    torch.save({"model": {**released, **extra, "steps": 3}}, source)
    report = convert(source, tmp_path / "net")
    assert sorted(report.unused) == sorted([*extra, "steps"])
    assert set(extra) < set(report.kept)
    convert(tmp_path / "net", tmp_path / "back.pth")
    same(load(tmp_path / "back.pth"), {**released, **extra})


def test_shipped_network_comes_back_bit_for_bit(tmp_path: Path) -> None:
    convert(SHIPPED_SCAN, tmp_path / "released.pth")
    convert(tmp_path / "released.pth", tmp_path / "back")
    same(load_file(tmp_path / "back" / WEIGHTS_NAME), load_file(SHIPPED_SCAN / WEIGHTS_NAME))


def test_assumptions_are_told_without_a_configuration(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "net")
    assert len(report.assumptions) == 3
    assert "layers 1, 2 with sigmas 7, 3" in report.assumptions[0]
    assert "heads of 48 channels" in report.assumptions[1]
    assert "GELU, as LAION's" in report.assumptions[2]
    assert len(convert(source, tmp_path / "quick", quick_gelu=True).assumptions) == 2
    config = json.loads((tmp_path / "quick" / "clip" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] is True


def test_missing_tensors_are_listed_and_nothing_is_written(source: Path, released: State, tmp_path: Path) -> None:
    lacking = ["backbone.layers.1.blocks.0.attn.qkv.bias", "learnable_weight", "clip_adapter.clip_model.visual.proj"]
    torch.save({"model": {name: value for name, value in released.items() if name not in lacking}}, source)
    with pytest.raises(IncompleteCheckpointError, match=r"SCAN\.pth: 3 tensors of the network are missing") as caught:
        convert(source, tmp_path / "net")
    assert sorted(caught.value.report.missing) == sorted(lacking)
    assert [path.name for path in tmp_path.iterdir()] == ["SCAN.pth"]


def test_tensor_that_tells_the_architecture_is_named(source: Path, released: State, tmp_path: Path) -> None:
    torch.save({"model": {k: v for k, v in released.items() if "query_feat" not in k}}, source)
    with pytest.raises(ValueError, match=r"cannot tell the architecture: .*predictor\.query_feat\.weight"):
        convert(source, tmp_path / "net")


def test_another_width_names_tensor_and_both_shapes(source: Path, tmp_path: Path) -> None:
    (tmp_path / "wide.json").write_text(json.dumps({"MODEL": {"MASK_FORMER": {"DIM_FEEDFORWARD": 48}}}))
    message = r"SCAN\.pth: .* 6 tensors have another shape, such as .*fc1\.weight: \(32, 32\) instead of \(48, 32\)"
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "net", configs=[tmp_path / "wide.json"])
    assert not (tmp_path / "net").exists()


def test_folder_that_does_not_fit_itself_is_refused(network: Scan, tmp_path: Path) -> None:
    save_scan(network, tmp_path / "own")
    weights = load_file(tmp_path / "own" / "model.safetensors")
    save_file({**weights, "non_object_embedding": torch.zeros(1, 31)}, tmp_path / "own" / "model.safetensors")
    with pytest.raises(ValueError, match=r"non_object_embedding: \(1, 31\) instead of \(1, 32\)"):
        convert(tmp_path / "own", tmp_path / "own.pth")
    save_file(weights, tmp_path / "own" / "model.safetensors")
    clip = load_file(tmp_path / "own" / "clip" / "model.safetensors")
    clip["text_projection"][0, 0] += 1
    save_file(clip, tmp_path / "own" / "clip" / "model.safetensors")
    with pytest.raises(ValueError, match="trained with a CLIP of hash"):
        convert(tmp_path / "own", tmp_path / "own.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]


def test_network_without_sim_has_no_released_form(make_scan: Callable[..., Scan], tmp_path: Path) -> None:
    save_scan(make_scan(semantic_integration=None), tmp_path / "own")
    with pytest.raises(ValueError, match="released network always has SIM"):
        convert(tmp_path / "own", tmp_path / "own.pth")


def test_fine_tuned_clip_is_fused(source: Path, clip_folder: Path, released: State, tmp_path: Path) -> None:
    """As SCAN's authors fuse the CLIP that they release apart: names with a prefix, visual tower only."""
    tuned = load_file(clip_folder / "model.safetensors")
    tuned["visual.proj"] = tuned["visual.proj"] + 1
    wrapped = {f"module.clip_model.{name}": value for name, value in tuned.items()}
    torch.save({"epoch": 5, "state_dict": wrapped | {"module.other": torch.ones(1)}}, tmp_path / "CS_CLIP.pt")
    convert(source, tmp_path / "net", shifted_clip=tmp_path / "CS_CLIP.pt")
    convert(tmp_path / "net", tmp_path / "back.pth")
    visual = {
        name: tuned[name.removeprefix("clip_adapter.clip_model.")]
        for name in released
        if name.startswith("clip_adapter.clip_model.visual.")
    }
    same(load(tmp_path / "back.pth"), {**released, **visual})


def test_description_that_is_damaged_is_refused(source: Path, released: State, tmp_path: Path) -> None:
    for entry in ({"architecture": {}}, {"architecture": 3}, {}, {"origin": 3}):
        torch.save({"model": released, "scan_lightning": entry}, source)
        with pytest.raises(ValueError, match="its entry 'scan_lightning' is damaged"):
            convert(source, tmp_path / "net")


@pytest.mark.parametrize("whole", [False, True], ids=["compact", "whole"])
def test_reference_state_comes_back_bit_for_bit(whole: bool, tmp_path: Path) -> None:
    """Of the compact part in this repository what was left out is NaN; the whole one has every tensor."""
    if whole and SHARED is None:
        pytest.skip("SCAN_LIGHTNING_SHARED names no folder")
    folder = Path(str(SHARED)) / "parity" if whole else COMPACT
    reference = Reference(folder)
    torch.save({"model": reference.weights}, tmp_path / "reference.pth")
    report = convert(tmp_path / "reference.pth", tmp_path / "net", configs=[folder / "config.json"])
    assert (report.unused, report.assumptions) == ([], [])
    convert(tmp_path / "net", tmp_path / "back.pth")
    same(load(tmp_path / "back.pth"), reference.weights)
    loaded = load_scan(tmp_path / "net").state_dict()
    for name, ours in (
        ("clip_adapter.clip_model.visual.proj", "clip.shifted_visual.proj"),
        ("clip_adapter.non_object_embedding", "non_object_embedding"),
    ):
        assert torch.equal(loaded[ours], reference.weights[name])
