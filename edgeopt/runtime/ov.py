"""OpenVINO on the CPU."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgeopt.bundle import EngineSettings
from edgeopt.errors import MissingExtraError, TargetError, requires_extra
from edgeopt.hardware.kernels import onednn_limit
from edgeopt.runtime.bindings import Bindings, rows_vary
from edgeopt.runtime.ov_priority import by_vnni
from edgeopt.runtime.ov_streams import Streams
from edgeopt.runtime.session import Array, Availability, Tensors
from edgeopt.spec import TensorSpec

_DEVICE = "CPU"
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's names by ours."""
_LINEAR = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
"""OpenVINO's names of its kernels for them."""
BATCH = "N"
"""OpenVINO forgets the names of dynamic dimensions; the first one is the batch."""
_SIZES = 8
"""Numbers of images that a graph stays compiled for, besides one; each holds the weights once more."""
_IMPORTING = threading.Lock()


def library() -> Any:
    """Import openvino, without the telemetry that its import starts.

    openvino-telemetry forks the process (which by then has threads: the child was seen to crash) to call a web service,
    unasked. A device's runtime does neither; openvino itself copes with the package being absent.

    Raises:
        MissingExtraError: openvino cannot be imported.
    """
    with _IMPORTING:
        hidden = "openvino_telemetry" not in sys.modules
        if hidden:
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # makes its import an ImportError
        try:
            openvino = requires_extra("openvino", "openvino")
            # Its table of element types is made at first use, by C++ that holds a lock and calls Python meanwhile: two
            # threads that come first wait for each other for ever (2026.4.1).
            openvino.Type.f32.to_dtype()
            return openvino
        finally:
            if hidden:
                del sys.modules["openvino_telemetry"]


def availability(target: str = "ov") -> Availability:  # noqa: ARG001 - one target here
    """Tell if openvino can be imported and has its CPU plugin."""
    try:
        openvino = library()
    except MissingExtraError as error:
        return Availability(ok=False, reason=str(error))
    devices = openvino.Core().available_devices
    if _DEVICE not in devices:
        return Availability(
            ok=False, reason=f"openvino has no {_DEVICE} device here, only: {', '.join(devices) or 'none'}"
        )
    return Availability(ok=True)


def open_engine(
    path: Path,
    target: str,  # noqa: ARG001 - one target here
    settings: EngineSettings,
    *,
    reuse_outputs: bool,
    content: bytes | None = None,
) -> OvSession:
    """Open an engine; see `runtime.session.OpenEngine`."""
    return OvSession(path if content is None else content, settings, reuse_outputs=reuse_outputs, origin=str(path))


class OvSession:
    """An ONNX graph in OpenVINO's CPU plugin, with inputs and outputs bound in place.

    Inputs are read from the caller's arrays during `run` (copied only where they are not contiguous). With
    `reuse_outputs` the arrays that `run` returns are the session's own: the next `run` overwrites them.

    A graph with a dynamic batch is compiled for one image at a time, and once more for each other number of images when
    that is asked for: single images took 6 % (MobileNetV2) and 15 % (YOLOX-nano) less processor time that way (AVX-512
    CPU), and with an open number OpenVINO 2026.4.1 computes zeros behind a convolution without bias whose result is
    read as it is and by a quantizer, too.
    """

    thread_safe = False

    def __init__(
        self,
        model: Path | bytes,
        settings: EngineSettings | None = None,
        *,
        reuse_outputs: bool = False,
        origin: str = "the graph",
    ) -> None:
        self.settings = settings or EngineSettings()
        self._openvino = library()
        self._closed = False
        self._reuse_outputs = reuse_outputs
        check_precision(self.settings)
        with _refusals(self._openvino, origin if isinstance(model, bytes) else str(model)):
            graph = read_graph(self._openvino, model)
            if self.settings.vnni_layers:
                graph = by_vnni(self._openvino, graph, self.settings.vnni_layers)
            self.inputs = tuple(_spec(port, self.settings.batch) for port in graph.inputs)
            self._dynamic = any(BATCH in spec.shape[:1] for spec in self.inputs)
            is_open = any(
                port.get_partial_shape()[0].is_dynamic for port in graph.inputs if len(port.get_partial_shape())
            )
            self.outputs = tuple(_spec(port, self.settings.batch, is_open=is_open) for port in graph.outputs)
            self._rows_vary = rows_vary(self.inputs, self.outputs)
            # Compiled once more when several images first come; by then the file may be gone, or another one.
            self._graph = graph.clone() if self._dynamic else None
            self._single = compile_graph(
                self._openvino, graph, self.settings, batch=1 if self._dynamic else self.settings.batch
            )
        self._several: dict[int | None, Any] = {}
        """A dynamic graph compiled for other numbers of images, the last used last; None: its inputs' differ."""
        self._request: Any = None
        self._streams: Streams | None = None
        """Several images at once where the settings ask for throughput."""
        self._bindings = Bindings(self.inputs)
        self._positions = {spec.name: position for position, spec in enumerate(self.inputs)}
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._results: dict[str, Array] = {}

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run the network once.

        Raises:
            DataError: inputs that are not the network's.
            TargetError: the session is closed, or OpenVINO failed.
        """
        if self._closed:
            raise TargetError("this session is closed; open another one")
        changed = self._bindings.update(inputs)
        try:
            if self._bindings.shapes != self._shapes:
                self._allocate()
            elif self._streams is not None:
                self._streams.run(self._ordered_feeds(), tuple(self._results.values()))
            else:
                self._bind(changed)
                self._request.infer(share_outputs=True)
                if self._rows_vary:
                    self._results = _output_arrays(self._request, self.outputs)
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
        shapes = self._bindings.shapes
        if self._side_by_side(shapes):
            self._allocate_streams(shapes[0][0])
        else:
            self._streams = None
            self._request = request = self._compiled_for(shapes).create_infer_request()
            self._bind(self._bindings.arrays)
            request.infer(share_outputs=True)
            self._results = _output_arrays(request, self.outputs)
            for position, array in enumerate(self._results.values() if not self._rows_vary else ()):
                request.set_output_tensor(position, self._shared(array))
        self._shapes = shapes

    def _allocate_streams(self, images: int) -> None:
        """Learn one image's output shapes, then run all of them side by side."""
        request = self._single.create_infer_request()
        for position, array in enumerate(self._ordered_feeds()):
            request.set_input_tensor(position, self._shared(array[:1]))
        request.infer(share_outputs=True)
        self._results = {
            name: np.repeat(array, images, axis=0) for name, array in _output_arrays(request, self.outputs).items()
        }
        self._streams = Streams(self._openvino, self._single)
        self._streams.run(self._ordered_feeds(), tuple(self._results.values()))

    def _side_by_side(self, shapes: tuple[tuple[int, ...], ...]) -> bool:
        """Return True if these images go through the network one by one, several at once."""
        batched = all(BATCH in spec.shape[:1] for spec in (*self.inputs, *self.outputs))
        counts = {shape[0] for shape in shapes}
        return self.settings.hint == "throughput" and batched and len(counts) == 1 and counts != {1}

    def _ordered_feeds(self) -> tuple[Array, ...]:
        return tuple(self._bindings.arrays[spec.name] for spec in self.inputs)

    def _compiled_for(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        counts = {shape[0] for shape, spec in zip(shapes, self.inputs, strict=True) if BATCH in spec.shape[:1]}
        if self._graph is None or counts == {1}:
            return self._single
        count = counts.pop() if len(counts) == 1 else None
        compiled = self._several.pop(count, None)
        if compiled is None:
            compiled = compile_graph(self._openvino, self._graph.clone(), self.settings, batch=count)
        self._several[count] = compiled
        if len(self._several) > _SIZES:
            del self._several[next(iter(self._several))]
        return compiled

    def _bind(self, names: Iterable[str]) -> None:
        for name in names:
            self._request.set_input_tensor(self._positions[name], self._shared(self._bindings.arrays[name]))

    def _shared(self, array: Array) -> Any:
        return self._openvino.Tensor(array, shared_memory=True)

    def __enter__(self) -> OvSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._request = self._streams = self._graph = self._single = None
        self._several = {}
        self._results = {}


def _output_arrays(request: Any, outputs: Iterable[TensorSpec]) -> dict[str, Array]:
    """Copies of what a request answered, by name."""
    return {spec.name: np.array(request.get_output_tensor(place).data) for place, spec in enumerate(outputs)}


@contextmanager
def _refusals(openvino: Any, origin: str) -> Iterator[None]:
    """Turn what OpenVINO raises while it loads `origin` into a `TargetError`."""
    try:
        yield
    except RuntimeError as error:
        # It names its own source files first and the cause last.
        causes = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
        variable, limit = onednn_limit()
        limited, cure = (f" with {variable}={limit}", f"Unset {variable}, or look") if variable else ("", "Look")
        raise TargetError(
            f"openvino {openvino.__version__} cannot load {origin}{limited}: "
            f"{' '.join(causes or [str(error)]).rstrip('.')}. {cure} at the graph with: edgeopt lint"
        ) from error


def check_precision(settings: EngineSettings) -> None:
    """Refuse bf16 where the processor lacks it: OpenVINO would run in fp32 without a word.

    Raises:
        MissingExtraError: openvino cannot be imported.
        TargetError: the processor lacks it.
    """
    if settings.precision != "bf16":
        return
    offered = [str(one) for one in library().Core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")]
    if "BF16" not in offered:
        raise TargetError(
            f"this processor has no bf16 (OpenVINO offers {', '.join(offered)}). Use another variant, or "
            'build with [precision] cpu = "fp32"'
        )


def arithmetic(path: Path, settings: EngineSettings) -> dict[str, str]:
    """Compile a graph and say what each convolution and matrix product runs in: ``u8``, ``i8``, ``f32``, by its name.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    openvino = library()
    compiled = compile_graph(openvino, read_graph(openvino, path), settings, batch=settings.batch)
    layers = {}
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) in _LINEAR:
            name = facts["originalLayersNames"].astype(str).partition(",")[0]
            layers[name or node.get_friendly_name()] = facts["runtimePrecision"].astype(str)
    return layers


def read_graph(openvino: Any, model: Path | bytes) -> Any:
    """Read an ONNX file, or its content, as an ``openvino.Model``."""
    return openvino.Core().read_model(model if isinstance(model, bytes) else str(model))


def compile_graph(
    openvino: Any, graph: Any, settings: EngineSettings, *, batch: int | None, profiled: bool = False
) -> Any:
    """Compile a graph; with `batch`, every input's dynamic first dimension gets that size before."""
    if batch is not None:
        shapes = {port: list(port.get_partial_shape()) for port in graph.inputs}
        graph.reshape(
            {port: [batch if size[0].is_dynamic else size[0], *size[1:]] for port, size in shapes.items() if size}
        )
    measured = {"PERF_COUNT": True} if profiled else {}
    return openvino.Core().compile_model(graph, _DEVICE, properties_of(settings) | measured)


def properties_of(settings: EngineSettings) -> dict[str, str | int]:
    """OpenVINO's properties; on a CPU with bf16 its own default would silently be bf16."""
    properties: dict[str, str | int] = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[settings.precision],
        "PERFORMANCE_HINT": settings.hint.upper(),
    }
    if settings.threads:
        properties["INFERENCE_NUM_THREADS"] = settings.threads
    if settings.streams:
        properties["NUM_STREAMS"] = settings.streams
    return properties


def _spec(port: Any, batch: int | None, *, is_open: bool = True) -> TensorSpec:
    # Without an open batch of the inputs, an open dimension is the network's to choose.
    # The friendly name is the graph's own; a tensor that several nodes name has all their names in no fixed order.
    name = port.get_node().get_friendly_name().removesuffix("/sink_port_0")
    sizes = enumerate(port.get_partial_shape())
    shape = tuple(
        size.get_length() if size.is_static else "?" if axis or not is_open else (batch or BATCH)
        for axis, size in sizes
    )
    return TensorSpec(name=name, shape=shape, dtype=str(port.get_element_type().to_dtype()))
