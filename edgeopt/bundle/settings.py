"""Settings of an engine."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from edgeopt.bundle.calibration import Count
from edgeopt.config import TensorRTOptions
from edgeopt.spec import PositiveInt, Struct

Mode: TypeAlias = Literal["latency", "throughput"]
"""One image as soon as possible, or as many images a second as possible."""


class EngineSettings(Struct):
    """Settings of an engine, as chosen when it was compiled or tuned. A caller may override the threads."""

    threads: Count = 0
    """0: the engine's own default."""
    batch: PositiveInt | None = None
    """Fixes a dynamic batch dimension, which lets an engine specialise. None: as the graph says."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of float layers (OpenVINO only). It is never lower than asked for, whatever the CPU would prefer."""
    hint: Literal["latency", "throughput"] = "latency"
    """OpenVINO's performance hint."""
    streams: Count = 0
    """OpenVINO's parallel streams; 0: what the hint gives."""
    tensorrt: TensorRTOptions = TensorRTOptions()
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Options of a user's own target, which described and checked them (`runtime.session.Target.options`)."""
