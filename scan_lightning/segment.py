"""``scan-lightning segment``: images and words to label maps, overlays and JSON."""

from __future__ import annotations
