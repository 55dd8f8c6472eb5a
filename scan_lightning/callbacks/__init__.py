"""Lightning callbacks: predictions as files and pictures, and the record of a test run."""

from scan_lightning.callbacks.ema import ExponentialAverage
from scan_lightning.callbacks.label_maps import LabelMapCallback
from scan_lightning.callbacks.plan import PlanCallback
from scan_lightning.callbacks.results import ResultsCallback
from scan_lightning.callbacks.visualization import VisualizationCallback

__all__ = ["ExponentialAverage", "LabelMapCallback", "PlanCallback", "ResultsCallback", "VisualizationCallback"]
