"""Sliding windows and test-time augmentation: several views of an image, and their common semantic map.

A view is a scaled, perhaps mirrored, perhaps windowed look at an image, segmented as an image of its own. What it adds
to the map is linear in its masks, so that scaling back, mirroring back and averaging act on the masks, a tile of output
rows at a time: every view keeps its class scores (Q, K) and coarse mask logits, and no K x H x W tensor is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.inference import InferenceSettings, linear_taps, take_columns


@dataclass(frozen=True, kw_only=True)
class Span:
    """The extent of a view along one axis of the scaled image.

    Args:
        start: First pixel.
        length: Pixels.
        total: Length of the axis.
        starts: First pixels of all windows along the axis, each ``length`` long; together they cover it.
    """

    start: int
    length: int
    total: int
    starts: tuple[int, ...]

    def taps(self, target: int, *, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Tell where an output reads this view, the overlap of windows divided out.

        Args:
            target: Length of the output's axis.
            mirrored: Whether the scaled image is a mirror image.

        Returns:
            Indices within the view, int64 (2, target), in [0, length), and their weights, float (2, target): 0 where
            the output's pixel is another window's.
        """
        lower, upper, fraction = linear_taps(self.total, target, torch.device("cpu"))
        index = torch.stack([lower, upper])
        if mirrored:
            index = self.total - 1 - index
        starts = torch.tensor(self.starts)
        covering = ((index[..., None] >= starts) & (index[..., None] < starts + self.length)).sum(-1)
        inside = (index >= self.start) & (index < self.start + self.length)
        weight = torch.stack([1 - fraction, fraction]) * inside / covering
        return (index - self.start).clamp(0, self.length - 1), weight


@dataclass(frozen=True, kw_only=True)
class View:
    """One look at an image.

    Args:
        suffix: What tells the view from the others of its image; empty for the image as it is.
        mirrored: Whether left and right are exchanged.
        rows: Vertical extent, on the scaled image.
        columns: Horizontal extent, on the scaled and mirrored image.
    """

    suffix: str
    mirrored: bool
    rows: Span
    columns: Span

    @property
    def size(self) -> tuple[int, int]:
        """Size of the view, (H, W)."""
        return self.rows.length, self.columns.length

    def cut(self, image: Tensor) -> Tensor:
        """Look at an image.

        Args:
            image: (3, H, W), RGB 0 to 255.

        Returns:
            float (3, h, w), RGB 0 to 255, ``size`` large; scaled bilinearly with antialiasing.
        """
        canvas = (self.rows.total, self.columns.total)
        pixels = image.float()
        if tuple(pixels.shape[1:]) != canvas:
            pixels = F.interpolate(pixels[None], size=canvas, mode="bilinear", antialias=True, align_corners=False)[0]
        if self.mirrored:
            pixels = pixels.flip(2)
        top, left = self.rows.start, self.columns.start
        return pixels[:, top : top + self.rows.length, left : left + self.columns.length]


def plan_views(size: tuple[int, int], settings: InferenceSettings) -> list[View]:
    """List the views of an image that the settings ask for.

    Args:
        size: Size of the image, (H, W).
        settings: Scales, flip, window and stride.

    Returns:
        The views, scale by scale. A scale that fits into one window is looked at whole.

    Example:
        >>> settings = InferenceSettings(scales=(1.0, 2.0), flip=True, window=64, stride=48)
        >>> [view.suffix for view in plan_views((40, 50), settings)]
        ['', '@flip', '@2@0,0', '@2@0,36', '@2@16,0', '@2@16,36', '@flip@2@0,0', '@flip@2@0,36', '@flip@2@16,0', \
'@flip@2@16,36']
    """
    views = []
    for scale in settings.scales:
        rows, columns = (_spans(max(1, int(length * scale + 0.5)), settings) for length in size)
        for mirrored in (False, True) if settings.flip else (False,):
            name = ("@flip" if mirrored else "") + ("" if scale == 1 else f"@{scale:g}")
            for row in rows:
                for column in columns:
                    place = f"@{row.start},{column.start}" if len(rows) * len(columns) > 1 else ""
                    views.append(View(suffix=name + place, mirrored=mirrored, rows=row, columns=column))
    return views


def _spans(total: int, settings: InferenceSettings) -> list[Span]:
    """Place windows along an axis, the last one moved back to end with it."""
    window = settings.window
    if window is None or window >= total:
        return [Span(start=0, length=total, total=total, starts=(0,))]
    stride = settings.stride or math.ceil(window * 2 / 3)
    starts = tuple(min(start, total - window) for start in range(0, total - window + stride, stride))
    return [Span(start=start, length=window, total=total, starts=starts) for start in starts]


@dataclass(frozen=True, kw_only=True)
class ViewOutput:
    """What the network makes of a view.

    Attributes:
        view: The view.
        scores: float (Q, K), from `class_scores`.
        mask_logits: float (Q, h, w), coarse.
        padded: Size (H', W') that ``mask_logits`` stand for: the view's, with padding.
    """

    view: View
    scores: Tensor
    mask_logits: Tensor
    padded: tuple[int, int]


def merged_labels(outputs: Sequence[ViewOutput], *, size: tuple[int, int], tile_elements: int = 16_000_000) -> Tensor:
    """Choose the best class of every pixel by the mean of all views' semantic maps, in tiles of rows.

    Where windows overlap, their maps are averaged; then every scale, mirrored and not, counts alike.

    Args:
        outputs: All views of one image.
        size: Output size (H0, W0).
        tile_elements: Largest number of floats of a tile's class scores.

    Returns:
        int64 (H0, W0), labels in [0, K).
    """
    queries, classes = outputs[0].scores.shape
    rows = max(1, tile_elements // (max(queries, classes) * size[1]))
    layers = [_Layer(output, size) for output in outputs]
    labels = []
    for start in range(0, size[0], rows):
        tile = outputs[0].scores.new_zeros(classes, min(rows, size[0] - start), size[1])
        for layer in layers:
            layer.add_to(tile, start)
        labels.append(tile.argmax(0))
    return torch.cat(labels)


class _Layer:
    """A view's share of the map at the output size."""

    def __init__(self, output: ViewOutput, size: tuple[int, int]) -> None:
        view = output.view
        self._output = output
        self._rows = view.rows.taps(size[0], mirrored=False)
        index, weight = view.columns.taps(size[1], mirrored=view.mirrored)
        self._left, self._right = _used(weight)
        device = output.scores.device
        self._columns = tuple(part[:, self._left : self._right].to(device) for part in (index, weight))

    def add_to(self, tile: Tensor, start: int) -> None:
        """Add the view's scores to a tile (K, rows, W0) that begins with the row ``start``."""
        index, weight = (part[:, start : start + tile.shape[1]] for part in self._rows)
        top, bottom = _used(weight)
        if top == bottom or self._left == self._right:
            return
        index, weight = index[:, top:bottom], weight[:, top:bottom, None]
        read = index[weight[..., 0] > 0]
        first, last = int(read.min()), int(read.max())
        masks = self._masks(first, last + 1)
        upper, lower = (index.clamp(first, last) - first).to(tile.device)
        above, below = weight.to(tile.device)
        lines = masks[:, upper] * above + masks[:, lower] * below
        (left, right), (before, behind) = self._columns
        lines = take_columns(lines, left) * before + take_columns(lines, right) * behind
        tile[:, top:bottom, self._left : self._right] += torch.einsum("qk,qhw->khw", self._output.scores, lines)

    def _masks(self, first: int, end: int) -> Tensor:
        """Give rows of the view's mask probabilities at the view's size: float (Q, end - first, W)."""
        logits, padded = self._output.mask_logits.float(), self._output.padded
        upper, lower, down = linear_taps(logits.shape[1], padded[0], logits.device)
        left, right, across = linear_taps(logits.shape[2], padded[1], logits.device)
        rows, columns = slice(first, end), slice(self._output.view.columns.length)
        down = down[rows, None]
        lines = logits[:, upper[rows]] * (1 - down) + logits[:, lower[rows]] * down
        across = across[columns]
        lines = take_columns(lines, left[columns]) * (1 - across) + take_columns(lines, right[columns]) * across
        return lines.sigmoid_()


def _used(weight: Tensor) -> tuple[int, int]:
    """Give first and end of the positions with any weight, (0, 0) if there is none."""
    used = (weight > 0).any(0).nonzero()[:, 0]
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
