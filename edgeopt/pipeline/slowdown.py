"""Slowdown: how many times as long one graph takes as another, in the engine that it is for.

Whether an engine fuses what a repair inserts differs from network to network: a Mul per channel costs onnxruntime
nothing behind a SiLU, which it computes in float anyway, and all integer kernels around it behind a ReLU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack

import onnx_ir as ir

from edgeopt.bundle import EngineSettings
from edgeopt.calibrate.tap import Feeds
from edgeopt.config import SchemeName
from edgeopt.errors import EdgeoptError
from edgeopt.passes.repair.activations import Slowdown
from edgeopt.runtime.ort import OrtSession, availability

_PAIRS = 40
"""Pairs of runs, in alternating order: their median tells 1.05 from 1 beside other work."""
_WARM_UP = 3


def slowdown_for(scheme: SchemeName, image: Feeds) -> Slowdown | None:
    """Return how to compare graphs of a scheme on this machine; None where the workstation lacks its engine.

    Args:
        scheme: whose kernels the graphs are for.
        image: the network's inputs, which are run.
    """
    if scheme != "onnxruntime" or not availability().ok:
        return None

    def slowdown(first: ir.Model, second: ir.Model) -> float:
        """Return infinity where a graph does not run."""
        with ExitStack() as stack:
            try:
                sessions = [
                    stack.enter_context(OrtSession(ir.to_proto(each).SerializeToString(), EngineSettings()))
                    for each in (first, second)
                ]
                for session in sessions * _WARM_UP:
                    session.run(image)
            except EdgeoptError:
                return float("inf")
            return statistics.median(_ratio(sessions, image, pair) for pair in range(_PAIRS))

    return slowdown


def _ratio(sessions: Sequence[OrtSession], image: Feeds, pair: int) -> float:
    took = [0.0, 0.0]
    for index in (0, 1) if pair % 2 else (1, 0):
        begun = time.perf_counter()
        sessions[index].run(image)
        took[index] = time.perf_counter() - begun
    return took[1] / took[0]
