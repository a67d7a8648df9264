"""Calibrate: observe a network's activations on images, once, for every range method.

Calibration only decides; quantization only applies. What is observed is kept in a `CalibrationTable`.
"""

from edgeopt.calibrate.histogram import Histogram
from edgeopt.calibrate.observe import calibrate
from edgeopt.calibrate.ranges import Range, find_range
from edgeopt.calibrate.table import CalibratedImage, CalibrationTable, TensorStatistics

__all__ = [
    "CalibratedImage",
    "CalibrationTable",
    "Histogram",
    "Range",
    "TensorStatistics",
    "calibrate",
    "find_range",
]
