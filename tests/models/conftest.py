"""What the tests of the whole network share: made-up text features and a batch of images of several sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.text import TextFeatures

ImageOf = Callable[[int, int, int], Tensor]
K = 40
SIZES = [(50, 70), (64, 96), (33, 40), (50, 70)]


@pytest.fixture(scope="module")
def text() -> TextFeatures:
    """Features as far apart as those of a trained CLIP, so that label maps hold several classes."""
    features = torch.randn(K, 32, generator=torch.Generator().manual_seed(0))
    return TextFeatures(F.normalize(features, dim=-1), torch.arange(K), K)


@pytest.fixture(scope="module")
def batch(image_of: ImageOf) -> dict[str, Any]:
    """Four images of three sizes, padded to the largest, with rubbish in the padding."""
    images = torch.full((4, 3, 64, 96), 77, dtype=torch.uint8)
    for index, (height, width) in enumerate(SIZES):
        images[index, :, :height, :width] = image_of(index, height, width)
    return {
        "images": images,
        "sizes": SIZES,
        "original_sizes": [(50, 70), (32, 48), (66, 80), (71, 53)],
        "image_ids": ["a", "b", "c", "d"],
    }
