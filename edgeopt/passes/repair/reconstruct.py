"""Reconstruct: choose each layer's integer weights and bias so that its output matches the float network's.

Layer after layer, with the inputs that it will really get: those that the quantized layers before it produce. Three
steps: least squares moves the weights to make up for the errors of their inputs, second-order rounding puts them on the
grid (`rounding`), and the bias takes what remains of the mean (bias correction). Errors are counted after the layer's
activation, because what ReLU cuts off does no harm. A step is kept for a layer only where it lowers the error on images
held out from the fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate.spool import ReadOnDemand, Spool
from edgeopt.calibrate.tap import Feeds, Tap
from edgeopt.errors import ModelError
from edgeopt.graph.edit import constant, given, known_constant, producer, replace_constant
from edgeopt.graph.operators import DEQUANTIZE
from edgeopt.passes.quantize.matrix import weight_from_matrix, weight_matrix
from edgeopt.passes.quantize.saturation import WeightGrid, weight_grid
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.layers.activation import Activation, activation_after
from edgeopt.passes.repair.layers.gptq import round_second_order
from edgeopt.passes.repair.layers.layerwise import LayerInput, walk
from edgeopt.passes.repair.layers.moments import Moments
from edgeopt.passes.repair.layers.patches import input_samples, output_samples, window_of
from edgeopt.passes.repair.split import Split
from edgeopt.progress import Tell

Floats = NDArray[np.float32]

_SAMPLES = 8192
"""Positions over all images that a layer is fitted on, unless its rows have more than 1/4 as many weights."""
_WIDE = 6144
"""Inputs from which on a layer gets fewer samples, not more: all of them together, and what is computed with them, then
stay bounded. The widest of ResNets have 4,608."""
_MOST_VALUES = 1 << 25
"""Numbers in the samples of such a layer."""
_AT_ONCE = 1 << 23
"""Weights of which copies are made at a time."""
_RIDGES = (0.03, 0.3)
"""Strengths that hold the least-squares weights near the original, relative to the inputs' mean second moment."""
_STEPS = 3
"""Steps of the descent that fits weights or bias: few, because each is preconditioned by a bound of the curvature."""
_WORTHWHILE = 0.98
"""Share that least squares must lower the held-out error to, because it changes weights trained on far more data."""
_TYPICAL_ERRORS = 2.0
"""Positions whose error is more than so many times the median count as if it were that large."""
_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
"""Shares of the largest weight that a channel's scale may cover (clipping the rest)."""


@dataclass(frozen=True)
class Steps:
    """Steps that are allowed; a layer takes those that help it."""

    bias: bool = True
    """Correct the bias."""
    clip: bool = True
    """Let scales cover less than a channel's largest weight."""
    rounding: bool = True
    """Allow least squares and second-order rounding."""

    @property
    def any(self) -> bool:
        """True if any step is allowed."""
        return self.bias or self.clip or self.rounding

    @property
    def name(self) -> str:
        """The recipe's names of the steps."""
        names = {"bias_correction": self.bias, "weight_clipping": self.clip, "gptq": self.rounding}
        return "+".join(name for name, on in names.items() if on)


@dataclass(frozen=True)
class LayerRepair:
    """Gain of reconstruction on one layer, on held-out images."""

    name: str
    before: float
    """Mean squared error after the activation, relative to its variance, with the layer as `quantize` left it."""
    after: float


@dataclass(frozen=True)
class _Samples:
    """Inputs (groups, n, K) and the float network's outputs (n, groups x rows) at the same positions."""

    inputs: Floats
    goal: Floats
    """The activated outputs of the float network."""
    activation: Activation
    weights: Floats
    """(n,) how much each position counts, see `_robust`."""

    @property
    def shares(self) -> Floats:
        """The weights, of sum 1."""
        shares: Floats = (self.weights / self.weights.sum()).astype(np.float32)
        return shares

    def products(self, weight: Floats | NDArray[np.int8], scale: Floats | None = None) -> Floats:
        """(n, groups x rows) of the inputs and (groups, rows, K) `weight`, times (groups, rows) `scale`."""
        groups, rows, _ = weight.shape
        made = np.empty((len(self.goal), groups, rows), np.float32)
        for part in _portions(weight):
            floats = weight[:, part].astype(np.float32, copy=False)
            made[:, :, part] = np.swapaxes(self.inputs @ np.swapaxes(floats, 1, 2), 0, 1)
        if scale is not None:
            made *= scale
        return made.reshape(len(made), -1)

    def residual(self, products: Floats, bias: Floats) -> Floats:
        """(n, groups x rows) of what the activated output lacks."""
        return self.goal - self.activation(products + bias)

    def error(self, products: Floats, bias: Floats) -> float:
        """Mean squared error after the activation, over the variance of the goal."""
        squared = np.mean(self.residual(products, bias) ** 2, axis=1)
        return float(np.average(squared, weights=self.weights) / max(self.variance, 1e-20))

    @cached_property
    def variance(self) -> float:
        """Mean over the channels of the goal's variance."""
        return float(self.goal.var(axis=0).mean())

    def fit_bias(self, products: Floats, bias: Floats, steps: int = _STEPS) -> Floats:
        """Move `bias` until the activated outputs have the goal's means."""
        for _ in range(steps):
            bias = bias + self.shares @ self.residual(products, bias)
        return bias


@dataclass(frozen=True)
class _Candidate:
    integers: NDArray[np.int8]
    scale: Floats
    bias: Floats

    def products(self, samples: _Samples) -> Floats:
        """Its outputs before the bias."""
        return samples.products(self.integers, self.scale)


def reconstruct(
    model: ir.Model,
    quantized: ir.Model,
    scheme: QuantScheme,
    feeds: Sequence[Feeds],
    steps: Steps | None = None,
    progress: Tell | None = None,
) -> tuple[ir.Model, list[LayerRepair]]:
    """Refit the weights and biases of every 2-D Conv, Gemm and MatMul of `quantized`.

    Args:
        model: the float network; it computes the targets.
        quantized: what `quantize` made of it; not modified.
        scheme: scheme that it was quantized for, which bounds the integers.
        feeds: inputs of calibration images, batch 1; `Split` says which of them a layer is fitted on.
        steps: allowed steps; all by default.
        progress: told the name of each layer that is done.

    Returns:
        The repaired model, and per layer what it gained.

    Raises:
        ModelError: `quantized` was not made from `model`.
    """
    result = quantized.clone()
    layers = {node.name or "": node for node in result.graph if _is_repairable(node)}
    budgets = {name: _per_image(node, len(feeds)) for name, node in layers.items()}
    targets = _targets(model, budgets, feeds)
    float_weights = _float_weights(model)
    activations = {node.name or "": activation_after(node) for node in model.graph if node.name in layers}
    repairs: list[LayerRepair] = []
    for node, layer_input in walk(result, feeds):
        name = node.name or ""
        if name not in layers:
            continue
        fit, judge = _samples(node, layer_input, targets.pop(name), budgets[name], activations[name])
        original = weight_matrix(node, float_weights[name])
        best, before, after = _solve(original, _current(node), fit, judge, steps or Steps(), weight_grid(node, scheme))
        if after < before:
            _write(result.graph, node, best)
        repairs.append(LayerRepair(name, before, min(before, after)))
        if progress is not None:
            progress(name)
    return result, repairs


def _is_repairable(node: ir.Node) -> bool:
    """Return a quantized layer that is a plain matrix on patches."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.inputs[1] is None:
        return False
    if producer(node.inputs[1], DEQUANTIZE) is None:
        return False
    if node.op_type == "Gemm" and (
        node.attributes.get_int("transA", 0) != 0 or node.attributes.get_float("alpha", 1.0) != 1.0
    ):
        return False  # samples are rows of its input, and its output is their product with the weight
    return node.op_type != "Conv" or window_of(node) is not None


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
) -> tuple[_Samples, _Samples]:
    """Samples to fit on, and those of held-out images to judge by."""
    window = window_of(node)
    split = Split.of(range(len(inputs)))
    parts = []
    for images in (split.fit, split.judge):
        patches = [input_samples(window, inputs.image(image), inputs.decode, count, image) for image in images]
        outputs = np.concatenate([targets[image] for image in images])
        weights = np.ones(len(outputs), np.float32)
        parts.append(_Samples(np.concatenate(patches, axis=1), activation(outputs), activation, weights))
    return parts[0], parts[1]


def _solve(
    original: Floats, current: _Candidate, fit: _Samples, judge: _Samples, steps: Steps, grid: WeightGrid
) -> tuple[_Candidate, float, float]:
    """Return the best candidate, the error of the layer as it is, and the candidate's."""
    fit, judge = _robust(fit, original, current.bias), _robust(judge, original, current.bias)
    mean = (fit.shares @ fit.inputs).astype(np.float32)
    moments = Moments.of(fit.inputs, mean, fit.shares)  # about the mean: the bias is free and takes the mean's part
    starts = [(original, current.bias)]
    if steps.rounding:
        moved = _least_squares(original, current.bias, mean, moments, fit, judge)
        starts += [moved] if moved is not None else []
    candidates = [current]
    for index, (weight, bias) in enumerate(starts if steps.clip or steps.rounding else ()):
        scale = _clip_scale(weight, moments.diagonal, _SHRINK if steps.clip else _SHRINK[:1], grid)
        if steps.clip and index == 0:
            candidates.append(_Candidate(_nearest(weight, scale, grid), scale, bias))
        if steps.rounding:
            candidates.append(_Candidate(round_second_order(weight, scale, moments, grid), scale, bias))
    if steps.bias:
        candidates = [replace(each, bias=fit.fit_bias(each.products(fit), each.bias)) for each in candidates]
    before = judge.error(current.products(judge), current.bias)
    errors = [judge.error(candidate.products(judge), candidate.bias) for candidate in candidates]
    best = int(np.argmin(errors))
    return candidates[best], before, errors[best]


def _current(node: ir.Node) -> _Candidate:
    """Return the layer's integers, scales and bias as they stand in the graph."""
    dequantizer = producer(node.inputs[1])
    assert dequantizer is not None
    integers, scale = (known_constant(value) for value in dequantizer.inputs[:2])
    matrix: NDArray[np.int8] = weight_matrix(node, integers)
    bias = constant(given(node, 2))
    rows = matrix.shape[0] * matrix.shape[1]
    return _Candidate(matrix, scale.reshape(matrix.shape[:2]), bias if bias is not None else np.zeros(rows, np.float32))


def _robust(samples: _Samples, weight: Floats, bias: Floats) -> _Samples:
    """Bound the influence of each position.

    A few positions whose inputs lie far outside the quantizers' ranges have errors that no weight can mend; unbounded,
    they would bend the layer for all others.
    """
    error = np.sqrt(np.mean(samples.residual(samples.products(weight), bias) ** 2, axis=1))
    wrong = error[error > 0.0]  # where ReLU cuts off most positions, the median of all would be 0
    limit = _TYPICAL_ERRORS * float(np.median(wrong)) if len(wrong) else 0.0
    weights = (limit / np.maximum(error, limit)) ** 2 if limit else np.ones(len(error))
    return replace(samples, weights=weights.astype(np.float32))


def _least_squares(
    weight: Floats, bias: Floats, mean: Floats, moments: Moments, fit: _Samples, judge: _Samples
) -> tuple[Floats, Floats] | None:
    """Weights and bias that map the quantized inputs to the float outputs, if they do so on held-out images too.

    Descent on the matching loss of the activation, whose curvature the inputs' second moments bound.
    """
    best, begun = None, fit.products(weight)
    lowest = judge.error(judge.products(weight), bias) * _WORTHWHILE
    typical = moments.diagonal.mean()
    for ridge in _RIDGES:
        # An absolute ridge: a group that is hardly ever active has too few samples to be moved at all.
        divide = moments.divide_by(moments.damping(ridge) + ridge * typical)
        moved, products, shifted = weight, begun, bias
        for _ in range(_STEPS):
            moved = moved + divide(_gradient(fit, products, shifted, mean))
            products = fit.products(moved)
            shifted = fit.fit_bias(products, shifted, steps=1)  # as the weights, which move again at once
            error = judge.error(judge.products(moved), shifted)
            if error < lowest:
                best, lowest = (moved, shifted), error
    return best


def _gradient(samples: _Samples, products: Floats, bias: Floats, mean: Floats) -> Floats:
    """(groups, rows, K) sum over the positions of what each output lacks times each input less its mean."""
    residual = samples.residual(products, bias) * samples.shares[:, None]
    grouped = np.ascontiguousarray(residual.reshape(len(residual), len(mean), -1).transpose(1, 2, 0))
    gradient: Floats = grouped @ samples.inputs - grouped.sum(axis=2)[:, :, None] * mean[:, None]
    return gradient


def _nearest(weight: Floats, scale: Floats, grid: WeightGrid) -> NDArray[np.int8]:
    """Round to nearest."""
    integers = np.empty(weight.shape, np.int8)
    for rows in _portions(weight):
        integers[:, rows] = grid.nearest(weight[:, rows], scale[:, rows])
    return integers


def _clip_scale(weight: Floats, power: Floats, shares: tuple[float, ...], grid: WeightGrid) -> Floats:
    """(groups, rows) scale of least rounding and clipping error, each weight's error counted by its input's power."""
    best = np.empty(weight.shape[:2], np.float32)
    for rows in _portions(weight):
        part = weight[:, rows]
        whole = grid.scale(part)
        chosen, lowest = whole, np.full(whole.shape, np.inf, np.float32)
        for share in shares:
            scale = whole * np.float32(share)
            error = ((grid.nearest(part, scale) * scale[:, :, None] - part) ** 2 * power[:, None, :]).sum(axis=2)
            chosen = np.where(error < lowest, scale, chosen)
            lowest = np.minimum(error, lowest)
        best[:, rows] = chosen
    return best


def _portions(weight: NDArray[Any]) -> Iterator[slice]:
    """Rows that are worked on at a time, so that copies of them take little memory."""
    groups, rows, size = weight.shape
    step = max(1, _AT_ONCE // (groups * size))
    return (slice(start, start + step) for start in range(0, rows, step))


def _write(graph: ir.Graph, node: ir.Node, candidate: _Candidate) -> None:
    """Put the candidate's integers, scales and bias into initializers of this node alone."""
    dequantizer = producer(node.inputs[1])
    assert dequantizer is not None
    shape = known_constant(dequantizer.inputs[0]).shape
    integers = weight_from_matrix(node, candidate.integers, shape)
    replace_constant(graph, dequantizer, 0, f"{node.name}/weight_int8", integers)
    replace_constant(graph, dequantizer, 1, f"{node.name}/weight_scale", candidate.scale.reshape(-1))
    if node.op_type == "MatMul":
        return  # it has no bias; the candidate was judged with one, so its mean error stays
    replace_constant(graph, node, 2, f"{node.name}/bias_corrected", candidate.bias)
