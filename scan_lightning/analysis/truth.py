"""The truth of an evaluation batch at the size that the network sees."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from scan_lightning.types import Batch


def labels_at(label_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a label map by nearest neighbour.

    Args:
        label_map: int64 (H0, W0).
        size: (H, W).

    Returns:
        int64 (H, W); source index = floor(target index * scale).

    Example:
        >>> labels_at(torch.tensor([[1, 2], [3, 4]]), (2, 4)).tolist()
        [[1, 1, 2, 2], [3, 3, 4, 4]]
    """
    rows, columns = (
        torch.arange(side, device=label_map.device) * source // side
        for side, source in zip(size, label_map.shape, strict=True)
    )
    return label_map[rows[:, None], columns[None, :]]


def images_with_truth(batch: Batch) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Go through the images of a batch.

    Args:
        batch: Of an evaluation loader.

    Yields:
        The image's position in the batch, its pixels (3, H, W) without padding, and its labels int64 (H, W).

    Raises:
        ValueError: If an image has no label map.
    """
    for index, (image, size, truth) in enumerate(zip(batch.images, batch.sizes, batch.label_maps, strict=True)):
        if truth is None:
            raise ValueError(f"{batch.image_ids[index]}: expected a label map, got none")
        yield index, image[:, : size[0], : size[1]], labels_at(truth.to(image.device), size)
