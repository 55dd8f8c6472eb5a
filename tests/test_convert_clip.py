"""CLIP's weights in all the forms that they come in."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scan_lightning.convert.clip_architecture import architecture_from_shapes, find_prefix
from scan_lightning.convert.conversion import convert
from scan_lightning.convert.report import IncompleteCheckpointError
from scan_lightning.models.clip import ClipConfig, FrozenClip, build_open_clip, load_open_clip

State = dict[str, Tensor]
WORDS = ["a photo of a red star", "sky"]


@pytest.fixture(scope="module")
def state(clip_folder: Path) -> State:
    return load_file(clip_folder / "model.safetensors")


@pytest.fixture
def config(tmp_path: Path, clip_architecture: dict[str, Any]) -> Path:
    """CLIP's architecture with another normalisation than OpenAI's."""
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": clip_architecture, "preprocess_cfg": preprocess}))
    return path


def same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(v.dtype == expected[k].dtype and torch.equal(v, expected[k]) for k, v in found.items())


def model_cfg(folder: Path) -> dict[str, Any]:
    cfg: dict[str, Any] = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    return cfg


@pytest.mark.parametrize("suffix", ["safetensors", "bin", "pt"])
def test_open_clip_files_compute_the_same(
    state: State, clip_folder: Path, config: Path, tmp_path: Path, suffix: str
) -> None:
    source = tmp_path / f"open_clip_model.{suffix}"
    if suffix == "safetensors":
        save_file(state, source)
    else:
        torch.save(state, source)
    report = convert(source, tmp_path / "clip", configs=[config])
    assert (report.what, report.unused, report.assumptions) == ("CLIP", [], [])
    ours = FrozenClip.from_config(ClipConfig(model=str(tmp_path / "clip")))
    expected = FrozenClip.from_config(ClipConfig(model=str(clip_folder)))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.clip.encode_image(images), expected.clip.encode_image(images))
    assert torch.equal(ours.encode_texts(WORDS), expected.encode_texts(WORDS))
    assert ours.mean.flatten().tolist() == [127.5, 127.5, 127.5]
    convert(tmp_path / "clip", tmp_path / "back.pth")
    same(torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"], state)


@pytest.mark.parametrize("prefix", ["", "module.", "module.clip_model.", "clip_adapter.clip_model."])
def test_training_checkpoints_and_fused_clips_come_back(state: State, tmp_path: Path, prefix: str) -> None:
    """As open_clip, the fine-tuning of SCAN, and OVSeg's segmenter store a CLIP; a mask prompt has no place here."""
    prompt = {f"{prefix}visual.mask_embedding": torch.randn(3, 16, 48)}
    half = {prefix + name: value.half() if "attn" in name else value for name, value in state.items()}
    others = {} if prefix == "" else {"sem_seg_head.predictor.query_embed.weight": torch.ones(2, 2)}
    torch.save({"epoch": 5, "state_dict": {**half, **prompt, **others}}, tmp_path / "epoch_5.pt")
    report = convert(tmp_path / "epoch_5.pt", tmp_path / "clip")
    assert report.unused == [*prompt, *others]
    assert report.kept == list(prompt)
    convert(tmp_path / "clip", tmp_path / "back.pth")
    same(torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"], {**half, **prompt})


def test_tuned_clip_plugs_into_a_network(state: State, clip_folder: Path, tmp_path: Path) -> None:
    tuned = {f"module.clip_model.{name}": value + name.startswith("visual.") for name, value in state.items()}
    torch.save({"state_dict": tuned}, tmp_path / "CS_CLIP.pt")
    convert(tmp_path / "CS_CLIP.pt", tmp_path / "clip")
    frozen = FrozenClip.from_config(ClipConfig(model=str(clip_folder), shifted_weights=str(tmp_path / "clip")))
    assert torch.equal(frozen.region_visual.proj, state["visual.proj"] + 1)  # type: ignore[arg-type]
    assert torch.equal(frozen.clip.visual.proj, state["visual.proj"])  # type: ignore[arg-type]


def save_openai(path: Path, architecture: dict[str, Any]) -> State:
    """Write a CLIP as OpenAI does: a program, half of its tensors in float16, numbers among them; give its state."""
    torch.manual_seed(0)
    clip = build_open_clip({**architecture, "quick_gelu": True}).eval()
    clip.register_buffer("input_resolution", torch.tensor(architecture["vision_cfg"]["image_size"]))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; OpenAI's archives stay what they are
        inputs = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 24, dtype=torch.long))
        program = torch.jit.trace(clip, inputs, check_trace=False)
        for name, value in program.named_parameters():
            value.data = value.data.half() if "mlp" in name else value.data
        torch.jit.save(program, path)
    return {name: value.detach() for name, value in program.state_dict().items()}


def test_openai_archive_gets_quick_gelu(tmp_path: Path, clip_architecture: dict[str, Any]) -> None:
    expected = save_openai(tmp_path / "ViT.pt", clip_architecture)
    report = convert(tmp_path / "ViT.pt", tmp_path / "clip")
    assert report.unused == ["attn_mask", "input_resolution"]
    assert any("QuickGELU, as OpenAI's" in sentence for sentence in report.assumptions)
    assert model_cfg(tmp_path / "clip")["quick_gelu"] is True
    assert report.dtypes["float16"] == 16
    model, _ = load_open_clip(str(tmp_path / "clip"))
    assert type(model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    convert(tmp_path / "clip", tmp_path / "back.pth")
    same(torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"], expected)


def test_openai_state_is_known_by_its_numbers(state: State, tmp_path: Path) -> None:
    numbers = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(24), "vocab_size": torch.tensor(9)}
    torch.save({**state, **numbers}, tmp_path / "x.pt")
    convert(tmp_path / "x.pt", tmp_path / "clip")
    assert model_cfg(tmp_path / "clip")["quick_gelu"] is True
    convert(tmp_path / "x.pt", tmp_path / "plain", quick_gelu=False)
    assert model_cfg(tmp_path / "plain")["quick_gelu"] is False


def test_folder_of_other_weights_becomes_safetensors(
    state: State, config: Path, tmp_path: Path, clip_architecture: dict[str, Any]
) -> None:
    (tmp_path / "hub").mkdir()
    config.rename(tmp_path / "hub" / "open_clip_config.json")
    torch.save(state, tmp_path / "hub" / "open_clip_pytorch_model.bin")
    report = convert(tmp_path / "hub", tmp_path / "clip")
    assert report.assumptions == []
    assert model_cfg(tmp_path / "clip") == clip_architecture
    same(load_file(tmp_path / "clip" / "model.safetensors"), state)


@pytest.mark.parametrize(
    ("width", "patch", "layers", "embed_dim", "head_width", "hidden"),
    [
        (768, 16, 12, 512, 64, 3072),
        (1024, 14, 24, 768, 64, 4096),
        (1280, 14, 32, 1024, 80, 5120),
        (1408, 14, 40, 1024, 88, 6144),
    ],
    ids=["ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-g-14"],
)
def test_architecture_from_shapes_is_that_of_open_clip(
    width: int, patch: int, layers: int, embed_dim: int, head_width: int, hidden: int
) -> None:
    """Against the numbers of the CLIP and OpenCLIP papers, and the shapes of the model that they give."""
    grid, text = 224 // patch, {768: 512, 1024: 768, 1280: 1024, 1408: 1024}[width]
    with torch.device("meta"):
        shapes = {
            "visual.conv1.weight": torch.empty(width, 3, patch, patch),
            "visual.positional_embedding": torch.empty(grid * grid + 1, width),
            "token_embedding.weight": torch.empty(49408, text),
            "positional_embedding": torch.empty(77, text),
            "text_projection": torch.empty(text, embed_dim),
            **{f"visual.transformer.resblocks.{i}.mlp.c_fc.weight": torch.empty(hidden, width) for i in range(layers)},
            **{f"transformer.resblocks.{i}.ln_1.weight": torch.empty(text) for i in range(12)},
        }
        found, note = architecture_from_shapes(shapes, quick_gelu=False)
        model = build_open_clip(found).state_dict()
    assert found["vision_cfg"]["head_width"] == head_width
    assert (found["text_cfg"]["heads"], found["text_cfg"]["layers"]) == (text // 64, 12)
    assert found["vision_cfg"]["image_size"] == grid * patch
    assert all(model[name].shape == value.shape for name, value in shapes.items())
    assert str(head_width) in note


def test_missing_tensors_are_listed(state: State, tmp_path: Path) -> None:
    lacking = ["ln_final.bias", "visual.ln_post.weight"]
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items() if k not in lacking}}, tmp_path / "x.pt")
    with pytest.raises(IncompleteCheckpointError, match="2 tensors of the network are missing") as caught:
        convert(tmp_path / "x.pt", tmp_path / "clip")
    assert sorted(caught.value.report.missing) == [f"module.{name}" for name in lacking]
    assert not (tmp_path / "clip").exists()


def test_another_width_names_tensor_and_both_shapes(state: State, config: Path, tmp_path: Path) -> None:
    content = json.loads(config.read_text())
    content["model_cfg"]["vision_cfg"]["width"] = 60
    config.write_text(json.dumps(content))
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"such as visual\.class_embedding: \(48,\) instead of \(60,\)"):
        convert(tmp_path / "x.safetensors", tmp_path / "clip", configs=[config])


def test_no_clip_is_told_from_one(state: State, tmp_path: Path) -> None:
    assert find_prefix({name: value for name, value in state.items() if name.startswith("visual.")}) is None
    resnet = {name: value for name, value in state.items() if name != "visual.conv1.weight"}
    save_file(resnet, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="expected a released SCAN, a Mask2Former with Swin, or a CLIP"):
        convert(tmp_path / "x.safetensors", tmp_path / "clip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected an open_clip configuration with a 'model_cfg'"),
        ("{}", "expected an open_clip configuration with a 'model_cfg'"),
        ('{"model_cfg": {"embed_dim": 32}}', "not an architecture of CLIP"),
    ],
)
def test_folder_with_a_damaged_configuration(state: State, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "clip").mkdir()
    save_file(state, tmp_path / "clip" / "model.safetensors")
    (tmp_path / "clip" / "open_clip_config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "clip", tmp_path / "x.pth")


def test_folder_without_weights(config: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected weights beside"):
        convert(config.parent, tmp_path / "x.pth")
