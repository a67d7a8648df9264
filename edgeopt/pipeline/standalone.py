"""Quantize one ONNX file, without a recipe."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgeopt.bundle.calibration import Convergence
from edgeopt.bundle.records import IntegerCoverage
from edgeopt.calibrate import calibrate
from edgeopt.calibrate.spool import spooled_images
from edgeopt.calibrate.tap import Feeds
from edgeopt.config import CalibrateConfig, DataSource, ExportConfig, QuantizeConfig, SchemeName, read_toml
from edgeopt.dataset import Dataset, load, refuse_overlap
from edgeopt.dataset.arrays import stream_arrays
from edgeopt.errors import ConfigError, ModelError, storage_errors, when_stopped
from edgeopt.files import require_writable, write_atomically
from edgeopt.passes.qdq.overflow import safe_processors
from edgeopt.passes.quantize.insert import told_methods
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import require_served, scheme
from edgeopt.passes.repair.observed import observed_tensors
from edgeopt.passes.rewrite.free_batch import fix_batch
from edgeopt.passes.rewrite.freeze_shapes import freeze_shapes, thaw_shapes
from edgeopt.passes.rewrite.older_label import older_label
from edgeopt.passes.rewrite.opset import raise_opset
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.pipeline.agreement import allowed, require_close, require_same
from edgeopt.pipeline.batches import of_single_images, require_same_in_batches
from edgeopt.pipeline.engine_answers import warn_of_engine, warn_of_open_batch
from edgeopt.pipeline.forms import in_common_form
from edgeopt.pipeline.inputs import Sample, fitted, graph_inputs
from edgeopt.pipeline.outputs import READ_IMAGES, OutputKind, read_outputs
from edgeopt.pipeline.precision import describe_kept, to_float16
from edgeopt.pipeline.quantizing import quantize_graph
from edgeopt.pipeline.slowdown import slowdown_for
from edgeopt.pipeline.validity import require_finite, require_loadable
from edgeopt.preprocess import preprocess
from edgeopt.progress import Progress
from edgeopt.source.onnx_file import read_onnx
from edgeopt.spec import PROCESSORS, Preprocessing, Processor, Struct

Samples = Iterator[Sample]
_LOG = logging.getLogger(__name__)
_ASKED_OPEN = 2
"""Images by which OpenVINO is asked if it answers alike for any number of them."""


class InputSpec(Struct):
    """Content of ``--spec``: how images become the network's input."""

    preprocessing: Preprocessing


class TakenFor(Struct):
    """Meaning that an output was taken for, and why."""

    output: str
    kind: OutputKind
    why: str


class TriedRepair(Struct):
    """One repair that was tried, as `RepairTrial` has it, and whether it was kept."""

    name: str
    before: float
    after: float
    declined: str
    kept: bool


class QuantizedFile(Struct):
    """A Q/DQ file that was written, and what it rests on."""

    bytes: int
    """Its size."""
    float_bytes: int
    """Size of the file that it was made from."""
    images: int
    """It was calibrated on."""
    calibrated_on: dict[str, str]
    """Sha256 of the network's inputs, by name of the image or sample."""
    convergence: Convergence
    scheme: SchemeName
    processors: tuple[Processor, ...]
    """Processors whose kernels compute the file as written."""
    outputs: tuple[TakenFor, ...]
    tried: tuple[TriedRepair, ...]
    repairs: tuple[str, ...]
    """Repairs that helped."""
    discrepancy: float
    """Distance of its outputs from the float network's, on samples that no repair was fitted on."""
    coverage: IntegerCoverage
    kept_float32: dict[str, str] | None
    """Reasons why nodes stayed FP32, by name; None if FP16 was not asked for."""
    declined: dict[str, str]
    """Reasons why repairs were not tried, or are not worth their gain, by name."""
    latency: float | None
    """Its time over the float network's, in the engine of its scheme on this machine, image by image in alternation;
    None where that engine is not installed, or the file is not for processors."""


@when_stopped("no file was written; edgeopt quantize keeps nothing of what it has done")
def quantize_file(
    path: Path,
    calibration: Path,
    spec: Path | None,
    calibrate_config: CalibrateConfig,
    quantize_config: QuantizeConfig,
    out: Path,
    progress: Progress,
    evaluation: Path | None = None,
    *,
    processors: Sequence[Processor] = (),
    float_rest: Literal["fp32", "fp16"] = "fp32",
    outputs: Mapping[str, OutputKind] | None = None,
    max_discrepancy: float | None = None,
) -> QuantizedFile:
    """Quantize an ONNX file, repair what that costs, and write the Q/DQ graph.

    Args:
        path: a float ONNX network.
        calibration: a folder of images, or an ``.npz`` of network inputs by name, first dimension = sample.
        spec: TOML with ``[preprocessing]``; needed with images.
        calibrate_config: settings of calibration.
        quantize_config: its scheme must be set.
        out: the file to write.
        progress: told about each stage.
        evaluation: a folder of the images that accuracy will be measured on; calibration must have none of them.
        processors: those that INT8 must be right on (``[compile] processors``). Default: all that the scheme serves.
        float_rest: what is not quantized computes in; fp16 is for GPU targets, see `passes.float16`.
        outputs: meaning of the outputs, by name (see `read_outputs`). Default: what they look like.
        max_discrepancy: most discrepancy of the result (see `Discrepancy`). Default: what `allowed` says.

    Raises:
        ParityError: the optimized graph computes something else than the file.
        AccuracyError: the quantized one is too far from it.
        ModelError: not an ONNX graph that can be quantized.
        DataError: calibration images or arrays that cannot be used, or that are evaluated on too.
        ConfigError: images without a spec, a spec that is not valid, outputs that are not what they are said to be, or
            a processor that the scheme is not for.
        StorageError: `out` cannot be written.
    """
    if quantize_config.scheme is None:
        raise ConfigError("quantizing one file needs a scheme: tensorrt, openvino, onnxruntime or arm")
    if float_rest == "fp16" and quantize_config.scheme != "tensorrt":
        raise ConfigError(
            f"FP16 is for GPUs, and scheme {quantize_config.scheme} is not: processors run FP16 scales slowly or, like "
            "onnxruntime 1.32, wrongly. Use --scheme tensorrt, or --float fp32"
        )
    require_served(quantize_config.scheme, processors)
    begun = time.monotonic()
    # What stands against it is said first.
    require_writable(out.parent)
    if evaluation is not None:
        _refuse_evaluated(calibration, evaluation)
    progress.begin("optimize")
    original = read_onnx(path)
    model, batch = of_single_images(optimize(raise_opset(original, ExportConfig().opset, path.name)))
    require_finite(model, path.name)
    told_methods(place(model, scheme(quantize_config.scheme), quantize_config.exclude), quantize_config.ranges)
    progress.end(f"{len(model.graph)} nodes", reused=False)
    progress.begin("calibrate")
    shapes = _Shapes(itertools.islice(network_feeds(model, calibration, spec), calibrate_config.images))
    images = spooled_images(shapes)
    counted = freeze_shapes(model, shapes.alike)
    feeds = [arrays for _, arrays in images[:READ_IMAGES]]
    if batch is None:
        exact = require_same(original, model, feeds, path.name)
    else:
        exact = require_same_in_batches(original, model, feeds, batch, path.name)
        _LOG.warning(
            "%s takes %d images at a time: it is quantized image by image, and takes as many as before",
            path.name,
            batch,
        )
    table = calibrate(
        counted,
        images,
        calibrate_config,
        lambda done, *_: progress.update(done, len(images)),
        observed_tensors(counted),
    )
    settled = table.convergence.summary()
    progress.end(f"{len(table.tensors)} tensors on {len(table.images)} images; ranges {settled}", reused=False)
    progress.begin("quantize")
    read = read_outputs(model, exact, outputs)
    readings = [each.reading for each in read]
    result = quantize_graph(
        counted,
        images,
        calibrate_config,
        quantize_config,
        quantize_config.scheme,
        readings,
        processors=processors or PROCESSORS,
        table=table,
        progress=progress.update,
        begun=begun,
    )
    limit = allowed(readings) if max_discrepancy is None else max_discrepancy
    require_close(result.discrepancy, limit, repaired=bool(quantize_config.repairs))
    finished, kept_float = result.model, None
    if counted is not model:
        thaw_shapes(finished, model)
    if float_rest == "fp16":
        finished, kept_float = to_float16(result.model, images, calibrate_config)
    finished = in_common_form(finished, quantize_config.scheme)
    if scheme(quantize_config.scheme).dtype == "int8":
        finished = older_label(finished)
    latency = None if float_rest == "fp16" else _latency((original, model), finished, quantize_config.scheme, feeds[0])
    warn_of_engine(finished, quantize_config.scheme, feeds, exact, path.name)
    if batch is not None:
        fix_batch(finished, batch)
    require_loadable(finished, quantize_config.scheme, path.name, model)
    warn_of_open_batch(finished, quantize_config.scheme, feeds[:_ASKED_OPEN], path.name)
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, ir.to_proto(finished).SerializeToString(), private=False)
    size, float_size = out.stat().st_size, path.stat().st_size
    summary = f"{size / 1e6:.2f} MB from {float_size / 1e6:.2f} MB"
    progress.end(summary if kept_float is None else f"{summary}, FP16: {describe_kept(kept_float)}", reused=False)
    return QuantizedFile(
        bytes=size,
        float_bytes=float_size,
        images=len(table.images),
        calibrated_on={image.name: image.sha256 for image in table.images},
        convergence=table.convergence,
        scheme=quantize_config.scheme,
        processors=tuple(safe_processors(result.model)),
        outputs=tuple(TakenFor(output=each.output, kind=each.kind, why=each.why) for each in read),
        tried=tuple(
            TriedRepair(
                name=trial.name,
                before=trial.before,
                after=trial.after,
                declined=trial.declined,
                kept=trial.is_kept,
            )
            for trial in result.trials
        ),
        repairs=result.helped,
        discrepancy=result.discrepancy,
        coverage=result.coverage,
        kept_float32=kept_float,
        declined={trial.name: trial.declined for trial in result.trials if trial.declined},
        latency=latency,
    )


def latency_line(times: float, scheme: SchemeName) -> str:
    """Say what INT8 does to the latency, and where it does not pay."""
    if times < 1.0:
        return f"INT8 takes {times:.2f} times as long as FP32 here ({scheme})"
    return (
        f"INT8 does not pay here: it takes {times:.2f} times as long as FP32 ({scheme} on this processor). Keep the "
        "float file for it, or measure another engine (--scheme)"
    )


def _latency(floats: Sequence[ir.Model], quantized: ir.Model, scheme: SchemeName, image: Feeds) -> float | None:
    """Return times of the quantized network over those of the first float one that its engine runs.

    The file as the user has it comes first: what edgeopt made of it is not what runs today.
    """
    slowdown = slowdown_for(scheme, image)
    found = (float("inf") if slowdown is None else slowdown(each, quantized) for each in floats)
    return next(filter(math.isfinite, found), None)


class _Shapes:
    """Passes samples on, and notes the shapes of inputs that all of them have alike."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.alike: dict[str, tuple[int, ...]] = {}

    def __iter__(self) -> Samples:
        for index, (name, feeds) in enumerate(self._samples):
            shapes = {key: array.shape for key, array in feeds.items()}
            self.alike = dict(shapes.items() & self.alike.items()) if index else shapes
            yield name, feeds


def _refuse_evaluated(calibration: Path, evaluation: Path) -> None:
    if calibration.suffix == ".npz":
        raise ConfigError("--evaluation compares pictures, but the calibration inputs are arrays: give their images")
    refuse_overlap({"calibration": _pictures(calibration), "evaluation": _pictures(evaluation)})


def _pictures(folder: Path) -> Dataset:
    return load(DataSource(format="images", path=str(folder.resolve())), Path.cwd())


def network_feeds(
    model: ir.Model, calibration: Path, spec: Path | None, note: Callable[[str], None] = _LOG.warning
) -> Samples:
    """Name and network inputs of each sample of an ``.npz``, or of each image of a folder (which needs `spec`).

    Args:
        model: whose inputs they must be.
        calibration: an ``.npz``, or a folder.
        spec: TOML with ``[preprocessing]``.
        note: told what had to be changed for them to be its inputs.

    Raises:
        DataError: arrays that cannot be used or do not fit the inputs, or no images.
        ConfigError: images without a spec, or a spec that is not valid.
        ModelError: images for a network of several inputs, or a network of several images at a time.
    """
    samples = array_feeds(calibration) if calibration.suffix == ".npz" else image_feeds(model, calibration, spec)
    return fitted(model, samples, calibration.name, note)


def array_feeds(path: Path) -> Samples:
    """Sample after sample of the arrays in an ``.npz``."""
    for row, arrays in enumerate(stream_arrays(path)):
        yield f"{path.name}[{row}]", arrays


def image_feeds(model: ir.Model, folder: Path, spec: Path | None) -> Samples:
    """Image after image of a folder, as the network's only input takes it."""
    if spec is None:
        raise ConfigError(
            "calibrating with images needs --spec: a TOML file with [preprocessing] (steps, channels, normalization)"
        )
    preprocessing = read_toml(spec, InputSpec).preprocessing
    inputs = graph_inputs(model)
    if len(inputs) != 1 or inputs[0].dtype is None:
        raise ModelError(f"the model has {len(inputs)} inputs: calibrate it with an .npz of all of them instead")
    name, dtype = inputs[0].name or "", inputs[0].dtype.numpy()
    dataset = _pictures(folder)
    for index, sample in enumerate(dataset):
        tensor, _ = preprocess(dataset.image(index), preprocessing)
        # Pixels without normalization are uint8, which networks exported in float32 want as numbers.
        yield sample.name, {name: np.ascontiguousarray(tensor[None], dtype)}
