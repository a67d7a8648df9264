"""ONNX bytes → TensorRT plan, on every TensorRT from 8.5 to 11 and on TensorRT-RTX.

Precision is the graph's: where the library can be told to keep its types (10.0 and newer) it is; TensorRT 8, which
cannot, is only allowed the types that the graph holds. The one exception is implicit INT8 by an entropy calibrator,
which DLA needs up to TensorRT 10.7 (see `calibrator`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt.bundle.records import Arithmetic
from edgeopt.config import BatchRange, TensorRTBuild
from edgeopt.errors import TargetError
from edgeopt.runtime.trt.arithmetic import arithmetic, asked_for
from edgeopt.runtime.trt.calibrator import raise_calibration_error
from edgeopt.runtime.trt.capabilities import Capabilities
from edgeopt.runtime.trt.library import Library, Messages, listen, start
from edgeopt.runtime.trt.parse import fix_for, parse_onnx
from edgeopt.runtime.trt.progress import ProgressCallback, make_monitor, run_cancellable

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """A plan, and what its build had to say."""

    plan: bytes
    timing_cache: bytes
    """Timings of this device's kernels from the build; empty if the library keeps none."""
    layers: int
    """Layers of the parsed network, before fusion."""
    onnx_bytes: int
    """Size of the model it was made of. A plan also holds kernels, so that the two sizes say different things."""
    seconds: float
    warnings: tuple[str, ...]
    arithmetic: Arithmetic | None = None
    """Types that convolutions and products run in; None where the library does not tell."""


def build_engine(
    library: Library,
    onnx: bytes,
    options: TensorRTBuild | None = None,
    *,
    origin: Path | None = None,
    calibrator: Any = None,
    timing_cache: bytes = b"",
    progress: ProgressCallback | None = None,
    current: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Engine:
    """Build an engine.

    Args:
        library: the TensorRT to use. Full TensorRT needs the GPU that the engine is for; RTX needs none.
        onnx: a serialized model whose tensor types are the precisions to run in.
        options: build options; None for the defaults.
        origin: where the model lies, for weights in a second file.
        calibrator: of `make_calibrator`, for implicit INT8; the graph then holds no Q/DQ.
        timing_cache: `Engine.timing_cache` of an earlier build on this device.
        progress: called at each step, where the library reports any.
        current: makes the GPU current on the thread that builds (`Cuda.current`).

    Raises:
        ModelError: the bytes are not an ONNX model.
        TargetError: TensorRT rejects the graph or an option, or finds no way to build; says why.
        KeyboardInterrupt: Ctrl-C; nothing is left behind.
    """
    options = options or TensorRTBuild()
    began = time.perf_counter()
    with listen(library.module) as messages:
        builder = start(library, "Builder", messages)
        implicit = _implicit_types(library, options, calibrator)
        network = builder.create_network(_network_flags(library, implicit=implicit))
        on_dla = options.dla_core is not None
        parser = parse_onnx(library, network, messages, onnx, origin, for_dla=on_dla)
        if on_dla:
            _warn_of_bytes(library, network)
        config = _configure(library, builder, options, messages)
        _allow_types(library, config, network, options, implicit=implicit, calibrator=calibrator)
        cache = _attach_timing_cache(library, config, timing_cache, messages)
        _add_profile(builder, network, config, options.batch, messages, calibrated=calibrator is not None)
        try:
            plan = _serialize(
                library,
                lambda: builder.build_serialized_network(network, config),
                config,
                messages,
                progress,
                current,
            )
        finally:
            if calibrator is not None:
                raise_calibration_error(calibrator)
        del parser  # held until here: the network reads the weights in its memory
        return Engine(
            plan=plan,
            timing_cache=bytes(config.get_timing_cache().serialize()) if cache is not None else b"",
            layers=int(network.num_layers),
            onnx_bytes=len(onnx),
            seconds=time.perf_counter() - began,
            warnings=tuple(messages.warnings),
            arithmetic=arithmetic(asked_for(library, network), messages.layers) if messages.layers else None,
        )


def _implicit_types(library: Library, options: TensorRTBuild, calibrator: Any) -> bool:
    """Return True if TensorRT is to choose the types: for a calibrator, and for DLA where it knew no other way."""
    offered = library.capabilities
    if calibrator is not None and not offered.calibrator:
        raise TargetError(
            f"{library.title} has no INT8 calibrator (removed in 11.0). Use a model quantized with --scheme tensorrt"
        )
    if options.dla_core is not None and not options.batch.fixed:
        raise TargetError(
            f"a DLA core takes one batch size, but {options.batch.min} to {options.batch.max} were asked for"
        )
    return calibrator is not None or (options.dla_core is not None and offered.weakly_typed)


def _network_flags(library: Library, *, implicit: bool) -> int:
    """Bits for ``create_network``. From 11 on, and on RTX, strong typing is all there is and flags say nothing."""
    offered, flags = library.capabilities, library.module.NetworkDefinitionCreationFlag
    if offered.explicit_batch_flag and not offered.strongly_typed_flag:
        return 1 << int(flags.EXPLICIT_BATCH)
    if offered.weakly_typed and offered.strongly_typed_flag and not implicit:
        return 1 << int(flags.STRONGLY_TYPED)
    return 0


def _warn_of_bytes(library: Library, network: Any) -> None:
    """Say what a uint8 input costs on a DLA core, which has no such type."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    kind = getattr(library.module.DataType, "UINT8", None)
    if names := [tensor.name for tensor in inputs if kind is not None and tensor.dtype == kind]:
        _LOG.warning(
            "input %s is uint8, which a DLA core does not take: each frame begins on the GPU. Where that is too slow, "
            "build the bundle with [export] fold_normalization = false",
            ", ".join(f"'{name}'" for name in names),
        )


def _allow_types(
    library: Library, config: Any, network: Any, options: TensorRTBuild, *, implicit: bool, calibrator: Any
) -> None:
    """Tell a weakly typed build which types it may use; a strongly typed one has them from the graph."""
    offered, flag = library.capabilities, library.module.BuilderFlag if library.capabilities.weakly_typed else None
    if flag is None or (offered.strongly_typed_flag and not implicit):
        return
    quantized, half = _graph_types(library, network)
    if implicit and quantized:
        raise TargetError(
            f"{library.title} runs no Q/DQ graph by implicit quantization (calibrator or DLA). Give it the FP32 graph: "
            "edgeopt compile BUNDLE --target trt --implicit-int8 --calibration IMAGES, for DLA with --dla-core"
        )
    if calibrator is not None:
        config.int8_calibrator = calibrator
    if quantized or calibrator is not None:
        config.set_flag(flag.INT8)
    # A DLA core has no FP32. What quantizers or a calibrator leave out would run in FP32, slower than an FP16 engine.
    if half or implicit or (quantized and options.fp16_rest):
        config.set_flag(flag.FP16)
        if _keep_variances(library.module, network):
            config.set_flag(flag.PREFER_PRECISION_CONSTRAINTS)


def _keep_variances(module: Any, network: Any) -> bool:
    """Ask for float32 from the squares of a normalization to their root; return True if there are any.

    Squares of numbers above 256 are infinite in float16: TensorRT 8 warns of such layers, advises this, and does not do
    it (NVIDIA/TensorRT issue 2781). A square is known by both its inputs being one tensor; the layers of a network come
    in the parser's order.
    """
    kinds, squares, chain = module.LayerType, dict[str, Any](), set[str]()
    kept: list[Any] = []
    for layer in (network.get_layer(index) for index in range(network.num_layers)):
        if layer.type not in (kinds.ELEMENTWISE, kinds.REDUCE, kinds.UNARY):
            continue
        read, result = [layer.get_input(index).name for index in range(layer.num_inputs)], layer.get_output(0).name
        if layer.type == kinds.ELEMENTWISE and read[0] == read[-1]:
            squares[result] = layer
        elif layer.type == kinds.REDUCE and read[0] in squares:
            kept += [squares[read[0]], layer]
            chain.add(result)
        elif chain.intersection(read):  # the epsilon, then the root, with which it ends
            kept.append(layer)
            chain |= {result} if layer.type == kinds.ELEMENTWISE else set()
    for layer in kept:
        layer.precision = module.DataType.FLOAT
        layer.set_output_type(0, module.DataType.FLOAT)
    return bool(kept)


def _graph_types(library: Library, network: Any) -> tuple[bool, bool]:
    """Return if the network quantizes, and if it has FP16 tensors."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = library.module.LayerType
    quantized = any(layer.type in (kinds.QUANTIZE, kinds.DEQUANTIZE) for layer in layers)  # weights may have one alone
    half = any(
        layer.get_output(index).dtype == library.module.DataType.HALF
        for layer in layers
        for index in range(layer.num_outputs)
    )
    return quantized, half


def _configure(library: Library, builder: Any, options: TensorRTBuild, messages: Messages) -> Any:
    """Return a builder configuration with everything but types, profiles and the timing cache."""
    module, offered = library.module, library.capabilities
    config = builder.create_builder_config()
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # the inspector shows what it is built with
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        _require(library, offered.optimization_level, "an optimization level")
        config.builder_optimization_level = options.optimization_level
    if not options.tf32:
        config.clear_flag(module.BuilderFlag.TF32)
    if options.version_compatible:
        _require(library, offered.version_compatible, "version-compatible plans")
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility != "none":
        level = options.hardware_compatibility
        _require(library, level in offered.hardware_compatibility, f"hardware compatibility '{level}'")
        config.hardware_compatibility_level = getattr(module.HardwareCompatibilityLevel, level.upper())
    if options.compute_capabilities:
        _set_compute_capabilities(library, config, options.compute_capabilities, messages)
    if options.dla_core is not None:
        _set_dla(library, builder, config, options.dla_core)
    return config


def _require(library: Library, offered: bool, what: str) -> None:  # noqa: FBT001 (reads as a sentence)
    if not offered:
        raise TargetError(f"{library.title} does not offer {what}. Leave the option out, or use another TensorRT")


def _set_compute_capabilities(library: Library, config: Any, names: tuple[str, ...], messages: Messages) -> None:
    offered = library.capabilities.compute_capabilities
    _require(library, bool(offered), "a choice of GPUs: it builds for the one in this machine")
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if name not in offered:
            raise TargetError(f"{library.title} cannot build for {name}; it can for {', '.join(offered)}")
        if not config.set_compute_capability(getattr(library.module.ComputeCapability, name), index):
            raise TargetError(f"{library.title} refuses {name}: {messages.cause()}")


def _set_dla(library: Library, builder: Any, config: Any, core: int) -> None:
    """Send layers to a DLA core. RTX accepts these settings and ignores them, so the builder's own count decides."""
    cores = int(builder.num_DLA_cores) if library.capabilities.dla else 0
    if core >= cores:
        there = f"this machine's cores are 0 to {cores - 1}" if cores else "there is none that it can use here"
        raise TargetError(f"{library.title} cannot build for DLA core {core}: {there}. Leave dla_core out")
    config.default_device_type = library.module.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(library.module.BuilderFlag.GPU_FALLBACK)


def _attach_timing_cache(library: Library, config: Any, blob: bytes, messages: Messages) -> Any:
    """Give the build what earlier builds measured; a cache of another device is refused by TensorRT and left out."""
    if not library.capabilities.timing_cache:
        return None
    cache = config.create_timing_cache(blob)  # None where it cannot read the blob
    if cache is None or not config.set_timing_cache(cache, False):  # noqa: FBT003 (pybind; False: check the device)
        messages.add("WARNING", "the timing cache is damaged, or of another device or version, and is not used")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)  # noqa: FBT003
    return cache


def _add_profile(
    builder: Any, network: Any, config: Any, batch: BatchRange, messages: Messages, *, calibrated: bool
) -> None:
    """Say which shapes dynamic inputs may have. Only the batch dimension may be dynamic."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = [(tensor.name, tuple(tensor.shape)) for tensor in inputs if -1 in tuple(tensor.shape)]
    if not dynamic:
        _check_fixed_batch([tuple(tensor.shape) for tensor in inputs], batch)
        return
    profile = builder.create_optimization_profile()
    for name, (first, *rest) in dynamic:
        if first != -1 or -1 in rest:
            raise TargetError(
                f"input '{name}' has shape {(first, *rest)}: only its first dimension, the batch, may be dynamic. "
                "Export the model with a fixed height and width"
            )
        profile.set_shape(name, (batch.min, *rest), (batch.opt, *rest), (batch.max, *rest))
    if config.add_optimization_profile(profile) < 0:
        raise TargetError(f"TensorRT refuses batch sizes {batch.min} to {batch.max}: {messages.cause()}")
    if calibrated:
        config.set_calibration_profile(profile)


def _check_fixed_batch(shapes: list[tuple[int, ...]], batch: BatchRange) -> None:
    fixed = {shape[0] for shape in shapes if shape}
    if batch.max > 1 and fixed and fixed != {batch.max}:
        raise TargetError(
            f"batches up to {batch.max} were asked for, but the graph's batch is fixed at {min(fixed)}. "
            "Export it with a dynamic batch dimension"
        )


def _serialize(
    library: Library,
    build: Callable[[], Any],
    config: Any,
    messages: Messages,
    progress: ProgressCallback | None,
    current: Callable[[], AbstractContextManager[None]],
) -> bytes:
    """Run the build; cancellable where the library reports progress."""
    cancel = threading.Event()
    monitor = None
    if library.capabilities.progress_monitor:
        monitor = config.progress_monitor = make_monitor(library.module, progress, cancel)

    def work() -> Any:
        with current():
            return build()

    plan = run_cancellable(work, cancel, stoppable=monitor is not None)
    if monitor is not None and monitor.error is not None:
        raise monitor.error
    if plan is None:
        cause = messages.cause(limit=5)
        raise TargetError(f"{library.title} cannot build this graph: {cause}{fix_for(cause)}")
    return bytes(plan)


def describe(offered: Capabilities, *, jetson: bool = False) -> str:
    """One line on what a build can be asked for, for `edgeopt doctor`."""
    levels = "" if jetson else ", ".join(offered.hardware_compatibility)
    targets = ", ".join(offered.compute_capabilities)
    parts = {
        "strongly typed": offered.strongly_typed,
        "weakly typed (types are allowed, not binding)": not offered.strongly_typed,
        "implicit INT8 calibrator": offered.calibrator,
        f"hardware compatibility ({levels})": bool(levels),
        "version-compatible plans": offered.version_compatible,
        f"builds without a GPU for {targets}": bool(targets),
    }
    return "; ".join(part for part, there in parts.items() if there)
