"""Derive the ModelSpec of an ``.onnx`` file from its graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.config import ModelConfig
from edgeopt.errors import ModelError, TargetError
from edgeopt.graph.ending import applied_activation, are_distributions
from edgeopt.runtime.ort import OrtSession
from edgeopt.source.onnx_file import read_onnx
from edgeopt.source.specification import read_labels, specify
from edgeopt.spec import ClassificationDecoding, ModelSpec, Size, TensorSpec

_IMAGE_TYPES = {ir.DataType.FLOAT: "float32", ir.DataType.UINT8: "uint8"}
_CHANNELS = (1, 3)


def open_onnx(path: Path, model: ModelConfig, root: Path, labels: tuple[str, ...]) -> tuple[ir.Model, ModelSpec]:
    """Read an ``.onnx`` and derive its ModelSpec.

    Raises:
        ModelError: damaged or incomplete file, custom operators, several inputs or outputs, an input that is no image
            of one size, or too little said about it in the recipe.
    """
    network = read_onnx(path)
    names = read_labels(model, root) or labels
    network_input = _image_input(network, model, path)
    output, scores = _output(network, network_input, path)
    applied = applied_activation(network.graph.outputs[0])
    if applied == "none" and scores.ndim == 2 and are_distributions(scores):
        applied = "softmax"  # written out, or moved behind by a pooling
    is_applied = applied != "none" and len(output.shape) == 2
    decoding = ClassificationDecoding(activation="none", applied=applied) if is_applied else None
    return network, specify(model, path.stem, names, network_input, [output], decoding=decoding)


def _image_input(network: ir.Model, model: ModelConfig, path: Path) -> TensorSpec:
    """Return the one input, with its height and width fixed where the recipe gives them."""
    inputs = list(network.graph.inputs)
    if len(inputs) != 1:
        listed = ", ".join(f"'{value.name}'" for value in inputs) or "none"
        raise ModelError(f"{path} has the inputs {listed}; a network must take one batch of images")
    (image,) = inputs
    if image.shape is None or len(image.shape) != 4 or image.dtype not in _IMAGE_TYPES:
        raise ModelError(
            f"{path} takes '{image.name}' {image.dtype} {image.shape}; "
            "it must take images (N, C, H, W) or (N, H, W, C) of float32 or uint8"
        )
    _fix_size(image, _rows_axis(image.shape, path, image.name), model.input_size, path)
    assert image.name is not None
    batch, *rest = (side if isinstance(side, int) else "N" for side in image.shape)
    return TensorSpec(name=image.name, shape=(batch, *rest), dtype=_IMAGE_TYPES[image.dtype])


def _rows_axis(shape: ir.Shape, path: Path, name: str | None) -> int:
    """Return the axis of rows: 2 for (N, C, H, W), 1 for (N, H, W, C)."""
    if shape[1] in _CHANNELS:
        return 2
    if shape[3] in _CHANNELS:
        return 1
    raise ModelError(f"{path} takes '{name}' {shape}; it must have 1 or 3 channels, second or last")


def _fix_size(image: ir.Value, rows: int, size: Size | None, path: Path) -> None:
    """Set height and width to numbers.

    Raises:
        ModelError: they are dynamic and the recipe does not give them, or it contradicts them.
    """
    assert image.shape is not None
    found = tuple(image.shape[axis] for axis in (rows, rows + 1))
    if size is None and not all(isinstance(side, int) for side in found):
        raise ModelError(
            f"{path} takes images of any size ('{image.name}' {image.shape}), which edge engines cannot plan for. "
            "Fix it with [model] input_size = [height, width], or export the model with a fixed size"
        )
    for side, wanted in zip(found, size or found, strict=True):
        if isinstance(side, int) and side != wanted:
            raise ModelError(f"{path} takes {found[0]} x {found[1]} pixels. Leave [model] input_size out")
    dims = list(image.shape)
    dims[rows : rows + 2] = size or found
    image.shape = ir.Shape(dims)


def _output(network: ir.Model, network_input: TensorSpec, path: Path) -> tuple[TensorSpec, NDArray[Any]]:
    """Return the one output, and its values for zeros, on which the model is run: the file may not hold its shape."""
    outputs = list(network.graph.outputs)
    if len(outputs) != 1:
        listed = ", ".join(f"'{value.name}' {value.shape}" for value in outputs)
        raise ModelError(
            f"{path} has the outputs {listed}; edgeopt supports exactly one output. Export the model again with a "
            "single output"
        )
    batch = network_input.shape[0]
    count = batch if isinstance(batch, int) else 1
    zeros = np.zeros((count, *(int(side) for side in network_input.shape[1:])), network_input.dtype)
    try:
        with OrtSession(ir.to_proto(network).SerializeToString()) as session:
            values = session.run({network_input.name: zeros})[str(outputs[0].name)]
    except TargetError as error:
        raise ModelError(f"{path} cannot be run: {error}. Check it with onnx.checker") from error
    shape = values.shape
    if not shape or shape[0] != count:
        raise ModelError(f"{path} gives '{outputs[0].name}' {shape} for {count} image(s); it must be (N, ...)")
    assert outputs[0].name is not None
    return TensorSpec(name=outputs[0].name, shape=(batch, *shape[1:])), values
