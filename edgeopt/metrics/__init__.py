"""Metrics: pure functions on arrays that rate results, each as its field defines it."""

from edgeopt.metrics.classification import (
    ClassificationMetrics,
    ClassMetrics,
    Confidence,
    classification_report,
    confidence,
    confusion_matrix,
    hits_in_top_k,
    top_k_accuracy,
)
from edgeopt.metrics.detection import (
    DetectionMetrics,
    PrecisionRecall,
    PrecisionRecallCurve,
    average_precision,
    detection_agreement,
    detection_confusion,
    f1_statistic,
    precision_recall,
    precision_recall_curve,
    summarize,
)
from edgeopt.metrics.discrepancy import ClassReading, Discrepancy, OutputReading, divergence, readings_of
from edgeopt.metrics.matching import AREAS, IOU_THRESHOLDS, NOTHING, Matches, match, pair
from edgeopt.metrics.similarity import AgreementMetrics, agreement, kl, sqnr_db

__all__ = [
    "AREAS",
    "IOU_THRESHOLDS",
    "NOTHING",
    "AgreementMetrics",
    "ClassMetrics",
    "ClassReading",
    "ClassificationMetrics",
    "Confidence",
    "DetectionMetrics",
    "Discrepancy",
    "Matches",
    "OutputReading",
    "PrecisionRecall",
    "PrecisionRecallCurve",
    "agreement",
    "average_precision",
    "classification_report",
    "confidence",
    "confusion_matrix",
    "detection_agreement",
    "detection_confusion",
    "divergence",
    "f1_statistic",
    "hits_in_top_k",
    "kl",
    "match",
    "pair",
    "precision_recall",
    "precision_recall_curve",
    "readings_of",
    "sqnr_db",
    "summarize",
    "top_k_accuracy",
]
