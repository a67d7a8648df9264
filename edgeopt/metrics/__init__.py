"""How good results are: pure functions on arrays, each defined as its field defines it."""

from edgeopt.metrics.classification import (
    ClassificationMetrics,
    ClassMetrics,
    classification_report,
    confusion_matrix,
    hits_in_top_k,
    top_k_accuracy,
)
from edgeopt.metrics.detection import (
    DetectionMetrics,
    PrecisionRecall,
    average_precision,
    detection_agreement,
    precision_recall,
    summarize,
)
from edgeopt.metrics.matching import AREAS, IOU_THRESHOLDS, Matches, match
from edgeopt.metrics.similarity import agreement, kl, sqnr_db

__all__ = [
    "AREAS",
    "IOU_THRESHOLDS",
    "ClassMetrics",
    "ClassificationMetrics",
    "DetectionMetrics",
    "Matches",
    "PrecisionRecall",
    "agreement",
    "average_precision",
    "classification_report",
    "confusion_matrix",
    "detection_agreement",
    "hits_in_top_k",
    "kl",
    "match",
    "precision_recall",
    "sqnr_db",
    "summarize",
    "top_k_accuracy",
]
