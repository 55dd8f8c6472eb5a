"""Draw predictions: colours, overlays, panels with a legend, and the callback that writes them in test and predict."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console

from scan_lightning.callbacks.legend import MUTED, PAPER, draw_legend, hatch, legend_entries, shorten, writable
from scan_lightning.callbacks.overlay_table import log_overlays
from scan_lightning.callbacks.palette import vocabulary_palette
from scan_lightning.files import whole_file
from scan_lightning.types import IGNORE_INDEX, Batch, Segmentation, Vocabulary

UInt8 = NDArray[np.uint8]
Labels = NDArray[np.int64]

MARGIN, FONT_SIZE, LEAST_WIDTH, LEAST_PANE = 16, 16, 480, 96


def _check(image: UInt8, label_map: Labels, num_classes: int) -> None:
    """Raise ValueError unless image and label map fit each other and the number of classes."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    if label_map.shape != image.shape[:2]:
        raise ValueError(f"label map: expected the image's size {image.shape[:2]}, got {label_map.shape}")
    labels = label_map[label_map != IGNORE_INDEX]
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"label map: expected labels in [0, {num_classes}) or {IGNORE_INDEX}, got {labels.min()} to {labels.max()}"
        )


def overlay(image: UInt8, label_map: Labels, palette: UInt8, opacity: float) -> UInt8:
    """Lay the classes' colours over an image; ignored pixels are black and hatched, borders between classes dark.

    Args:
        image: uint8 (H, W, 3), RGB.
        label_map: Integers (H, W) in [0, K) or IGNORE_INDEX.
        palette: uint8 (K, 3).
        opacity: Share of the colour, in [0, 1]; 0 leaves the image, 1 hides it.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ValueError: If a shape, the image's type, a label or the opacity is not as above.
    """
    _check(image, label_map, len(palette))
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity: expected a share in [0, 1], got {opacity}")
    if opacity == 0:
        return image.copy()
    ignored = label_map == IGNORE_INDEX
    colors = np.where(ignored[..., None], hatch(*label_map.shape), palette[np.where(ignored, 0, label_map)])
    blended = np.where(ignored[..., None], colors, opacity * colors + (1 - opacity) * image)
    border = np.zeros(label_map.shape, dtype=bool)
    border[1:] |= label_map[1:] != label_map[:-1]
    border[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
    return np.where(border[..., None], 0.4 * blended, blended).round().astype(np.uint8)


def _display_size(size: tuple[int, int], smallest: int, largest: int) -> tuple[int, int]:
    """Size (H, W) at which an image is shown: small ones enlarged by an integer factor, large ones reduced."""
    longer = max(size)
    factor = max(1, round(smallest / longer)) if longer < smallest else min(1.0, largest / longer)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def panel(
    image: UInt8,
    truth: Labels | None,
    prediction: Labels,
    vocabulary: Vocabulary,
    *,
    opacity: float = 0.65,
    smallest: int = 360,
    largest: int = 800,
) -> Image.Image:
    """Draw image, truth and prediction side by side, with titles and a legend of the classes that occur.

    Args:
        image: uint8 (H, W, 3), RGB.
        truth: Integers (H, W) in [0, K) or IGNORE_INDEX; None leaves the middle picture out.
        prediction: Integers (H, W) in [0, K) or IGNORE_INDEX.
        vocabulary: K classes; its unseen ones are marked in the legend.
        opacity: Share of the classes' colours, in [0, 1].
        smallest: Longer side in pixels towards which a smaller image is enlarged, by an integer factor.
        largest: Longer side in pixels to which a larger image is reduced.

    Returns:
        An RGB picture.

    Raises:
        ValueError: As `overlay`.
    """
    palette = vocabulary_palette(vocabulary)
    height, width = _display_size(image.shape[:2], smallest, largest)
    reduced = height < image.shape[0] or width < image.shape[1]
    shown = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if reduced else cv2.INTER_NEAREST_EXACT)
    titled = {name: labels for name, labels in (("truth", truth), ("prediction", prediction)) if labels is not None}
    panes = {"image": shown.astype(np.uint8)}
    for title, labels in titled.items():
        _check(image, labels, len(palette))
        scaled = cv2.resize(labels.astype(np.float64), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        panes[title] = overlay(panes["image"], scaled.astype(np.int64), palette, opacity)
    step = max(width, LEAST_PANE) + MARGIN
    total, head = max(len(panes) * step - MARGIN, LEAST_WIDTH), FONT_SIZE + 12
    legend = draw_legend(legend_entries(list(titled.values()), vocabulary, palette), total, FONT_SIZE)
    top = MARGIN // 2 + head
    picture = Image.new("RGB", (total + 2 * MARGIN, top + height + legend.height + 2 * MARGIN), PAPER)
    for index, (title, pixels) in enumerate(panes.items()):
        text, font = writable(title, FONT_SIZE)
        left = MARGIN + index * step
        ImageDraw.Draw(picture).text((left, top - head // 2), shorten(text, font, step), MUTED, font, "lm")
        picture.paste(Image.fromarray(pixels), (left, top))
    picture.paste(legend, (MARGIN, top + height + MARGIN))
    return picture


def file_name(image_id: str) -> str:
    """Turn an image's name into the name of a PNG file, safe on every system and different for different images.

    Args:
        image_id: Any text, also with folders in it.

    Returns:
        The name with ``.png``; where characters had to go, with a short hash of the original.

    Example:
        >>> file_name("ADE_val_00000001"), file_name("../val/x")
        ('ADE_val_00000001.png', 'val_x-6244c386.png')
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", image_id).strip("._-")[:120]
    if safe and safe == image_id:
        return f"{safe}.png"
    return f"{safe or 'image'}-{hashlib.sha256(image_id.encode()).hexdigest()[:8]}.png"


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all, making its folder when needed.

    Args:
        picture: What to write.
        path: Of the file, which is replaced if it is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, durable=False) as unfinished:
        picture.save(unfinished, format="PNG")


def print_place(what: str, images: int, folder: Path) -> None:
    """Tell where files were written, in one line.

    Args:
        what: The files, in the plural.
        images: Of how many images they are.
        folder: Where they are.
    """
    line = f"{what} of {images:,} image{'' if images == 1 else 's'}: {folder}"
    Console().print(line, markup=False, highlight=False, soft_wrap=True)


def _batch_image(batch: Batch, index: int, size: tuple[int, int]) -> UInt8:
    """Image of a batch without its padding, uint8 (H0, W0, 3), at the size of its label map."""
    height, width = batch.sizes[index]
    pixels: UInt8 = batch.images[index, :, :height, :width].permute(1, 2, 0).cpu().contiguous().numpy()
    resized: UInt8 = cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return resized


class VisualizationCallback(Callback):
    """Write a panel of image, truth and prediction for the first images of a test or predict run, one PNG each.

    Files appear whole or not at all and replace those of an earlier run. Of several processes the first one writes, the
    images that it has seen itself. Where Weights & Biases logs, they are a table there, too.

    Args:
        directory: Where the files go. Defaults to ``overlays`` in the trainer's log folder.
        max_images: How many images of a run are drawn, at least 0.
        opacity: Share of the classes' colours, in [0, 1].

    Raises:
        ValueError: If ``max_images`` is negative or ``opacity`` outside [0, 1].
    """

    def __init__(self, *, directory: str | Path | None = None, max_images: int = 8, opacity: float = 0.65) -> None:
        super().__init__()
        if max_images < 0:
            raise ValueError(f"max_images: expected at least 0, got {max_images}")
        if not 0 <= opacity <= 1:
            raise ValueError(f"opacity: expected a share in [0, 1], got {opacity}")
        self.directory = None if directory is None else Path(directory)
        self.max_images = max_images
        self.opacity = opacity
        self._folder = Path()
        self._files: dict[str, Path] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle the folder and start counting."""
        # Every process must ask for the log folder: the first one sends it to the others.
        self._folder = self.directory or Path(trainer.log_dir or trainer.default_root_dir) / "overlays"
        self._files = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle the folder and start counting."""
        self.on_test_start(trainer, pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the batch's images.

        Args:
            trainer: The run's trainer.
            pl_module: The module; its ``vocabulary`` names the classes, else the segmentations' words do.
            outputs: The step's result: a list of `Segmentation`, or a mapping with one under ``segmentations``.
            batch: The step's `Batch`.
            batch_idx: Not used.
            dataloader_idx: Not used.
        """
        segmentations = outputs.get("segmentations", ()) if isinstance(outputs, Mapping) else outputs or ()
        if trainer.is_global_zero:
            self._draw(segmentations, batch, pl_module)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the batch's images, see `on_test_batch_end`."""
        self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def _draw(self, segmentations: Sequence[Segmentation], batch: Batch, pl_module: LightningModule) -> None:
        """Write panels until ``max_images`` are written."""
        for index, segmentation in enumerate(segmentations[: self.max_images - len(self._files)]):
            vocabulary = getattr(pl_module, "vocabulary", None) or Vocabulary.from_words(segmentation.words)
            prediction = segmentation.label_map.cpu().numpy()
            truth = batch.label_maps[index] if batch.label_maps else None
            picture = panel(
                _batch_image(batch, index, prediction.shape),
                None if truth is None else truth.cpu().numpy(),
                prediction,
                vocabulary,
                opacity=self.opacity,
            )
            path = self._folder / file_name(segmentation.image_id)
            save_png(picture, path)
            self._files[segmentation.image_id] = path

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell where the panels are, and hand them to Weights & Biases, where that is a logger."""
        if self._files:  # in the first process alone
            print_place("overlays", len(self._files), self._folder)
        log_overlays(trainer, self._files)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell where the panels are and hand them over, see `on_test_end`."""
        self.on_test_end(trainer, pl_module)
