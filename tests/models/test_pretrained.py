import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scan_lightning.models.clip import ClipConfig
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import (
    check_state,
    clip_hash,
    config_from_dict,
    load_scan,
    recommended_settings,
    save_scan,
)
from scan_lightning.models.scan import Scan, ScanConfig
from scan_lightning.types import Vocabulary


@pytest.fixture
def folder(scan: Scan, tmp_path: Path) -> Path:
    """Folder with a saved network."""
    save_scan(scan, tmp_path / "saved")
    return tmp_path / "saved"


def test_round_trip_keeps_every_bit(scan: Scan, folder: Path) -> None:
    loaded = load_scan(folder)
    assert replace(loaded.config, clip=scan.config.clip) == scan.config
    assert not loaded.training
    state = scan.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert sorted(path.name for path in folder.iterdir()) == ["clip", "config.json", "model.safetensors"]


def test_saved_folder_can_be_moved(folder: Path, scan: Scan, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / "moved")
    loaded = load_scan(moved)
    assert loaded.config.clip.model == str(moved / "clip")
    assert torch.equal(loaded.non_object_embedding, scan.non_object_embedding)
    save_scan(loaded, moved)  # onto itself
    assert load_scan(moved).config == loaded.config


def test_clip_stays_out_of_the_weights(folder: Path, scan: Scan) -> None:
    names = load_file(folder / "model.safetensors").keys()
    assert not any(name.startswith("clip.") for name in names)
    assert {name for name in scan.state_dict() if not name.startswith("clip.")} == set(names)


def test_half_rounds_and_loads_as_float32(scan: Scan, tmp_path: Path, folder: Path) -> None:
    save_scan(scan, tmp_path / "half", half=True)
    loaded = load_scan(tmp_path / "half").state_dict()
    for name, value in scan.state_dict().items():
        expected = value if name.startswith("clip.") or not value.is_floating_point() else value.half().float()
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], expected), name
    sizes = [(path / "model.safetensors").stat().st_size for path in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1]


def test_saving_again_replaces_the_files(make_scan: Callable[..., Scan], folder: Path) -> None:
    other = make_scan(seed=1)
    save_scan(other, folder)
    assert torch.equal(load_scan(folder).non_object_embedding, other.non_object_embedding)
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("changes", [{"semantic_integration": None}, {"temperature": 50.0, "template_set": "vild"}])
def test_round_trip_of_variants(make_scan: Callable[..., Scan], tmp_path: Path, changes: dict[str, Any]) -> None:
    scan = make_scan(**changes)
    save_scan(scan, tmp_path)
    assert replace(load_scan(tmp_path).config, clip=scan.config.clip) == scan.config


def test_weights_that_training_started_from_are_not_needed(folder: Path, scan: Scan) -> None:
    record = json.loads((folder / "config.json").read_text())
    record["architecture"]["segmenter"]["weights"] = "nowhere/swin"
    (folder / "config.json").write_text(json.dumps(record))
    assert torch.equal(load_scan(folder).non_object_embedding, scan.non_object_embedding)


def test_folders_that_are_called_like_a_model_or_tag_are_not_taken_for_it(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "openai"):
        (tmp_path / name).mkdir()
    named = ClipConfig(model="tiny", weights="openai")
    monkeypatch.setattr(scan, "config", replace(scan.config, clip=named))
    save_scan(scan, tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert record["architecture"]["clip"] == asdict(named)
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["config.json", "model.safetensors"]


def test_text_cache_is_passed_on(folder: Path, tmp_path: Path) -> None:
    load_scan(folder, text_cache=tmp_path / "texts").encode_vocabulary(Vocabulary.from_words(["sky"]))
    assert len(list((tmp_path / "texts").rglob("*.npy"))) == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_raises(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"expected config\.json and model\.safetensors in .*found no {name}"):
        load_scan(folder)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_truncated_weights_raise(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged, expected safetensors"):
        load_scan(folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"architecture": {}}', '{"architecture": 3}', '{"architecture": []}']
)
def test_damaged_configuration_raises(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json: not a configuration of SCAN"):
        load_scan(folder)


@pytest.mark.parametrize("part", ["segmenter", "clip", "semantic_integration", None])
def test_unknown_entry_in_the_configuration_raises(folder: Path, part: str | None) -> None:
    record = json.loads((folder / "config.json").read_text())
    architecture = record["architecture"]
    (architecture if part is None else architecture[part])["wdith"] = 3
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"config\.json: not a configuration of SCAN.*wdith"):
        load_scan(folder)


def test_another_clip_raises(folder: Path, other_clip_folder: Path) -> None:
    record = json.loads((folder / "config.json").read_text())
    record["architecture"]["clip"]["model"] = str(other_clip_folder)
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"trained with a CLIP of hash {record['clip_hash']}, .* has "):
        load_scan(folder)


def test_clip_hash_follows_every_weight(scan_config: ScanConfig, make_scan: Callable[..., Scan], scan: Scan) -> None:
    other = make_scan(seed=1)
    assert clip_hash(other.clip) == clip_hash(scan.clip)
    assert len(clip_hash(scan.clip)) == 16
    with torch.no_grad():
        other.clip.clip.text_projection[0, 0] += 1e-6
    assert clip_hash(other.clip) != clip_hash(scan.clip)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "does not fit the configured network: 1 missing, such as non_object_embedding"),
        ("unknown", "does not fit the configured network: 1 unknown, such as surplus"),
        ("shape", r"1 tensors have another shape, such as non_object_embedding: \(1, 31\) instead of \(1, 32\)"),
    ],
)
def test_weights_that_do_not_fit_raise(folder: Path, change: str, message: str) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    if change == "missing":
        del state["non_object_embedding"]
    elif change == "unknown":
        state["surplus"] = torch.zeros(1)
    else:
        state["non_object_embedding"] = torch.zeros(1, 31)
    save_file(state, path)
    with pytest.raises(ValueError, match=rf"model\.safetensors: .*{message}"):
        load_scan(folder)


def test_check_state_accepts_what_fits(scan: Scan) -> None:
    state = scan.state_dict()
    check_state(scan, state, "here")
    trained = {name: value for name, value in state.items() if not name.startswith("clip.")}
    check_state(scan, trained, "here", ignore="clip.")
    with pytest.raises(ValueError, match=r"here: does not fit the configured network: .* missing, such as clip"):
        check_state(scan, trained, "here")


def test_configuration_survives_json(scan_config: ScanConfig) -> None:
    for config in (scan_config, replace(scan_config, semantic_integration=None), ScanConfig()):
        assert config_from_dict(json.loads(json.dumps(asdict(config)))) == config


def test_recommended_settings_are_those_saved(scan: Scan, folder: Path, tmp_path: Path) -> None:
    assert recommended_settings(folder) == InferenceSettings()
    settings = InferenceSettings(mask_threshold=0.3, replace_layers=(2,), log_ensemble=True)
    save_scan(scan, tmp_path / "other", settings=settings)
    assert recommended_settings(tmp_path / "other") == settings


def test_recommended_settings_that_are_none_are_refused(folder: Path) -> None:
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**record, "inference": {"threshold": 1}}))
    with pytest.raises(ValueError, match=r"config\.json: 'inference'"):
        recommended_settings(folder)
