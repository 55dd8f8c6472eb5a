"""Random points at which masks are matched and compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class PointSource(Protocol):
    """Where random points in [0, 1) x [0, 1) come from."""

    def matching(self, output: int, image: int, count: int) -> Tensor:
        """Give points for matching one image's masks.

        Args:
            output: Index of the output: 0 the final one, 1 + i auxiliary output i.
            image: Index of the image in the batch.
            count: Number of points P.

        Returns:
            float32 (P, 2), x and y.
        """

    def losses(
        self, output: int, masks_per_image: Sequence[int], oversampled: int, plain: int
    ) -> tuple[Tensor, Tensor]:
        """Give points for the losses of all matched masks.

        Args:
            output: Index of the output.
            masks_per_image: Matched masks of each image, M in all.
            oversampled: Number of points among which the uncertain ones are chosen.
            plain: Number of points that are used as they are.

        Returns:
            float32 (M, oversampled, 2) and (M, plain, 2).
        """


class SeededPoints:
    """Random points that are a function of (image, output) alone, given one seed per image.

    Args:
        seeds: One number per image of the batch, in [0, 2**63).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds

    def _generator(self, image: int, output: int, use: int) -> torch.Generator:
        return torch.Generator().manual_seed((self._seeds[image] + 1_000_003 * output + 7_368_787 * use) % 2**63)

    def matching(self, output: int, image: int, count: int) -> Tensor:
        """See `PointSource.matching`."""
        return torch.rand(count, 2, generator=self._generator(image, output, 0))

    def losses(
        self, output: int, masks_per_image: Sequence[int], oversampled: int, plain: int
    ) -> tuple[Tensor, Tensor]:
        """See `PointSource.losses`."""
        drawn = [
            torch.rand(count, oversampled + plain, 2, generator=self._generator(image, output, 1))
            for image, count in enumerate(masks_per_image)
        ]
        joined = torch.cat(drawn)
        return joined[:, :oversampled], joined[:, oversampled:]
