"""Distill: fine-tune a quantized network against its float self on unlabelled calibration images.

Works on any Q/DQ graph that `quantize` or `reconstruct` made: an interpreter runs the graph in torch, so that no torch
module is needed. Only this package knows torch; it is imported where the repair is asked for.
"""

from edgeopt.passes.repair.distill.attributes import UnsupportedOperatorError
from edgeopt.passes.repair.distill.interpreter import Interpreter
from edgeopt.passes.repair.distill.network import LearnedNetwork
from edgeopt.passes.repair.distill.run import distill

__all__ = ["Interpreter", "LearnedNetwork", "UnsupportedOperatorError", "distill"]
