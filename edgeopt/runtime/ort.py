"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeopt.bundle import EngineSettings
from edgeopt.errors import MissingExtraError, TargetError, requires_extra
from edgeopt.runtime.bindings import Bindings, rows_vary
from edgeopt.runtime.session import Array, Availability, Tensors
from edgeopt.spec import TensorSpec, replace

_PROVIDERS = ["CPUExecutionProvider"]
"""The only provider: a node that it cannot run is an error, never a hidden fallback."""
_SEVERITY_ERROR = 3
"""onnxruntime's log level; its warnings are about graphs that it then optimizes itself."""
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def availability(target: str = "ort") -> Availability:
    """Tell if onnxruntime can be imported."""
    try:
        requires_extra("onnxruntime", target)
    except MissingExtraError as error:
        return Availability(ok=False, reason=str(error))
    return Availability(ok=True)


def open_engine(
    path: Path,
    target: str,  # noqa: ARG001 - one target here
    settings: EngineSettings,
    *,
    reuse_outputs: bool,
    content: bytes | None = None,
) -> OrtSession:
    """Open an engine; see `runtime.session.OpenEngine`."""
    return OrtSession(path if content is None else content, settings, reuse_outputs=reuse_outputs, origin=str(path))


class OrtSession:
    """An ONNX graph in ONNX Runtime's CPU provider, with inputs and outputs bound in place.

    Inputs are read from the caller's arrays during `run` (copied only where they are not contiguous). With
    `reuse_outputs` the arrays that `run` returns are the session's own: the next `run` overwrites them. `as_written`
    runs quantizers one by one, not fused into integer kernels: what a strongly typed engine computes, at another speed.
    onnxruntime 1.32 has to be told so where scales are float16, because its integer biases then have scales that
    underflow (MobileNetV2: every answer wrong).
    """

    thread_safe = False

    def __init__(
        self,
        model: Path | bytes,
        settings: EngineSettings | None = None,
        *,
        reuse_outputs: bool = False,
        as_written: bool = False,
        origin: str = "the graph",
    ) -> None:
        self.settings = settings or EngineSettings()
        origin = origin if isinstance(model, bytes) else str(model)
        self._session = _load(model, self.settings, origin, as_written=as_written)
        batches = {node.shape[0] for node in self._session.get_inputs() if node.shape}
        self.inputs = tuple(_spec(node, self.settings.batch, batches) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, self.settings.batch, batches) for node in self._session.get_outputs())
        self._rows_vary = rows_vary(self.inputs, self.outputs)
        self._reuse_outputs = reuse_outputs
        self._binding = self._session.io_binding()
        self._bindings = Bindings(self.inputs)
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._results: dict[str, Array] = {}

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run the network once.

        Raises:
            DataError: inputs that are not the network's.
            TargetError: the session is closed, or onnxruntime failed.
        """
        if self._session is None:
            raise TargetError("this session is closed; open another one")
        for name in self._bindings.update(inputs):
            self._binding.bind_cpu_input(name, self._bindings.arrays[name])
        try:
            if self._rows_vary or self._bindings.shapes != self._shapes:
                self._allocate()
            else:
                self._session.run_with_iobinding(self._binding)
        except Exception as error:  # onnxruntime's classes share no base below Exception
            self._shapes = None
            raise TargetError(f"onnxruntime could not run the network: {error}") from error
        if self._reuse_outputs:
            return dict(self._results)
        return {name: array.copy() for name, array in self._results.items()}

    def _allocate(self) -> None:
        """Run unbound once: the outputs of these input shapes are the buffers of the runs that follow."""
        names = [output.name for output in self.outputs]
        self._results = dict(zip(names, self._session.run(names, self._bindings.arrays), strict=True))
        for name, array in self._results.items() if not self._rows_vary else ():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._shapes = self._bindings.shapes

    def __enter__(self) -> OrtSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._binding = self._session = None
        self._results = {}


def _load(model: Path | bytes, settings: EngineSettings, origin: str, *, as_written: bool) -> Any:
    ort = requires_extra("onnxruntime", "ort")
    options = ort.SessionOptions()
    options.log_severity_level = _SEVERITY_ERROR
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    source = model if isinstance(model, bytes) else str(model)
    try:
        if settings.batch is not None:
            for dimension in _batch_dimensions(ort, source):
                options.add_free_dimension_override_by_name(dimension, settings.batch)
        return ort.InferenceSession(source, options, providers=_PROVIDERS)
    except Exception as error:  # onnxruntime's classes share no base below Exception
        raise TargetError(f"onnxruntime {ort.__version__} cannot load {origin}: {error}") from error


def _batch_dimensions(ort: Any, source: str | bytes) -> set[str]:
    """Names of the inputs' dynamic first dimensions; only a load can tell, so it is a load without optimization."""
    options = ort.SessionOptions()
    options.log_severity_level = _SEVERITY_ERROR
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    inputs = ort.InferenceSession(source, options, providers=_PROVIDERS).get_inputs()
    return {node.shape[0] for node in inputs if node.shape and isinstance(node.shape[0], str)}


def _spec(node: Any, batch: int | None, batches: Container[Any]) -> TensorSpec:
    if node.type not in _DTYPES:
        raise TargetError(f"tensor '{node.name}' has the type {node.type}; known: {', '.join(_DTYPES)}")
    shape = tuple(size if isinstance(size, int) else str(size or "?") for size in node.shape)
    spec = TensorSpec(name=node.name, shape=shape, dtype=_DTYPES[node.type])
    is_open = shape and isinstance(shape[0], str) and shape[0] in batches
    return replace(spec, shape=(batch, *shape[1:])) if batch and is_open else spec
