"""How an engine is built. There is no precision here: precision is in the ONNX graph."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from edgeopt.errors import ConfigError
from edgeopt.spec import PositiveInt, Struct


class BatchRange(Struct):
    """The batch sizes that one engine serves; it is tuned for `opt`."""

    min: PositiveInt = 1
    opt: PositiveInt = 1
    max: PositiveInt = 1

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ConfigError(f"batch sizes must satisfy min <= opt <= max, but are {self.min}, {self.opt}, {self.max}")

    @property
    def fixed(self) -> bool:
        """One size only, as a DLA core demands."""
        return self.min == self.max


class EngineOptions(Struct):
    """Everything that changes the engine that comes out; part of the cache's key."""

    batch: BatchRange = BatchRange()
    """Used where the graph's batch dimension is dynamic."""
    workspace_bytes: PositiveInt | None = None
    """Scratch memory that tactics may use; None: decided from the device's free memory."""
    optimization_level: Annotated[int, Meta(ge=0, le=5)] | None = None
    """0 builds fastest, 5 searches longest; None: the library's default (3). TensorRT 8.6 and newer."""
    tf32: bool = True
    """Let FP32 convolutions use TF32 tensor cores (Ampere and newer): 10-bit mantissa, much faster."""
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    version_compatible: bool = False
    dla_core: Annotated[int, Meta(ge=0)] | None = None
    """Run on this DLA core, and on the GPU what it cannot do."""
    compute_capabilities: tuple[str, ...] = ()
    """TensorRT-RTX only: GPUs to build for, such as ``SM86``; none: all that it supports."""
