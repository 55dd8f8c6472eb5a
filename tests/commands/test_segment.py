"""Tests of ``scan-lightning segment`` with a small untrained network."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scan_lightning.commands import segment
from scan_lightning.commands.segment import main
from scan_lightning.data.images import read_image, read_label
from scan_lightning.models.clip import ClipConfig, build_open_clip
from scan_lightning.models.clip_export import save_clip
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import load_scan, save_scan
from scan_lightning.models.scan import Scan, ScanConfig
from scan_lightning.models.segmenter import SegmenterConfig
from scan_lightning.models.semantic_integration import SemanticIntegrationConfig

WORDS = "sky, road, car"


def save_tiny_clip(folder: Path, *, layers: int) -> None:
    """Write an untrained CLIP."""
    architecture = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": layers, "width": 32, "head_width": 16},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "layers": 1, "width": 16, "heads": 2},
    }
    clip = build_open_clip(architecture)
    with torch.no_grad():  # untrained, it would see no difference between images or words
        clip.visual.class_embedding.zero_()
        for block in clip.visual.transformer.resblocks:
            block.attn.out_proj.weight.mul_(10)
        clip.token_embedding.weight.mul_(50)
    save_clip(clip, folder, architecture=architecture, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), card="untrained")


def save_tiny_scan(folder: Path, *, layers: int) -> Path:
    """Write an untrained SCAN whose CLIP has so many layers."""
    torch.manual_seed(0)
    save_tiny_clip(folder / "clip", layers=layers)
    segmenter = SegmenterConfig(
        **dict.fromkeys(("conv_dim", "mask_dim", "hidden_dim", "encoder_feedforward", "dim_feedforward"), 64),
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
        **{"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4, "heads": 2},
        **{"pretrain_image_size": 32, "num_queries": 12, "embedding_hidden": 32},
    )
    sim = SemanticIntegrationConfig(layers=(1, 2), sigmas=(2, 1), fusion_layers=1, encoder_layers=1, feedforward=32)
    clip = ClipConfig(model=str(folder / "clip"))
    scan = Scan(config=ScanConfig(segmenter=segmenter, clip=clip, semantic_integration=sim))
    with torch.no_grad():
        # Sharper masks and other classes for other queries, so that an untrained label map holds several classes.
        decoder = scan.segmenter.model.transformer_module
        decoder.queries_features.weight.mul_(5)
        decoder.decoder.mask_predictor.mask_embedder.layers[-1].layers[0].weight.mul_(20)
        scan.segmenter.embedding_head[2].weight.mul_(20)
    save_scan(scan, folder / "scan")
    return folder / "scan"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_scan(tmp_path_factory.mktemp("weights"), layers=6)


def make_image(path: Path, *, size: tuple[int, int] = (40, 56), seed: int = 0) -> Path:
    """Write coarse coloured blocks of height and width ``size``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((size[1], size[0]), Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "a.png")


@dataclass
class Call:
    """Run the command on the CPU and keep what it prints."""

    output: Path
    weights: Path
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def __call__(
        self, *images: Path | str, words: str | None = WORDS, options: Sequence[str] = (), **places: Path
    ) -> int:
        places = {"output": self.output, "weights": self.weights, **places}
        given = [] if words is None else [f"--words={words}"]
        where = [f"--{name}={place}" for name, place in places.items()]
        status = main([*map(str, images), *given, *where, "--device=cpu", *options])
        self.out, self.err = self.capsys.readouterr()
        return status

    def record(self, stem: str) -> dict[str, Any]:
        """Read an image's JSON file."""
        return json.loads((self.output / f"{stem}.json").read_text("utf-8"))


@pytest.fixture
def call(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    return Call(tmp_path / "new" / "output", weights, capsys)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_segment_writes_three_files_that_agree(image: Path, weights: Path, call: Call) -> None:
    assert call(image) == 0
    assert names(call.output) == ["a.json", "a_labels.png", "a_overlay.png"]
    labels = read_label(call.output / "a_labels.png")
    pixels = torch.from_numpy(read_image(image).transpose(2, 0, 1).copy())
    expected = load_scan(weights).segment(pixels, ["sky", "road", "car"], image_id="a").label_map
    assert len(expected.unique()) > 1
    assert labels.dtype == np.uint8
    assert (labels == expected.numpy()).all()
    found = call.record("a")
    counts = np.bincount(labels.ravel(), minlength=3)
    assert [entry["name"] for entry in found["classes"]] == ["sky", "road", "car"]
    assert [entry["pixels"] for entry in found["classes"]] == counts.tolist()
    assert [entry["share"] for entry in found["classes"]] == pytest.approx((counts / labels.size).tolist())
    plain = {**found["settings"], "replace_layers": (1, 3, 5), "scales": (1.0,)}  # tuples are lists in JSON
    assert InferenceSettings(**plain) == InferenceSettings()
    assert len(found["weights"]["sha256"]) == 64
    assert Image.open(call.output / "a_overlay.png").width > 2 * 56
    best = max(found["classes"], key=lambda entry: entry["share"])
    assert f"{100 * best['share']:.2f} %" in next(line for line in call.out.splitlines() if best["name"] in line)
    assert call.err == ""


def test_segment_repeated_call_writes_the_same_bytes(image: Path, call: Call) -> None:
    assert call(image) == 0
    first = {name: (call.output / name).read_bytes() for name in names(call.output)}
    for name in first:
        (call.output / name).write_bytes(b"old")
    assert call(image) == 0
    assert {name: (call.output / name).read_bytes() for name in names(call.output)} == first


def test_segment_files_folders_and_patterns_each_image_once(tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "photos"
    for index, name in enumerate(("b.png", "a.JPG", "odd[1].png", "deep/c.png")):
        make_image(folder / name, seed=index)
    (folder / "notes.txt").write_text("no image", "utf-8")
    make_image(folder / "shown.png").rename(folder / ".hidden.png")
    assert call(folder, folder / "b.png", f"{folder}/**/*.png", folder / "odd[1].png") == 0
    assert names(call.output)[::3] == ["a.json", "b.json", "c.json", "odd[1].json"]


def test_segment_equal_stems_do_not_overwrite(tmp_path: Path, call: Call) -> None:
    places = ("x/a.png", "y/a.jpg", "y/a-2.png", "z/A.png")
    images = [make_image(tmp_path / name, size=(32 + 8 * index, 32)) for index, name in enumerate(places)]
    assert call(*images) == 0
    assert [call.record(stem)["size"][0] for stem in ("a", "a-3", "a-2", "A-4")] == [32, 40, 48, 56]
    assert len(names(call.output)) == 12
    assert call.record("a-3")["image"] == str(images[1])


def test_segment_bad_images_are_named_and_others_go_on(tmp_path: Path, image: Path, call: Call) -> None:
    truncated, no_image, missing = tmp_path / "truncated.png", tmp_path / "text.jpg", tmp_path / "missing.png"
    truncated.write_bytes(image.read_bytes()[:-60])
    no_image.write_text("this is no image", "utf-8")
    last = make_image(tmp_path / "last.png")
    assert call(image, truncated, no_image, missing, last) == 1
    assert [name.split("_")[0] for name in names(call.output)] == ["a.json", "a", "a", "last.json", "last", "last"]
    for path in (truncated, no_image, missing):
        assert f"scan-lightning segment: {path}: " in call.err
    assert "3 of 5 images could not be read" in call.err


def test_segment_failed_write_leaves_nothing(image: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(segment, "panel", full)
    assert call(image) == 1
    assert names(call.output) == []
    assert "No space left" in call.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "expected at least one word"),
        ("sky,,road", "class 2: expected a word, got an empty one"),
        ("sky, car| , road", "class 2: expected a word, got an empty one in 'car, '"),
        ("sky, road, sky", "class 3: 'sky' is given twice"),
        ("sky, red  car, Red car", "class 3: 'Red car' is given twice, before as 'red car'"),
        ("car|auto, vehicle|auto", "class 2: 'auto' is given twice"),
        ("caf\u00e9, cafe\u0301", "class 2: 'caf\u00e9' is given twice"),
    ],
)
def test_segment_wrong_words_are_named(image: Path, call: Call, words: str, message: str) -> None:
    assert call(image, words=words) == 1
    assert message in call.err
    assert not call.output.exists()


def test_segment_long_and_foreign_words(tmp_path: Path, call: Call) -> None:
    words = ["天空", "Straße mit Kopfsteinpflaster", "автомобиль", "🚗", "[red]bus[/red]", "very " * 100 + "long"]
    assert call(make_image(tmp_path / "straße 天.png"), words=",".join(words)) == 0
    classes = call.record("straße 天")["classes"]
    assert [entry["name"] for entry in classes] == words
    assert all(word in call.out for word, entry in zip(words[:5], classes, strict=False) if entry["pixels"])


def test_segment_image_name_that_is_not_utf8(image: Path, call: Call) -> None:
    try:
        image = image.rename(image.parent / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert call(image) == 0
    assert call.record(image.stem)["image"].endswith("caf\ufffd.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "expected at least one word"),
        (b"sky\n\nroad\n", "line 2: expected a word, got an empty one"),
        (b"sky\nroad, sky\n", "line 2: 'sky' is given twice"),
        (b"caf\xe9", "expected words in UTF-8"),
        (None, "no file"),
    ],
)
def test_segment_wrong_words_file_is_named(image: Path, call: Call, content: bytes | None, message: str) -> None:
    path = image.with_name("words{}.txt")
    if content is not None:
        path.write_bytes(content)
    assert call(image, words=None, options=[f"--words-file={path}"]) == 1
    assert message in call.err
    assert str(path) in call.err
    assert not call.output.exists()


def test_segment_words_file_counts_synonyms_as_one_class(tmp_path: Path, image: Path, call: Call) -> None:
    (tmp_path / "words.txt").write_bytes("\ufeffsky\r\ncar ,  auto \t mobile\r\na|b\r\n\r\n".encode())
    assert call(image, words=None, options=[f"--words-file={tmp_path / 'words.txt'}"]) == 0
    classes = call.record("a")["classes"]
    assert [entry["synonyms"] for entry in classes] == [["sky"], ["car", "auto mobile"], ["a|b"]]
    assert sum(entry["pixels"] for entry in classes) == 40 * 56


def test_segment_many_words_make_a_16_bit_map(image: Path, call: Call) -> None:
    assert call(image, words=",".join(f"word {index}" for index in range(300))) == 0
    labels = read_label(call.output / "a_labels.png")
    assert labels.dtype == np.uint16
    counts = np.bincount(labels.ravel(), minlength=300)
    assert [entry["pixels"] for entry in call.record("a")["classes"]] == counts.tolist()


def test_segment_settings_are_in_force(image: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[InferenceSettings] = []
    predict = Scan.predict

    def spy(self: Scan, *args: Any, settings: InferenceSettings, **options: Any) -> list[torch.Tensor]:
        seen.append(settings)
        return predict(self, *args, settings=settings, **options)

    monkeypatch.setattr(Scan, "predict", spy)
    given = InferenceSettings(replace_ratio=0.5, replace_layers=(2, 4), mask_threshold=0.1, ensemble_weight=0.9)
    given = replace(given, source="zeros", seed=7, scales=(1.0, 1.5), flip=True, window=48, stride=40)
    plain = ("replace_ratio", "mask_threshold", "ensemble_weight", "source", "seed", "window", "stride")
    options = [f"--{name.replace('_', '-')}={getattr(given, name)}" for name in plain]
    options += ["--replace-layers=2,4", "--scales=1,1.5", "--flip"]
    assert call(image, options=options) == 0
    assert seen == [given]
    assert call.record("a")["settings"] == {**asdict(given), "replace_layers": [2, 4], "scales": [1.0, 1.5]}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--replace-ratio=1.5", "replace_ratio: expected in [0, 1], got 1.5"),
        ("--replace-ratio=nan", "replace_ratio: expected in [0, 1], got nan"),
        ("--ensemble-weight=2", "ensemble_weight: expected in [0, 1]"),
        ("--source=magic", "source: expected one of image_cls"),
        ("--replace-layers=1,7", "replace_layers: expected distinct layers in 1..6"),
        ("--scales=1,0", "scales: expected distinct positive factors, at least one, got [1.0, 0.0]"),
        ("--window=8", "window: expected at least 32 pixels, got 8"),
        ("--stride=8", "stride: expected a window with it, got 8 alone"),
        ("--max-size=0", "expected positive lengths"),
        ("--shortest-side=-1", "expected positive lengths"),
    ],
)
def test_segment_wrong_setting_is_one_line(image: Path, call: Call, option: str, message: str) -> None:
    assert call(image, options=[option]) == 1
    assert message in call.err
    assert call.err.count("\n") == 1
    assert not call.output.exists()


def test_segment_stride_of_the_recommended_window(tmp_path: Path, image: Path, weights: Path, call: Call) -> None:
    save_scan(load_scan(weights), tmp_path / "windows", settings=InferenceSettings(window=48))
    assert call(image, weights=tmp_path / "windows", options=["--stride=40"]) == 0
    assert [call.record("a")["settings"][name] for name in ("window", "stride")] == [48, 40]


def test_segment_default_layers_are_those_of_the_tower(tmp_path: Path, image: Path, call: Call) -> None:
    weights = save_tiny_scan(tmp_path / "shallow", layers=2)
    assert call(image, weights=weights) == 0
    assert "replace_layers: [1] instead of [1, 3, 5]: this CLIP has 2 layers" in call.err
    assert call.record("a")["settings"]["replace_layers"] == [1]
    assert call(image, weights=weights, options=["--replace-layers=1,2"]) == 0
    assert call.err == ""


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((96, 200), ["--max-size=64"], [31, 64]),
        ((40, 56), ["--shortest-side=80"], [80, 112]),
        ((40, 56), ["--shortest-side=80", "--max-size=70"], [50, 70]),
        ((1, 1), [], [1, 1]),
        ((1200, 8), [], [1024, 7]),
    ],
)
def test_segment_network_size_and_original_size(
    tmp_path: Path, call: Call, size: tuple[int, int], options: list[str], expected: list[int]
) -> None:
    assert call(make_image(tmp_path / "a.png", size=size), options=options) == 0
    assert read_label(call.output / "a_labels.png").shape == tuple(call.record("a")["size"]) == size
    assert call.record("a")["network_size"] == expected


def test_segment_result_does_not_depend_on_other_images(tmp_path: Path, call: Call) -> None:
    images = [make_image(tmp_path / f"{index}.png", seed=index) for index in range(3)]
    together, alone = tmp_path / "together", tmp_path / "alone"
    assert call(*images, output=together) == 0
    assert call(images[2], output=alone) == 0
    assert names(alone) == ["2.json", "2_labels.png", "2_overlay.png"]
    assert all((together / name).read_bytes() == (alone / name).read_bytes() for name in names(alone))


def test_segment_output_never_touches_inputs(tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "in"
    image, other = make_image(folder / "a.png"), make_image(folder / "a_labels.png", seed=1)
    before = other.read_bytes()
    assert call(image, other, output=folder) == 1
    assert "would be overwritten" in call.err
    assert call(folder, output=folder) == 1
    assert "expected another folder" in call.err
    assert call(image, output=other) == 1
    assert "is a file" in call.err
    assert names(folder) == ["a.png", "a_labels.png"]
    assert other.read_bytes() == before


def test_segment_nothing_to_segment(tmp_path: Path, call: Call) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "empty" / "*.png"):
        assert call(place) == 1
        assert f"{place}: expected images" in call.err


def test_segment_wrong_weights_are_named(tmp_path: Path, image: Path, weights: Path, call: Call) -> None:
    assert call(image, weights=tmp_path / "nowhere") == 1
    assert "nowhere" in call.err
    damaged = shutil.copytree(weights, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((weights / "model.safetensors").read_bytes()[:1000])
    assert call(image, weights=damaged) == 1
    assert "damaged" in call.err
    assert not call.output.exists()


def test_segment_cuda_where_there_is_none(image: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert call(image, options=["--device=cuda"]) == 1
    assert "device: expected a machine with CUDA" in call.err
    assert call(image, options=["--device=auto"]) == 0


@pytest.mark.gpu
def test_segment_on_cuda_agrees_with_cpu(tmp_path: Path, image: Path, call: Call) -> None:
    labels = []
    for device in ("cpu", "cuda"):
        assert call(image, output=tmp_path / device, options=[f"--device={device}"]) == 0
        labels.append(read_label(tmp_path / device / "a_labels.png"))
    assert (labels[0] == labels[1]).mean() > 0.99


@pytest.mark.parametrize("arguments", [[], ["a.png"], ["a.png", "--output=o"], ["a.png", "--words=sky"]])
def test_segment_incomplete_call_shows_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: scan-lightning segment" in capsys.readouterr().err
