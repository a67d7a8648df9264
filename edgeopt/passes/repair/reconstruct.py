"""Reconstruct: choose each layer's integer weights and bias so that its output matches the float network's.

Layer after layer, with the inputs that it will really get: those that the quantized layers before it produce. Three
steps: least squares moves the weights to make up for the errors of their inputs, second-order rounding puts them on the
grid (`rounding`), and the bias takes what remains of the mean (bias correction). Errors are counted after the layer's
activation, because what ReLU cuts off does no harm. A step is kept for a layer only where it lowers the error on images
held out from the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
from edgeopt.passes.repair.layers.gptq import damped, round_second_order
from edgeopt.passes.repair.layers.layerwise import LayerInput, walk
from edgeopt.passes.repair.layers.patches import input_samples, output_samples, window_of
from edgeopt.passes.repair.split import Split
from edgeopt.progress import Tell

Floats = NDArray[np.float32]

_SAMPLES = 8192
"""Positions over all images that a layer is fitted on, unless its rows have more than 1/4 as many weights."""
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
    targets: Floats
    activation: Activation
    weights: Floats
    """(n,) how much each position counts, see `_robust`."""

    def mean(self, values: Floats) -> Floats:
        """Weighted mean of (n, ...) over the positions."""
        return np.tensordot(self.weights / self.weights.sum(), values, 1).astype(np.float32)

    def outputs(self, weight: Floats, bias: Floats) -> Floats:
        """(n, groups x rows) of the layer with (groups, rows, K) `weight`."""
        products = self.inputs @ np.swapaxes(weight, 1, 2)
        return np.swapaxes(products, 0, 1).reshape(len(self.targets), -1) + bias

    def residual(self, weight: Floats, bias: Floats) -> Floats:
        """(n, groups x rows) of what the activated output lacks."""
        return self.activation(self.targets) - self.activation(self.outputs(weight, bias))

    def error(self, weight: Floats, bias: Floats) -> float:
        """Mean squared error after the activation, over the variance of the activated targets."""
        variance = float(self.activation(self.targets).var(axis=0).mean())
        squared = np.mean(self.residual(weight, bias) ** 2, axis=1)
        return float(np.average(squared, weights=self.weights) / max(variance, 1e-20))

    def fit_bias(self, weight: Floats, bias: Floats) -> Floats:
        """Move `bias` until the activated outputs have the targets' means."""
        for _ in range(_STEPS):
            bias = bias + self.mean(self.residual(weight, bias))
        return bias


@dataclass(frozen=True)
class _Candidate:
    integers: Floats
    scale: Floats
    bias: Floats

    @property
    def weight(self) -> Floats:
        return self.integers * self.scale[:, :, None]


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
    return -(-max(_SAMPLES, 4 * row) // max(1, images))


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
        parts.append(_Samples(np.concatenate(patches, axis=1), outputs, activation, weights))
    return parts[0], parts[1]


def _solve(
    original: Floats, current: _Candidate, fit: _Samples, judge: _Samples, steps: Steps, grid: WeightGrid
) -> tuple[_Candidate, float, float]:
    """Return the best candidate, the error of the layer as it is, and the candidate's."""
    fit, judge = _robust(fit, original, current.bias), _robust(judge, original, current.bias)
    mean = np.average(fit.inputs, axis=1, weights=fit.weights)
    centred = fit.inputs - mean[:, None, :].astype(np.float32)  # the bias is free and takes the means' part
    weighted = centred * (fit.weights / fit.weights.sum())[:, None]
    hessian = np.swapaxes(weighted, 1, 2) @ centred
    proposals: list[tuple[Floats, Floats, Callable[[Floats, Floats, Floats, WeightGrid], Floats]]]
    proposals = [(original, current.bias, _nearest)] if steps.clip else []
    if steps.rounding:
        moved = _least_squares(original, current.bias, weighted, hessian, fit, judge)
        proposals += [(*start, round_second_order) for start in ((original, current.bias), moved) if start is not None]
    candidates = [current]
    for weight, bias, rounding in proposals:
        scale = _clip_scale(weight, hessian, _SHRINK if steps.clip else _SHRINK[:1], grid)
        candidates.append(_Candidate(rounding(weight, scale, hessian, grid), scale, bias))
    if steps.bias:
        candidates = [replace(layer, bias=fit.fit_bias(layer.weight, layer.bias)) for layer in candidates]
    before = judge.error(current.weight, current.bias)
    errors = [judge.error(candidate.weight, candidate.bias) for candidate in candidates]
    best = int(np.argmin(errors))
    return candidates[best], before, errors[best]


def _current(node: ir.Node) -> _Candidate:
    """Return the layer's integers, scales and bias as they stand in the graph."""
    dequantizer = producer(node.inputs[1])
    assert dequantizer is not None
    integers, scale = (known_constant(value) for value in dequantizer.inputs[:2])
    matrix = weight_matrix(node, integers.astype(np.float32))
    bias = constant(given(node, 2))
    rows = matrix.shape[0] * matrix.shape[1]
    return _Candidate(matrix, scale.reshape(matrix.shape[:2]), bias if bias is not None else np.zeros(rows, np.float32))


def _robust(samples: _Samples, weight: Floats, bias: Floats) -> _Samples:
    """Bound the influence of each position.

    A few positions whose inputs lie far outside the quantizers' ranges have errors that no weight can mend; unbounded,
    they would bend the layer for all others.
    """
    error = np.sqrt(np.mean(samples.residual(weight, bias) ** 2, axis=1))
    wrong = error[error > 0.0]  # where ReLU cuts off most positions, the median of all would be 0
    limit = _TYPICAL_ERRORS * float(np.median(wrong)) if len(wrong) else 0.0
    weights = (limit / np.maximum(error, limit)) ** 2 if limit else np.ones(len(error))
    return replace(samples, weights=weights.astype(np.float32))


def _least_squares(
    weight: Floats, bias: Floats, weighted: Floats, hessian: Floats, fit: _Samples, judge: _Samples
) -> tuple[Floats, Floats] | None:
    """Weights and bias that map the quantized inputs to the float outputs, if they do so on held-out images too.

    Descent on the matching loss of the activation, whose curvature the inputs' second moments bound.
    """
    best, lowest = None, judge.error(weight, bias) * _WORTHWHILE
    typical = np.diagonal(hessian, axis1=1, axis2=2).mean()
    for ridge in _RIDGES:
        # An absolute ridge: a group that is hardly ever active has too few samples to be moved at all.
        inverse = np.linalg.inv(damped(hessian, ridge) + ridge * typical * np.eye(hessian.shape[-1], dtype=np.float32))
        moved, shifted = weight, bias
        for _ in range(_STEPS):
            residual = fit.residual(moved, shifted)
            grouped = residual.reshape(len(residual), len(weighted), -1).transpose(1, 2, 0)
            moved = (moved + grouped @ weighted @ inverse).astype(np.float32)
            shifted = fit.fit_bias(moved, shifted)
            error = judge.error(moved, shifted)
            if error < lowest:
                best, lowest = (moved, shifted), error
    return best


def _nearest(weight: Floats, scale: Floats, _: Floats, grid: WeightGrid) -> Floats:
    """Round to nearest, in the manner of `round_second_order`."""
    return grid.nearest(weight, scale)


def _clip_scale(weight: Floats, hessian: Floats, shares: tuple[float, ...], grid: WeightGrid) -> Floats:
    """(groups, rows) scale of least rounding and clipping error, each weight's error counted by its input's power."""
    power = np.diagonal(hessian, axis1=1, axis2=2)[:, None, :]
    whole = grid.scale(weight)
    best, lowest = whole, np.full(whole.shape, np.inf, np.float32)
    for share in shares:
        scale = whole * np.float32(share)
        error = ((grid.nearest(weight, scale) * scale[:, :, None] - weight) ** 2 * power).sum(axis=2)
        best = np.where(error < lowest, scale, best)
        lowest = np.minimum(error, lowest)
    scales: Floats = best.astype(np.float32)
    return scales


def _write(graph: ir.Graph, node: ir.Node, candidate: _Candidate) -> None:
    """Put the candidate's integers, scales and bias into initializers of this node alone."""
    dequantizer = producer(node.inputs[1])
    assert dequantizer is not None
    shape = known_constant(dequantizer.inputs[0]).shape
    integers = weight_from_matrix(node, candidate.integers, shape).astype(np.int8)
    replace_constant(graph, dequantizer, 0, f"{node.name}/weight_int8", integers)
    replace_constant(graph, dequantizer, 1, f"{node.name}/weight_scale", candidate.scale.reshape(-1))
    if node.op_type == "MatMul":
        return  # it has no bias; the candidate was judged with one, so its mean error stays
    replace_constant(graph, node, 2, f"{node.name}/bias_corrected", candidate.bias)
