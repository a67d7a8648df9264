"""A Q/DQ network whose integer weights, biases and scales can be learned, and written back.

Every kind of parameter counts in steps of the quantization that it belongs to: weights in integers, biases in the noise
that rounding the layer's input causes, scales in their logarithm. One unit for each kind therefore fits all layers of
all networks, and optimizers whose steps are of one size, as Adam's are, need one rate for all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeopt.graph.edit import given, known_constant, producer, set_constant
from edgeopt.graph.operators import DEQUANTIZE, LINEAR_OPS, QUANTIZE, weight_axis
from edgeopt.passes.gradients.attributes import Attributes
from edgeopt.passes.gradients.interpreter import Interpreter
from edgeopt.passes.gradients.operators import Operator
from edgeopt.passes.qdq.ties import tied_scales
from edgeopt.passes.quantize.matrix import weight_from_matrix, weight_matrix
from edgeopt.passes.quantize.saturation import WEIGHT_LIMIT, WeightGrid, weight_grid
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.fine_tune.fake_quantize import fake_quantize, rounded

_INTEGER = 0.04
"""Integers that a unit of a weight is. Some hundred steps of one unit move an integer by two or three, so that what is
pulled one way throughout flips; at a tenth of these units nothing does."""
_WEIGHT_SCALE = 0.001
"""Part of a weight's scale, as a logarithm, that a unit is."""
_BIAS = 0.02
"""Part of the noise of its layer's input that a unit of a bias is."""
_SCALE = 0.003
"""Part of an activation's scale, as a logarithm, that a unit is."""


@dataclass
class _Weight:
    """An int8 initializer behind a DequantizeLinear."""

    latent: nn.Parameter
    """The integers before they are rounded, in units of `_INTEGER`."""
    start: Tensor
    """The scales that it came with, broadcast against `latent`."""
    gain: nn.Parameter
    """Logarithms of what the scales are multiplied by, in units of `_WEIGHT_SCALE`."""
    layer: ir.Node
    """Layer that reads it."""
    grid: WeightGrid
    """Integers that are allowed."""
    scale_name: str
    """Initializer of the scales."""
    _pulled: tuple[Tensor, Tensor] | None = None
    """Integers, and how far those in pairs that would saturate are pulled to zero: the images of a step share it."""

    def integers(self) -> Tensor:
        """Rounded integers; gradients pass straight through to `latent`."""
        free = rounded(_INTEGER * self.latent, WEIGHT_LIMIT)
        if not self.grid.pairings:
            return free
        if self._pulled is None or not torch.equal(self._pulled[0], free):
            self._pulled = free.detach(), self._fitted(free.detach()) - free.detach()
        return free + self._pulled[1]

    def _fitted(self, integers: Tensor) -> Tensor:
        matrix = self.grid.fit(weight_matrix(self.layer, integers.numpy()))
        return torch.from_numpy(weight_from_matrix(self.layer, matrix, integers.shape))

    def scale(self) -> Tensor:
        """Strictly positive, one an output channel."""
        return self.start * torch.exp(_WEIGHT_SCALE * self.gain)

    def value(self) -> Tensor:
        """Weight that the layer computes with."""
        return self.integers() * self.scale()


@dataclass(frozen=True)
class _Bias:
    start: Tensor
    noise: Tensor
    """(channels,) that of the layer's input."""
    shift: nn.Parameter
    """In units of `_BIAS` of the noise."""

    def value(self) -> Tensor:
        """Bias that the layer adds."""
        return self.start + _BIAS * self.noise * self.shift


class LearnedNetwork:
    """A network from `quantize` or `reconstruct`, as a function with parameters.

    Args:
        model: a Q/DQ model; not modified. Layers that it leaves in float keep their weights.
        scheme: scheme that it was quantized for, which bounds the integers.
        outputs: names of the tensors that `run` returns. Default: the model's outputs.

    Raises:
        UnsupportedOperatorError: it has an operator that gradients cannot flow through.
    """

    def __init__(self, model: ir.Model, scheme: QuantScheme, outputs: Sequence[str] | None = None) -> None:
        self._model, self._scheme = model, scheme
        self._weights: dict[str, _Weight] = {}
        """By name of the integers' initializer."""
        self._biases: dict[str, _Bias] = {}
        self._leader = tied_scales(model.graph)
        self._gains = {name: nn.Parameter(torch.zeros(())) for name in sorted(set(self._leader.values()))}
        """Logarithms of what the activations' scales are multiplied by, in units of `_SCALE`."""
        replaced: dict[str, Operator] = {}
        for node in model.graph:
            if node.op_type == QUANTIZE:
                replaced[node.name or ""] = _quantizer(node)
            elif node.op_type == DEQUANTIZE:
                replaced[node.name or ""] = _given
                self._add_weight(node)
        for node in model.graph:
            if node.op_type in LINEAR_OPS:
                self._add_bias(node)
        self._interpreter = Interpreter(model.graph, replaced, outputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> LearnedNetwork:
        """Copy the numbers to learn, as an average of them wants; the graph is never changed and is shared."""
        shared: list[Any] = [self._model, self._interpreter, *(weight.layer for weight in self._weights.values())]
        memo.update({id(each): each for each in shared})
        copied = object.__new__(LearnedNetwork)
        memo[id(self)] = copied
        copied.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return copied

    def parameters(self) -> list[nn.Parameter]:
        """Numbers to learn, for an optimizer whose steps are of one unit."""
        weights = [each for weight in self._weights.values() for each in (weight.latent, weight.gain)]
        return [*weights, *(bias.shift for bias in self._biases.values()), *self._gains.values()]

    def run(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the outputs, with gradients to the parameters."""
        learned = {
            **{name: weight.value() for name, weight in self._weights.items()},
            **{name: bias.value() for name, bias in self._biases.items()},
            **{name: self._scale(name) for name in self._leader},
        }
        return self._interpreter.run({**feeds, **learned})

    def model(self) -> ir.Model:
        """Return the network as it stands, as a Q/DQ graph."""
        result = self._model.clone()
        arrays: dict[str, Tensor] = {
            **{name: weight.integers().to(torch.int8) for name, weight in self._weights.items()},
            **{weight.scale_name: weight.scale() for weight in self._weights.values()},
            **{name: bias.value() for name, bias in self._biases.items()},
            **{name: self._scale(name) for name in self._leader},
        }
        for name, array in arrays.items():
            value = result.graph.initializers[name]
            shape = known_constant(value).shape
            set_constant(value, array.detach().numpy().reshape(shape).copy())
        return result

    def _scale(self, name: str) -> Tensor:
        start = torch.from_numpy(np.array(known_constant(self._model.graph.initializers[name])))
        return start * torch.exp(_SCALE * self._gains[self._leader[name]])

    def _add_weight(self, node: ir.Node) -> None:
        """Learn the integers, and their scales, that a DequantizeLinear reads; of an activation it reads none."""
        stored, scale = node.inputs[:2]
        if stored is None or stored.const_value is None or scale is None or stored.name in self._weights:
            return
        integers, steps = known_constant(stored), np.array(known_constant(scale))
        shape = [1] * integers.ndim
        if steps.size > 1:
            shape[node.attributes["axis"].as_int()] = steps.size
        reader = next(iter(node.outputs[0].uses())).node
        self._weights[stored.name or ""] = _Weight(
            latent=nn.Parameter(torch.from_numpy(integers.astype(np.float32) / _INTEGER)),
            start=torch.from_numpy(steps.reshape(shape)),
            gain=nn.Parameter(torch.zeros(shape)),
            layer=reader,
            grid=weight_grid(reader, self._scheme),
            scale_name=scale.name or "",
        )

    def _add_bias(self, node: ir.Node) -> None:
        """Learn the bias of a quantized layer that has one of its own."""
        bias = given(node, 2)
        before, stored = (producer(value, DEQUANTIZE) for value in node.inputs[:2])
        if bias is None or bias.const_value is None or bias.name in self._biases or before is None or stored is None:
            return
        start = np.array(known_constant(bias))
        noise = _noise(node, float(known_constant(before.inputs[1])), stored, start.shape)
        parameters = torch.from_numpy(start), torch.from_numpy(noise), nn.Parameter(torch.zeros(start.shape))
        self._biases[bias.name or ""] = _Bias(*parameters)


def _quantizer(node: ir.Node) -> Operator:
    """Quantize and dequantize at once: what follows gets real values on the grid."""
    zero_point = known_constant(node.inputs[2])
    limits = np.iinfo(zero_point.dtype)
    low, high = int(limits.min) - int(zero_point), int(limits.max) - int(zero_point)
    return lambda _, x, scale, *__: fake_quantize(x, scale, low, high)


def _given(_attributes: Attributes, x: Tensor, *_others: Any) -> Tensor:
    """Return what comes in: a weight as it is learned, or what the quantizer before has brought back to real values."""
    return x


def _noise(node: ir.Node, step: float, dequantizer: ir.Node, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the change of a layer's output if every input moves by one step, each in its own direction."""
    integers, scale = (known_constant(value) for value in dequantizer.inputs[:2])
    axis = weight_axis(node)
    others = tuple(each for each in range(integers.ndim) if each != axis)
    lengths = np.sqrt(np.square(integers.astype(np.float32)).sum(axis=others)) * scale
    noise = np.maximum(lengths, scale) * step
    return np.broadcast_to(noise if noise.size == shape[-1] else noise.mean(), shape).astype(np.float32)
