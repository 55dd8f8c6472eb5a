from __future__ import annotations

import random
from collections import Counter
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scan_lightning.data.transforms import (
    PADDING_GREY,
    EvaluationTransform,
    TrainingTransform,
    _ScaleSaturation,
    nearest_indices,
    resized_shape,
    ssd_colour_jitter,
)
from scan_lightning.types import IGNORE_INDEX


def _blocks(height: int, width: int, *, block: int = 8) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """An image of grey blocks whose label is the grey value divided by 10, so that the two can be compared."""
    rows, columns = np.arange(height)[:, None] // block, np.arange(width)[None] // block
    labels = (rows * 7 + columns * 3) % 20
    return np.repeat((labels * 10)[..., None], 3, axis=2).astype(np.uint8), labels


def _plain(**options: Any) -> TrainingTransform:
    return TrainingTransform(**{"shortest_sides": (64,), "crop_size": 64, "colour_jitter": False, **options})


@pytest.mark.parametrize("shortest", [40, 64, 100, 203])
@pytest.mark.parametrize("flip", [False, True])
def test_labels_move_with_images(shortest: int, flip: bool) -> None:
    image, labels = _blocks(64, 80)
    transform = _plain(shortest_sides=(shortest,), crop_size=60, flip=flip)
    for seed in range(10):
        result, moved = transform(image, labels, np.random.default_rng(seed))
        valid = moved != IGNORE_INDEX
        same = np.abs(result[..., 0].astype(int) - moved * 10) <= 5
        assert result.shape == (60, 60, 3)
        assert moved.dtype == np.int64
        assert same[valid].mean() > (0.6 if shortest < 64 else 0.75)  # bilinear blends the borders of blocks
        assert (result[~valid] == PADDING_GREY).all()


def test_whole_image_without_scale_is_unchanged() -> None:
    image, labels = _blocks(64, 64)
    labels[3, 5] = IGNORE_INDEX
    result, moved = _plain(flip=False)(image, labels, np.random.default_rng(0))
    assert (result == image).all()
    assert (moved == labels).all()


def test_crop_equals_window_of_whole_resized_image() -> None:
    image, labels = _blocks(50, 70)
    whole = EvaluationTransform(min_size=110)(image)
    cut, _ = _plain(shortest_sides=(110,), crop_size=40, flip=False)(image, labels, np.random.default_rng(4))
    windows = np.lib.stride_tricks.sliding_window_view(whole.astype(np.int16), (40, 40, 3))[:, :, 0]
    worst = np.abs(windows - cut.astype(np.int16)).max(axis=(2, 3, 4))
    assert worst.min() <= 1


def test_flip_happens_in_half_of_the_cases() -> None:
    image, labels = _blocks(64, 64)
    results = [_plain()(image, labels, np.random.default_rng(seed))[1] for seed in range(200)]
    assert all((moved == labels).all() or (moved == labels[:, ::-1]).all() for moved in results)
    assert 70 < sum((moved == labels).all() for moved in results) < 130


def test_padding_is_right_and_bottom() -> None:
    image, labels = _blocks(32, 48)
    result, moved = _plain(shortest_sides=(32,))(image, labels, np.random.default_rng(0))
    assert (moved[:32, :48] != IGNORE_INDEX).all()
    assert (moved[32:] == IGNORE_INDEX).all()
    assert (moved[:, 48:] == IGNORE_INDEX).all()
    assert (result[32:] == 128).all()


def test_scales_are_drawn_evenly() -> None:
    sides = (16, 32, 48, 64)
    image, labels = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.int64)
    transform = _plain(shortest_sides=sides)
    drawn = Counter(
        int((transform(image, labels, np.random.default_rng(seed))[1][:, 0] == 0).sum()) for seed in range(800)
    )
    assert set(drawn) == set(sides)
    assert all(150 < count < 250 for count in drawn.values())


def test_default_scales_are_the_papers() -> None:
    transform = TrainingTransform()
    assert transform.shortest_sides[:2] == (320, 384)
    assert transform.shortest_sides[-1] == 1280
    assert len(transform.shortest_sides) == 16
    assert (transform.longest_side, transform.crop_size) == (2560, 640)


def test_crop_places_cover_the_image() -> None:
    image, labels = np.zeros((8, 8, 3), np.uint8), np.arange(64).reshape(8, 8)
    transform = _plain(shortest_sides=(8,), crop_size=5, flip=False)
    corners = {int(transform(image, labels, np.random.default_rng(seed))[1][0, 0]) for seed in range(300)}
    assert corners == {row * 8 + column for row in range(4) for column in range(4)}


def test_longest_side_bounds_the_scale() -> None:
    image, labels = _blocks(10, 100)
    _, moved = _plain(shortest_sides=(64,), longest_side=50, flip=False)(image, labels, np.random.default_rng(0))
    assert (moved[:, 0] != IGNORE_INDEX).sum() == 5
    assert (moved[0] != IGNORE_INDEX).sum() == 50


def test_equal_generators_give_equal_results() -> None:
    image, labels = _blocks(64, 80)
    transform = TrainingTransform(shortest_sides=(48, 64, 80), crop_size=40)

    def draw(seed: int) -> bytes:
        result, moved = transform(image, labels, np.random.default_rng(seed))
        return result.tobytes() + moved.tobytes()

    first = [draw(seed) for seed in range(20)]
    assert first[::-1] == [draw(seed) for seed in reversed(range(20))]
    assert len(set(first)) == 20


def test_flip_and_colours_are_drawn_independently() -> None:
    image, labels = _blocks(64, 64)
    transform = _plain(colour_jitter=True)
    outcomes = Counter()
    for seed in range(400):
        result, moved = transform(image, labels, np.random.default_rng(seed))
        flipped = not (moved == labels).all()
        outcomes[flipped, bool((result == (image[:, ::-1] if flipped else image)).all())] += 1
    assert 0.35 < outcomes[True, False] / sum(outcomes.values()) < 0.45  # grey changes in 3/4 of the cases
    assert 0.08 < outcomes[True, True] / sum(outcomes.values()) < 0.17
    assert 0.08 < outcomes[False, True] / sum(outcomes.values()) < 0.17


def test_transform_leaves_its_input_alone() -> None:
    image, labels = _blocks(64, 64)
    before = image.copy(), labels.copy()
    TrainingTransform(shortest_sides=(64,), crop_size=64)(image, labels, np.random.default_rng(0))
    assert (image == before[0]).all()
    assert (labels == before[1]).all()


def test_labels_beyond_8_and_16_bits_survive() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    labels = np.full((16, 16), 70000)
    _, moved = _plain(shortest_sides=(24,), crop_size=24)(image, labels, np.random.default_rng(0))
    assert (moved == 70000).all()


def test_nearest_indices_are_those_of_pillow() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        length, target = int(rng.integers(1, 700)), int(rng.integers(1, 700))
        start = float(rng.uniform(0, length)) if rng.random() < 0.8 else 0.0
        end = float(rng.uniform(start, length)) if rng.random() < 0.8 else float(length)
        ramp = Image.fromarray(np.arange(length, dtype=np.int32)[None])
        expected = np.array(ramp.resize((target, 1), Image.Resampling.NEAREST, box=(start, 0, end, 1)))[0]
        assert (nearest_indices(start, end, target) == expected).all(), (length, target, start, end)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_labels_of_any_integer_type_give_the_same(dtype: type[np.integer[Any]]) -> None:
    image, labels = _blocks(48, 64)
    transform = _plain(shortest_sides=(100,))
    expected = transform(image, labels, np.random.default_rng(0))[1]
    moved = transform(image, labels.astype(dtype), np.random.default_rng(0))[1]
    assert moved.dtype == np.int64
    assert (moved == expected).all()


@pytest.mark.parametrize("factor", [0.5, 0.93, 1.5])
def test_saturation_is_multiplied_and_clipped(factor: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.minimum(hsv[..., 1] * factor, 255)
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    assert (_ScaleSaturation(limit=0.5).apply(image, factor=factor) == expected).all()


def _jittered(pixel: tuple[int, int, int], count: int) -> list[tuple[int, ...]]:
    jitter = A.Compose([ssd_colour_jitter()])
    image = np.full((1, 1, 3), pixel, np.uint8)
    results = []
    for seed in range(count):
        jitter.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311
        results.append(tuple(jitter(image=image)["image"][0, 0].tolist()))
    return results


def test_jitter_of_grey_has_the_range_of_brightness_and_contrast() -> None:
    results = _jittered((100, 100, 100), 2000)
    values = np.array([result[0] for result in results])
    assert all(len(set(result)) == 1 for result in results)  # saturation and hue leave grey alone
    assert values.min() >= (100 - 32) * 0.5 - 1
    assert values.max() <= (100 + 32) * 1.5 + 1
    assert values.min() < 45
    assert values.max() > 180
    assert 0.2 < (values == 100).mean() < 0.3  # neither step in a quarter of the cases


def test_jitter_of_colour_moves_hue_within_18_and_leaves_some_untouched() -> None:
    pixel = (160, 80, 60)
    results = _jittered(pixel, 2000)
    hues = cv2.cvtColor(np.array(results, np.uint8)[None], cv2.COLOR_RGB2HSV)[0, :, 0].astype(int)
    start = int(cv2.cvtColor(np.array([[pixel]], np.uint8), cv2.COLOR_RGB2HSV)[0, 0, 0])
    change = (hues - start + 90) % 180 - 90
    assert np.abs(change).max() <= 22  # clipping of other steps adds a little
    assert change.max() > 14
    assert change.min() < -14
    assert 0.03 < np.mean([result == pixel for result in results]) < 0.1  # 1/16 without any step


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((360, 480), {}, (640, 853)),
        ((480, 360), {}, (853, 640)),
        ((100, 1000), {}, (256, 2560)),
        ((360, 480), {"min_size": None}, (360, 480)),
        ((360, 480), {"min_size": 180, "max_size": 200}, (150, 200)),
    ],
)
def test_evaluation_size(size: tuple[int, int], options: dict[str, Any], expected: tuple[int, int]) -> None:
    image, _ = _blocks(*size)
    result = EvaluationTransform(**options)(image)
    assert result.shape == (*expected, 3)
    assert result.dtype == np.uint8
    assert abs(float(result.mean()) - float(image.mean())) < 2


def test_resized_shape_never_vanishes() -> None:
    assert resized_shape(1, 10000, shortest=640, longest=100) == (1, 100)


@pytest.mark.parametrize("options", [{"shortest_sides": ()}, {"crop_size": 0}, {"shortest_sides": (0, 4)}])
def test_wrong_training_lengths_raise(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected positive lengths"):
        TrainingTransform(**options)


def test_wrong_evaluation_lengths_raise() -> None:
    with pytest.raises(ValueError, match="min_size=0"):
        EvaluationTransform(min_size=0)


def test_label_map_of_another_size_raises() -> None:
    with pytest.raises(ValueError, match=r"expected the image's size \(4, 4\), got \(4, 5\)"):
        _plain()(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.int64), np.random.default_rng(0))
