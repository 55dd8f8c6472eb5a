"""Sweep files in the format of Weights & Biases: what they say, their grid, and their commands."""

from scan_lightning.sweeps.combinations import grid
from scan_lightning.sweeps.expansion import expand_command
from scan_lightning.sweeps.specification import Metric, Sweep, load_sweep

__all__ = ["Metric", "Sweep", "expand_command", "grid", "load_sweep"]
