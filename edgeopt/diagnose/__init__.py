"""Diagnose: why a quantized model loses accuracy, layer by layer, and which repair brings it back.

The algorithm knows neither graphs nor engines: it asks the callables of a `ModelPair`.
"""

from edgeopt.bundle.records import Diagnosis, Effect, InputFigures, LayerDiagnosis, Saturation, Tried
from edgeopt.diagnose.figures import LayerSignals, Observed, channel_range_ratio, input_figures
from edgeopt.diagnose.run import FLOAT, ModelPair, Outputs, Remake, Remedy, Traits, diagnose, effect

__all__ = [
    "FLOAT",
    "Diagnosis",
    "Effect",
    "InputFigures",
    "LayerDiagnosis",
    "LayerSignals",
    "ModelPair",
    "Observed",
    "Outputs",
    "Remake",
    "Remedy",
    "Saturation",
    "Traits",
    "Tried",
    "channel_range_ratio",
    "diagnose",
    "effect",
    "input_figures",
]
