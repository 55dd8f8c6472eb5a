"""Contrastive training of CLIP: of both towers on crops and captions, and of the visual one under Contextual Shift."""

from scan_lightning.clip_module.contrastive import ClipModule
from scan_lightning.clip_module.shifted import ShiftedClipModule
from scan_lightning.losses.contrastive import contrastive_loss

__all__ = ["ClipModule", "ShiftedClipModule", "contrastive_loss"]
