"""Refit one layer: integer weights and a bias whose outputs on the layer's real inputs are the float network's.

Least squares moves the weights to make up for the errors of their inputs, second-order rounding puts them on the grid
(`gptq`), and the bias takes what remains of the mean. Of what these make, the best on held-out positions is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeopt.passes.quantize.matrix import portions
from edgeopt.passes.quantize.saturation import WeightGrid
from edgeopt.passes.repair.layers.activation import Activation
from edgeopt.passes.repair.layers.gptq import round_second_order
from edgeopt.passes.repair.layers.moments import Moments

Floats = NDArray[np.float32]

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
class Samples:
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
        for part in portions(weight):
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
class Candidate:
    """(groups, rows, K) integers, (groups, rows) scales and a bias for each row."""

    integers: NDArray[np.int8]
    scale: Floats
    bias: Floats

    def products(self, samples: Samples) -> Floats:
        """Its outputs before the bias."""
        return samples.products(self.integers, self.scale)


def solve(
    original: Floats, current: Candidate, fit: Samples, judge: Samples, steps: Steps, grid: WeightGrid
) -> tuple[Candidate, float, float]:
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
            candidates.append(Candidate(_nearest(weight, scale, grid), scale, bias))
        if steps.rounding:
            candidates.append(Candidate(round_second_order(weight, scale, moments, grid), scale, bias))
    if steps.bias:
        candidates = [replace(each, bias=fit.fit_bias(each.products(fit), each.bias)) for each in candidates]
    before = judge.error(current.products(judge), current.bias)
    errors = [judge.error(candidate.products(judge), candidate.bias) for candidate in candidates]
    best = int(np.argmin(errors))
    return candidates[best], before, errors[best]


def _robust(samples: Samples, weight: Floats, bias: Floats) -> Samples:
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
    weight: Floats, bias: Floats, mean: Floats, moments: Moments, fit: Samples, judge: Samples
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


def _gradient(samples: Samples, products: Floats, bias: Floats, mean: Floats) -> Floats:
    """(groups, rows, K) sum over the positions of what each output lacks times each input less its mean."""
    residual = samples.residual(products, bias) * samples.shares[:, None]
    grouped = np.ascontiguousarray(residual.reshape(len(residual), len(mean), -1).transpose(1, 2, 0))
    gradient: Floats = grouped @ samples.inputs - grouped.sum(axis=2)[:, :, None] * mean[:, None]
    return gradient


def _nearest(weight: Floats, scale: Floats, grid: WeightGrid) -> NDArray[np.int8]:
    """Round to nearest."""
    integers = np.empty(weight.shape, np.int8)
    for rows in portions(weight):
        integers[:, rows] = grid.nearest(weight[:, rows], scale[:, rows])
    return integers


def _clip_scale(weight: Floats, power: Floats, shares: tuple[float, ...], grid: WeightGrid) -> Floats:
    """(groups, rows) scale of least rounding and clipping error, each weight's error counted by its input's power."""
    best = np.empty(weight.shape[:2], np.float32)
    for rows in portions(weight):
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
