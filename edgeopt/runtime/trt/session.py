"""TrtSession: an engine, with one place to run or two."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from edgeopt.boxes import Geometry
from edgeopt.errors import DataError, TargetError
from edgeopt.preprocess import Image
from edgeopt.runtime.bindings import Bindings
from edgeopt.runtime.cuda import Cuda
from edgeopt.runtime.session import Array, Tensors
from edgeopt.runtime.trt.buffers import Memory
from edgeopt.runtime.trt.lane import Lane, Shapes
from edgeopt.runtime.trt.library import Library
from edgeopt.runtime.trt.loading import LoadedEngine, input_tensors, load_plan, output_specs
from edgeopt.runtime.trt.picture import PicturePreparation
from edgeopt.spec import Preprocessing, Struct

_MOST_IN_FLIGHT = 2


class StageTimes(Struct):
    """The device's time of one run by stage, from CUDA events."""

    h2d_ms: float
    compute_ms: float
    d2h_ms: float


class TrtSession:
    """A TensorRT engine on a GPU.

    Not safe for concurrent calls; successive calls may come from any thread. With `reuse_outputs` the arrays that `run`
    returns are page-locked memory of the session: the next `run` overwrites them, and the end of the session
    invalidates them.

    `submit` and `collect` are `run` in two halves, of which two may be on their way: while the GPU computes one, the
    next is prepared and copied. The second has a context and memory of its own, made when it is first needed.
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
        self._cuda = cuda
        self._wants_graph = cuda_graph
        self._reuse_outputs = reuse_outputs
        self._lanes: list[Lane] = []
        self._in_flight: deque[Lane] = deque()
        self._kept: set[Shapes | None] = set()
        self._pictures: PicturePreparation | None = None
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
        self._buffers = self._resources.enter_context(ExitStack())  # freed last: engine and graph know its addresses
        self._loaded = loaded
        self._resources.callback(self._loaded.release)
        if self.memory == "managed":
            self._check_streams(loaded)
        self._tensors = input_tensors(self._loaded)
        self.inputs = tuple(tensor.spec for tensor in self._tensors)
        self.outputs = output_specs(self._loaded, self._tensors)
        self._bindings = Bindings(self.inputs)
        self._add_lane(self._loaded.context)

    def _check_streams(self, loaded: LoadedEngine) -> None:
        """Refuse managed memory for an engine with streams of its own, whose kernels may not use what is ours."""
        engine = loaded.engine
        streams = engine.num_aux_streams if hasattr(type(engine), "num_aux_streams") else 0
        if streams and not self._cuda.concurrent_managed_access():
            raise TargetError(
                f"this engine computes on {streams} more streams, and this GPU lets only one use managed memory. Take "
                "[compile.tensorrt] run.memory = 'mapped'"
            )

    def _add_lane(self, context: object) -> Lane:
        lane = Lane(
            self._cuda,
            self._loaded,
            context,
            self._tensors,
            self.outputs,
            memory=self.memory,
            cuda_graph=self._wants_graph and self._loaded.kernels is None,  # RTX makes its own graphs
            resources=self._resources,
            buffers=self._buffers,
        )
        self._lanes.append(lane)
        return lane

    @property
    def graph_problem(self) -> str | None:
        """Reason why runs are enqueued one by one although a CUDA graph was asked for."""
        return next((lane.graph_problem for lane in self._lanes if lane.graph_problem), None)

    def input_array(self, name: str, batch: int) -> Array:
        """Return page-locked memory for an input of `run`, which is then not copied. It ends with the session.

        Raises:
            DataError: no such input, or a batch that the engine was not built for.
        """
        for tensor, buffer in zip(self._tensors, self._lanes[0].inputs, strict=True):
            if tensor.spec.name == name:
                if not tensor.smallest[0] <= batch <= tensor.largest[0]:
                    raise DataError(f"input '{name}' takes {tensor.smallest[0]} to {tensor.largest[0]}, not {batch}")
                return buffer.give((batch, *tensor.largest[1:]))
        raise DataError(f"the network has no input '{name}'; it has {', '.join(spec.name for spec in self.inputs)}")

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run the network once.

        Raises:
            DataError: inputs that are not the network's, or a batch that the engine was not built for.
            TargetError: TensorRT did not enqueue the network, or the session is closed.
            CudaError: the GPU failed.
        """
        self.submit(inputs, alone=True)
        return self.collect()

    def submit(self, inputs: Tensors, *, alone: bool = False) -> None:
        """Begin a run, and return while the GPU computes; `collect` has its results.

        Args:
            inputs: as `run` takes them. They may be refilled as soon as this returns, but for `input_array`'s, which
                are read until `collect`.
            alone: refuse where another run is on its way.

        Raises:
            TargetError: also if two runs are on their way already.
            DataError, CudaError: as `run`.
        """
        self._check_open()
        if len(self._in_flight) >= (1 if alone else _MOST_IN_FLIGHT):
            raise TargetError(f"{len(self._in_flight)} runs are on their way: collect them first")
        with self._cuda.current():
            lane = self._free_lane()
            self._prepare(lane, inputs)
            try:
                lane.start()
            except BaseException:
                lane.forget()
                raise
            self._in_flight.append(lane)

    def collect(self) -> dict[str, Array]:
        """Wait for the run that was submitted first, and return its outputs.

        Raises:
            TargetError: nothing was submitted, or the session is closed.
            CudaError: the GPU failed.
        """
        self._check_open()
        if not self._in_flight:
            raise TargetError("no run is on its way: submit one first")
        lane = self._in_flight.popleft()
        with self._cuda.current():
            lane.wait()
            self._keep_kernels(lane)
        return lane.results(copy=not self._reuse_outputs)

    def _free_lane(self) -> Lane:
        for lane in self._lanes:
            if lane not in self._in_flight:
                return lane
        if not self._loaded.library.capabilities.shares_profiles and any(tensor.dynamic for tensor in self._tensors):
            raise TargetError(
                f"{self._loaded.library.title} runs one context of a dynamic batch at a time: collect first"
            )
        context = self._loaded.create_context()
        if context is None:
            raise TargetError("there is no memory for a second run on its way: collect the first")
        return self._add_lane(context)

    def _keep_kernels(self, lane: Lane) -> None:
        """Keep what RTX compiled for this shape now: a service that is killed reaches no end of its session."""
        if self._loaded.kernels is not None and lane.shapes not in self._kept:
            self._kept.add(lane.shapes)
            self._loaded.kernels.keep()

    def prepare_pictures(self, spec: Preprocessing) -> None:
        """Let `run_picture` take pictures, which the GPU prepares.

        Raises:
            TargetError: the kernel does not do this preprocessing, or the engine takes more than one picture at once.
            CudaError: the driver refuses the kernel.
        """
        if len(self._tensors) != 1 or self._tensors[0].smallest[0] != 1:
            raise TargetError("pictures are prepared on the GPU only for engines of one input that take one at a time")
        with self._cuda.current():
            self._pictures = PicturePreparation(self._cuda, spec, self._lanes[0].inputs[0], self._resources)

    @property
    def prepares_pictures(self) -> bool:
        """True if `run_picture` may be called."""
        return self._pictures is not None

    def run_picture(self, image: Image) -> tuple[dict[str, Array], Geometry]:
        """Prepare a picture on the GPU and run the network on it.

        Args:
            image: as `preprocess` takes it.

        Returns:
            The outputs, and the way back from the network's pixels to the picture's.

        Raises:
            TargetError: no `prepare_pictures` before, a run is on its way, or TensorRT did not enqueue the network.
            DataError: it is not an 8-bit picture.
            CudaError: the GPU failed.
        """
        self._check_open()
        if self._pictures is None or self._in_flight:
            raise TargetError("no pictures are prepared on the GPU here, or a run is on its way")
        lane = self._lanes[0]
        with self._cuda.current():
            lane.adapt(tuple((1, *tensor.largest[1:]) for tensor in self._tensors))
            geometry = self._pictures.take(image)
            try:
                lane.start(self._pictures)
            except BaseException:
                lane.forget()
                raise
            lane.wait()
            self._keep_kernels(lane)
        return lane.results(copy=not self._reuse_outputs), geometry

    def run_timed(self, inputs: Tensors) -> tuple[dict[str, Array], StageTimes]:
        """Run as `run` does, and return the time of each stage on the device."""
        self._check_open()
        if self._in_flight:
            raise TargetError("a run is on its way: collect it first")
        cuda, lane = self._cuda, self._lanes[0]
        with cuda.current():
            self._prepare(lane, inputs)
            events = [cuda.create_event() for _ in range(4)]
            cuda.record(events[0], lane.stream)
            for event, stage in zip(events[1:], (lane.upload, lane.network, lane.download), strict=True):
                stage()
                cuda.record(event, lane.stream)
            lane.wait()
            h2d, compute, d2h = (cuda.elapsed_ms(start, end) for start, end in pairwise(events))
            for event in events:
                cuda.destroy_event(event)
        return lane.results(copy=not self._reuse_outputs), StageTimes(h2d_ms=h2d, compute_ms=compute, d2h_ms=d2h)

    def layers_json(self) -> str:
        """Return the engine inspector's description of the layers, for `edgeopt lint`."""
        inspector = self._loaded.engine.create_engine_inspector()
        inspector.execution_context = self._loaded.context
        return str(inspector.get_engine_information(self._loaded.library.module.LayerInformationFormat.JSON))

    def _check_open(self) -> None:
        if not self._open:
            raise TargetError("this session is closed; open another one")

    def _prepare(self, lane: Lane, inputs: Tensors) -> None:
        """Check the inputs, adapt to their shapes, and have them in page-locked memory."""
        self._bindings.update(inputs)
        shapes = self._bindings.shapes
        if shapes != lane.shapes:
            for tensor, shape in zip(self._tensors, shapes, strict=True):
                if tensor.dynamic and not tensor.smallest[0] <= shape[0] <= tensor.largest[0]:
                    raise DataError(
                        f"input '{tensor.spec.name}' has batch {shape[0]}, but the engine was built for "
                        f"{tensor.smallest[0]} to {tensor.largest[0]}. Build it with a wider batch range"
                    )
            lane.adapt(shapes)
        lane.take(self._bindings.arrays)

    def _close(self) -> None:
        """Free everything, the latest first, once the runs on their way have ended. A second call does nothing."""
        if not self._open:
            return
        self._open = False
        try:
            with self._cuda.current():
                while self._in_flight:
                    self._in_flight.popleft().wait()
                self._resources.close()
        finally:
            self._cuda.close()

    def __enter__(self) -> TrtSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
