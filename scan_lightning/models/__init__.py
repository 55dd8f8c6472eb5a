"""The network and its parts, usable without Lightning."""

from scan_lightning.models.clip import ClipConfig, FrozenClip
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import load_scan, recommended_settings, save_scan
from scan_lightning.models.scan import Scan, ScanConfig, ScanOutput
from scan_lightning.models.segmenter import MaskSegmenter, SegmenterConfig
from scan_lightning.models.semantic_integration import SemanticIntegrationConfig, SemanticIntegrationModule

__all__ = [
    "ClipConfig",
    "FrozenClip",
    "InferenceSettings",
    "MaskSegmenter",
    "Scan",
    "ScanConfig",
    "ScanOutput",
    "SegmenterConfig",
    "SemanticIntegrationConfig",
    "SemanticIntegrationModule",
    "load_scan",
    "recommended_settings",
    "save_scan",
]
