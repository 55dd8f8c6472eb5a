"""Measures of the paper's two claims: in-vocabulary collapse (what SIM is for) and domain bias (what CS is for)."""

from scan_lightning.analysis.collapse import Collapse, conditions_of, measure_collapse
from scan_lightning.analysis.domain import (
    BACKGROUND_EDGES,
    BinScore,
    RegionScores,
    cut_batches,
    drift_by_layer,
    measure_domain,
    score_by_background,
)
from scan_lightning.analysis.geometry import (
    EmbeddingGeometry,
    GroupGeometry,
    Spread,
    class_centroids,
    effective_rank,
    measure_geometry,
    measure_spread,
)
from scan_lightning.analysis.proposals import LEAST_IOU, MaskEmbeddings, assign_proposals
from scan_lightning.analysis.regions import ImageRegions, RegionCutter

__all__ = [
    "BACKGROUND_EDGES",
    "LEAST_IOU",
    "BinScore",
    "Collapse",
    "EmbeddingGeometry",
    "GroupGeometry",
    "ImageRegions",
    "MaskEmbeddings",
    "RegionCutter",
    "RegionScores",
    "Spread",
    "assign_proposals",
    "class_centroids",
    "conditions_of",
    "cut_batches",
    "drift_by_layer",
    "effective_rank",
    "measure_collapse",
    "measure_domain",
    "measure_geometry",
    "measure_spread",
    "score_by_background",
]
