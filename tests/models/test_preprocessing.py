import pytest
import torch
from torch.nn import functional as F

from scan_lightning.models.preprocessing import bicubic_resize, nearest_resize, normalize_and_pad, padded_size

MEAN = torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1)
STD = torch.tensor([2.0, 4.0, 5.0]).view(3, 1, 1)


def test_normalize_and_pad_by_hand() -> None:
    images = torch.full((2, 3, 40, 50), 200, dtype=torch.uint8)  # what lies outside the sizes is rubbish
    images[0, :, :10, :33] = 40
    images[1, :, :20, :5] = 0
    pixels = normalize_and_pad(images, [(10, 33), (20, 5)], mean=MEAN, std=STD)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 32, 64), torch.float32)
    expected = torch.zeros(2, 3, 32, 64)
    expected[0, :, :10, :33] = torch.tensor([15.0, 5.0, 2.0]).view(3, 1, 1)
    expected[1, :, :20, :5] = torch.tensor([-5.0, -5.0, -6.0]).view(3, 1, 1)
    assert torch.equal(pixels, expected)


def test_normalize_and_pad_gives_an_image_alone_the_same_pixels() -> None:
    images = torch.randint(0, 256, (2, 3, 40, 50), generator=torch.Generator().manual_seed(0))
    together = normalize_and_pad(images, [(40, 50), (33, 21)], mean=MEAN, std=STD)
    alone = normalize_and_pad(images[1:, :, :33, :21], [(33, 21)], mean=MEAN, std=STD)
    assert torch.equal(together[1, :, :, :32], alone[0])
    assert not together[1, :, :, 32:].any()


def test_normalize_and_pad_does_not_change_its_input() -> None:
    images = torch.full((1, 3, 8, 8), 7.0)
    normalize_and_pad(images, [(4, 4)], mean=MEAN, std=STD)
    assert (images == 7).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (2, 3, 8, 8)])
def test_normalize_and_pad_wrong_images_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images: expected \(1, 3, H, W\), got \("):
        normalize_and_pad(torch.zeros(shape), [(8, 8)], mean=MEAN, std=STD)


@pytest.mark.parametrize("size", [(9, 8), (8, 9), (0, 8), (8, 0)])
def test_normalize_and_pad_wrong_sizes_raise(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="sizes: expected within 1 x 1 and"):
        normalize_and_pad(torch.zeros(1, 3, 8, 8), [size], mean=MEAN, std=STD)


def test_padded_size() -> None:
    assert [padded_size(size) for size in ((1, 32), (32, 33), (640, 854))] == [(32, 32), (32, 64), (640, 864)]
    assert padded_size((5, 8), 4) == (8, 8)


def test_nearest_resize_takes_the_floor() -> None:
    images = torch.arange(15.0).view(1, 1, 3, 5)
    rows, columns = [0, 0, 1, 2], [0, 1, 2, 3]  # floor(i * 3 / 4), floor(i * 5 / 4)
    assert nearest_resize(images, 4)[0, 0].tolist() == [[5.0 * row + column for column in columns] for row in rows]


def test_bicubic_resize_is_antialiased() -> None:
    stripes = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
    shrunk = bicubic_resize(stripes, 8)
    assert shrunk.shape == (1, 3, 8, 8)
    assert (shrunk - 0.5).abs().max() < 0.05
    assert (F.interpolate(stripes, size=(8, 8), mode="nearest") - 0.5).abs().max() == 0.5
