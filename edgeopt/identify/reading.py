"""Read facts from an ONNX graph: its tensors, its metadata, how it begins and ends, and its outputs for one picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgeopt.errors import DataError, TargetError
from edgeopt.graph.edit import constant
from edgeopt.graph.ending import applied_activation, are_distributions
from edgeopt.identify.facts import Array, Facts, Tensor, layout_of
from edgeopt.identify.metadata import read_metadata
from edgeopt.runtime.ort import OrtSession
from edgeopt.spec import Size

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "QLinearConv", "QLinearMatMul", "ConvInteger"})
_QUANTIZED = frozenset({"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
_OPENING = frozenset({"Sub", "Add", "Mul", "Div"})
_PASSES_ON = frozenset({"Cast", "Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze"})
_STANDARD = ("", "ai.onnx")
_SEED = 5
_COARSE = 8
"""Patches a side of the synthetic picture."""
_MOST_VALUES = 1 << 24


def facts_of(network: ir.Model, size: Size | None = None) -> Facts:
    """Return what can be seen of a graph, which is run once where it can be.

    Args:
        network: as `source.onnx_file.read_onnx` returns it; not modified.
        size: (height, width), for a graph that takes any.
    """
    graph = network.graph
    metadata = dict(network.metadata_props)
    said = read_metadata(metadata)
    inputs = tuple(_declared(value) for value in graph.inputs)
    facts = Facts(
        inputs=tuple(_frozen(tensor, size or (said.size.value if said.size else None)) for tensor in inputs),
        outputs=tuple(_declared(value) for value in graph.outputs),
        metadata=metadata,
        tail=_tail(graph),
        quantized=any(node.op_type in _QUANTIZED for node in graph.all_nodes()),
        applied={str(value.name): applied_activation(value) for value in graph.outputs},
    )
    others = {f"{node.domain}::{node.op_type}" for node in graph.all_nodes() if node.domain not in _STANDARD}
    facts = replace(facts, custom=tuple(sorted(others)))
    image = facts.image
    if image is not None:
        facts = replace(facts, frozen=image not in inputs)
        facts = replace(facts, opening=tuple(_opening(next(v for v in graph.inputs if v.name == image.name))))
    return _run(network, facts)


def _declared(value: ir.Value) -> Tensor:
    shape = () if value.shape is None else tuple(
        side if isinstance(side, int) else str(side.value or "?") for side in value.shape
    )  # fmt: skip
    dtype = "unknown" if value.dtype is None else str(value.dtype.name).lower()
    return Tensor(str(value.name), shape, {"float": "float32", "double": "float64"}.get(dtype, dtype))


def _frozen(tensor: Tensor, size: Size | None) -> Tensor:
    """Fix the height and width of an image input that leaves them open."""
    layout = layout_of(tensor)
    if size is None or layout is None:
        return tensor
    rows = 2 if layout == "NCHW" else 1
    shape = list(tensor.shape)
    for axis, side in zip((rows, rows + 1), size, strict=True):
        if not isinstance(shape[axis], int):
            shape[axis] = side
    return replace(tensor, shape=tuple(shape))


def _tail(graph: ir.Graph) -> frozenset[str]:
    """Return the operators between the last layers with weights and the outputs."""
    found: set[str] = set()
    seen: set[int] = set()
    waiting = [value.producer() for value in graph.outputs]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.op_type in _WEIGHTED or (
            node.op_type == "MatMul" and any(constant(v) is not None for v in node.inputs)
        ):
            continue
        found.add(node.op_type)
        waiting += [value.producer() for value in node.inputs if value is not None]
    return frozenset(found)


def _opening(image: ir.Value) -> Iterator[tuple[str, float]]:
    """Yield the element-wise operators on the image with a constant, in order, until something else uses it."""
    value = image
    while True:
        uses = list(value.uses())
        if len(uses) != 1 or len(uses[0].node.outputs) != 1:
            return
        node = uses[0].node
        if node.op_type in _OPENING:
            others = [constant(other) for other in node.inputs if other is not value]
            if len(others) != 1 or others[0] is None or not others[0].size:
                return
            yield node.op_type, float(np.mean(others[0]))
        elif node.op_type not in _PASSES_ON:
            return
        value = node.outputs[0]


def _run(network: ir.Model, facts: Facts) -> Facts:
    """Add the outputs for one synthetic picture, or why there are none."""
    if facts.custom:
        return replace(facts, why_not_run=f"it has the operator {facts.custom[0]}")
    if facts.image is None or facts.size is None:
        return replace(facts, why_not_run="no image input of known size")
    feeds = {tensor.name: _feed(tensor, facts) for tensor in facts.inputs}
    missing = [name for name, array in feeds.items() if array is None]
    if missing:
        return replace(facts, why_not_run=f"nobody knows what its input '{missing[0]}' takes")
    try:
        with OrtSession(ir.to_proto(network).SerializeToString()) as session:
            values = session.run({name: array for name, array in feeds.items() if array is not None})
    except (TargetError, DataError, ValueError, ir.serde.SerdeError) as error:
        return replace(facts, why_not_run=f"it could not be run: {_first_line(error)}")
    outputs = tuple(
        replace(tensor, shape=values[tensor.name].shape, dtype=str(values[tensor.name].dtype))
        for tensor in facts.outputs
    )
    kept = {name: array for name, array in values.items() if array.size <= _MOST_VALUES}
    return replace(facts, outputs=outputs, values=kept, applied=_applied(facts.applied, kept))


def _applied(found: Mapping[str, str], values: Mapping[str, Array]) -> dict[str, str]:
    """Add a softmax that is written out, or moved behind by a pooling."""
    applied = dict(found)
    for name, array in values.items():
        if applied.get(name) == "none" and array.ndim == 2 and are_distributions(array):
            applied[name] = "softmax"
    return applied


def _feed(tensor: Tensor, facts: Facts) -> Array | None:
    """Return what is fed to an input: a picture, the picture's size, or factors of one."""
    shape = tuple(side if isinstance(side, int) else 1 for side in tensor.shape)
    assert facts.size is not None
    height, width = facts.size
    if tensor == facts.image:
        return _picture(shape, tensor.dtype, layout_of(tensor) == "NHWC")
    name = tensor.name.lower()
    if len(shape) in (1, 2) and shape[-1] == 2:
        pair = (1.0, 1.0) if "scale" in name else (width, height) if "target" in name else (height, width)
        return np.broadcast_to(np.asarray(pair), shape).astype(tensor.dtype)
    return None


def _picture(shape: tuple[int, ...], dtype: str, channels_last: bool) -> Array:  # noqa: FBT001 - a layout
    """Return smooth noise from 0 to 1, or from 0 to 255 in uint8."""
    batch, channels = shape[0], shape[3] if channels_last else shape[1]
    height, width = shape[1:3] if channels_last else shape[2:4]
    coarse = np.random.default_rng(_SEED).random((channels, _COARSE, _COARSE))
    rows = np.minimum(np.arange(height) * _COARSE // max(height, 1), _COARSE - 1)
    columns = np.minimum(np.arange(width) * _COARSE // max(width, 1), _COARSE - 1)
    picture = coarse[:, rows][:, :, columns]
    picture = np.moveaxis(picture, 0, -1) if channels_last else picture
    scaled = picture * 255.0 if dtype == "uint8" else picture
    return np.ascontiguousarray(np.broadcast_to(scaled, (batch, *picture.shape))).astype(dtype)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
