"""TensorRT from 8.5 to 11 and TensorRT-RTX, behind capabilities instead of version numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from edgeopt.bundle import EngineSettings
from edgeopt.config import TensorRTOptions, TensorRTRun
from edgeopt.errors import MissingExtraError, StorageError
from edgeopt.files import sha256
from edgeopt.hardware import Machine, machine
from edgeopt.runtime.cuda import importable_providers, open_cuda
from edgeopt.runtime.engine_cache import cache_folder
from edgeopt.runtime.session import Availability
from edgeopt.runtime.trt.buffers import Memory
from edgeopt.runtime.trt.builder import describe
from edgeopt.runtime.trt.capabilities import Flavour
from edgeopt.runtime.trt.library import Library, load_library
from edgeopt.runtime.trt.on_device import obtain_engine
from edgeopt.runtime.trt.session import TrtSession
from edgeopt.runtime.trt.settings import trt_settings

FLAVOURS: dict[str, Flavour] = {"trt": "tensorrt", "trt8": "tensorrt", "rtx": "tensorrt_rtx"}
"""TensorRT's flavour by target."""

_MEASURED_RUNS = 30


def availability(target: str) -> Availability:
    """Tell if this machine can run TensorRT engines: library, driver with a GPU, and a package to talk to it."""
    try:
        library = load_library(FLAVOURS[target])
    except MissingExtraError as error:
        return Availability(ok=False, reason=str(error))
    if not library.capabilities.named_tensors:
        return Availability(ok=False, reason=f"{library.title} is too old: 8.5 is the oldest that edgeopt runs on")
    if target == "trt8" and library.capabilities.max_opset is None:
        return Availability(
            ok=False, reason=f"{library.title} reads the graphs of target 'trt', which run faster on it"
        )
    here = machine()
    if not here.gpus:
        return Availability(ok=False, reason=f"{library.title} needs a GPU, and {here.gpu_problem}")
    providers = importable_providers()
    if all(providers.values()):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in providers.items())
        return Availability(ok=False, reason=f"no package can talk to CUDA ({reasons})")
    return Availability(ok=True)


def open_engine(
    path: Path, target: str, settings: EngineSettings, *, reuse_outputs: bool, content: bytes | None = None
) -> TrtSession:
    """Load a plan, or an ``.onnx`` whose engine is built here at first load and kept.

    Raises:
        MissingExtraError: TensorRT or a CUDA package is missing.
        TargetError: no GPU, or the engine cannot be built or run here.
    """
    chosen = trt_settings(settings)
    library = load_library(FLAVOURS[target])
    here = machine()
    built_here = path.suffix == ".onnx"
    if content is None:
        content = _read(path)
    plan = _built(content, library, chosen, here) if built_here else content

    def open_with(memory: Memory) -> TrtSession:
        return TrtSession(
            library,
            plan,
            open_cuda(chosen.run.cuda, chosen.run.device),
            memory=memory,
            cuda_graph=chosen.run.cuda_graph,
            reuse_outputs=reuse_outputs,
            embedded_runtime=built_here and chosen.build.version_compatible,
            kernels=_kernels_path(library, plan, here, chosen.run.device),
            dla_core=chosen.build.dla_core,
        )

    return open_with(_memory(chosen.run, here, open_with))


def list_layers(path: Path, settings: EngineSettings, *, target: str) -> str:
    """Return the layers of an engine as JSON of TensorRT's inspector.

    Raises:
        MissingExtraError, TargetError: as `open_engine`.
    """
    with open_engine(path, target, settings, reuse_outputs=False) as session:
        return session.layers_json()


def offers(target: str, here: Machine) -> str:
    """Say what the installed library can do; empty if there is none."""
    try:
        offered = load_library(FLAVOURS[target]).capabilities
    except MissingExtraError:
        return ""
    return "" if target == "trt8" and offered.max_opset is None else describe(offered, jetson=here.jetson is not None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read the engine {path}: {error}") from error


def _built(content: bytes, library: Library, chosen: TensorRTOptions, here: Machine) -> bytes:
    """Return the plan of an ONNX graph, built on this machine or kept from an earlier time."""
    cuda = open_cuda(chosen.run.cuda, chosen.run.device)
    try:
        return obtain_engine(
            library, content, chosen.build, cuda=cuda, here=here, device=chosen.run.device, folder=cache_folder()
        ).plan
    finally:
        cuda.close()


def _kernels_path(library: Library, plan: bytes, here: Machine, device: int) -> Path:
    """Return the file for the kernels that this engine compiles at first use."""
    gpu = here.gpus[device] if device < len(here.gpus) else None
    parts = [sha256(plan), library.title, str(gpu), str(here.driver), str(here.cuda)]
    return cache_folder() / "kernels" / f"{sha256(chr(0).join(parts).encode())[:24]}.cache"


def _memory(run: TensorRTRun, here: Machine, open_with: Callable[[Memory], TrtSession]) -> Memory:
    """Return the memory to use, measured where it is not clear."""
    if run.memory != "auto":
        return run.memory
    shared = run.device < len(here.gpus) and here.gpus[run.device].integrated
    if not shared:
        return "copied"
    return faster_memory(open_with)


def faster_memory(open_with: Callable[[Memory], TrtSession]) -> Memory:
    """Measure both kinds of memory on the engine itself; a tie goes to copies, which the GPU caches."""
    kinds: tuple[Memory, ...] = ("copied", "mapped")
    return min(kinds, key=lambda kind: _median_s(open_with, kind))


def _median_s(open_with: Callable[[Memory], TrtSession], memory: Memory) -> float:
    with open_with(memory) as session:
        feeds = {
            spec.name: np.zeros([size if isinstance(size, int) else 1 for size in spec.shape], spec.dtype)
            for spec in session.inputs
        }
        times = []
        for _ in range(_MEASURED_RUNS):
            start = perf_counter()
            session.run(feeds)
            times.append(perf_counter() - start)
    return median(times)
