"""``[compile]``: what runs the graph."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeopt.doors import TARGETS
from edgeopt.errors import SettingError, did_you_mean
from edgeopt.references import check, named
from edgeopt.spec import PROCESSORS, PositiveInt, Processor, Struct

TargetName: TypeAlias = Annotated[str, named(TARGETS)]
CandidateName: TypeAlias = Literal[
    "depthwise", "sums", "head", "islands", "residual", "gates", "hardswish", "scales", "resizes", "float32"
]
"""Doubts about INT8 that only a device can settle; see `passes.qdq.candidates`."""


class BatchRange(Struct):
    """Batch sizes of one engine, which is tuned for `opt`."""

    min: PositiveInt = 1
    """Smallest batch."""
    opt: PositiveInt = 1
    """Batch that the engine is tuned for."""
    max: PositiveInt = 1
    """Largest batch."""

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise SettingError(
                f"batch sizes must satisfy min <= opt <= max, but are {self.min}, {self.opt}, {self.max}"
            )

    @property
    def fixed(self) -> bool:
        """True for a single size, as a DLA core demands."""
        return self.min == self.max


class TensorRTBuild(Struct):
    """``[compile.tensorrt.build]``: everything that changes the resulting engine. It is part of the engine cache's key.

    There is no precision here: precision is in the ONNX graph.
    """

    batch: BatchRange = BatchRange()
    """Batch sizes, if the graph's batch dimension is dynamic."""
    workspace_bytes: PositiveInt | None = None
    """Scratch memory that tactics may use. None: derived from the device's free memory."""
    optimization_level: Annotated[int, Meta(ge=0, le=5)] | None = None
    """Effort of the build, from 0 (builds fastest) to 5 (searches longest). None: the library's default (3). TensorRT
    8.6 and newer."""
    tf32: bool = True
    """Let FP32 convolutions use TF32 tensor cores (Ampere and newer): 10-bit mantissa, much faster."""
    fp16_rest: bool = True
    """TensorRT 8 only, whose INT8 graphs have FP32 scales: let the layers of an INT8 graph that are not quantized run
    in FP16. Without it they run in FP32, and INT8 is often slower than FP16."""
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    """GPUs that the engine also runs on, which costs speed. Not on a Jetson."""
    version_compatible: bool = False
    """Let newer releases of TensorRT load the engine, which costs speed."""
    dla_core: Annotated[int, Meta(ge=0)] | None = None
    """Run on this DLA core; what it cannot do runs on the GPU."""
    compute_capabilities: tuple[str, ...] = ()
    """TensorRT-RTX only: GPUs to build for, such as ``SM86``. Default: those that the library serves unasked,
    which leaves out SM75."""


class TensorRTRun(Struct):
    """``[compile.tensorrt.run]``: how an engine is run. Nothing here changes the engine."""

    cuda: Literal["pycuda", "libcuda", "auto"] = "auto"
    """Way to the GPU: the package pycuda, or the driver's library, for which nothing has to be installed.
    ``auto`` takes pycuda where it is."""
    wait: Literal["auto", "spin", "block"] = "auto"
    """Way of threads to wait for the GPU, in the whole process: ``spin`` takes a core and answers at once, ``block``
    sleeps and is woken up some ten microseconds late, ``auto`` leaves it to the driver, which may block on a Jetson."""
    device: int = 0
    """Index of the GPU."""
    cuda_graph: bool = True
    """Launch the whole network as one piece of work, which saves the processor the enqueueing of each layer."""
    preprocess: Literal["cpu", "gpu"] = "cpu"
    """Where `Predictor.predict` prepares its picture. ``gpu``: by a kernel in front of the network, for models that
    take one letterboxed picture and have their normalization in the graph. Pixels differ by one level at most."""
    memory: Literal["auto", "copied", "mapped", "managed"] = "auto"
    """Memory of inputs and outputs; see `runtime.trt.buffers.Memory`. ``auto`` measures shortly which of ``copied`` and
    ``mapped`` is faster if GPU and processor share memory; elsewhere it means ``copied``. ``managed`` (CUDA's unified
    memory) has run on no board yet."""


class TensorRTOptions(Struct):
    """``[compile.tensorrt]``: how TensorRT builds and runs."""

    build: TensorRTBuild = TensorRTBuild()
    run: TensorRTRun = TensorRTRun()


class CompileConfig(Struct):
    """``[compile]``: targets and their options."""

    targets: Annotated[tuple[TargetName, ...], Meta(min_length=1)] = ("ov", "ort")
    """Engines to build for: OpenVINO, ONNX Runtime, TensorRT (built on the device; 8.5 and 8.6,
    of JetPack 5.1 and 6.0, need graphs of their own: ``trt8``) and TensorRT-RTX."""
    processors: Annotated[tuple[Processor, ...], Meta(min_length=1)] = PROCESSORS
    """Processors that INT8 must be right on, for targets that run on one: ``vnni`` (x86 with VNNI), ``avx2`` (x86
    without) and ``arm``. Without VNNI products of large weights saturate in 16 bits. By default one graph serves all:
    its weights are too small for that, and results differ by roundings at most. What they cost in accuracy is under
    "Processors without VNNI" in benchmarks/README.md; in time nobody has recorded it. Leave ``avx2`` out for weights
    that use all of their 8 bits."""
    candidates: bool | tuple[CandidateName, ...] = False
    """Add up to three INT8 variants to each target's, which differ where no document says what is faster, or those of
    a list that the network raises. They leave float: ``depthwise`` convolutions, ``sums`` of branches, products of one
    row (``head``), layers between float ones (``islands``); quantize more: both branches of a sum (``residual``), a
    product with a squeeze-and-excite gate (``gates``), what goes into ``hardswish`` or into ``resizes`` that
    interpolate; do without a Mul per channel before depthwise convolutions (``scales``); or have scales and all that
    is not INT8 in ``float32``. `edgeopt tune` measures them on a device and keeps the fastest accepted one for machines
    of its kind."""
    tensorrt: TensorRTOptions = TensorRTOptions()
    """Options of ``trt``, ``trt8`` and ``rtx``: ``build.batch.max = 8``, ``build.dla_core = 0``, ``run.device = 1``…"""
    options: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """Options of targets of your own, by their reference; `Target.options` describes them."""

    def __post_init__(self) -> None:
        for target in self.targets:
            check(target, TARGETS, "target")
        for target in self.options:
            if target not in self.targets:
                raise SettingError(
                    f"options of a target that is not built: '{target}'.{did_you_mean(target, self.targets)}"
                )
