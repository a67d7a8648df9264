"""TensorRT from 8.5 to 11 and TensorRT-RTX, behind capabilities instead of version numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import numpy as np

from edgeopt.bundle import EngineSettings
from edgeopt.config import TensorRTOptions, TensorRTRun
from edgeopt.errors import MissingExtraError, StorageError, TargetError
from edgeopt.files import sha256
from edgeopt.hardware import Machine, machine
from edgeopt.runtime.cuda import importable_providers, open_cuda
from edgeopt.runtime.engine_cache import cache_folder, recall, store
from edgeopt.runtime.first_load import compare
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

_TRIED: tuple[Memory, ...] = ("copied", "mapped")
"""Kinds of memory that are measured against each other. ``managed`` has to be asked for: it has run on no board yet,
and a mistake there is no error but the end of the process."""
_MEASURED_S, _WARM_UP_S = 0.5, 1.0
"""Seconds for each kind of memory, and before."""
_WORTH_IT = 0.98
"""Below this ratio to copies, with its whole interval, another memory is faster."""
_LOG = logging.getLogger(__name__)


def availability(target: str) -> Availability:
    """Tell if this machine can run TensorRT engines: library, and a driver with a GPU."""
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
        return Availability(ok=False, reason=f"nothing can talk to CUDA ({reasons})")
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

    kept = _kept_beside(library, plan, here, chosen.run.device)

    def open_with(memory: Memory) -> TrtSession:
        return TrtSession(
            library,
            plan,
            open_cuda(chosen.run.cuda, chosen.run.device, chosen.run.wait),
            memory=memory,
            cuda_graph=chosen.run.cuda_graph,
            reuse_outputs=reuse_outputs,
            embedded_runtime=built_here and chosen.build.version_compatible,
            kernels=cache_folder() / "kernels" / f"{kept}.cache",
            dla_core=chosen.build.dla_core,
        )

    if chosen.run.memory != "auto":
        return open_with(chosen.run.memory)
    if not _shares_memory(chosen.run, here):
        return open_with("copied")
    return open_fastest(open_with, cache_folder() / "memory" / kept)


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
    cuda = open_cuda(chosen.run.cuda, chosen.run.device, chosen.run.wait)
    try:
        return obtain_engine(
            library, content, chosen.build, cuda=cuda, here=here, device=chosen.run.device, folder=cache_folder()
        ).plan
    finally:
        cuda.close()


def _kept_beside(library: Library, plan: bytes, here: Machine, device: int) -> str:
    """Return the name of what is kept of this engine on this GPU, under this driver."""
    gpu = here.gpus[device] if device < len(here.gpus) else None
    parts = [sha256(plan), library.title, str(gpu), str(here.driver), str(here.cuda)]
    return sha256(chr(0).join(parts).encode())[:24]


def _shares_memory(run: TensorRTRun, here: Machine) -> bool:
    return run.device < len(here.gpus) and here.gpus[run.device].integrated


def open_fastest(open_with: Callable[[Memory], TrtSession], kept: Path) -> TrtSession:
    """Open an engine with the memory that is faster for it, which is measured once; a tie goes to copies.

    Both are measured in alternation after a second of warming up: on a Jetson clocks rise while something runs, and
    whichever was measured last would win.

    Args:
        open_with: opens the engine.
        kept: the file of what was found.
    """
    known = _recalled(kept)
    if known is not None:
        return open_with(known)
    try:
        with ExitStack() as stack:
            runs: dict[str, Callable[[], object]] = {}
            for kind in _TRIED:
                runs[kind] = _running(stack.enter_context(open_with(kind)))
            found = compare(runs, _MEASURED_S, perf_counter, warm_up_s=_WARM_UP_S)
    except TargetError as error:  # also a CudaError
        _LOG.warning("copies are used, because the engine does not fit twice to measure others: %s", error)
        return open_with("copied")
    fastest = min(_TRIED, key=lambda kind: _WORTH_IT if kind == "copied" else found[kind].high)
    try:
        store(kept, fastest.encode())
    except StorageError as error:
        _LOG.warning("which memory is faster is measured again at the next load: %s", error)
    return open_with(fastest)


def _recalled(kept: Path) -> Memory | None:
    try:
        text = recall(kept).decode(errors="replace")
    except OSError:
        return None
    return next((kind for kind in _TRIED if kind == text), None)


def _running(session: TrtSession) -> Callable[[], object]:
    """Return what runs a session once, on noise: zeros take less power, and clocks rise higher."""
    random = np.random.default_rng(0)
    feeds = {
        spec.name: random.integers(0, 255, [each if isinstance(each, int) else 1 for each in spec.shape]).astype(
            spec.dtype
        )
        for spec in session.inputs
    }
    return lambda: session.run(feeds)
