"""Calibrate: observe a network's activations on images once, for every range method.

Calibration only decides; quantization only applies. What is observed is kept in a `CalibrationTable`.
"""

from edgeopt.calibrate.histogram import Histogram
from edgeopt.calibrate.observe import calibrate, tensor_hash
from edgeopt.calibrate.pieces import PieceObserver, calibrate_in_pieces
from edgeopt.calibrate.ranges import Range, find_range
from edgeopt.calibrate.table import SCHEMA as TABLE_SCHEMA
from edgeopt.calibrate.table import CalibratedImage, CalibrationTable, TensorStatistics

__all__ = [
    "TABLE_SCHEMA",
    "CalibratedImage",
    "CalibrationTable",
    "Histogram",
    "PieceObserver",
    "Range",
    "TensorStatistics",
    "calibrate",
    "calibrate_in_pieces",
    "find_range",
    "tensor_hash",
]
