"""In-vocabulary collapse: do unseen classes end up as seen ones, in label maps and in proposal embeddings?

SCAN's first claim (CVPR 2024, section 1): proposal embeddings collapse onto the training classes, and SIM prevents it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scan_lightning.analysis.geometry import EmbeddingGeometry, measure_geometry
from scan_lightning.analysis.proposals import MaskEmbeddings, assign_proposals
from scan_lightning.analysis.truth import images_with_truth
from scan_lightning.metrics import confusion_matrix, group_flow, split_scores
from scan_lightning.models.inference import InferenceSettings, upsample_masks
from scan_lightning.models.scan import Scan
from scan_lightning.models.text import TextFeatures
from scan_lightning.types import Batch, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """What became of the seen and the unseen classes.

    Attributes:
        images: Images looked at.
        seen: For each class whether the training vocabulary holds it.
        confusions: int64 (K, K) by condition, ``[p, c]`` the number of pixels predicted p whose truth is c:
            ``with_cs``, the settings as they are; ``without_cs``, the same with plain masked crops; ``in_vocab``, the
            segmenter's classification alone.
        geometry: The embeddings of true masks, after SIM where there is one.
    """

    images: int
    seen: tuple[bool, ...]
    confusions: Mapping[str, Tensor]
    geometry: EmbeddingGeometry

    def columns(self) -> dict[str, int | float]:
        """Flatten to the columns of a row, fractions.

        Returns:
            For each condition ``unseen_right_<condition>``, ``unseen_within_``, ``unseen_to_seen_``, ``seen_right_``,
            ``seen_within_``, ``seen_to_unseen_`` (shares of the group's truth pixels, see `GroupFlow`), ``miou_seen_``
            and ``miou_unseen_``; each number of `GroupGeometry` with ``seen_`` and ``unseen_`` before it, of `Spread`
            with ``centroid_`` and ``text_``.
        """
        row: dict[str, int | float] = {}
        for condition, confusion in self.confusions.items():
            unseen = group_flow(confusion, [not flag for flag in self.seen])
            seen = group_flow(confusion, self.seen)
            means = split_scores(confusion, self.seen)
            values = {
                "unseen_right": unseen.right,
                "unseen_within": unseen.within,
                "unseen_to_seen": unseen.across,
                "seen_right": seen.right,
                "seen_within": seen.within,
                "seen_to_unseen": seen.across,
                "miou_seen": means.seen,
                "miou_unseen": means.unseen,
            }
            row |= {f"{name}_{condition}": value.item() for name, value in values.items()}
        parts: dict[str, Any] = {
            "unseen": self.geometry.unseen,
            "seen": self.geometry.seen,
            "centroid": self.geometry.centroids,
            "text": self.geometry.text,
        }
        return row | {f"{part}_{name}": value for part, found in parts.items() for name, value in asdict(found).items()}


def conditions_of(settings: InferenceSettings) -> dict[str, InferenceSettings]:
    """Vary test-time settings, see `Collapse.confusions`.

    Args:
        settings: As configured.

    Returns:
        Settings by condition.
    """
    return {
        "with_cs": settings,
        "without_cs": replace(settings, source="none"),
        "in_vocab": replace(settings, ensemble_weight=0.0),
    }


@torch.no_grad()
def measure_collapse(
    scan: Scan,
    batches: Iterable[Batch],
    *,
    vocabulary: Vocabulary,
    text: TextFeatures,
    settings: InferenceSettings,
) -> Collapse:
    """Look for the collapse onto seen classes in a trained network.

    Args:
        scan: The network, in evaluation mode.
        batches: Of an evaluation loader, with label maps of the whole vocabulary.
        vocabulary: K classes.
        text: Their features.
        settings: Test-time settings.

    Returns:
        Where pixels go under each condition, and where embeddings lie.

    Raises:
        ValueError: If there is no image, or one has no label map.
    """
    device = scan.non_object_embedding.device
    classes = vocabulary.num_classes
    conditions = conditions_of(settings)
    confusions = {name: torch.zeros(classes, classes, dtype=torch.int64) for name in conditions}
    found: list[MaskEmbeddings] = []
    for batch in batches:
        images = batch.images.to(device)
        found += [
            _embeddings(scan, images[index, :, : labels.shape[0], : labels.shape[1]], labels, text)
            for index, _, labels in images_with_truth(batch)
        ]
        for name, condition in conditions.items():
            predictions = scan.predict(
                images,
                sizes=batch.sizes,
                original_sizes=batch.original_sizes,
                image_ids=batch.image_ids,
                text=text,
                settings=condition,
            )
            for prediction, truth in zip(predictions, batch.label_maps, strict=True):
                if truth is not None:  # the embeddings have made sure of it
                    confusions[name] += confusion_matrix(prediction.cpu(), truth.cpu(), classes)
    if not found:
        raise ValueError("batches: expected at least one image, got none")
    cpu = torch.device("cpu")
    geometry = measure_geometry(MaskEmbeddings.join(found), text.to(cpu), vocabulary.seen)
    return Collapse(images=len(found), seen=vocabulary.seen, confusions=confusions, geometry=geometry)


def _embeddings(scan: Scan, image: Tensor, labels: Tensor, text: TextFeatures) -> MaskEmbeddings:
    """Find the proposals that stand for the true masks of an image; a proposal's mask is where it exceeds 0.5.

    Images are looked at one by one: what they are padded to would change their proposals.
    """
    size = (image.shape[1], image.shape[2])
    output = scan(image[None], [size], text)
    masks = upsample_masks(output.mask_logits[-1][0], padded=output.padded, size=size)
    found = assign_proposals(masks > 0.5, output.embeddings[0], labels.to(masks.device))
    return MaskEmbeddings(embeddings=found.embeddings.cpu(), labels=found.labels.cpu(), ious=found.ious.cpu())
