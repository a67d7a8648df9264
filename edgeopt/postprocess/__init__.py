"""Postprocess: turn the network's outputs into results. This is the one interpreter of `spec.Decoding`."""

from __future__ import annotations

from edgeopt.postprocess.decoding import class_scores, decode, require_decoding, require_numbers
from edgeopt.postprocess.fitting import fit, label_count
from edgeopt.postprocess.parts import Outputs, output_name, read_outputs
from edgeopt.postprocess.results import Classification, Detections
from edgeopt.postprocess.suppression import nms

__all__ = [
    "Classification",
    "Detections",
    "Outputs",
    "class_scores",
    "decode",
    "fit",
    "label_count",
    "nms",
    "output_name",
    "read_outputs",
    "require_decoding",
    "require_numbers",
]
