"""TrtSession: one engine, one context, one stream, one set of buffers."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgeopt.errors import DataError, TargetError
from edgeopt.runtime.bindings import Bindings
from edgeopt.runtime.cuda import Cuda
from edgeopt.runtime.session import Array, Tensors
from edgeopt.runtime.trt.buffers import Memory, Shape, TensorBuffer
from edgeopt.runtime.trt.library import Library, Messages, listen
from edgeopt.runtime.trt.loading import InputTensor, LoadedEngine, input_tensors, load_plan, output_specs
from edgeopt.spec import Struct, TensorSpec

_LOG = logging.getLogger(__name__)


class StageTimes(Struct):
    """The device's time of one run by stage, from CUDA events."""

    h2d_ms: float
    compute_ms: float
    d2h_ms: float


class TrtSession:
    """A TensorRT engine on a GPU.

    Not safe for concurrent `run` calls; successive calls may come from any thread. With `reuse_outputs` the arrays that
    `run` returns are page-locked memory of the session: the next `run` overwrites them, and the end of the session
    invalidates them.
    """

    thread_safe = False

    def __init__(
        self,
        library: Library,
        plan: bytes,
        cuda: Cuda,
        *,
        memory: Memory = "copied",
        cuda_graph: bool = True,
        reuse_outputs: bool = False,
        embedded_runtime: bool = False,
        kernels: Path | None = None,
        dla_core: int | None = None,
    ) -> None:
        """Load `plan`; the session closes `cuda` at its end. See `load_plan` for the arguments that are not explained.

        Raises:
            TargetError: the plan cannot run here.
            CudaError: out of memory, or another failure of the driver.
        """
        self.memory: Memory = memory
        self.graph_problem: str | None = None
        """Reason why runs are enqueued one by one although a CUDA graph was asked for."""
        self._cuda = cuda
        self._wants_graph = cuda_graph
        self._reuse_outputs = reuse_outputs
        self._graph: Any = None
        self._shapes: tuple[Shape, ...] | None = None
        self._enqueued = False
        self._kept: set[tuple[Shape, ...] | None] = set()
        self._open = True
        self._resources = ExitStack()
        try:
            with cuda.current():
                loaded = load_plan(
                    library,
                    plan,
                    embedded_runtime=embedded_runtime,
                    kernels=kernels,
                    cuda_graph=cuda_graph,
                    dla_core=dla_core,
                )
                self._set_up(loaded)
        except BaseException:
            self._close()
            raise

    def _set_up(self, loaded: LoadedEngine) -> None:
        self._memory = self._resources.enter_context(ExitStack())  # freed last: engine and graph know its addresses
        self._loaded = loaded
        self._wants_graph = self._wants_graph and loaded.kernels is None  # RTX makes its own
        self._resources.callback(self._loaded.release)
        self._tensors = input_tensors(self._loaded)
        self.inputs = tuple(tensor.spec for tensor in self._tensors)
        self.outputs = output_specs(self._loaded, self._tensors)
        self._bindings = Bindings(self.inputs)
        self._stream = self._cuda.create_stream()
        self._resources.callback(self._cuda.destroy_stream, self._stream)
        self._resources.callback(self._drop_graph)
        self._in = [self._input_buffer(tensor) for tensor in self._tensors]
        self._out = [self._output_buffer(spec) for spec in self.outputs]
        with self._listen() as messages:
            for buffer in (*self._in, *self._out):
                if not self._loaded.context.set_tensor_address(buffer.name, buffer.device):
                    raise TargetError(f"TensorRT refuses memory for '{buffer.name}': {messages.cause()}")

    def _listen(self) -> AbstractContextManager[Messages]:
        return listen(self._loaded.library.module)

    def _input_buffer(self, tensor: InputTensor) -> TensorBuffer:
        """Memory at the profile's largest shape, which is also set: outputs follow from it."""
        self._set_shape(tensor, tensor.largest)
        return TensorBuffer(self._cuda, tensor.spec, tensor.largest, self.memory, self._memory)

    def _output_buffer(self, spec: TensorSpec) -> TensorBuffer:
        largest = tuple(self._loaded.context.get_tensor_shape(spec.name))
        if -1 in largest:
            raise TargetError(
                f"the shape of output '{spec.name}' depends on the data ({largest}), which a session with fixed memory "
                "cannot hold. Export the network without NonMaxSuppression or NonZero"
            )
        return TensorBuffer(self._cuda, spec, largest, self.memory, self._memory)

    def _set_shape(self, tensor: InputTensor, shape: Shape) -> None:
        with self._listen() as messages:
            if tensor.dynamic and not self._loaded.context.set_input_shape(tensor.spec.name, shape):
                raise TargetError(f"TensorRT refuses shape {shape} of input '{tensor.spec.name}': {messages.cause()}")

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run the network once.

        Raises:
            DataError: inputs that are not the network's, or a batch that the engine was not built for.
            TargetError: TensorRT did not enqueue the network, or the session is closed.
            CudaError: the GPU failed.
        """
        self._check_open()
        with self._cuda.current():
            self._prepare(inputs)
            for buffer in self._in:
                buffer.upload(self._stream)
            self._submit()
            for buffer in self._out:
                buffer.download(self._stream)
            self._cuda.synchronize(self._stream)
            self._keep_kernels()
        return self._results()

    def _keep_kernels(self) -> None:
        """Keep what RTX compiled for this shape now: a service that is killed reaches no end of its session."""
        if self._loaded.kernels is not None and self._shapes not in self._kept:
            self._kept.add(self._shapes)
            self._loaded.kernels.keep()

    def run_timed(self, inputs: Tensors) -> tuple[dict[str, Array], StageTimes]:
        """Run as `run` does, and return the time of each stage on the device."""
        self._check_open()
        cuda, stream = self._cuda, self._stream
        with cuda.current():
            self._prepare(inputs)
            events = [cuda.create_event() for _ in range(4)]
            cuda.record(events[0], stream)
            for buffer in self._in:
                buffer.upload(stream)
            cuda.record(events[1], stream)
            self._submit()
            cuda.record(events[2], stream)
            for buffer in self._out:
                buffer.download(stream)
            cuda.record(events[3], stream)
            cuda.synchronize(stream)
            h2d, compute, d2h = (cuda.elapsed_ms(start, end) for start, end in pairwise(events))
            for event in events:
                cuda.destroy_event(event)
        return self._results(), StageTimes(h2d_ms=h2d, compute_ms=compute, d2h_ms=d2h)

    def layers_json(self) -> str:
        """Return the engine inspector's description of the layers, for `edgeopt lint`."""
        inspector = self._loaded.engine.create_engine_inspector()
        inspector.execution_context = self._loaded.context
        return str(inspector.get_engine_information(self._loaded.library.module.LayerInformationFormat.JSON))

    def _check_open(self) -> None:
        if not self._open:
            raise TargetError("this session is closed; open another one")

    def _prepare(self, inputs: Tensors) -> None:
        """Check the inputs, adapt to their shapes, and copy them to page-locked memory."""
        self._bindings.update(inputs)
        if self._bindings.shapes != self._shapes:
            self._adapt(self._bindings.shapes)
        for buffer in self._in:
            np.copyto(buffer.array, self._bindings.arrays[buffer.name])

    def _adapt(self, shapes: tuple[Shape, ...]) -> None:
        """Set new input shapes. A captured graph holds the old ones and is dropped."""
        self._drop_graph()
        self._shapes = None
        for tensor, buffer, shape in zip(self._tensors, self._in, shapes, strict=True):
            if tensor.dynamic and not tensor.smallest[0] <= shape[0] <= tensor.largest[0]:
                raise DataError(
                    f"input '{tensor.spec.name}' has batch {shape[0]}, but the engine was built for "
                    f"{tensor.smallest[0]} to {tensor.largest[0]}. Build it with a wider batch range"
                )
            self._set_shape(tensor, shape)
            buffer.reshape(shape)
        for buffer in self._out:
            buffer.reshape(tuple(self._loaded.context.get_tensor_shape(buffer.name)))
        self._enqueued = False
        self._shapes = shapes

    def _submit(self) -> None:
        """Enqueue the network: plainly the first time at a shape (TensorRT updates itself), as a graph from then on."""
        if self._graph is None and self._wants_graph and self._enqueued:
            self._capture()
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
            return
        with self._listen() as messages:
            self._enqueued = bool(self._loaded.context.execute_async_v3(self._stream))
        if not self._enqueued:
            self._shapes = None
            raise TargetError(f"TensorRT did not enqueue the network: {messages.cause()}")

    def _capture(self) -> None:
        """Keep the network as a CUDA graph; where that fails, say so once and enqueue from then on."""
        try:
            self._graph = self._record()
        except TargetError as error:
            self._wants_graph, self.graph_problem = False, str(error)
            _LOG.warning("no CUDA graph for this engine, so that runs are enqueued one by one: %s", error)

    def _record(self) -> Any:
        """Return the network as an executable graph."""
        self._cuda.begin_capture(self._stream)
        try:
            with self._listen() as messages:
                captured = bool(self._loaded.context.execute_async_v3(self._stream))
        finally:
            graph = self._cuda.end_capture(self._stream)  # in any case: the stream stays in capture mode otherwise
        if not captured:
            self._cuda.destroy_graph(graph)
            raise TargetError(f"TensorRT cannot be captured: {messages.cause()}")
        return graph

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._cuda.destroy_graph(self._graph)
            self._graph = None

    def _results(self) -> dict[str, Array]:
        return {buffer.name: buffer.array if self._reuse_outputs else buffer.array.copy() for buffer in self._out}

    def _close(self) -> None:
        """Free everything, the latest first. A second call does nothing."""
        if not self._open:
            return
        self._open = False
        try:
            with self._cuda.current():
                self._resources.close()
        finally:
            self._cuda.close()

    def __enter__(self) -> TrtSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
