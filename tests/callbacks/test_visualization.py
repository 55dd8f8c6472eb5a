from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from scan_lightning.callbacks.palette import color_palette, vocabulary_palette
from scan_lightning.callbacks.visualization import VisualizationCallback, file_name, overlay, panel
from scan_lightning.types import IGNORE_INDEX, Batch, Segmentation, Vocabulary

WORDS = Vocabulary(names=("sky", "grass", "ball"), seen=(True, True, False))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    label_map = np.zeros((24, 32), dtype=np.int64)
    label_map[12:] = 1
    label_map[4:9, 4:9] = 2
    return label_map


@pytest.mark.parametrize("num_classes", [1, 2, 171, 847])
def test_color_palette_is_distinct_and_visible(num_classes: int) -> None:
    palette = color_palette(num_classes)
    assert palette.shape == (num_classes, 3)
    assert palette.dtype == np.uint8
    assert len({tuple(color) for color in palette.tolist()}) == num_classes
    spread = palette.max(axis=1).astype(int) - palette.min(axis=1)
    assert spread.min() > 20  # no black, grey or white


def test_color_palette_first_colors_lie_far_apart() -> None:
    palette = color_palette(12).astype(float)
    distance = np.linalg.norm(palette[:, None] - palette[None], axis=-1)
    assert distance[~np.eye(12, dtype=bool)].min() > 70


def test_color_palette_shorter_one_begins_longer_one() -> None:
    assert np.array_equal(color_palette(5), color_palette(50)[:5])


def test_color_palette_result_may_be_changed() -> None:
    color_palette(4)[:] = 0
    assert color_palette(4).any()


def test_color_palette_repeats_when_colors_run_out() -> None:
    assert color_palette(20_000).shape == (20_000, 3)


def test_color_palette_without_classes_raises() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        color_palette(0)


def test_vocabulary_palette_takes_its_own_colors() -> None:
    vocabulary = Vocabulary(names=("a", "b"), palette=((1, 2, 3), (4, 5, 6)))
    assert vocabulary_palette(vocabulary).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert np.array_equal(vocabulary_palette(WORDS), color_palette(3))


def test_overlay_blends_by_opacity() -> None:
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    palette = np.array([[200, 0, 50]], dtype=np.uint8)
    label_map = np.zeros((2, 2), dtype=np.int64)
    assert (overlay(image, label_map, palette, 0.25) == [125, 75, 88]).all()  # 0.25 * 50 + 75 = 87.5
    assert (overlay(image, label_map, palette, 1.0) == palette[0]).all()
    assert (overlay(image, label_map, palette, 0.0) == image).all()


def test_overlay_ignored_pixels_are_dark_and_hatched(image: np.ndarray) -> None:
    result = overlay(image, np.full((24, 32), IGNORE_INDEX), color_palette(3), 0.3)
    assert result.max() <= 80
    assert len(np.unique(result)) == 2


def test_overlay_border_is_darker_than_both_sides() -> None:
    image = np.full((4, 6, 3), 200, dtype=np.uint8)
    label_map = np.repeat([[0, 0, 0, 1, 1, 1]], 4, axis=0)
    result = overlay(image, label_map, np.array([[200, 200, 200], [100, 100, 100]], dtype=np.uint8), 0.5)
    assert result[0, :, 0].tolist() == [200, 200, 200, 60, 150, 150]


def test_overlay_leaves_its_input(image: np.ndarray, labels: np.ndarray) -> None:
    before = image.copy(), labels.copy()
    overlay(image, labels, color_palette(3), 0.0)[:] = 0
    overlay(image, labels, color_palette(3), 0.5)
    assert np.array_equal(image, before[0])
    assert np.array_equal(labels, before[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((24, 32), dtype=np.uint8)}, "image"),
        ({"image": np.zeros((24, 32, 3))}, "image"),
        ({"label_map": np.zeros((24, 31), dtype=np.int64)}, "size"),
        ({"label_map": np.full((24, 32), 3)}, "labels in"),
        ({"label_map": np.full((24, 32), -2)}, "labels in"),
        ({"opacity": 1.5}, "opacity"),
    ],
)
def test_overlay_wrong_argument_raises(
    image: np.ndarray, labels: np.ndarray, change: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"image": image, "label_map": labels, "palette": color_palette(3), "opacity": 0.5}
    with pytest.raises(ValueError, match=message):
        overlay(**(arguments | change))


def test_panel_shows_every_class_of_truth_and_prediction(image: np.ndarray, labels: np.ndarray) -> None:
    prediction = np.ones_like(labels)
    pixels = np.array(panel(image, labels, prediction, WORDS, opacity=0.2))
    shown = {tuple(color) for color in pixels.reshape(-1, 3).tolist()}
    # At opacity 0.2 the pure colours are those of the legend.
    assert {tuple(color) for color in color_palette(3).tolist()} <= shown


def test_panel_leaves_absent_classes_out(image: np.ndarray) -> None:
    prediction = np.ones((24, 32), dtype=np.int64)
    pixels = np.array(panel(image, None, prediction, WORDS, opacity=0.2))
    shown = {tuple(color) for color in pixels.reshape(-1, 3).tolist()}
    colors = [tuple(color) for color in color_palette(3).tolist()]
    assert colors[1] in shown
    assert colors[0] not in shown


def test_panel_enlarges_small_images_by_an_integer_factor(image: np.ndarray, labels: np.ndarray) -> None:
    with_truth, without = panel(image, labels, labels, WORDS), panel(image, None, labels, WORDS)
    assert with_truth.width == 3 * 32 * 11 + 4 * 16  # 360 / 32 rounds to 11, and 16 pixels between the pictures
    assert without.width == 2 * 32 * 11 + 3 * 16
    corner = np.array(with_truth)[60 : 60 + 11, 16 : 16 + 11]
    assert with_truth.height > 24 * 11
    assert corner.std(axis=(0, 1)).max() < np.array(with_truth)[60:200, 16:200].std()


def test_panel_reduces_large_images() -> None:
    image = np.zeros((1000, 2000, 3), dtype=np.uint8)
    picture = panel(image, None, np.zeros((1000, 2000), dtype=np.int64), WORDS)
    assert picture.width == 2 * 800 + 3 * 16
    assert picture.height < 600


@pytest.mark.parametrize("size", [(1, 1), (40, 2), (2, 40)])
def test_panel_odd_sizes_stay_readable(size: tuple[int, int]) -> None:
    picture = panel(np.zeros((*size, 3), dtype=np.uint8), None, np.zeros(size, dtype=np.int64), WORDS)
    assert picture.width >= 480
    assert picture.height >= 60


def test_panel_checks_truth_before_it_is_resized(image: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="size"):
        panel(image, labels[:-1], labels, WORDS)
    with pytest.raises(ValueError, match="labels in"):
        panel(image, labels + 1, labels, WORDS)


@pytest.mark.parametrize("image_id", ["../../etc/passwd", "a b", "", "ä/ö", "x" * 500, "con:1", ".hidden", "a\0b"])
def test_file_name_is_safe(image_id: str) -> None:
    name = file_name(image_id)
    assert name == Path(name).name
    assert name.isascii()
    assert len(name) < 200
    assert not name.startswith(".")


def test_file_name_differs_where_names_differ() -> None:
    names = ["a/b", "a_b", "a b", "a//b", ".a_b", "x" * 200, "x" * 201]
    assert len({file_name(name) for name in names}) == len(names)


class OneWord(LightningModule):
    """Predicts class 1 everywhere; as ScanModule, with a vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary = WORDS

    def _segment(self, batch: Batch) -> list[Segmentation]:
        return [
            Segmentation(
                image_id=name,
                label_map=torch.ones(size, dtype=torch.int64),
                class_pixels=torch.tensor([0, size[0] * size[1], 0]),
                words=WORDS.names,
            )
            for name, size in zip(batch.image_ids, batch.original_sizes, strict=True)
        ]

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return {"segmentations": self._segment(batch)}

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Segmentation]:
        return self._segment(batch)


def make_batch(first: int, *, truth: bool) -> Batch:
    images = torch.zeros(2, 3, 20, 32, dtype=torch.uint8)
    images[:, 0, :10, :16] = 250  # what lies outside stays black: padding
    truths = [torch.zeros(20, 32, dtype=torch.int64), None] if truth else []
    return Batch(
        images=images,
        sizes=[(10, 16), (10, 16)],
        image_ids=[f"val/{first}", f"val/{first + 1}"],
        original_sizes=[(20, 32), (20, 32)],
        label_maps=truths,
    )


def make_trainer(folder: Path, callback: VisualizationCallback) -> Trainer:
    return Trainer(
        accelerator="cpu",
        callbacks=[callback],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def loader(*, truth: bool) -> DataLoader[Batch]:
    batches: Any = [make_batch(first, truth=truth) for first in (0, 2)]
    return DataLoader(batches, batch_size=None)


def test_callback_writes_the_first_images_of_a_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, VisualizationCallback(max_images=3))
    trainer.test(OneWord(), loader(truth=True), verbose=False)
    assert capsys.readouterr().out.count(f"overlays of 3 images: {tmp_path / 'overlays'}\n") == 1
    files = sorted(tmp_path.rglob("*"))
    assert [path.parent.name for path in files if path.is_file()] == ["overlays"] * 3
    pictures = {name: Image.open(tmp_path / "overlays" / file_name(name)) for name in ("val/0", "val/1", "val/2")}
    assert pictures["val/0"].width > pictures["val/1"].width  # the second image of a batch has no truth
    # The valid part fills the first picture: no padding is shown.
    assert np.array(pictures["val/0"])[60, 16 : 16 + 32 * 11].mean(axis=0).tolist() == [250, 0, 0]


def test_callback_writes_predictions_to_a_given_folder_on_every_run(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "log", VisualizationCallback(directory=tmp_path / "drawn", max_images=8))
    for _ in range(2):
        trainer.predict(OneWord(), loader(truth=False))
        assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == sorted(
            file_name(f"val/{index}") for index in range(4)
        )
        for path in (tmp_path / "drawn").iterdir():
            path.unlink()


def test_callback_draws_nothing_at_zero_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path, VisualizationCallback(max_images=0)).test(OneWord(), loader(truth=True), verbose=False)
    assert list(tmp_path.rglob("*.png")) == []
    assert "overlays" not in capsys.readouterr().out


def test_callback_only_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path, VisualizationCallback())
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    trainer.test(OneWord(), loader(truth=True), verbose=False)
    assert list(tmp_path.rglob("*.png")) == []


def test_callback_unfinished_file_does_not_take_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        make_trainer(tmp_path, VisualizationCallback()).test(OneWord(), loader(truth=True), verbose=False)
    assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.parametrize("change", [{"max_images": -1}, {"opacity": 2.0}])
def test_callback_wrong_argument_raises(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        VisualizationCallback(**change)
