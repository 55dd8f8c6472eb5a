"""``scan-lightning verify``: compare every stage with a folder of reference tensors."""

from __future__ import annotations
