"""Lightning callbacks: predictions as files and pictures, the record of a run, and what keeps a training safe."""

from scan_lightning.callbacks.ema import ExponentialAverage
from scan_lightning.callbacks.interruption import InterruptionCallback
from scan_lightning.callbacks.label_maps import LabelMapCallback
from scan_lightning.callbacks.monitoring import MonitorCallback
from scan_lightning.callbacks.plan import PlanCallback
from scan_lightning.callbacks.results import ResultsCallback
from scan_lightning.callbacks.visualization import VisualizationCallback

__all__ = [
    "ExponentialAverage",
    "InterruptionCallback",
    "LabelMapCallback",
    "MonitorCallback",
    "PlanCallback",
    "ResultsCallback",
    "VisualizationCallback",
]
