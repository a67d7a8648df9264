"""The first load on a device: build the engine from the bundle's ONNX, once, and keep it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from edgeopt.config import TensorRTBuild
from edgeopt.errors import ConfigError, TargetError, storage_errors
from edgeopt.files import locked, private_folder, sha256
from edgeopt.hardware import Machine, power_mode_reader
from edgeopt.runtime.cuda import Cuda
from edgeopt.runtime.engine_cache import Built, Cached, obtain, recall, store
from edgeopt.runtime.trt.builder import Engine, build_engine
from edgeopt.runtime.trt.calibrator import Batch, Feed, calibration_cache_path, make_calibrator
from edgeopt.runtime.trt.library import Library
from edgeopt.runtime.trt.memory import available_host_memory, check_memory, device_memory, workspace_for
from edgeopt.runtime.trt.progress import BuildProgress
from edgeopt.spec import replace
from edgeopt.trust.sealing import cipher_of

_LOG = logging.getLogger(__name__)
_REPORT_EVERY_S = 10.0


def engine_key(library: Library, onnx: bytes, options: TensorRTBuild, here: Machine, device: int) -> dict[str, str]:
    """Return everything that a plan depends on.

    TensorRT checks some of it at loading, but nothing that makes it slow.
    """
    gpu = here.gpus[device] if device < len(here.gpus) else None
    return {
        "onnx": sha256(onnx),
        "options": msgspec.json.encode(options).decode(),
        "gpu": gpu.name if gpu else "unknown",
        "compute_capability": gpu.compute_capability if gpu else "unknown",
        "tensorrt": library.title,
        "cuda": here.cuda or "unknown",
        "driver": here.driver or "unknown",
        "jetpack": (here.jetson.l4t if here.jetson else None) or "none",
        "dla_core": "none" if options.dla_core is None else str(options.dla_core),
    }


def engine_slot(key: dict[str, str]) -> str:
    """The file name for an engine: by model and options, so that a change of anything else is noticed and named."""
    options = sha256(key["options"].encode())
    return f"{key['onnx'][:16]}-{options[:8]}"


def obtain_engine(
    library: Library, onnx: bytes, options: TensorRTBuild, *, cuda: Cuda, here: Machine, device: int, folder: Path
) -> Cached:
    """Return the engine for this model on this device, from the cache or built now.

    Args:
        library: the TensorRT to use.
        onnx: the model.
        options: build options.
        cuda: the device, opened.
        here: this machine.
        device: index of the GPU.
        folder: folder of the cache.

    Raises:
        ModelError, TargetError: it cannot be built; see `build_engine`.
        StorageError: the cache cannot be written.
    """
    key = engine_key(library, onnx, options, here, device)
    _check_compatibility(library, options, here)
    timing = TimingCache(folder / "timing", here, key)

    def build(reason: str, last_seconds: float | None) -> Built:
        took = f"the last build took {last_seconds:.0f} s" if last_seconds else "seconds to several minutes"
        _LOG.warning(
            "building the engine on this %s, because engines run only where they were built, and %s. It takes %s, once",
            key["gpu"], reason, took,
        )  # fmt: skip
        with timing.held(), cuda.current():
            limited = _within_memory(options, len(onnx), cuda, here, device)
            engine = build_engine(
                library,
                onnx,
                limited,
                timing_cache=timing.read(),
                progress=ProgressLog(),
                current=cuda.current,
            )
            made_with = {"timing_cache": timing.write(engine.timing_cache), "workspace": str(limited.workspace_bytes)}
        if timing.power_mode:
            made_with["power_mode"] = timing.power_mode
        return Built(plan=engine.plan, made_with=made_with)

    return obtain(folder / "engines", engine_slot(key), key, build, cipher=cipher_of(onnx))


def _check_compatibility(library: Library, options: TensorRTBuild, here: Machine) -> None:
    if options.hardware_compatibility != "none" and here.jetson is not None:
        raise TargetError(
            f"{library.title} makes no engines for other GPUs on a Jetson, and hardware_compatibility is "
            f"'{options.hardware_compatibility}'. Leave it out: the engine is built for this board, once"
        )


def _within_memory(options: TensorRTBuild, onnx_bytes: int, cuda: Cuda, here: Machine, device: int) -> TensorRTBuild:
    """Return the options with a workspace that there is memory for, within `Cuda.current`.

    Raises:
        TargetError: there is too little to begin.
    """
    host = available_host_memory()
    integrated = device < len(here.gpus) and here.gpus[device].integrated
    free = device_memory(cuda.memory()[0], host, integrated=integrated)
    check_memory(onnx_bytes, host, free)
    return replace(options, workspace_bytes=options.workspace_bytes or workspace_for(free))


def build_implicit_int8(
    library: Library,
    onnx: bytes,
    options: TensorRTBuild,
    *,
    batches: Iterable[Batch],
    fingerprint: str,
    cuda: Cuda,
    here: Machine,
    device: int,
    folder: Path,
) -> Engine:
    """Build an INT8 engine by TensorRT's own calibrator, which DLA needs up to TensorRT 10.7.

    Args:
        library: TensorRT 8.5 to 10.x.
        onnx: the float model, without Q/DQ.
        options: build options; its batch is also the calibration's and has to be fixed.
        batches: arrays by input name, each of `options.batch` images; not read where the ranges are kept already.
        fingerprint: of the images; names the file of ranges, together with the model and the TensorRT version.
        cuda: the device, opened.
        here: this machine.
        device: index of the GPU.
        folder: folder of the cache.

    Raises:
        TargetError: this TensorRT has no calibrator, or cannot build.
        DataError: batches that differ in shape or lack an input.
        ConfigError: a range of batch sizes.
    """
    if not options.batch.fixed:
        raise ConfigError(f"calibration needs one batch size, not {options.batch.min} to {options.batch.max}")
    feed = Feed(batches, cuda)
    ranges = calibration_cache_path(folder, library, onnx, fingerprint)
    calibrator = make_calibrator(library, feed, options.batch.max, ranges)
    try:
        with cuda.current():  # the builder and the parser are of the GPU that is current on their thread
            return build_engine(
                library,
                onnx,
                _within_memory(options, len(onnx), cuda, here, device),
                calibrator=calibrator,
                progress=ProgressLog(),
                current=cuda.current,
            )
    finally:
        feed.close()


class ProgressLog:
    """Says now and then how far a build is."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, progress: BuildProgress) -> None:
        """Take one step's report."""
        if time.monotonic() - self._last >= _REPORT_EVERY_S:
            self._last = time.monotonic()
            _LOG.warning("still building: %s, step %d of %d", progress.phase, progress.step, progress.steps)


class TimingCache:
    """Timings of builds on one device with one TensorRT, under the hash that they were written with.

    They hold for one driver and, on a Jetson, for one power mode: kernels that were timed at 15 W are not the fastest
    at 40 W.
    """

    def __init__(self, folder: Path, here: Machine, key: Mapping[str, str]) -> None:
        """Name the cache of this device and its software (`engine_key`)."""
        self.power_mode = (power_mode_reader()() or "") if here.jetson is not None else ""
        parts = [key[name] for name in ("gpu", "compute_capability", "tensorrt", "cuda", "driver", "jetpack")]
        name = " ".join([*parts, self.power_mode]).strip()
        self._path = folder / (re.sub(r"[^A-Za-z0-9.]+", "-", name) + ".cache")
        self._pin = self._path.with_suffix(".sha256")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let one build at a time use it: two would lose each other's timings, and disturb each other's kernels."""

        def busy() -> None:
            _LOG.warning("another process times kernels on this GPU; waiting for it")

        lock = self._path.with_suffix(".lock")
        with ExitStack() as held:
            with storage_errors(lock):
                private_folder(lock.parent)
                held.enter_context(locked(lock, busy))
            yield

    def read(self) -> bytes:
        """Return the content; nothing if there is none, or if it is not what was written."""
        if not (self._path.is_file() and self._pin.is_file()):
            return b""
        try:
            content, pin = recall(self._path), recall(self._pin)
        except OSError as error:
            _LOG.warning("the timing cache cannot be used: %s", error)
            return b""
        if sha256(content).encode() != pin.strip():
            _LOG.warning("the timing cache %s is not what was written and is not used", self._path)
            return b""
        return content

    def write(self, content: bytes) -> str:
        """Keep the content and return its hash; libraries without a timing cache give nothing to keep."""
        if not content:
            return "none"
        digest = sha256(content)
        store(self._path, content)
        store(self._pin, digest.encode())
        return digest
