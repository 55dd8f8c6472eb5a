"""ScanModule: SCAN under Lightning, its losses, optimiser and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scan_lightning.losses.global_counts import StepTargets
from scan_lightning.losses.mask_classification import LossConfig, MaskClassificationLoss
from scan_lightning.losses.points import SeededPoints
from scan_lightning.metrics import SegmentationMetrics
from scan_lightning.models.checkpoints import complete_checkpoint, keep_region_tower, leave_out_clip, start_from
from scan_lightning.models.contextual_shift import image_seed
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import check_state, save_scan
from scan_lightning.models.scan import Scan, ScanConfig
from scan_lightning.models.segmenter import SegmenterPart
from scan_lightning.models.text import TextFeatures
from scan_lightning.optim import OptimizerConfig, build_optimizer, parameter_groups
from scan_lightning.types import Batch, Segmentation, Vocabulary

NetworkPart = Literal["segmenter", "semantic_integration"]
"""What of the network may be frozen beside CLIP, which always is."""
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""What the Trainer's precision may be: weights stay float32, as do matching, losses and the frequency transform."""
_CLIP = "network.clip."


class ScanModule(LightningModule):
    """Train and test SCAN. The datamodule brings the vocabularies; no weight depends on them.

    The datamodule has ``vocabulary`` (all words that are tested), ``training_vocabulary`` (the words that training
    labels index) and ``hierarchy`` (or None). Nothing here is a saved hyperparameter: Lightning's command line would
    let a checkpoint's values override what ``test`` is given.

    Args:
        network: Architecture.
        loss: Weights and sampling of the loss.
        optimizer: Rates and schedule.
        inference: Test-time settings; never stored in a checkpoint.
        seed: Seed of dropout and of sampled points, which are functions of it, the step and the image.
        text_cache: Folder in which text features are remembered; None computes them.
        initial_weights: Folder of a trained network to start from, written by `save_scan`; its architecture must be
            the configured one, except that a network without SIM may start one with SIM, which then is new.
        export_to: Folder to which the trained network is written at the end of fit, in float16.
        gradient_checkpointing: Whether backbone and pixel decoder are computed twice, for less memory in training.
        compiled: Parts of the segmenter that torch.compile translates at their first use.
        frozen: Parts of the network that keep their weights and are not regularised, such as a segmenter on which only
            SIM is trained.

    Raises:
        ValueError: If a part is frozen that the network lacks.

    Attributes:
        network: The `Scan`.
        vocabulary: All words that are tested, from `setup` on.
        test_metrics: Scores of the test, from `setup` on.
    """

    def __init__(
        self,
        *,
        network: ScanConfig,
        loss: LossConfig | None = None,
        optimizer: OptimizerConfig | None = None,
        inference: InferenceSettings | None = None,
        seed: int = 0,
        text_cache: Path | None = None,
        initial_weights: Path | None = None,
        export_to: Path | None = None,
        gradient_checkpointing: bool = False,
        compiled: tuple[SegmenterPart, ...] = (),
        frozen: tuple[NetworkPart, ...] = (),
    ) -> None:
        super().__init__()
        self.network = Scan(config=network, text_cache=text_cache)
        self.loss = MaskClassificationLoss(loss or LossConfig())
        self.optimizer_config = optimizer or OptimizerConfig()
        self.inference = inference or InferenceSettings()
        self.network.clip.check_layers(self.inference.replace_layers, "replace_layers")
        self.seed = seed
        self.export_to = export_to
        self.vocabulary: Vocabulary | None = None
        self.training_vocabulary: Vocabulary | None = None
        self._text: dict[int, tuple[Vocabulary, TextFeatures]] = {}
        if initial_weights is not None:
            start_from(self.network, initial_weights)
        self._frozen = [self._freeze(part) for part in frozen]
        if gradient_checkpointing:
            self.network.segmenter.checkpoint_activations()
        self.network.segmenter.compile_parts(compiled)

    def _freeze(self, part: NetworkPart) -> nn.Module:
        """Keep a part's weights as they are."""
        module = getattr(self.network, part)
        if not isinstance(module, nn.Module):
            raise ValueError(f"frozen: the network has no {part}")
        return module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ScanModule:
        """Set training or evaluation mode; frozen parts stay in evaluation mode.

        Args:
            mode: Whether to train.

        Returns:
            Itself.
        """
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def setup(self, stage: str) -> None:
        """Take the vocabularies and the hierarchy from the datamodule.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            ValueError: If the Trainer's precision is none of `PRECISIONS`.
        """
        if self.trainer.precision not in PRECISIONS:
            raise ValueError(
                f"precision: expected one of {', '.join(PRECISIONS)}, since weights stay float32, got "
                f"{self.trainer.precision}"
            )
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self._text = {}
        self.vocabulary = datamodule.vocabulary
        if stage == "fit":  # a test needs no class that is seen
            self.training_vocabulary = datamodule.training_vocabulary

        def metrics() -> SegmentationMetrics:
            seen = datamodule.vocabulary.seen
            return SegmentationMetrics(
                num_classes=datamodule.vocabulary.num_classes,
                seen=None if all(seen) else seen,
                hierarchy=datamodule.hierarchy,
            )

        if stage in ("fit", "validate"):
            self.val_metrics = metrics()
        if stage == "test":
            self.test_metrics = metrics()

    def text_features(self, vocabulary: Vocabulary) -> TextFeatures:
        """Encode a vocabulary once per stage, on the module's device.

        Args:
            vocabulary: The words.

        Returns:
            Their features.
        """
        if id(vocabulary) not in self._text:
            # The vocabulary is kept as well: its id would otherwise be given to another one once it is gone.
            self._text[id(vocabulary)] = (vocabulary, self.network.encode_vocabulary(vocabulary))
        return self._text[id(vocabulary)][1].to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch.

        Args:
            batch: Images with masks and labels of the training vocabulary.
            batch_idx: Index of the batch in the epoch.

        Returns:
            The weighted loss.

        Raises:
            FloatingPointError: If the loss is not finite; names step and images.
        """
        # Dropout follows from seed, epoch, batch and process, so a resumed run draws what the undisturbed one drew.
        torch.manual_seed(image_seed(self.seed, f"{self.current_epoch}/{batch_idx}/{self.global_rank}"))
        vocabulary = cast(Vocabulary, self.training_vocabulary)
        output = self.network(batch.images, batch.sizes, self.text_features(vocabulary))
        points = SeededPoints([image_seed(self.seed, f"{self.global_step}/{name}") for name in batch.image_ids])
        counts = batch.step_targets
        step = StepTargets(counts=counts, passes=self.trainer.accumulate_grad_batches) if counts else None
        loss, parts = self.loss(output.class_logits, output.mask_logits, batch.masks, batch.labels, points, step)
        loss = cast(Tensor, loss)
        if not torch.isfinite(loss):
            wrong = [name for name, value in parts.items() if not torch.isfinite(value)]
            raise FloatingPointError(
                f"non-finite loss {loss.item()} at step {self.global_step} in {', '.join(wrong) or 'the sum'}, "
                f"images: {', '.join(batch.image_ids)}"
            )
        size = len(batch.image_ids)
        # Each process divides by the mean count of all, so that the mean over processes is the loss of them all.
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size, sync_dist=True)
        final = {f"train/{name}": parts[name] for name in ("loss_ce", "loss_mask", "loss_dice")}
        self.log_dict(final, batch_size=size, sync_dist=True)
        return loss

    def _predict(self, batch: Batch) -> list[Tensor]:
        """Label the images of a batch."""
        return self.network.predict(
            batch.images,
            sizes=batch.sizes,
            original_sizes=batch.original_sizes,
            image_ids=batch.image_ids,
            text=self.text_features(cast(Vocabulary, self.vocabulary)),
            settings=self.inference,
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the predictions of a batch to the validation's confusion matrix.

        Args:
            batch: Images with label maps of the whole vocabulary.
            batch_idx: Index of the batch.
        """
        for prediction, truth in zip(self._predict(batch), batch.label_maps, strict=True):
            if truth is not None:
                self.val_metrics.update(prediction, truth)

    def on_validation_epoch_end(self) -> None:
        """Log the validation's scores as ``val/<name>``, fractions."""
        scores = self.val_metrics.compute()  # of all processes, so the mean over them changes nothing
        self.log_dict({f"val/{name}": value.float() for name, value in scores.items()}, sync_dist=True)
        self.val_metrics.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Segmentation]]:
        """Add the predictions of a batch to the test's confusion matrix.

        Args:
            batch: Images with label maps of the whole vocabulary.
            batch_idx: Index of the batch.

        Returns:
            The predictions, under "segmentations".
        """
        predictions = self._predict(batch)
        for prediction, truth in zip(predictions, batch.label_maps, strict=True):
            if truth is not None:
                self.test_metrics.update(prediction, truth)
        return {"segmentations": self._segmentations(batch, predictions)}

    def on_test_epoch_end(self) -> None:
        """Log the test's scores as ``test/<name>``, fractions."""
        scores = self.test_metrics.compute()  # of all processes, so the mean over them changes nothing
        self.log_dict({f"test/{name}": value.float() for name, value in scores.items()}, sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Segmentation]]:
        """Segment images without truth.

        Args:
            batch: Images.
            batch_idx: Index of the batch.

        Returns:
            The predictions, under "segmentations".
        """
        return {"segmentations": self._segmentations(batch, self._predict(batch))}

    def _segmentations(self, batch: Batch, predictions: list[Tensor]) -> list[Segmentation]:
        """Give the predictions their names and counts, on the CPU."""
        words = cast(Vocabulary, self.vocabulary).names
        return [
            Segmentation(
                image_id=name,
                label_map=label_map.cpu(),
                class_pixels=torch.bincount(label_map.flatten(), minlength=len(words)).cpu(),
                words=words,
            )
            for name, label_map in zip(batch.image_ids, predictions, strict=True)
        ]

    def configure_optimizers(self) -> Any:
        """Make AdamW and WarmupPolyLR over the steps that the Trainer will take.

        Raises:
            ValueError: If the Trainer has no end.
        """
        backbone = self.network.segmenter.model.pixel_level_module.encoder
        groups = parameter_groups(self.network, backbone, self.optimizer_config)
        return build_optimizer(groups, self.trainer.estimated_stepping_batches, self.optimizer_config)

    def on_fit_start(self) -> None:
        """Keep DDP from sending buffers round before a forward pass: they are constants."""
        if isinstance(self.trainer.model, DistributedDataParallel):
            self.trainer.model.broadcast_buffers = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the architecture, for whoever opens the file, and leave out the frozen CLIP.

        Args:
            checkpoint: What Lightning is about to write.
        """
        checkpoint["scan_architecture"] = asdict(self.network.config)
        leave_out_clip(checkpoint, self.network.clip, self.network.config.clip, prefix=_CLIP)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Check that the checkpoint fits before anything is loaded; the region tower is the configured one.

        Args:
            checkpoint: What Lightning has read.

        Raises:
            ValueError: If a tensor is missing, unknown or of another shape, or it was trained with another CLIP.
        """
        network = self.network
        for state in complete_checkpoint(checkpoint, network.clip, network.config.clip, prefix=_CLIP):
            keep_region_tower(state, self.network, prefix="network.")
            check_state(self, state, "checkpoint")

    def on_fit_end(self) -> None:
        """Write the trained network to ``export_to``, where that is set."""
        if self.export_to is not None and self.trainer.is_global_zero:
            save_scan(self.network, self.export_to, half=True, settings=self.inference)
