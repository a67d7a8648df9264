"""``EngineSettings.tensorrt`` of a bundle, typed."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeopt.bundle import EngineSettings
from edgeopt.errors import ConfigError
from edgeopt.runtime.cuda import Provider
from edgeopt.runtime.trt.options import BatchRange, EngineOptions
from edgeopt.spec import Struct, replace
from edgeopt.typed import convert


class RunOptions(Struct):
    """How an engine is run. Nothing here changes the engine."""

    cuda: Provider | Literal["auto"] = "auto"
    device: int = 0
    """Index of the GPU."""
    cuda_graph: bool = True
    """Launch the whole network as one piece of work; saves the processor the enqueueing of each layer."""
    memory: Literal["auto", "copied", "mapped"] = "auto"
    """See `buffers.Memory`. ``auto``: where GPU and processor share memory, whichever is faster in a short measurement;
    elsewhere ``copied``."""


class TrtSettings(Struct):
    """How an engine is built and run."""

    build: EngineOptions = EngineOptions()
    run: RunOptions = RunOptions()


def trt_settings(settings: EngineSettings) -> TrtSettings:
    """Read a variant's settings; a fixed batch (`EngineSettings.batch`) overrides the range to build for.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    try:
        read = convert(settings.tensorrt, TrtSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the TensorRT settings {settings.tensorrt} are not valid: {error}") from error
    if settings.batch is None:
        return read
    batch = BatchRange(min=settings.batch, opt=settings.batch, max=settings.batch)
    return replace(read, build=replace(read.build, batch=batch))
