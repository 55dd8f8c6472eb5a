"""Lightning callbacks: pictures of predictions and the record of a test run."""

from scan_lightning.callbacks.results import ResultsCallback
from scan_lightning.callbacks.visualization import VisualizationCallback

__all__ = ["ResultsCallback", "VisualizationCallback"]
