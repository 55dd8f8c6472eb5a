"""The training loss: Hungarian matching on sampled points, then class, mask and dice losses at every decoder layer.

Spec section 5. Costs and losses are those of transformers' Mask2Former. What is ours is around them: points are drawn
from a generator that belongs to the image, so that they do not depend on batch or process, everything runs in float32,
and sums are divided by their global counts over all processes and all batches of an optimiser step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mask2former.modeling_mask2former import (
    dice_loss,
    pair_wise_dice_loss,
    pair_wise_sigmoid_cross_entropy_loss,
    sample_point,
    sigmoid_cross_entropy_loss,
)

from scan_lightning.losses.global_counts import StepTargets, mean_over_processes
from scan_lightning.losses.points import PointSource

Matches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and sampling of the loss; the defaults are the paper's (Mask2Former's).

    Args:
        class_weight: Weight of the class loss and cost.
        mask_weight: Weight of the mask's binary cross entropy.
        dice_weight: Weight of the dice loss.
        no_object_weight: Weight of the no-object class within the class loss.
        num_points: Points P per mask.
        oversample_ratio: Candidates for uncertain points, as a multiple of P; at least 1.
        importance_ratio: Share of P taken by the most uncertain candidates, in [0, 1].
        supervise_last_auxiliary: Whether the last but one output counts too. The released weight table leaves it out.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75
    supervise_last_auxiliary: bool = False


class MaskClassificationLoss(nn.Module):
    """Match proposals with targets at every output and sum up the losses (spec section 5).

    Args:
        config: Weights and sampling.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        masks: Sequence[Tensor],
        labels: Sequence[Tensor],
        points: PointSource,
        step: StepTargets | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch.

        Args:
            class_logits: L + 1 tensors (B, Q, K + 1), no-object last; the last is the final output.
            mask_logits: L + 1 tensors (B, Q, h, w).
            masks: For each image bool (T, H, W), padded to the batch's common size.
            labels: For each image int64 (T,), in [0, K).
            points: Where random points come from.
            step: What the losses are normalised by, where gradients of several batches are added up; None for this
                batch alone.

        Returns:
            The weighted sum, and each loss unweighted: loss_ce, loss_mask, loss_dice of the final output, and with the
            suffix _i of auxiliary output i.
        """
        with torch.autocast(class_logits[0].device.type, enabled=False):
            return self._forward(class_logits, mask_logits, masks, labels, points, step)

    def _forward(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        masks: Sequence[Tensor],
        labels: Sequence[Tensor],
        points: PointSource,
        step: StepTargets | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run in float32."""
        auxiliary = len(class_logits) - 1
        counted = auxiliary if self.config.supervise_last_auxiliary else auxiliary - 1
        targets = [mask.float() for mask in masks]
        named: dict[str, Tensor] = {}
        total = class_logits[0].new_zeros((), dtype=torch.float32)
        weights = {
            "loss_ce": self.config.class_weight,
            "loss_mask": self.config.mask_weight,
            "loss_dice": self.config.dice_weight,
        }
        for output in range(1 + max(counted, 0)):
            index = -1 if output == 0 else output - 1
            logits = class_logits[index].float(), mask_logits[index].float()
            losses = self.output_losses(*logits, targets, labels, points, output=output, step=step)
            for name, loss in losses.items():
                total = total + weights[name] * loss
                named[name if output == 0 else f"{name}_{output - 1}"] = loss.detach()
        return total, named

    def output_losses(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        targets: Sequence[Tensor],
        labels: Sequence[Tensor],
        points: PointSource,
        *,
        output: int,
        step: StepTargets | None = None,
    ) -> dict[str, Tensor]:
        """Compute the three losses of one output.

        Args:
            class_logits: float (B, Q, K + 1).
            mask_logits: float (B, Q, h, w).
            targets: For each image float (T, H, W).
            labels: For each image int64 (T,).
            points: Where random points come from.
            output: Index of the output, for ``points``.
            step: See `forward`.

        Returns:
            loss_ce, loss_mask, loss_dice, unweighted.
        """
        matches = self.match(class_logits, mask_logits, targets, labels, points, output=output)
        loss_mask, loss_dice = self._mask_losses(mask_logits, targets, matches, points, output=output, step=step)
        return {
            "loss_ce": self._class_loss(class_logits, labels, matches, step),
            "loss_mask": loss_mask,
            "loss_dice": loss_dice,
        }

    @torch.no_grad()
    def match(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        targets: Sequence[Tensor],
        labels: Sequence[Tensor],
        points: PointSource,
        *,
        output: int,
    ) -> Matches:
        """Assign to each target the proposal that explains it best, one to one (Hungarian matching).

        Args:
            class_logits: float (B, Q, K + 1).
            mask_logits: float (B, Q, h, w).
            targets: For each image float (T, H, W).
            labels: For each image int64 (T,).
            points: Where random points come from.
            output: Index of the output, for ``points``.

        Returns:
            For each image the matched queries and their targets, int64 (min(Q, T),) each, queries ascending.
        """
        matches = []
        for image in range(len(targets)):
            cost = self.cost(
                class_logits[image],
                mask_logits[image],
                targets[image],
                labels[image],
                points.matching(output, image, self.config.num_points).to(mask_logits.device),
            )
            limit = torch.finfo(cost.dtype).max
            rows, columns = linear_sum_assignment(torch.nan_to_num(cost, nan=limit, posinf=limit, neginf=limit).cpu())
            device = mask_logits.device
            matches.append((torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)))
        return matches

    def cost(
        self, class_logits: Tensor, mask_logits: Tensor, targets: Tensor, labels: Tensor, coordinates: Tensor
    ) -> Tensor:
        """Compute the matching cost of one image.

        Args:
            class_logits: float (Q, K + 1).
            mask_logits: float (Q, h, w).
            targets: float (T, H, W).
            labels: int64 (T,).
            coordinates: float (P, 2), x and y in [0, 1).

        Returns:
            float (Q, T).
        """
        if len(targets) == 0:
            return mask_logits.new_zeros(len(mask_logits), 0)
        config = self.config
        grid = coordinates[None]
        # Masks take the place of channels, so that all of an image are sampled at once at the same points.
        predicted = sample_point(mask_logits[None], grid, align_corners=False)[0]
        truth = sample_point(targets[None], grid, align_corners=False)[0]
        cost: Tensor = config.mask_weight * pair_wise_sigmoid_cross_entropy_loss(predicted, truth)
        cost = cost - config.class_weight * class_logits.softmax(-1)[:, labels]
        cost = cost + config.dice_weight * pair_wise_dice_loss(predicted, truth)
        return cost

    def _class_loss(
        self, class_logits: Tensor, labels: Sequence[Tensor], matches: Matches, step: StepTargets | None
    ) -> Tensor:
        """Cross entropy over classes and no-object, a weighted mean over the proposals of all processes."""
        void = class_logits.shape[-1] - 1
        target = torch.full(class_logits.shape[:2], void, dtype=torch.int64, device=class_logits.device)
        for image, (queries, indices) in enumerate(matches):
            target[image, queries] = labels[image][indices]
        weight = class_logits.new_ones(void + 1)
        weight[void] = self.config.no_object_weight
        loss = F.cross_entropy(class_logits.flatten(0, 1), target.flatten(), weight=weight, reduction="sum")
        total = weight[target].sum()
        if step is not None:
            total = total.new_tensor(step.class_weight(target.shape[1], self.config.no_object_weight))
        return loss / mean_over_processes(total)

    def _mask_losses(
        self,
        mask_logits: Tensor,
        targets: Sequence[Tensor],
        matches: Matches,
        points: PointSource,
        *,
        output: int,
        step: StepTargets | None,
    ) -> tuple[Tensor, Tensor]:
        """Binary cross entropy and dice at sampled points, divided by the number of masks of all processes."""
        counts = [len(queries) for queries, _ in matches]
        matched = float(sum(counts)) if step is None else step.matched(mask_logits.shape[1])
        divisor = mean_over_processes(mask_logits.new_tensor(matched))
        if sum(counts) == 0:
            nothing = mask_logits.sum() * 0
            return nothing, nothing
        predicted = torch.cat([mask_logits[image, queries] for image, (queries, _) in enumerate(matches)])[:, None]
        truth = torch.cat([targets[image][indices] for image, (_, indices) in enumerate(matches)])[:, None]
        with torch.no_grad():
            coordinates = self.uncertain_points(predicted, counts, points, output=output)
            point_labels = sample_point(truth, coordinates, align_corners=False).squeeze(1)
        point_logits = sample_point(predicted, coordinates, align_corners=False).squeeze(1)
        return (
            sigmoid_cross_entropy_loss(point_logits, point_labels, divisor),
            dice_loss(point_logits, point_labels, divisor),
        )

    def uncertain_points(
        self, mask_logits: Tensor, counts: Sequence[int], points: PointSource, *, output: int
    ) -> Tensor:
        """Choose the points of the mask losses: the most uncertain of many, and some at random (PointRend).

        Args:
            mask_logits: float (M, 1, h, w), matched masks of all images.
            counts: Masks of each image, M in all.
            points: Where random points come from.
            output: Index of the output, for ``points``.

        Returns:
            float (M, P, 2), uncertain points first, by decreasing uncertainty.
        """
        wanted = int(self.config.importance_ratio * self.config.num_points)
        candidates, plain = points.losses(
            output, counts, int(self.config.num_points * self.config.oversample_ratio), self.config.num_points - wanted
        )
        candidates, plain = candidates.to(mask_logits.device), plain.to(mask_logits.device)
        uncertainty = -sample_point(mask_logits, candidates, align_corners=False)[:, 0].abs()
        chosen = uncertainty.topk(wanted, dim=1).indices
        return torch.cat([candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), plain], dim=1)
