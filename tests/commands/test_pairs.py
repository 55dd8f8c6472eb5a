"""The command pairs: from the truth and from captions."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from scan_lightning.cli import main
from scan_lightning.commands.pairs_captions import packaged_vocabularies
from scan_lightning.data.caption_words import NounFinder
from scan_lightning.data.pair_index import PairIndex
from scan_lightning.models.pretrained import save_scan
from scan_lightning.models.scan import Scan

SHAPES = """
data:
  class_path: scan_lightning.data.shapes.ShapesDataModule
  init_args: {train_size: 5, val_size: 2, batch_size: 8}
trainer: {max_steps: 3}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(SHAPES)
    return path


@pytest.fixture
def road(tmp_path: Path) -> Path:
    """A folder data set of two images, three classes of which two are seen."""
    root = tmp_path / "road"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(2):
            labels = np.zeros((24, 32), dtype=np.uint8)
            labels[12:] = 1
            labels[14:20, 4:12] = 2
            Image.fromarray(labels).save(root / "labels" / split / f"{number}.png")
            Image.fromarray(np.stack([labels * 90] * 3, axis=2)).save(root / "images" / split / f"{number}.png")
    classes = [{"name": name, "seen": name != "car"} for name in ("sky", "road", "car")]
    (root / "classes.json").write_text(json.dumps({"classes": classes}))
    return root


def test_truth_of_generated_scenes_lies_beside_the_index(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["pairs", "truth", str(tmp_path / "out"), "-c", str(recipe), "--workers", "0", "--images-per-part", "2"]
    assert main(call) == 0
    index = PairIndex(tmp_path / "out")
    assert index.images_beside
    assert len(list((tmp_path / "out" / "images").iterdir())) == 5
    assert f"{len(index):,} pairs of 5 images in 3 files" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert main(call) == 0
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert main([*call, "--kind", "component"]) == 1
    assert "made from something else" in capsys.readouterr().err


def test_truth_of_files_is_named_by_path_and_leaves_unseen_classes_to_validation(tmp_path: Path, road: Path) -> None:
    overlay = tmp_path / "road.yaml"
    overlay.write_text("data: {class_path: scan_lightning.data.FolderDataModule}")
    for split in ("train", "val"):
        call = ["pairs", "truth", str(tmp_path / split), "-c", str(overlay), "--set", f"root={road}", "--split", split]
        assert main([*call, "--min-area", "4", "--workers", "0"]) == 0
    train, val = PairIndex(tmp_path / "train"), PairIndex(tmp_path / "val")
    assert list(train.texts()) == ["sky", "road"] * 2
    assert list(val.texts()) == ["sky", "road", "car"] * 2
    assert not train.images_beside
    assert [train[number].image for number in (0, 2)] == ["images/train/0.png", "images/train/1.png"]
    assert str(road) not in (tmp_path / "train" / "index.json").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trainer: {}", "expected a 'data' with a class_path"),
        ("[1]", "expected a mapping"),
        ("data: {class_path: scan_lightning.data.Nothing}", "data: "),
        ("data: {class_path: scan_lightning.data.ShapesDataModule, init_args: {wheels: 3}}", "data: "),
    ],
)
def test_wrong_recipes_are_reported(
    tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    assert main(["pairs", "truth", str(tmp_path / "out"), "-c", str(path)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_captions_match_proposals_and_nouns(
    tmp_path: Path, make_scan: Callable[..., Scan], image_of: Callable[[int, int, int], Tensor]
) -> None:
    save_scan(make_scan(), tmp_path / "weights")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = image_of(number, 40, 56).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(3)]
    texts = ["two dogs on grass", "nothing that is known", "a bench and a dog"]
    annotations = [{"image_id": number, "caption": text} for number, text in enumerate(texts)]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (tmp_path / "nouns.txt").write_text("dog\ngrass\nbench\n")
    call = ["pairs", "captions", str(tmp_path / "out"), "--captions", str(tmp_path / "captions.json")]
    call += ["--images", str(tmp_path / "photos"), "--weights", str(tmp_path / "weights"), "--device", "cpu"]
    call += ["--nouns", str(tmp_path / "nouns.txt"), "--shortest-side", "32", "--min-area", "1"]
    assert main([*call, "--images-per-part", "1", "--mask-threshold", "0.5"]) == 0
    index = PairIndex(tmp_path / "out")
    pairs = [index[number] for number in range(len(index))]
    assert {pair.image for pair in pairs} == {"0.png", "2.png"}
    assert all(pair.text in {"0": ("dog", "grass"), "2": ("bench", "dog")}[pair.image_id] for pair in pairs)
    assert all(pair.mask.shape == (40, 56) and pair.source == "proposal" and -1 <= pair.score < 1 for pair in pairs)
    assert index.vocabulary is None
    for limit in ("0", "-1"):
        with pytest.raises(SystemExit, match="2"):
            main([*call, "--limit", limit])


def test_names_of_all_benchmarks_are_known_nouns() -> None:
    finder = NounFinder.of_vocabularies(packaged_vocabularies())
    assert finder.find(["a man rides a surfboard near traffic lights"])[-1:] == ("traffic light",)
    assert len(finder.nouns) > 800
