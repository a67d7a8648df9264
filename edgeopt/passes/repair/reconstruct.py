"""Reconstruct: choose each layer's integer weights and bias so that its output matches the float network's.

Layer after layer, with the inputs that it will really get: those that the quantized layers before it produce. Three
steps: least squares moves the weights to make up for the errors of their inputs, second-order rounding puts them on the
grid (`rounding`), and the bias takes what remains of the mean (bias correction). Errors are counted after the layer's
activation, because what ReLU cuts off does no harm. A step is kept for a layer only where it lowers the error on images
held out from the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate.spool import ReadOnDemand, Spool
from edgeopt.calibrate.tap import Feeds, Tap
from edgeopt.errors import ModelError
from edgeopt.graph.edit import (
    constant,
    free_name,
    given,
    is_read_once,
    known_constant,
    make_node,
    names_in,
    producer,
    replace_constant,
)
from edgeopt.graph.operators import DEQUANTIZE, weight_axis
from edgeopt.passes.quantize.matrix import weight_from_matrix, weight_matrix
from edgeopt.passes.quantize.saturation import weight_grid
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.layers.activation import Activation, activation_after
from edgeopt.passes.repair.layers.layerwise import LayerInput, walk
from edgeopt.passes.repair.layers.offsets import shift, with_offsets, without_empty_offsets
from edgeopt.passes.repair.layers.patches import input_samples, output_samples, window_of
from edgeopt.passes.repair.layers.refit import Candidate, Samples, Steps, solve
from edgeopt.passes.repair.split import Split
from edgeopt.progress import Update

Floats = NDArray[np.float32]

_SAMPLES = 8192
"""Positions over all images that a layer is fitted on, unless its rows have more than 1/4 as many weights."""
_WIDE = 6144
"""Inputs from which on a layer gets fewer samples, not more: all of them together, and what is computed with them, then
stay bounded. The widest of ResNets have 4,608."""
_MOST_VALUES = 1 << 25
"""Numbers in the samples of such a layer."""

_PASSES = 24.0
"""Times that a layer's samples are multiplied by weights, about."""
_ACTIVATED = 64
"""Multiplications that take as long as the activation of one result, about."""


@dataclass(frozen=True)
class LayerRepair:
    """Gain of reconstruction on one layer, on held-out images."""

    name: str
    before: float
    """Mean squared error after the activation, relative to its variance, with the layer as `quantize` left it."""
    after: float


def reconstruct(
    model: ir.Model,
    quantized: ir.Model,
    scheme: QuantScheme,
    feeds: Sequence[Feeds],
    steps: Steps | None = None,
    progress: Update | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> tuple[ir.Model, list[LayerRepair]]:
    """Refit the weights and biases of every 2-D Conv, Gemm and MatMul of `quantized`.

    Args:
        model: the float network; it computes the targets.
        quantized: what `quantize` made of it; not modified.
        scheme: scheme that it was quantized for, which bounds the integers.
        feeds: inputs of calibration images, batch 1; `Split` says which of them a layer is fitted on.
        steps: allowed steps; all by default.
        progress: told the name of each layer that is done, and how many are.
        is_over: asked before each layer; from when it says so on, layers stay as they are.

    Returns:
        The repaired model, and per layer what it gained.

    Raises:
        ModelError: `quantized` was not made from `model`.
    """
    result = with_offsets(quantized)
    layers = {node.name or "": node for node in result.graph if _is_repairable(node)}
    budgets = {name: _per_image(node, len(feeds)) for name, node in layers.items()}
    targets = _targets(model, budgets, feeds)
    float_weights = _float_weights(model)
    activations = {node.name or "": activation_after(node) for node in model.graph if node.name in layers}
    repairs: list[LayerRepair] = []
    for node, layer_input in walk(result, feeds):
        name = node.name or ""
        if is_over():
            break
        if name not in layers:
            continue
        fit, judge = _samples(node, layer_input, targets.pop(name), budgets[name], activations[name])
        original = weight_matrix(node, float_weights[name])
        best, before, after = solve(original, _current(node), fit, judge, steps or Steps(), weight_grid(node, scheme))
        if after < before:
            _write(result.graph, node, best)
        repairs.append(LayerRepair(name, before, min(before, after)))
        if progress is not None:
            progress(len(repairs), len(layers), name)
    return without_empty_offsets(result), repairs


def expected_multiplications(quantized: ir.Model, images: int) -> float:
    """Estimate what refitting all layers of `quantized` multiplies, besides running it on `images` three times."""
    total = 0.0
    for node in quantized.graph:
        if not _is_repairable(node):
            continue
        weight = weight_matrix(node, known_constant(_dequantizer(node).inputs[0]))
        groups, rows, size = weight.shape
        seen = math.prod(_side(side) for side in (node.outputs[0].shape or ())[2:]) if node.op_type == "Conv" else 1
        samples = images * min(_per_image(node, images), seen)
        total += _PASSES * samples * groups * rows * (size + _ACTIVATED)
        total += groups * size * min(samples, size) * (samples + size)
    return total


def _side(side: object) -> int:
    return side if isinstance(side, int) else _SAMPLES


def _is_repairable(node: ir.Node) -> bool:
    """Return a quantized layer that is a plain matrix on patches."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.inputs[1] is None:
        return False
    weight = producer(node.inputs[1], DEQUANTIZE)
    if weight is None or (node.op_type == "MatMul" and known_constant(weight.inputs[0]).ndim > 2):
        return False  # a batch of matrices shares one scale
    if node.op_type == "Gemm" and (
        node.attributes.get_int("transA", 0) != 0
        or any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    ):
        return False  # samples are rows of its input, and its output is their product with the weight, and the bias
    if node.op_type != "MatMul" and not _has_own_bias(node):
        return False
    return node.op_type != "Conv" or window_of(node) is not None


def _has_own_bias(node: ir.Node) -> bool:
    """Return True if a layer has no bias, or a constant with one number for each output channel, as (C,) or (1, C)."""
    bias, array = given(node, 2), constant(given(node, 2))
    channels = known_constant(_dequantizer(node).inputs[0]).shape[weight_axis(node)]
    return bias is None or (array is not None and array.shape[-1:] == (array.size,) == (channels,))


def _per_image(node: ir.Node, images: int) -> int:
    """Positions to take from each image."""
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    assert shape is not None
    row = int(np.prod(shape.numpy()[1:])) if node.op_type == "Conv" else max(shape.numpy())
    wanted = max(_SAMPLES, 4 * row) if row < _WIDE else max(1, _MOST_VALUES // row)
    return -(-wanted // max(1, images))


def _targets(model: ir.Model, budgets: dict[str, int], feeds: Sequence[Feeds]) -> dict[str, Sequence[Floats]]:
    """Samples of the float network's output of each layer, one array an image."""
    nodes = {node.name: node for node in model.graph if node.name in budgets}
    if len(nodes) != len(budgets):
        missing = sorted(set(budgets) - {name or "" for name in nodes})
        raise ModelError(
            f"the quantized model has layers {missing[:3]} that the float model lacks. Quantize this model"
        )
    layer_of = {node.outputs[0].name or "": name or "" for name, node in nodes.items()}
    tap = Tap(model, list(layer_of))
    spool, records = Spool(), {name: list[int]() for name in layer_of.values()}
    for image, inputs in enumerate(feeds):
        for tensors, arrays in tap.run(inputs):
            for tensor, array in zip(tensors, arrays, strict=True):
                name = layer_of[tensor]
                records[name].append(len(spool))
                spool.append([output_samples(nodes[name], array, budgets[name], image)])
    return {name: ReadOnDemand(lambda record: spool.read(record)[0], found) for name, found in records.items()}


def _float_weights(model: ir.Model) -> dict[str, Floats]:
    weights = {}
    for node in model.graph:
        weight = constant(given(node, 1))
        if node.name and weight is not None:
            weights[node.name] = weight
    return weights


def _samples(
    node: ir.Node, inputs: LayerInput, targets: Sequence[Floats], count: int, activation: Activation
) -> tuple[Samples, Samples]:
    """Samples to fit on, and those of held-out images to judge by."""
    window = window_of(node)
    split = Split.of(range(len(inputs)))
    parts = []
    for images in (split.fit, split.judge):
        patches = [input_samples(window, inputs.image(image), inputs.decode, count, image) for image in images]
        outputs = np.concatenate([targets[image] for image in images])
        weights = np.ones(len(outputs), np.float32)
        parts.append(Samples(np.concatenate(patches, axis=1), activation(outputs), activation, weights))
    return parts[0], parts[1]


def _current(node: ir.Node) -> Candidate:
    """Return the layer's integers, scales and bias as they stand in the graph."""
    dequantizer = _dequantizer(node)
    integers, scale = (known_constant(value) for value in dequantizer.inputs[:2])
    matrix: NDArray[np.int8] = weight_matrix(node, integers)
    bias = constant(given(node, 2))
    rows = matrix.shape[0] * matrix.shape[1]
    row = np.zeros(rows, np.float32) if bias is None else bias.reshape(rows)
    return Candidate(matrix, scale.reshape(matrix.shape[:2]), row)


def _dequantizer(node: ir.Node) -> ir.Node:
    dequantizer = producer(node.inputs[1])
    assert dequantizer is not None
    return dequantizer


def _write(graph: ir.Graph, node: ir.Node, candidate: Candidate) -> None:
    """Put the candidate's integers, scales and bias into initializers of this node alone."""
    before = _current(node)
    if not np.array_equal(candidate.integers, before.integers) or not np.array_equal(candidate.scale, before.scale):
        dequantizer = _own_dequantizer(graph, node)
        integers = weight_from_matrix(node, candidate.integers, known_constant(dequantizer.inputs[0]).shape)
        replace_constant(graph, dequantizer, 0, f"{node.name}/weight_int8", integers)
        replace_constant(graph, dequantizer, 1, f"{node.name}/weight_scale", candidate.scale.reshape(-1))
    if node.op_type == "MatMul":
        shift(graph, node, candidate.bias)
    else:
        written = constant(given(node, 2))
        bias = candidate.bias if written is None else candidate.bias.reshape(written.shape)
        replace_constant(graph, node, 2, f"{node.name}/bias_corrected", bias)


def _own_dequantizer(graph: ir.Graph, node: ir.Node) -> ir.Node:
    """Return the DequantizeLinear of a layer's weight; a copy of it where something else reads the weight too."""
    shared = _dequantizer(node)
    value = shared.outputs[0]
    if is_read_once(value):
        return shared
    taken = names_in(graph)
    own = make_node(
        DEQUANTIZE,
        shared.inputs,
        shared.attributes,
        name=free_name(f"{node.name}/weight/DequantizeLinear", taken),
        output=free_name(f"{node.name}/weight", taken),
        shape=value.shape,
        dtype=value.dtype,
    )
    graph.insert_before(node, own)
    node.replace_input_with(1, own.outputs[0])
    return own
