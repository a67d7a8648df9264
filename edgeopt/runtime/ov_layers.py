"""Measure which convolutions OpenVINO computes faster by VNNI than by AMX, on a processor that has both."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.bundle import EngineSettings
from edgeopt.runtime.ov import compile_graph, library, read_graph
from edgeopt.runtime.ov_priority import by_vnni, convolutions

_ROUNDS = 40
_FEWEST = 9
_LONG_S = 5.0
"""Time from which on the fewest rounds have to do."""


def faster_by_vnni(model: Path | bytes, settings: EngineSettings) -> tuple[str, ...]:
    """Return the names of the convolutions that VNNI's kernels compute faster, by OpenVINO's own account.

    The graph is run on zeros with either kind of kernels, in alternation.

    Args:
        model: the ONNX file, or its content.
        settings: as it is going to run.

    Raises:
        MissingExtraError: openvino cannot be imported.
        TargetError: this system is not Linux.
    """
    openvino = library()
    graph = read_graph(openvino, model)
    names = convolutions(graph)
    own, other = (
        _Profiled(compile_graph(openvino, each, settings, batch=1, profiled=True))
        for each in (graph.clone(), by_vnni(openvino, graph, names))
    )
    begun = time.perf_counter()
    for done in range(_ROUNDS):
        if done >= _FEWEST and time.perf_counter() - begun > _LONG_S:
            break
        own.run()
        other.run()
    found = {
        name
        for layer, took in own.times.items()
        if "amx" in own.kernels.get(layer, "") and layer in other.times
        if _undisturbed(other.times[layer]) < _undisturbed(took)
        for name in own.origins[layer]
    }
    return tuple(sorted(found & names))


def _undisturbed(times: list[float]) -> float:
    """Return the lower quartile: layers of some microseconds wait for other processes now and then."""
    return statistics.quantiles(times)[0]


class _Profiled:
    """A compiled graph with the times of its layers, in seconds, by their names after compilation."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._feeds = {
            place: np.zeros([side.get_length() if side.is_static else 1 for side in port.get_partial_shape()],
                            port.get_element_type().to_dtype())
            for place, port in enumerate(compiled.inputs)
        }  # fmt: skip
        facts = {node.get_friendly_name(): node.get_rt_info() for node in compiled.get_runtime_model().get_ops()}
        self.kernels = {name: each["primitiveType"].astype(str) for name, each in facts.items()}
        self.origins = {name: each["originalLayersNames"].astype(str).split(",") for name, each in facts.items()}
        self.times: dict[str, list[float]] = defaultdict(list)

    def run(self) -> None:
        self._request.infer(self._feeds)
        for layer in self._request.profiling_info:
            self.times[layer.node_name].append(layer.real_time.total_seconds())
