"""Evaluate: measure accuracy on labelled images, each variant beside its FP32 baseline on the same images."""

from edgeopt.bundle.classes import class_changes, class_sentence
from edgeopt.bundle.records import (
    Accuracy,
    ClassChange,
    ClassificationOutcomes,
    Comparison,
    DetectionOutcomes,
    PackedArray,
)
from edgeopt.evaluate.acceptance import accept
from edgeopt.evaluate.bundles import evaluate_bundle, found_here
from edgeopt.evaluate.images import ImageResult, image_results, results_by_variant, surest_mistakes
from edgeopt.evaluate.operating import operating_point
from edgeopt.evaluate.run import Evaluated, Runner, evaluate
from edgeopt.evaluate.tables import confusion, confusion_csv, images_csv, results_json
from edgeopt.evaluate.thresholds import threshold_advice

__all__ = [
    "Accuracy",
    "ClassChange",
    "ClassificationOutcomes",
    "Comparison",
    "DetectionOutcomes",
    "Evaluated",
    "ImageResult",
    "PackedArray",
    "Runner",
    "accept",
    "class_changes",
    "class_sentence",
    "confusion",
    "confusion_csv",
    "evaluate",
    "evaluate_bundle",
    "found_here",
    "image_results",
    "images_csv",
    "operating_point",
    "results_by_variant",
    "results_json",
    "surest_mistakes",
    "threshold_advice",
]
