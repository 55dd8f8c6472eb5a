"""Baselines that look at no image: the most frequent class, and the most frequent class at each place.

What a trained network adds shows beside them. They run by the same commands and score by the same metrics as SCAN.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.metrics import SegmentationMetrics
from scan_lightning.types import Batch, Segmentation, Vocabulary


class PriorBaseline(LightningModule):
    """Count the training labels in ``fit`` and predict the largest count.

    The datamodule's training transform should neither crop nor mirror, so that places mean the same in all images.

    Args:
        kind: "most_frequent" predicts one class everywhere; "pixel_prior" predicts at each place the class that is most
            frequent there.
        grid: Height and width of the grid on which "pixel_prior" counts.

    Attributes:
        counts: float64 (K, *grid), training pixels by class of the whole vocabulary, from `setup` on.

    Raises:
        ValueError: If the kind is unknown or the grid is empty.
    """

    counts: Tensor

    def __init__(
        self, *, kind: Literal["most_frequent", "pixel_prior"] = "pixel_prior", grid: tuple[int, int] = (90, 120)
    ) -> None:
        super().__init__()
        if kind not in ("most_frequent", "pixel_prior"):
            raise ValueError(f"kind: expected 'most_frequent' or 'pixel_prior', got {kind!r}")
        if min(grid) < 1:
            raise ValueError(f"grid: expected at least 1 x 1, got {grid}")
        self.kind = kind
        self.grid = grid if kind == "pixel_prior" else (1, 1)
        self.automatic_optimization = False
        self.vocabulary: Vocabulary | None = None
        self.register_buffer("counts", torch.zeros(0, *self.grid, dtype=torch.float64))

    def setup(self, stage: str) -> None:
        """Take the vocabularies from the datamodule.

        Args:
            stage: "fit" starts counting anew.

        Raises:
            ValueError: If another stage comes before "fit".
        """
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.vocabulary = datamodule.vocabulary
        if stage != "fit" and not len(self.counts):
            raise ValueError(f"{type(self).__name__}: nothing counted yet; run fit with test_after_fit: true")
        if stage == "fit":
            labels = {name: index for index, name in enumerate(datamodule.vocabulary.names)}
            self._labels = torch.tensor([labels[name] for name in datamodule.training_vocabulary.names])
            self.counts = torch.zeros(len(labels), *self.grid, dtype=torch.float64, device=self.device)
        seen = datamodule.vocabulary.seen
        self.test_metrics = SegmentationMetrics(
            num_classes=datamodule.vocabulary.num_classes,
            seen=None if all(seen) else seen,
            hierarchy=datamodule.hierarchy,
        )

    def configure_optimizers(self) -> None:
        """Nothing is optimised."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch's labels to the counts.

        Args:
            batch: Images with masks and labels of the training vocabulary.
            batch_idx: Index of the batch.
        """
        for masks, labels, (height, width) in zip(batch.masks, batch.labels, batch.original_sizes, strict=True):
            if len(labels):
                valid = masks[:, :height, :width].double()[None]
                shares = F.adaptive_avg_pool2d(valid, self.grid)[0]
                self.counts.index_add_(0, self._labels.to(self.device)[labels], shares)

    def on_train_end(self) -> None:
        """Add up what the processes counted."""
        self.counts = cast(Tensor, self.trainer.strategy.reduce(self.counts, reduce_op="sum"))

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Segmentation]]:
        """Predict the prior and score it.

        Args:
            batch: Images with label maps of the whole vocabulary.
            batch_idx: Index of the batch.

        Returns:
            The predictions, under "segmentations".
        """
        segmentations = []
        words = self.vocabulary.names if self.vocabulary is not None else ()
        for name, size, truth in zip(batch.image_ids, batch.original_sizes, batch.label_maps, strict=True):
            label_map = F.interpolate(self.counts[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)
            if truth is not None:
                self.test_metrics.update(label_map, truth)
            pixels = torch.bincount(label_map.flatten(), minlength=len(words)).cpu()
            segmentations.append(
                Segmentation(image_id=name, label_map=label_map.cpu(), class_pixels=pixels, words=words)
            )
        return {"segmentations": segmentations}

    def on_test_epoch_end(self) -> None:
        """Log the scores as ``test/<name>``, fractions."""
        scores = self.test_metrics.compute()  # of all processes, so the mean over them changes nothing
        self.log_dict({f"test/{name}": value.float() for name, value in scores.items()}, sync_dist=True)
