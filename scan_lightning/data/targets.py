"""From label maps to mask targets, and from samples to batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scan_lightning.types import IGNORE_INDEX, Batch, Sample


def masks_and_labels(label_map: Tensor) -> tuple[Tensor, Tensor]:
    """Split a label map into one mask per class that is present.

    Args:
        label_map: int64 (H, W), labels or IGNORE_INDEX.

    Returns:
        ``masks`` bool (T, H, W) and ``labels`` int64 (T,), ascending; T is 0 where everything is ignored.

    Raises:
        ValueError: If ``label_map`` is not an int64 matrix.

    Example:
        >>> masks, labels = masks_and_labels(torch.tensor([[3, -1], [0, 3]]))
        >>> labels.tolist(), masks.int().tolist()
        ([0, 3], [[[0, 0], [1, 0]], [[1, 0], [0, 1]]])
    """
    if label_map.ndim != 2 or label_map.dtype != torch.int64:
        raise ValueError(f"label_map: expected int64 (H, W), got {label_map.dtype} {tuple(label_map.shape)}")
    present = torch.unique(label_map)
    labels = present[present != IGNORE_INDEX]
    return label_map[None] == labels[:, None, None], labels


def collate_training(samples: Sequence[Sample]) -> Batch:
    """Batch samples with their mask targets.

    Args:
        samples: At least one sample with a label map of the image's size; sizes may differ between samples.

    Returns:
        A batch padded on the right and bottom to the largest height and width, images with 0 and masks with False.

    Raises:
        ValueError: If there is no sample, a label map is missing or its size is not that of its image.
    """
    batch = _collate_images(samples)
    height, width = batch.images.shape[-2:]
    for sample, size in zip(samples, batch.sizes, strict=True):
        if sample.label_map is None or tuple(sample.label_map.shape) != size:
            came = "no label map" if sample.label_map is None else f"one of {tuple(sample.label_map.shape)}"
            raise ValueError(f"{sample.image_id}: expected a label map of the image's size {size}, got {came}")
        masks, labels = masks_and_labels(sample.label_map)
        padding = (0, width - size[1], 0, height - size[0])
        batch.masks.append(torch.nn.functional.pad(masks, padding, value=False))
        batch.labels.append(labels)
    return batch


def collate_evaluation(samples: Sequence[Sample]) -> Batch:
    """Batch samples whose truth stays at its original size.

    Args:
        samples: At least one sample; a label map is None or has the sample's ``original_size``.

    Returns:
        A batch of images padded with 0 on the right and bottom, and the label maps as they came.

    Raises:
        ValueError: If there is no sample or a label map is not of the original size.
    """
    batch = _collate_images(samples)
    for sample in samples:
        if sample.label_map is not None and tuple(sample.label_map.shape) != tuple(sample.original_size):
            raise ValueError(
                f"{sample.image_id}: expected a label map of the original size {tuple(sample.original_size)}, "
                f"got {tuple(sample.label_map.shape)}"
            )
        batch.label_maps.append(sample.label_map)
    return batch


def _collate_images(samples: Sequence[Sample]) -> Batch:
    """Pad and stack the images; targets are left empty."""
    if not samples:
        raise ValueError("samples: expected at least one, got none")
    sizes = [(int(sample.image.shape[1]), int(sample.image.shape[2])) for sample in samples]
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    images = samples[0].image.new_zeros(len(samples), 3, height, width)
    for target, sample, (valid_height, valid_width) in zip(images, samples, sizes, strict=True):
        target[:, :valid_height, :valid_width] = sample.image
    return Batch(
        images=images,
        sizes=sizes,
        image_ids=[sample.image_id for sample in samples],
        original_sizes=[sample.original_size for sample in samples],
    )
