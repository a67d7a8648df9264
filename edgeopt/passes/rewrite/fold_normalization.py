"""Fold the normalisation of the preprocessing into the graph, so that the network takes uint8 pixels.

A device then moves a quarter of the bytes and cannot get mean and standard deviation wrong.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.graph.edit import add_initializer, make_node
from edgeopt.spec import ModelSpec, Normalization, replace


def fold_normalization(model: ir.Model, spec: ModelSpec) -> tuple[ir.Model, ModelSpec]:
    """Prepend ``Cast -> Mul -> Sub`` for ``(pixel * scale - mean) / std``; do nothing if there is nothing to fold.

    Args:
        model: takes normalised float32 in its input `spec.input`; not modified.
        spec: what belongs to `model`.

    Returns:
        A model whose input of the same name is uint8 pixels, and its spec: dtype ``uint8``, ``normalization=None``.
        An identity normalisation leaves the Cast alone. Without a normalisation both come back as they are.

    Raises:
        ModelError: the model lacks the input that the spec names, the input is not float32, or mean and std do not fit
            its channels.
    """
    normalization = spec.preprocessing.normalization
    if normalization is None:
        return model, spec
    result = model.clone()
    pixels = next((value for value in result.graph.inputs if value.name == spec.input.name), None)
    if pixels is None or pixels.dtype != ir.DataType.FLOAT or pixels.shape is None:
        raise ModelError(
            f"cannot fold the normalisation: the model needs a float32 input '{spec.input.name}' of known shape, "
            f"but has {[(value.name, str(value.dtype)) for value in result.graph.inputs]}. Correct the spec's input"
        )
    factor, offset = _affine(normalization, pixels, spec)
    nodes = _nodes(result.graph, pixels, factor, offset)
    network_input = nodes[-1].outputs[0]
    network_input.shape = ir.Shape(pixels.shape)
    network_input.type = pixels.type
    pixels.replace_all_uses_with(network_input)
    nodes[0].replace_input_with(0, pixels)
    pixels.type = ir.TensorType(ir.DataType.UINT8)
    result.graph.insert_before(result.graph[0], nodes)
    return result, _folded(spec)


def _affine(normalization: Normalization, pixels: ir.Value, spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return factor and offset of ``pixel * factor - offset``, float32 and shaped to broadcast over the channels."""
    shape = pixels.shape
    assert shape is not None
    axis = 1 if spec.preprocessing.layout == "NCHW" else len(shape) - 1
    channels = shape[axis]
    broadcast = [1] * len(shape)
    broadcast[axis] = -1
    mean, std = np.array(normalization.mean), np.array(normalization.std)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ModelError(f"{name} has {len(values)} values, but the input's shape is {shape}. Give 1 or {channels}")
    factor, offset = np.broadcast_arrays(normalization.scale / std, mean / std)
    return factor.astype(np.float32).reshape(broadcast), offset.astype(np.float32).reshape(broadcast)


def _nodes(graph: ir.Graph, pixels: ir.Value, factor: np.ndarray, offset: np.ndarray) -> list[ir.Node]:
    """Return the chain of nodes, not in `graph` yet, without steps that do nothing."""
    prefix = f"{pixels.name}/normalize"
    nodes = [_node(f"{prefix}/cast", "Cast", [pixels], {"to": ir.DataType.FLOAT})]
    for op_type, array, neutral in (("Mul", factor, 1.0), ("Sub", offset, 0.0)):
        if np.all(array == neutral):
            continue
        value = add_initializer(graph, f"{prefix}/{op_type.lower()}_constant", array)
        nodes.append(_node(f"{prefix}/{op_type.lower()}", op_type, [nodes[-1].outputs[0], value]))
    return nodes


def _node(name: str, kind: str, inputs: list[ir.Value], attributes: dict[str, ir.DataType] | None = None) -> ir.Node:
    return make_node(
        kind, inputs, attributes, name=name, output=f"{name}_output", shape=inputs[0].shape, dtype=ir.DataType.FLOAT
    )


def _folded(spec: ModelSpec) -> ModelSpec:
    preprocessing = replace(spec.preprocessing, normalization=None)
    network_input = replace(spec.input, dtype="uint8")
    return replace(spec, preprocessing=preprocessing, input=network_input)
