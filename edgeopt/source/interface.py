"""Inputs and outputs of a graph: which input takes the images, what the others take, and what shapes come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.config import ModelConfig
from edgeopt.errors import ModelError, TargetError, did_you_mean
from edgeopt.presets import INPUTS
from edgeopt.runtime.ort import OrtSession
from edgeopt.spec import AuxiliaryInput, Size, TensorSpec, replace
from edgeopt.typed import convert

_IMAGE_TYPES = {ir.DataType.FLOAT: "float32", ir.DataType.UINT8: "uint8"}
_NUMBERS = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.INT64: "int64",
    ir.DataType.INT32: "int32",
    ir.DataType.DOUBLE: "float64",
}
_CHANNELS = (1, 3)
_ROWS = "rows"
"""Name of a dimension that the network chooses."""
_CHOOSES = ("NonMaxSuppression", "NonZero", "Unique", "Compress")
"""Operators whose number of results depends on values."""
_FORM = (
    '[[model.inputs]] name = "NAME", holds = "original_size" (or "network_size", "scale", "constant" with value = '
    '[...]), order = "hw" or "wh"'
)


def find_inputs(network: ir.Model, model: ModelConfig, path: Path) -> tuple[TensorSpec, tuple[AuxiliaryInput, ...]]:
    """Return the images' input, with its height and width fixed where the recipe gives them, and the others.

    Raises:
        ModelError: there is not one input of images, its size is open, or an input beside it that nothing is known of.
    """
    inputs = list(network.graph.inputs)
    told = {each.name: each for each in model.inputs}
    names = [value.name or "" for value in inputs]
    if unknown := next((name for name in told if name not in names), None):
        raise ModelError(f"{path} has no input '{unknown}', which [model] inputs names.{did_you_mean(unknown, names)}")
    found = [value for value in inputs if value.name not in told and _takes_images(value)]
    if len(found) != 1 and len(inputs) == 1:
        raise ModelError(
            f"{path} takes '{inputs[0].name}' {inputs[0].dtype} {inputs[0].shape}; "
            "it must take images (N, C, H, W) or (N, H, W, C) of float32 or uint8"
        )
    if len(found) != 1:
        listed = ", ".join(f"'{value.name}' {value.dtype} {value.shape}" for value in inputs) or "none"
        raise ModelError(
            f"{path} has the inputs {listed}; exactly one must take images (N, C, H, W) or (N, H, W, C) of float32 or "
            f"uint8. Say what the others take: {_FORM}"
        )
    (image,) = found
    assert image.shape is not None
    assert image.dtype is not None
    _fix_size(image, _rows_axis(image.shape, path, image.name), model.input_size, path)
    others = tuple(_auxiliary(value, told, path) for value in inputs if value is not image)
    assert image.name is not None
    batch, *rest = (side if isinstance(side, int) else "N" for side in image.shape)
    return TensorSpec(name=image.name, shape=(batch, *rest), dtype=_IMAGE_TYPES[image.dtype]), others


def _takes_images(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 4 and value.dtype in _IMAGE_TYPES


def _auxiliary(value: ir.Value, told: dict[str, AuxiliaryInput], path: Path) -> AuxiliaryInput:
    """Return an input beside the images, by what the recipe says, or by its name."""
    name, shape = value.name or "", value.shape
    found = told.get(name) or (convert({"name": name, **INPUTS[name]}, AuxiliaryInput) if name in INPUTS else None)
    if found is None or shape is None or value.dtype not in _NUMBERS:
        raise ModelError(
            f"{path} takes '{name}' {value.dtype} {shape} beside the images, and nothing says what it holds. "
            f"Say it: {_FORM}"
        )
    sides = [side if isinstance(side, int) else "N" for side in shape]
    if "N" in sides[1:]:
        raise ModelError(f"{path} takes '{name}' {shape}: only the first dimension may be open. Export it with a size")
    wanted = int(np.prod([side for side in sides[1:] if isinstance(side, int)])) if sides else 1
    given = len(found.value) if found.holds == "constant" else 2
    if given != wanted:
        raise ModelError(
            f"'{name}' {shape} of {path} holds {wanted} numbers an image, and {given} are given. Correct it"
        )
    return replace(found, shape=tuple(sides), dtype=_NUMBERS[value.dtype])


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


def find_outputs(
    network: ir.Model, network_input: TensorSpec, auxiliary: tuple[AuxiliaryInput, ...], path: Path
) -> tuple[TensorSpec, tuple[AuxiliaryInput, ...], tuple[TensorSpec, ...], NDArray[Any]]:
    """Learn the outputs' shapes by running the model: the file may not hold them.

    Where an output has no dimension for the image, the model takes one image at a time: its batch is fixed to 1.

    Returns:
        The inputs as they are now, the outputs, and the values of the first one for zeros.

    Raises:
        ModelError: the model cannot be run, or has no output that is a tensor of numbers.
    """
    names = [str(value.name) for value in network.graph.outputs]
    batch = network_input.shape[0]
    count = batch if isinstance(batch, int) else 1
    try:
        with OrtSession(ir.to_proto(network).SerializeToString()) as session:
            runs = [session.run(_sample(network_input, auxiliary, count, seed)) for seed in (0, 1)]
            more = _of_two(session, network_input, auxiliary) if isinstance(batch, str) else None
    except (TargetError, ir.serde.SerdeError) as error:
        raise ModelError(f"{path} cannot be run: {error}. Check it with onnx.checker") from error
    shapes = {
        value.name: _shape(value, [run[str(value.name)].shape for run in runs]) for value in network.graph.outputs
    }
    unbatched = [
        name for name in names if shapes[name][:1] != (count,) or (more is not None and more[name].shape[:1] != (2,))
    ]
    if unbatched and count != 1:
        raise ModelError(
            f"{path} gives '{unbatched[0]}' {runs[0][unbatched[0]].shape} for {count} images; it must be (N, ...). "
            "Export it for one image at a time"
        )
    if unbatched:
        network_input, auxiliary = _one_at_a_time(network, network_input, auxiliary)
        batch = 1
    outputs = []
    for value in network.graph.outputs:
        shape = shapes[value.name] if value.name in unbatched else (batch, *shapes[value.name][1:])
        value.shape = ir.Shape(list(shape))
        outputs.append(TensorSpec(name=str(value.name), shape=shape, dtype=str(runs[0][str(value.name)].dtype)))
    return network_input, auxiliary, tuple(outputs), runs[0][names[0]]


def _shape(value: ir.Value, seen: list[tuple[int, ...]]) -> tuple[int | str, ...]:
    """Return the shape of an output, with a name where the network chooses the number of rows."""
    declared = (
        list(value.shape) if value.shape is not None and len(value.shape) == len(seen[0]) else [None] * len(seen[0])
    )
    chooses = _chooses_rows(value)
    return tuple(
        _ROWS if len(set(sides)) > 1 or (chooses and not isinstance(known, int)) else sides[0]
        for sides, known in zip(zip(*seen, strict=True), declared, strict=True)
    )


def _chooses_rows(value: ir.Value) -> bool:
    """Return True if the number of an output's rows may depend on the values of the images."""
    left, seen = [value.producer()], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type in _CHOOSES:
            return True
        left += [each.producer() for each in node.inputs if each is not None]
    return False


def _one_at_a_time(
    network: ir.Model, network_input: TensorSpec, auxiliary: tuple[AuxiliaryInput, ...]
) -> tuple[TensorSpec, tuple[AuxiliaryInput, ...]]:
    """Fix the batch of all inputs to 1."""
    for value in network.graph.inputs:
        assert value.shape is not None
        value.shape = ir.Shape([1, *list(value.shape)[1:]] if len(value.shape) else [])
    one = tuple(replace(each, shape=(1, *each.shape[1:]) if each.shape else ()) for each in auxiliary)
    return replace(network_input, shape=(1, *network_input.shape[1:])), one


def _of_two(
    session: OrtSession, network_input: TensorSpec, auxiliary: tuple[AuxiliaryInput, ...]
) -> dict[str, NDArray[Any]] | None:
    """Return the outputs for two images; None where the graph takes but one, whatever its shape says."""
    try:
        return session.run(_sample(network_input, auxiliary, 2, 0))
    except TargetError:
        return None


def _sample(
    network_input: TensorSpec, auxiliary: tuple[AuxiliaryInput, ...], count: int, seed: int
) -> dict[str, NDArray[Any]]:
    """Zeros for the first seed, noise for others; sizes of the input itself beside them."""
    shape = (count, *(int(side) for side in network_input.shape[1:]))
    images = np.random.default_rng(seed).uniform(0, 255 if network_input.dtype == "uint8" else 1, shape) * (seed > 0)
    sides = sorted(int(side) for side in network_input.shape[1:])[-2:]
    found = {network_input.name: images.astype(network_input.dtype)}
    for each in auxiliary:
        values = each.value if each.holds == "constant" else (1.0, 1.0) if each.holds == "scale" else sides
        own = [count if side == "N" else int(side) for side in each.shape]
        found[each.name] = np.resize(np.array(values, each.dtype), own)
    return found
