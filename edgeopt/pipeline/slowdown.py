"""Slowdown: how many times as long one graph takes as another, in the engine that it is for.

Whether an engine fuses what a repair inserts differs from network to network: a Mul per channel costs onnxruntime
nothing behind a SiLU, which it computes in float anyway, and all integer kernels around it behind a ReLU. Nor is an
integer kernel always the faster one: onnxruntime's depthwise layers between float activations are slower for it.

What was timed decides what a graph is, and a clock does not repeat itself. So that the same key still means the same
graph, the key of a stage that times holds the processor (`timed_on`) and the engine's version, and a decision needs a
clear difference (`_AS_FAST` and `_FASTER` in `passes.repair.activations`). Within a workspace the first decision then
stays; made from nothing on the same kind of machine, a graph may differ only where a ratio lies near its threshold, and
neither choice costs much there. On another kind of machine, it is timed anew.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack

import onnx_ir as ir

from edgeopt.calibrate.tap import Feeds
from edgeopt.config import SchemeName
from edgeopt.errors import EdgeoptError
from edgeopt.hardware import machine
from edgeopt.passes.repair.activations import Slowdown
from edgeopt.pipeline.scheme_engine import engine_of
from edgeopt.runtime.session import Session

_PAIRS = 40
"""Pairs of runs, in alternating order: their median tells 1.05 from 1 beside other work."""
_SHORT_S = 0.5
"""Time that is taken in any case: pairs of a small network's runs, of some microseconds each, differ more."""
_FEWEST = 10
_LONG_S = 10.0
"""Time from which on the fewest pairs have to do."""
_WARM_UP = 3


def timed_on(scheme: SchemeName) -> str | None:
    """Return the processor that graphs of a scheme are timed on here; None where their engine is not installed."""
    if engine_of(scheme) is None:
        return None
    cpu = machine().cpu
    return f"{cpu.model}, {cpu.int8_instruction or 'no VNNI'}"


def slowdown_for(scheme: SchemeName, image: Feeds) -> Slowdown | None:
    """Return how to compare graphs of a scheme on this machine; None where the workstation lacks its engine.

    Args:
        scheme: whose kernels the graphs are for.
        image: the network's inputs, which are run.
    """
    engine = engine_of(scheme)
    if engine is None:
        return None

    def slowdown(first: ir.Model, second: ir.Model) -> float:
        """Return infinity where a graph does not run."""
        with ExitStack() as stack:
            try:
                sessions = [stack.enter_context(engine.open(each)) for each in (first, second)]
                for session in sessions * _WARM_UP:
                    session.run(image)
            except EdgeoptError:
                return float("inf")
            ratios, begun = list[float](), time.perf_counter()
            while not _is_enough(len(ratios), time.perf_counter() - begun):
                ratios.append(_ratio(sessions, image, len(ratios)))
            return statistics.median(ratios)

    return slowdown


def _is_enough(pairs: int, seconds: float) -> bool:
    if seconds < _SHORT_S:
        return False
    return pairs >= (_PAIRS if seconds < _LONG_S else _FEWEST)


def _ratio(sessions: Sequence[Session], image: Feeds, pair: int) -> float:
    took = [0.0, 0.0]
    for index in (0, 1) if pair % 2 else (1, 0):
        begun = time.perf_counter()
        sessions[index].run(image)
        took[index] = time.perf_counter() - begun
    return took[1] / took[0]
