"""Build implicit INT8 on its own device, by TensorRT's calibrator on a bundle's float graph and images.

DLA cores take INT8 in no other way up to TensorRT 10.7. Everywhere else the bundle's own INT8 variant is the better
one: its ranges and repairs were verified before they reached the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgeopt.bundle import Bundle, EngineSettings, Variant
from edgeopt.bundle.records import ImplicitCalibration, StageRecords
from edgeopt.config import BatchRange, DataSource, TensorRTOptions
from edgeopt.dataset import Dataset, load
from edgeopt.dataset.arrays import read_arrays
from edgeopt.errors import BundleError, DataError, storage_errors
from edgeopt.files import sha256
from edgeopt.hardware import machine
from edgeopt.preprocess import feed, preprocess
from edgeopt.runtime.cuda import open_cuda
from edgeopt.runtime.engine_cache import cache_folder
from edgeopt.runtime.trt.calibrator import Batch
from edgeopt.runtime.trt.library import load_library
from edgeopt.runtime.trt.on_device import build_implicit_int8
from edgeopt.runtime.trt.settings import trt_settings
from edgeopt.spec import ModelSpec, replace

NOT_MEASURED = (
    "its accuracy was not measured: TensorRT chose its ranges on the device. Measure it with: edgeopt evaluate"
)


def add_implicit_variant(
    bundle: Bundle, images: Path, *, count: int = 200, batch: int = 1, dla_core: int | None = None
) -> tuple[Bundle, Variant]:
    """Build an INT8 engine of a bundle's float graph on this machine, and put it into the bundle.

    No device chooses the new variant by itself before its accuracy is accepted; name it to run it.

    Args:
        bundle: an opened bundle; the folder is replaced in one step.
        images: a folder of calibration images, prepared as the bundle's specification says.
        count: at most so many of them.
        batch: of the calibration and of the engine, which is fixed.
        dla_core: the core to run on, with the GPU for what it cannot do; None: the GPU alone.

    Returns:
        The bundle with the variant, and the variant.

    Raises:
        BundleError: the bundle has no float ONNX graph.
        DataError: fewer images than a batch.
        MissingExtraError, TargetError: as `compile_implicit`.
        StorageError: the disk refused.
    """
    source = _float_variant(bundle)
    spec = bundle.spec(source.name)
    dataset = load(DataSource(format="images", path=str(images.resolve())), Path.cwd())
    dataset = dataset.subset(range(min(count, len(dataset))))
    settings = _settings(source.engine.tensorrt, batch, dla_core)
    plan = compile_implicit(
        bundle.engine(source.name),
        image_batches(dataset, spec, batch),
        _fingerprint(dataset.fingerprint(), msgspec.json.encode(spec.preprocessing), batch),
        settings,
    )
    name = "trt-int8-implicit" if dla_core is None else f"trt-int8-dla{dla_core}"
    variant = Variant(
        name=name,
        target="trt",
        precision="int8",
        file=f"variants/{name}/engine.plan",
        spec=source.spec,
        engine=settings,
        accepted=False,
        verdict=f"{NOT_MEASURED} {bundle.path} --variant {name}",
        stages=StageRecords(implicit=ImplicitCalibration(source=source.name, images=len(dataset))),
    )
    return bundle.add(variant, plan), variant


def compile_arrays(path: Path, arrays: Path, out: Path, *, batch: int = 1, dla_core: int | None = None) -> int:
    """Build an INT8 plan of a float ONNX file, calibrated on network inputs; return its size in bytes.

    Args:
        path: the ONNX file, without Q/DQ.
        arrays: an ``.npz`` of network inputs by name, first dimension = sample, as `edgeopt quantize` takes it.
        out: the file to write.
        batch: as in `add_implicit_variant`.
        dla_core: the same.

    Raises:
        DataError: `arrays` is no ``.npz`` of plain arrays, or has fewer samples than a batch.
        MissingExtraError, TargetError: as `compile_implicit`.
        StorageError: `out` cannot be written.
    """
    inputs, samples = read_arrays(arrays)
    batches: list[Batch] = [
        {name: array[rows.start : rows.stop] for name, array in inputs.items()}
        for rows in _whole_batches(samples, batch, "samples")
    ]
    plan = compile_implicit(
        path.read_bytes(),
        batches,
        _fingerprint(sha256(arrays), b"", batch),
        _settings(TensorRTOptions(), batch, dla_core),
    )
    with storage_errors(out):
        out.write_bytes(plan)
    return len(plan)


def compile_implicit(onnx: bytes, batches: Iterable[Batch], fingerprint: str, settings: EngineSettings) -> bytes:
    """Return an INT8 plan for this very machine by TensorRT's own calibrator: TensorRT 8.5 to 10.x, and DLA there.

    Its accuracy has to be measured here: TensorRT chooses ranges and fusions, and no other engine computes the same.

    Args:
        onnx: the float model.
        batches: calibration arrays by input name, each of one and the same batch size (`EngineSettings.batch`).
        fingerprint: fingerprint of the calibration images.
        settings: they may name a DLA core.

    Raises:
        MissingExtraError: TensorRT or a CUDA package is missing.
        TargetError: no calibrator in this TensorRT, no such DLA core, or it cannot build.
    """
    chosen = trt_settings(settings)
    library = load_library("tensorrt")
    cuda = open_cuda(chosen.run.cuda, chosen.run.device, chosen.run.wait)
    try:
        return build_implicit_int8(
            library,
            onnx,
            chosen.build,
            batches=batches,
            fingerprint=fingerprint,
            cuda=cuda,
            here=machine(),
            device=chosen.run.device,
            folder=cache_folder(),
        ).plan
    finally:
        cuda.close()


def image_batches(dataset: Dataset, spec: ModelSpec, batch: int) -> Iterator[Batch]:
    """Yield network inputs of `batch` images each; a remainder in the end is not used.

    Raises:
        DataError: fewer images than one batch.
    """
    for rows in _whole_batches(len(dataset), batch, "images"):
        yield _stacked(dataset, spec, rows)


def _whole_batches(count: int, batch: int, what: str) -> Iterator[range]:
    if count < batch:
        raise DataError(f"{count} calibration {what} do not make one batch of {batch}. Give more, or a smaller --batch")
    for first in range(0, count - batch + 1, batch):
        yield range(first, first + batch)


def _stacked(dataset: Dataset, spec: ModelSpec, rows: Sequence[int]) -> Batch:
    tensors, geometries = zip(*(preprocess(dataset.image(row), spec.preprocessing) for row in rows), strict=True)
    return feed(spec, np.stack(tensors).astype(spec.input.dtype, copy=False), geometries)


def _settings(given: TensorRTOptions, batch: int, dla_core: int | None) -> EngineSettings:
    """Return the float variant's settings with the batch and the core of this build."""
    build = replace(given.build, batch=BatchRange(), dla_core=dla_core)
    return EngineSettings(batch=batch, tensorrt=replace(given, build=build))


def _fingerprint(*parts: object) -> str:
    """Return a hash of everything but model and TensorRT that a file of ranges depends on."""
    return sha256(repr(parts).encode())


def _float_variant(bundle: Bundle) -> Variant:
    """Return the FP32 variant whose file is a graph: of TensorRT 8 where that is here, of TensorRT, or of any other."""
    graphs = [one for one in bundle.manifest.variants if one.precision == "fp32" and one.file.endswith(".onnx")]
    if not graphs:
        raise BundleError(f"{bundle.path} has no FP32 variant with an ONNX graph to calibrate. Build it with one")
    lowered = load_library("tensorrt").capabilities.max_opset is not None
    wanted = ("trt8", "trt") if lowered else ("trt",)
    return next((one for target in wanted for one in graphs if one.target == target), graphs[0])
