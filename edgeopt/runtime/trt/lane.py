"""A place to run: a stream, memory for inputs and outputs, and an execution context for each shape that comes.

A CUDA graph holds the shapes and addresses that it was captured with, and the state of its context: to modify the
context afterwards is undefined behavior (TensorRT's developer guide, CUDA graphs). So a shape that comes again finds
its own context and graph. Uploads, network and downloads are one graph: one call a run.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from edgeopt.errors import TargetError
from edgeopt.runtime.cuda import Cuda
from edgeopt.runtime.session import Array
from edgeopt.runtime.trt.buffers import Memory, Shape, TensorBuffer
from edgeopt.runtime.trt.library import Messages, listen
from edgeopt.runtime.trt.loading import InputTensor, LoadedEngine
from edgeopt.spec import TensorSpec

Shapes = tuple[Shape, ...]

_LOG = logging.getLogger(__name__)
_KEPT_SHAPES = 4
"""Each costs the network's scratch memory once more."""


class Preparation(Protocol):
    """Work in front of the network that makes its input on the device."""

    @property
    def key(self) -> Hashable:
        """Everything that a graph of `start` depends on."""

    def start(self, stream: int) -> None:
        """Put it on the stream."""


@dataclass(eq=False)
class _Shaped:
    """A context at one set of input shapes, and what was captured from it."""

    context: Any
    enqueued: bool = False
    """It ran once plainly, in which TensorRT updates itself; only then it can be captured."""
    whole: OrderedDict[Any, Any] = field(default_factory=OrderedDict)
    """Graphs of uploads, network and downloads, by `Preparation.key`; None is that of uploaded tensors."""
    network: Any = None
    """Graph of the network alone, for stage times."""


class Lane:
    """One run at a time. Every call but the constructor's is made within `Cuda.current`."""

    def __init__(
        self,
        cuda: Cuda,
        loaded: LoadedEngine,
        context: Any,
        inputs: tuple[InputTensor, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        memory: Memory,
        cuda_graph: bool,
        resources: ExitStack,
        buffers: ExitStack,
    ) -> None:
        """Allocate at the largest shapes.

        Args:
            cuda: the device, current.
            loaded: the engine.
            context: an execution context that nothing else uses.
            inputs: the engine's.
            outputs: the engine's.
            memory: see `Memory`.
            cuda_graph: capture graphs.
            resources: gives back stream, graphs and contexts.
            buffers: frees memory, after the engine is gone.

        Raises:
            TargetError: shapes or addresses that TensorRT refuses, or outputs of unknown size.
            CudaError: out of memory.
        """
        self.graph_problem: str | None = None
        self._cuda, self._loaded, self._tensors = cuda, loaded, inputs
        self._wants_graph = cuda_graph
        self._kept: OrderedDict[Shapes, _Shaped] = OrderedDict()
        self._free = [context]
        self._shapes: Shapes | None = None
        self.stream = cuda.create_stream()
        resources.callback(cuda.destroy_stream, self.stream)
        resources.callback(self._drop_all)
        largest = tuple(tensor.largest for tensor in inputs)
        self._set_shapes(context, largest)
        self.inputs = [self._buffer(tensor.spec, tensor.largest, memory, buffers) for tensor in inputs]
        self.outputs = [self._buffer(spec, self._output_shape(context, spec), memory, buffers) for spec in outputs]
        self._set_addresses(context)

    def _buffer(self, spec: TensorSpec, largest: Shape, memory: Memory, buffers: ExitStack) -> TensorBuffer:
        return TensorBuffer(self._cuda, spec, largest, memory, self.stream, buffers)

    def _output_shape(self, context: Any, spec: TensorSpec) -> Shape:
        largest = tuple(context.get_tensor_shape(spec.name))
        if -1 in largest:
            raise TargetError(
                f"the shape of output '{spec.name}' depends on the data ({largest}), which a session with fixed memory "
                "cannot hold. Export the network without NonMaxSuppression or NonZero"
            )
        return largest

    def _listen(self) -> AbstractContextManager[Messages]:
        return listen(self._loaded.library.module)

    def _set_shapes(self, context: Any, shapes: Shapes) -> None:
        with self._listen() as messages:
            for tensor, shape in zip(self._tensors, shapes, strict=True):
                if tensor.dynamic and not context.set_input_shape(tensor.spec.name, shape):
                    name, cause = tensor.spec.name, messages.cause()
                    raise TargetError(f"TensorRT refuses shape {shape} of input '{name}': {cause}")

    def _set_addresses(self, context: Any) -> None:
        with self._listen() as messages:
            for buffer in (*self.inputs, *self.outputs):
                if not context.set_tensor_address(buffer.name, buffer.device):
                    raise TargetError(f"TensorRT refuses memory for '{buffer.name}': {messages.cause()}")

    # Shapes

    @property
    def shapes(self) -> Shapes | None:
        """Shapes of the inputs; None before the first and after a failure."""
        return self._shapes

    def adapt(self, shapes: Shapes) -> None:
        """Be ready for inputs of these shapes.

        Raises:
            TargetError: TensorRT refuses them.
        """
        if shapes == self._shapes:
            return
        self._shapes = None
        if shapes not in self._kept:
            self._add(shapes)
        self._kept.move_to_end(shapes)
        for buffer, shape in zip(self.inputs, shapes, strict=True):
            buffer.reshape(shape)
        for buffer in self.outputs:
            buffer.reshape(tuple(self._kept[shapes].context.get_tensor_shape(buffer.name)))
        self._shapes = shapes

    def _add(self, shapes: Shapes) -> None:
        context = self._context()
        try:
            self._set_shapes(context, shapes)
            self._set_addresses(context)
        except TargetError:
            self._free.append(context)
            raise
        self._kept[shapes] = _Shaped(context)

    def _context(self) -> Any:
        """Return a context for a new shape: a further one, or that of the shape that was not used for longest."""
        if self._free:
            return self._free.pop()
        if self._loaded.library.capabilities.shares_profiles and len(self._kept) < _KEPT_SHAPES:
            context = self._loaded.create_context()
            if context is not None:  # there was memory for it
                return context
        _, oldest = self._kept.popitem(last=False)
        self._drop(oldest)
        return oldest.context

    @property
    def _now(self) -> _Shaped:
        assert self._shapes is not None
        return self._kept[self._shapes]

    # Runs

    def take(self, arrays: Mapping[str, Array]) -> None:
        """Copy inputs to page-locked memory, but for those that were written there in the first place."""
        for buffer in self.inputs:
            if arrays[buffer.name] is not buffer.given:
                np.copyto(buffer.array, arrays[buffer.name])

    def start(self, prepare: Preparation | None = None) -> None:
        """Put a run on the stream: plainly the first time at a shape, as one graph from then on.

        Args:
            prepare: makes the input on the device, instead of its upload.

        Raises:
            TargetError: TensorRT did not enqueue the network.
        """
        now, key = self._now, None if prepare is None else prepare.key
        if key not in now.whole and self._wants_graph and now.enqueued:
            graph = self._captured(lambda: self._all(prepare))
            if graph is not None:
                now.whole[key] = graph
                if len(now.whole) > _KEPT_SHAPES:
                    self._cuda.destroy_graph(now.whole.popitem(last=False)[1])
        if key in now.whole:
            now.whole.move_to_end(key)
            self._cuda.launch(now.whole[key], self.stream)
        else:
            self._all(prepare)

    def _all(self, prepare: Preparation | None) -> None:
        if prepare is None:
            self.upload()
        else:
            prepare.start(self.stream)
        self._enqueue()
        self.download()

    def upload(self) -> None:
        """Bring the inputs to the device."""
        for buffer in self.inputs:
            buffer.upload(self.stream)

    def network(self) -> None:
        """Put the network alone on the stream."""
        now = self._now
        if now.network is None and self._wants_graph and now.enqueued:
            now.network = self._captured(self._enqueue)
        if now.network is not None:
            self._cuda.launch(now.network, self.stream)
        else:
            self._enqueue()

    def download(self) -> None:
        """Bring the outputs to the processor."""
        for buffer in self.outputs:
            buffer.download(self.stream)

    def wait(self) -> None:
        """Wait for the run's end; errors of the GPU surface here."""
        self._cuda.synchronize(self.stream)

    def results(self, *, copy: bool) -> dict[str, Array]:
        """Return the outputs, which the next run overwrites unless they are copied."""
        return {buffer.name: buffer.array.copy() if copy else buffer.array for buffer in self.outputs}

    def _enqueue(self) -> None:
        now = self._now
        with self._listen() as messages:
            done = bool(now.context.execute_async_v3(self.stream))
        if not done:
            raise TargetError(f"TensorRT did not enqueue the network: {messages.cause()}")
        now.enqueued = True

    def forget(self) -> None:
        """Set the present shapes anew before the next run, because this one failed."""
        if self._shapes is not None:
            failed = self._kept.pop(self._shapes)
            self._shapes = None
            self._drop(failed)
            self._free.append(failed.context)

    def _captured(self, work: Callable[[], None]) -> Any:
        """Return work as a CUDA graph; where that fails, say so once and enqueue from then on."""
        try:
            return self._record(work)
        except TargetError as error:
            self._wants_graph, self.graph_problem = False, str(error)
            _LOG.warning("no CUDA graph for this engine, so that runs are enqueued one by one: %s", error)
            return None

    def _record(self, work: Callable[[], None]) -> Any:
        self._cuda.begin_capture(self.stream)
        problem: TargetError | None = None
        try:
            work()
        except TargetError as error:
            problem = error
        finally:
            graph = self._cuda.end_capture(self.stream)  # in any case: the stream stays in capture mode otherwise
        if problem is not None:
            self._cuda.destroy_graph(graph)
            raise problem
        return graph

    def _drop(self, shaped: _Shaped) -> None:
        """Destroy the graphs, which are of no use once their context changes."""
        for graph in (*shaped.whole.values(), *([] if shaped.network is None else [shaped.network])):
            self._cuda.destroy_graph(graph)
        shaped.whole.clear()
        shaped.network = None

    def _drop_all(self) -> None:
        while self._kept:
            self._drop(self._kept.popitem()[1])
        self._free.clear()
