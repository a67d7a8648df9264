"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgeopt.bundle import EngineSettings
from edgeopt.errors import MissingExtraError, TargetError, requires_extra
from edgeopt.runtime.feeds import Feeds
from edgeopt.runtime.session import Array, Availability, Tensors
from edgeopt.spec import TensorSpec

_DEVICE = "CPU"


def availability(target: str = "ov") -> Availability:  # noqa: ARG001 - one target here
    """Whether openvino can be imported and has its CPU plugin."""
    try:
        openvino = requires_extra("openvino", "openvino")
    except MissingExtraError as error:
        return Availability(ok=False, reason=str(error))
    devices = openvino.Core().available_devices
    if _DEVICE not in devices:
        return Availability(
            ok=False, reason=f"openvino has no {_DEVICE} device here, only: {', '.join(devices) or 'none'}"
        )
    return Availability(ok=True)


def open_engine(path: Path, target: str, settings: EngineSettings, *, reuse_outputs: bool) -> OvSession:  # noqa: ARG001 - one target here
    """See `runtime.session.Engine.open_engine`."""
    return OvSession(path, settings, reuse_outputs=reuse_outputs)


class OvSession:
    """An ONNX graph in OpenVINO's CPU plugin, with inputs and outputs bound in place.

    Inputs are read from the caller's arrays during `run` (copied only where they are not contiguous). With
    `reuse_outputs` the arrays that `run` returns are the session's own: the next `run` overwrites them.
    """

    thread_safe = False

    def __init__(
        self, model: Path | bytes, settings: EngineSettings | None = None, *, reuse_outputs: bool = False
    ) -> None:
        self.settings = settings or EngineSettings()
        self._openvino = requires_extra("openvino", "openvino")
        self._compiled = _load(self._openvino, model, self.settings)
        self.inputs = tuple(_spec(port) for port in self._compiled.inputs)
        self.outputs = tuple(_spec(port) for port in self._compiled.outputs)
        self._reuse_outputs = reuse_outputs
        self._request: Any = None
        self._feeds = Feeds(self.inputs)
        self._positions = {spec.name: position for position, spec in enumerate(self.inputs)}
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._results: dict[str, Array] = {}

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run the network once.

        Raises:
            DataError: inputs that are not the network's.
            TargetError: the session is closed, or OpenVINO failed.
        """
        if self._compiled is None:
            raise TargetError("this session is closed; open another one")
        changed = self._feeds.update(inputs)
        try:
            if self._feeds.shapes == self._shapes:
                self._bind(changed)
                self._request.infer(share_outputs=True)
            else:
                self._allocate()
        except RuntimeError as error:
            self._shapes = None
            raise TargetError(f"openvino could not run the network: {error}") from error
        if self._reuse_outputs:
            return dict(self._results)
        return {name: array.copy() for name, array in self._results.items()}

    def _allocate(self) -> None:
        """Learn the output shapes of these input shapes, and give the engine numpy's memory to write them to.

        OpenVINO's own output memory moves when a shape changes, under the feet of whoever still looks at it.
        """
        self._request = request = self._compiled.create_infer_request()
        self._bind(self._feeds.arrays)
        request.infer(share_outputs=True)
        self._results = {
            spec.name: np.array(request.get_output_tensor(position).data) for position, spec in enumerate(self.outputs)
        }
        for position, array in enumerate(self._results.values()):
            request.set_output_tensor(position, self._shared(array))
        self._shapes = self._feeds.shapes

    def _bind(self, names: Iterable[str]) -> None:
        for name in names:
            self._request.set_input_tensor(self._positions[name], self._shared(self._feeds.arrays[name]))

    def _shared(self, array: Array) -> Any:
        return self._openvino.Tensor(array, shared_memory=True)

    def __enter__(self) -> OvSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._request = self._compiled = None
        self._results = {}


def _load(openvino: Any, model: Path | bytes, settings: EngineSettings) -> Any:
    core = openvino.Core()
    try:
        graph = core.read_model(model if isinstance(model, bytes) else str(model))
        if settings.batch is not None:
            graph.reshape({port: _with_batch(port, settings.batch) for port in graph.inputs})
        return core.compile_model(graph, _DEVICE, _properties(settings))
    except RuntimeError as error:
        origin = "the graph" if isinstance(model, bytes) else str(model)
        raise TargetError(f"openvino {openvino.__version__} cannot load {origin}: {error}") from error


def _with_batch(port: Any, batch: int) -> list[Any]:
    first, *rest = port.get_partial_shape()
    return [batch if first.is_dynamic else first, *rest]


def _properties(settings: EngineSettings) -> dict[str, Any]:
    """OpenVINO's properties; on a CPU with bf16 its own default would silently be bf16."""
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": settings.precision,
        "PERFORMANCE_HINT": settings.hint.upper(),
    }
    if settings.threads:
        properties["INFERENCE_NUM_THREADS"] = settings.threads
    if settings.streams:
        properties["NUM_STREAMS"] = settings.streams
    return properties


def _spec(port: Any) -> TensorSpec:
    # The friendly name is the graph's own; a tensor that several nodes name has all their names in no fixed order.
    name = port.get_node().get_friendly_name().removesuffix("/sink_port_0")
    shape = tuple("?" if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return TensorSpec(name=name, shape=shape, dtype=str(port.get_element_type().to_dtype()))
