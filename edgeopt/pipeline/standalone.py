"""Quantize one ONNX file, without a recipe."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate import calibrate
from edgeopt.calibrate.tap import outputs_as_written
from edgeopt.config import CalibrateConfig, DataSource, ExportConfig, QuantizeConfig, read_toml
from edgeopt.dataset import Dataset, load, refuse_overlap
from edgeopt.dataset.arrays import read_arrays
from edgeopt.errors import ConfigError, ModelError, storage_errors
from edgeopt.passes.qdq.overflow import safe_processors
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import scheme
from edgeopt.passes.rewrite.opset import raise_opset
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.pipeline.outputs import READ_IMAGES, OutputKind, read_outputs
from edgeopt.pipeline.precision import describe_kept, to_float16
from edgeopt.pipeline.quantizing import quantize_graph
from edgeopt.preprocess import preprocess
from edgeopt.progress import Progress
from edgeopt.source.graph import read_onnx
from edgeopt.spec import PROCESSORS, Preprocessing, Processor, Struct

Samples = Iterator[tuple[str, dict[str, NDArray[Any]]]]


class InputSpec(Struct):
    """What ``--spec`` holds: how images become the network's input."""

    preprocessing: Preprocessing


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
    processors: Sequence[Processor] = PROCESSORS,
    float_rest: Literal["fp32", "fp16"] = "fp32",
    outputs: Mapping[str, OutputKind] | None = None,
) -> dict[str, Any]:
    """Quantize an ONNX file, repair what that costs, and write the Q/DQ graph.

    Args:
        path: a float ONNX CNN.
        calibration: a folder of images, or an ``.npz`` of network inputs by name, first dimension = sample.
        spec: TOML with ``[preprocessing]``; needed with images.
        calibrate_config: how ranges are found.
        quantize_config: its scheme must be set.
        out: the file to write.
        progress: told about each stage.
        evaluation: a folder of the images that accuracy will be measured on; calibration must have none of them.
        processors: those that INT8 must be right on, of what the scheme serves (``[compile] processors``).
        float_rest: what is not quantized computes in; fp16 is for GPU targets, see `passes.float16`.
        outputs: what the outputs mean, by name (see `read_outputs`). Default: what they look like.

    Returns:
        Sizes in bytes, the processors whose kernels compute the file as written, the calibration images' names and
        hashes, how the ranges converged, what the outputs were taken for and why, the repairs that were tried and those
        that helped, and why which nodes stayed FP32 where FP16 was asked for.

    Raises:
        ModelError: not an ONNX graph that can be quantized.
        DataError: calibration images or arrays that cannot be used, or that are evaluated on too.
        ConfigError: images without a spec, a spec that is not valid, or outputs that are not what they are said to be.
        StorageError: `out` cannot be written.
    """
    if quantize_config.scheme is None:
        raise ConfigError("quantizing one file needs a scheme: tensorrt, openvino, onnxruntime or arm")
    if float_rest == "fp16" and quantize_config.scheme != "tensorrt":
        raise ConfigError(
            f"FP16 is for GPUs, and scheme {quantize_config.scheme} is not: processors run FP16 scales slowly or, like "
            "onnxruntime 1.32, wrongly. Use --scheme tensorrt, or --float fp32"
        )
    if evaluation is not None:
        _refuse_evaluated(calibration, evaluation)
    progress.begin("optimize")
    model = optimize(raise_opset(read_onnx(path), ExportConfig().opset, path.name))
    place(model, scheme(quantize_config.scheme), quantize_config.exclude)  # what cannot be quantized is said first
    progress.end(f"{len(model.graph)} nodes", reused=False)
    progress.begin("calibrate")
    images = list(itertools.islice(network_feeds(model, calibration, spec), calibrate_config.images))
    table = calibrate(model, images, calibrate_config, lambda done, *_: progress.update(done, len(images)))
    settled = table.convergence.summary()
    progress.end(f"{len(table.tensors)} tensors on {len(table.images)} images; ranges {settled}", reused=False)
    progress.begin("quantize")
    read = read_outputs(model, outputs_as_written(model, [feeds for _, feeds in images[:READ_IMAGES]]), outputs)
    result = quantize_graph(
        model,
        images,
        calibrate_config,
        quantize_config,
        quantize_config.scheme,
        [each.reading for each in read],
        processors=processors,
        table=table,
        tell=lambda text: progress.update(0.0, 1.0, text),
    )
    finished, kept_float = result.model, None
    if float_rest == "fp16":
        finished, kept_float = to_float16(result.model, images, calibrate_config)
    with storage_errors(out):
        ir.save(finished, out)
    sizes = {"bytes": out.stat().st_size, "float_bytes": path.stat().st_size}
    summary = f"{sizes['bytes'] / 1e6:.2f} MB from {sizes['float_bytes'] / 1e6:.2f} MB"
    progress.end(summary if kept_float is None else f"{summary}, FP16: {describe_kept(kept_float)}", reused=False)
    return {
        **sizes,
        "images": len(table.images),
        "calibrated_on": {image.name: image.sha256 for image in table.images},
        "convergence": msgspec.to_builtins(table.convergence),
        "scheme": quantize_config.scheme,
        "processors": safe_processors(result.model),
        "outputs": [{"output": each.output, "kind": each.kind, "why": each.why} for each in read],
        "tried": [{**msgspec.to_builtins(trial), "kept": trial.is_kept} for trial in result.trials],
        "repairs": list(result.helped),
        "kept_float32": kept_float,
        "declined": {trial.name: trial.declined for trial in result.trials if trial.declined},
    }


def _refuse_evaluated(calibration: Path, evaluation: Path) -> None:
    if calibration.suffix == ".npz":
        raise ConfigError("--evaluation compares pictures, but the calibration inputs are arrays: give their images")
    refuse_overlap({"calibration": _pictures(calibration), "evaluation": _pictures(evaluation)})


def _pictures(folder: Path) -> Dataset:
    return load(DataSource(format="images", path=str(folder.resolve())), Path.cwd())


def network_feeds(model: ir.Model, calibration: Path, spec: Path | None) -> Samples:
    """Name and network inputs of each sample of an ``.npz``, or of each image of a folder (which needs `spec`).

    Raises:
        DataError: arrays that cannot be used, or no images.
        ConfigError: images without a spec, or a spec that is not valid.
        ModelError: images for a network of several inputs.
    """
    return array_feeds(calibration) if calibration.suffix == ".npz" else image_feeds(model, calibration, spec)


def array_feeds(path: Path) -> Samples:
    """Sample after sample of the arrays in an ``.npz``."""
    arrays, samples = read_arrays(path)
    for row in range(samples):
        yield f"{path.name}[{row}]", {name: array[row : row + 1] for name, array in arrays.items()}


def image_feeds(model: ir.Model, folder: Path, spec: Path | None) -> Samples:
    """Image after image of a folder, as the network's only input takes it."""
    if spec is None:
        raise ConfigError(
            "calibrating with images needs --spec: a TOML file with [preprocessing] (steps, channels, normalization)"
        )
    preprocessing = read_toml(spec, InputSpec).preprocessing
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    if len(inputs) != 1 or inputs[0].dtype is None:
        raise ModelError(f"the model has {len(inputs)} inputs: calibrate it with an .npz of all of them instead")
    name, dtype = inputs[0].name or "", inputs[0].dtype.numpy()
    dataset = _pictures(folder)
    for index, sample in enumerate(dataset):
        tensor, _ = preprocess(dataset.image(index), preprocessing)
        # Pixels without normalization are uint8, which networks exported in float32 want as numbers.
        yield sample.name, {name: np.ascontiguousarray(tensor[None], dtype)}
