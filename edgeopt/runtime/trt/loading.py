"""A plan → a TensorRT engine with a context, or the reason why this machine cannot run it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt.errors import TargetError
from edgeopt.runtime.trt.kernels import Kernels
from edgeopt.runtime.trt.library import Library, Messages, listen, start
from edgeopt.spec import TensorSpec

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""numpy's name of a TensorRT DataType; the others (BF16, FP8, INT4…) have none."""


@dataclass
class LoadedEngine:
    """TensorRT's objects in the order in which they depend on each other."""

    library: Library
    runtime: Any
    engine: Any
    context: Any
    kernels: Kernels | None = None

    def create_context(self) -> Any:
        """Return a further execution context of the engine; None without memory for one."""
        return self.engine.create_execution_context() if self.kernels is None else self.kernels.create_context()

    def release(self) -> None:
        """Keep compiled kernels; drop the objects, dependents first: pybind frees each with its last reference."""
        if self.kernels is not None:
            self.kernels.keep()
        self.context = self.kernels = self.engine = self.runtime = None


def load_plan(
    library: Library,
    plan: bytes,
    *,
    embedded_runtime: bool = False,
    kernels: Path | None = None,
    cuda_graph: bool = False,
    dla_core: int | None = None,
) -> LoadedEngine:
    """Deserialize `plan`. A CUDA device must be current: without a driver TensorRT hands out objects that crash.

    Args:
        library: the TensorRT to use.
        plan: the engine.
        embedded_runtime: run the code that a version-compatible plan carries; only for plans that were built here.
        kernels: where the kernels are kept that RTX compiles at first use; others have them in the plan.
        cuda_graph: let an RTX engine capture and launch whole graphs by itself.
        dla_core: the core that a plan for DLA runs on. The plan does not say: a runtime takes core 0 unless it is told.

    Raises:
        TargetError: the plan is of another TensorRT, GPU or driver, or is not a plan.
    """
    with listen(library.module) as messages:
        runtime = start(library, "Runtime", messages)
        if embedded_runtime:
            runtime.engine_host_code_allowed = True
        if dla_core is not None:
            runtime.DLA_core = dla_core
        if library.capabilities.engine_validity:
            _check_validity(library, runtime, plan, messages)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise TargetError(
                f"{library.title} cannot load this engine: {messages.cause()}. A plan runs on the TensorRT version and "
                "the GPU model it was built with; build it again on this machine from the bundle's ONNX"
            )
        kept = None
        if kernels is not None and library.capabilities.runtime_cache:
            kept = Kernels(library.module, engine, kernels, cuda_graph=cuda_graph)
        loaded = LoadedEngine(library, runtime, engine, None, kept)
        loaded.context = loaded.create_context()
        if loaded.context is None:
            raise TargetError(f"{library.title} has no memory for an execution context: {messages.cause()}")
    return loaded


def _check_validity(library: Library, runtime: Any, plan: bytes, messages: Messages) -> None:
    """Ask RTX whether the plan will load here; it names the reasons as bits."""
    validity, bits = runtime.get_engine_validity(plan)
    if validity != library.module.EngineValidity.INVALID:
        return
    reasons = [
        name for name, member in library.module.EngineInvalidityDiagnostics.__members__.items() if bits & int(member)
    ]
    # RTX names no reason where it cannot even ask the driver.
    named = ", ".join(reasons) or f"it sees no usable GPU ({messages.cause()})"
    raise TargetError(f"{library.title} cannot run this engine here: {named}")


@dataclass(frozen=True)
class InputTensor:
    """An input, and the shapes that the engine was built for."""

    spec: TensorSpec
    """Specification, whose batch is called ``N`` if the engine takes several sizes."""
    smallest: tuple[int, ...]
    largest: tuple[int, ...]
    dynamic: bool
    """True if its shape has to be set before a run, even if there is only one."""


def input_tensors(loaded: LoadedEngine) -> tuple[InputTensor, ...]:
    """Return the engine's inputs, in its own order."""
    return tuple(_input(loaded, name) for name in _names(loaded, "INPUT"))


def output_specs(loaded: LoadedEngine, inputs: tuple[InputTensor, ...]) -> tuple[TensorSpec, ...]:
    """Return the engine's outputs, in its own order."""
    batches = {tensor.largest[0] for tensor in inputs if tensor.dynamic and tensor.spec.shape[0] != "N"}
    batch = batches.pop() if len(batches) == 1 else "N"
    engine = loaded.engine
    return tuple(
        _spec(name, engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name)), batch)
        for name in _names(loaded, "OUTPUT")
    )


def _names(loaded: LoadedEngine, mode: str) -> list[str]:
    engine = loaded.engine
    wanted = getattr(loaded.library.module.TensorIOMode, mode)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return [name for name in names if engine.get_tensor_mode(name) == wanted]


def _input(loaded: LoadedEngine, name: str) -> InputTensor:
    engine = loaded.engine
    shape = tuple(engine.get_tensor_shape(name))
    smallest = largest = shape
    if -1 in shape:
        smallest, _, largest = (tuple(limit) for limit in engine.get_tensor_profile_shape(name, 0))
    batch = smallest[0] if smallest == largest and shape else "N"
    return InputTensor(_spec(name, engine.get_tensor_dtype(name), shape, batch), smallest, largest, dynamic=-1 in shape)


def _spec(name: str, kind: Any, shape: tuple[int, ...], batch: int | str) -> TensorSpec:
    if kind.name not in _DTYPES:
        raise TargetError(f"tensor '{name}' has the type {kind.name}, which numpy lacks. Cast it to FP32 in the graph")
    sizes = tuple(batch if size == -1 else int(size) for size in shape)
    return TensorSpec(name=name, shape=sizes, dtype=_DTYPES[kind.name])
