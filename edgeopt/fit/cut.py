"""Cut a network's graph at its features: what its last linear layer reads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeopt.errors import ConfigError, ModelError, did_you_mean
from edgeopt.graph.edit import add_initializer, constant, given, make_node, names_in
from edgeopt.spec import TensorSpec

OUTPUT = "features"
"""Name of the output."""
_PASSED = ("Cast", "Dropout", "Flatten", "Identity", "LogSoftmax", "Reshape", "Sigmoid", "Softmax", "Squeeze")
"""Operators behind a layer of classes, which leave it the last. What ends in a ReLU are features."""
_MAP_RANK, _TOKENS_RANK = 4, 3


def cut_at_features(model: ir.Model, output: str, features: str, grid: int = 1) -> tuple[ir.Model, TensorSpec]:
    """Return the part of a graph that makes its features, with one output (N, F) float32.

    Args:
        model: an optimized graph, with shapes; it is not modified.
        output: name of the output that its classes are decoded from.
        features: name of a tensor; ``auto``: what the last linear layer reads, or the output itself.
        grid: cells of each side of a map, whose means are the features.

    Raises:
        ConfigError: there is no such tensor, or it has no map of such a grid.
        ModelError: the tensor cannot be features of an image.
    """
    cut = model.clone()
    found = _found(cut.graph, output) if features == "auto" else _named(cut.graph, features)
    pooled = _pooled(cut.graph, found, grid)
    cut.graph.outputs.clear()
    cut.graph.outputs.append(pooled)
    for tidy in (common.RemoveUnusedNodesPass(), common.ShapeInferencePass()):
        tidy(cut)
    shape = pooled.shape
    assert shape is not None
    batch, count = shape[0], shape[1]
    if not isinstance(count, int):
        raise ModelError(f"the features '{found.name}' {found.shape} vary in number. Export the network with one")
    first = batch if isinstance(batch, int) else "N"
    pooled.shape = ir.Shape([first, count])
    return cut, TensorSpec(name=OUTPUT, shape=(first, count))


def _found(graph: ir.Graph, output: str) -> ir.Value:
    """Return what the layer of classes reads; the output where the network ends in none."""
    end = next(value for value in graph.outputs if value.name == output)
    value: ir.Value | None = end
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in ("Gemm", "MatMul", "Conv") and constant(given(node, 1)) is not None:
            return _read(node) or end
        if node.op_type in ("Add", "Mul", "Sub", "Div"):  # a bias, or a scale
            value = next((each for each in node.inputs if constant(each) is None), None)
            if all(constant(each) is None for each in node.inputs):
                break
        elif node.op_type in _PASSED:
            value = given(node, 0)
        else:
            break
    return end


def _read(layer: ir.Node) -> ir.Value | None:
    """Return what a layer reads if it is one of classes: a convolution is where it sees a single place."""
    value = given(layer, 0)
    if layer.op_type != "Conv":
        return value
    shape = None if value is None else value.shape
    return value if shape is not None and len(shape) == _MAP_RANK and (shape[2], shape[3]) == (1, 1) else None


def _named(graph: ir.Graph, name: str) -> ir.Value:
    values = {value.name: value for node in graph for value in node.outputs if value.name}
    if name not in values:
        raise ConfigError(f"[fit] features = '{name}' is not a tensor of the backbone.{did_you_mean(name, values)}")
    return values[name]


def _pooled(graph: ir.Graph, value: ir.Value, grid: int) -> ir.Value:
    """Return (N, F): means over a map (N, F, H, W), or the cells of a grid on it, or over tokens (N, T, F)."""
    rank = None if value.shape is None else len(value.shape)
    if value.dtype != ir.DataType.FLOAT or rank not in (2, _TOKENS_RANK, _MAP_RANK):
        raise ModelError(
            f"'{value.name}' {value.dtype} {value.shape} cannot be features of an image, which are float32 (N, F), "
            "(N, tokens, F) or (N, F, H, W). Name another tensor with [fit] features"
        )
    if grid > 1:
        value = _of_cells(graph, value, grid)
    elif rank == _MAP_RANK:
        value = _added(graph, "GlobalAveragePool", value, {})
    elif rank == _TOKENS_RANK:  # as a map of one row, which every version of the operators pools alike
        value = _added(graph, "Transpose", value, {"perm": [0, 2, 1]})
        axis = add_initializer(graph, "features/axis", np.array([-1], np.int64))
        value = _added(graph, "Unsqueeze", value, {}, axis)
        value = _added(graph, "GlobalAveragePool", value, {})
    flat = make_node("Flatten", [value], {"axis": 1}, name=_free(graph, "features/Flatten"), output=OUTPUT)
    graph.append(flat)
    result = flat.outputs[0]
    result.type = ir.TensorType(ir.DataType.FLOAT)
    return result


def _of_cells(graph: ir.Graph, value: ir.Value, grid: int) -> ir.Value:
    """Return a map (N, F, grid, grid) of means."""
    shape = value.shape
    assert shape is not None
    sides = [int(side) for side in list(shape)[2:] if isinstance(side, int) and side % grid == 0]
    if len(sides) != 2:
        raise ConfigError(
            f"[fit] grid = {grid} parts each side of a map into as many cells, and '{value.name}' is {shape}. Name a "
            "map (N, F, H, W) with [fit] features whose sides it divides, or another grid"
        )
    cell = [side // grid for side in sides]
    return value if cell == [1, 1] else _added(graph, "AveragePool", value, {"kernel_shape": cell, "strides": cell})


def _added(graph: ir.Graph, kind: str, value: ir.Value, attributes: dict[str, list[int]], *more: ir.Value) -> ir.Value:
    node = make_node(kind, [value, *more], attributes, name=_free(graph, f"features/{kind}"))
    graph.append(node)
    return node.outputs[0]


def _free(graph: ir.Graph, name: str) -> str:
    taken = names_in(graph)
    while name in taken:
        name += "_"
    return name
