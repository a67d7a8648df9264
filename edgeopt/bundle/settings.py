"""Settings of an engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeopt.config import TensorRTOptions
from edgeopt.spec import Struct

Mode: TypeAlias = Literal["latency", "throughput"]
"""One image as soon as possible, or as many images a second as possible."""


Parallel: TypeAlias = Annotated[int, Meta(ge=0, le=1024)]
"""Number of threads or streams: an engine that is asked for a million of them hangs."""


class EngineSettings(Struct):
    """Settings of an engine, as chosen when it was compiled or tuned. A caller may override the threads."""

    threads: Parallel = 0
    """0: the engine's own default."""
    batch: Annotated[int, Meta(gt=0, le=4096)] | None = None
    """Fixes a dynamic batch dimension, which lets an engine specialise. None: as the graph says."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of float layers (OpenVINO only). It is never lower than asked for, whatever the CPU would prefer."""
    hint: Literal["latency", "throughput"] = "latency"
    """OpenVINO's performance hint."""
    streams: Parallel = 0
    """OpenVINO's parallel streams; 0: what the hint gives."""
    vnni_layers: tuple[str, ...] = ()
    """Convolutions, by name, that OpenVINO computes by VNNI on a processor with AMX, which takes longer for them."""
    tensorrt: TensorRTOptions = TensorRTOptions()
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Options of a user's own target, which described and checked them (`runtime.session.Target.options`)."""
