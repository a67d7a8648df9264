"""Settings of building and running a bundle's TensorRT engine."""

from __future__ import annotations

from edgeopt.bundle import EngineSettings
from edgeopt.config import BatchRange, TensorRTOptions
from edgeopt.spec import replace


def trt_settings(settings: EngineSettings) -> TensorRTOptions:
    """Return a variant's options; a fixed batch (`EngineSettings.batch`) overrides the range to build for."""
    options = settings.tensorrt
    if settings.batch is None:
        return options
    batch = BatchRange(min=settings.batch, opt=settings.batch, max=settings.batch)
    return replace(options, build=replace(options.build, batch=batch))
