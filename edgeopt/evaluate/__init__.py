"""Accuracy on labelled images, each variant beside its FP32 baseline on the same ones."""

from edgeopt.evaluate.accuracy import Accuracy, ClassificationOutcomes, Comparison, DetectionOutcomes, PackedArray
from edgeopt.evaluate.bundles import evaluate_bundle
from edgeopt.evaluate.run import Evaluated, Runner, evaluate

__all__ = [
    "Accuracy",
    "ClassificationOutcomes",
    "Comparison",
    "DetectionOutcomes",
    "Evaluated",
    "PackedArray",
    "Runner",
    "evaluate",
    "evaluate_bundle",
]
