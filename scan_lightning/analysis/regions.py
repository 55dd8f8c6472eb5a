"""True regions of an image as CLIP sees them: in their boxes, masked, and beside the tokens of the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scan_lightning.data.targets import masks_and_labels
from scan_lightning.models.clip import FrozenClip, TokenEdit, run_visual
from scan_lightning.models.contextual_shift import (
    cut_regions,
    draw_background_tokens,
    foreground_tokens,
    region_boxes,
    substitutes,
)
from scan_lightning.models.preprocessing import bicubic_resize, nearest_resize, normalize_and_pad
from scan_lightning.models.shifted_encoding import ShiftConfig


@dataclass(frozen=True, kw_only=True)
class RegionCutter:
    """Cuts true regions out as the network cuts its proposals (spec section 4). A region is all pixels of a class.

    Args:
        min_area: Regions with fewer pixels are left out, at least 1.
        mask_expand: Factor by which boxes grow, at least 1.
        whole_image_resize: How the whole image comes to CLIP's square, see `ScanConfig`.

    Raises:
        ValueError: If ``min_area`` is below 1.
    """

    min_area: int = 64
    mask_expand: float = 1.0
    whole_image_resize: Literal["nearest", "bicubic"] = "nearest"

    def __post_init__(self) -> None:
        """Check the area."""
        if self.min_area < 1:
            raise ValueError(f"min_area: expected at least 1, got {self.min_area}")

    @torch.no_grad()
    def cut(self, clip: FrozenClip, image: Tensor, labels: Tensor, *, image_id: str) -> ImageRegions | None:
        """Cut the regions of one image out.

        Args:
            clip: Says how large crops are; its original tower looks at the whole image.
            image: (3, H, W), RGB 0 to 255.
            labels: int64 (H, W), labels or IGNORE_INDEX.
            image_id: The image's name.

        Returns:
            The regions by ascending label; None where there is none that is large enough.
        """
        masks, classes = masks_and_labels(labels)
        large = masks.flatten(1).sum(1) >= self.min_area
        masks, classes = masks[large], classes[large]
        if not len(classes):
            return None
        pixels = clip.normalize(image)
        boxes = region_boxes(masks, expand=self.mask_expand)
        size = (clip.image_size, clip.image_size)
        crops, region_masks = cut_regions(pixels, masks, boxes, size=size)
        x1, y1, x2, y2 = boxes.unbind(1)
        areas = (x2 - x1) * (y2 - y1)
        resize = nearest_resize if self.whole_image_resize == "nearest" else bicubic_resize
        whole = normalize_and_pad(image[None], [(image.shape[1], image.shape[2])], mean=clip.mean, std=clip.std)
        _, tokens = run_visual(clip.clip.visual, resize(whole, clip.image_size), record=True)
        return ImageRegions(
            image_id=image_id,
            labels=classes,
            background=(areas - masks.flatten(1).sum(1)) / areas,  # 1 - share is rounded below the edge of a bin
            boxes=cut_regions(pixels, torch.ones_like(masks), boxes, size=size)[0],
            crops=crops,
            foreground=foreground_tokens(region_masks, clip.patch_size),
            tokens=[layer[0] for layer in tokens],
        )


@dataclass(frozen=True, kw_only=True)
class ImageRegions:
    """The R true regions of one image.

    Attributes:
        image_id: The image's name.
        labels: int64 (R,), ascending.
        background: float (R,), the share of each box's area outside its mask, in [0, 1).
        boxes: float (R, 3, S, S), the boxes with their surroundings, normalised.
        crops: float (R, 3, S, S), the same with CLIP's mean colour outside the mask.
        foreground: bool (R, N), tokens that hold a pixel of the mask.
        tokens: Of the whole image in the original tower, index l after block l, each (1 + N, C).
    """

    image_id: str
    labels: Tensor
    background: Tensor
    boxes: Tensor
    crops: Tensor
    foreground: Tensor
    tokens: list[Tensor]

    def shift(self, config: ShiftConfig, part: slice) -> TokenEdit | None:
        """Make Contextual Shift for some of the regions.

        Args:
            config: What is overwritten by what. Draws are those of a proposal with the region's number.
            part: Which regions.

        Returns:
            What `run_visual` calls after each block; None if nothing is overwritten.
        """
        if config.source == "none" or config.replace_ratio == 0 or not config.replace_layers:
            return None
        regions = torch.arange(len(self.labels), device=self.labels.device)[part]
        values = substitutes(
            config.source, self.tokens, layers=config.replace_layers, seed=config.seed, image_id=self.image_id
        )
        drawn = {
            layer: draw_background_tokens(
                self.foreground[part],
                ratio=config.replace_ratio,
                layer=layer,
                seed=config.seed,
                image_ids=[self.image_id],
                owners=torch.zeros_like(regions),
                regions=regions,
            )
            for layer in values
        }

        def edit(layer: int, tokens: Tensor) -> Tensor:
            if layer not in values:
                return tokens
            patches = torch.where(drawn[layer][..., None], values[layer].to(tokens.dtype), tokens[:, 1:])
            return torch.cat([tokens[:, :1], patches], dim=1)

        return edit
