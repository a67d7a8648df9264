"""A Q/DQ network whose integer weights, biases and scales can be learned, and written back.

Every kind of parameter counts in steps of the quantization that it belongs to: weights in integers, biases in the noise
that rounding the layer's input causes, scales in their logarithm. One rate for each kind therefore fits all layers of
all networks.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Rates:
    """Distances that a parameter of each kind moves in a step, about."""

    integers: float
    weight_scales: float
    """In their logarithm."""
    biases: float
    """In the noise of the layer's input."""
    scales: float
    """In their logarithm, of activations."""


@dataclass
class _Weight:
    """An int8 initializer behind a DequantizeLinear."""

    latent: nn.Parameter
    """The integers before they are rounded."""
    start: Tensor
    """The scales that it came with, broadcast against `latent`."""
    gain: nn.Parameter
    """Logarithms of what the scales are multiplied by."""
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
        free = rounded(self.latent, WEIGHT_LIMIT)
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
        return self.start * self.gain.exp()

    def value(self) -> Tensor:
        """Weight that the layer computes with."""
        return self.integers() * self.scale()


@dataclass(frozen=True)
class _Bias:
    start: Tensor
    noise: Tensor
    """(channels,) unit of `shift`."""
    shift: nn.Parameter

    def value(self) -> Tensor:
        """Bias that the layer adds."""
        return self.start + self.noise * self.shift


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
        """Logarithms of what the activations' scales are multiplied by."""
        replaced: dict[str, Operator] = {}
        for node in model.graph:
            if node.op_type == QUANTIZE:
                replaced[node.name or ""] = self._quantizer(node)
            elif node.op_type == DEQUANTIZE:
                replaced[node.name or ""] = self._dequantizer(node)
        for node in model.graph:
            if node.op_type in LINEAR_OPS:
                self._add_bias(node)
        self._interpreter = Interpreter(model.graph, replaced, outputs)

    def parameters(self, rates: Rates) -> list[dict[str, Any]]:
        """Numbers to learn, as an optimizer of torch takes them."""
        weights = self._weights.values()
        return [
            {"params": [weight.latent for weight in weights], "lr": rates.integers},
            {"params": [weight.gain for weight in weights], "lr": rates.weight_scales},
            {"params": [bias.shift for bias in self._biases.values()], "lr": rates.biases},
            {"params": list(self._gains.values()), "lr": rates.scales},
        ]

    def run(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the outputs, with gradients to the parameters."""
        biases = {name: bias.value() for name, bias in self._biases.items()}
        return self._interpreter.run({**feeds, **biases})

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
        return start * self._gains[self._leader[name]].exp()

    def _quantizer(self, node: ir.Node) -> Operator:
        """Quantize and dequantize at once: what follows gets real values on the grid."""
        scale, zero_point = node.inputs[1], known_constant(node.inputs[2])
        name = "" if scale is None else scale.name or ""
        limits = np.iinfo(zero_point.dtype)
        low, high = int(limits.min) - int(zero_point), int(limits.max) - int(zero_point)

        def run(attributes: Attributes, x: Tensor, *_: Any) -> Tensor:
            del attributes
            return fake_quantize(x, self._scale(name), low, high)

        return run

    def _dequantizer(self, node: ir.Node) -> Operator:
        """Return the weight as it is learned; behind an activation's quantizer nothing is left to do."""
        stored, scale = node.inputs[:2]
        if stored is None or stored.const_value is None or scale is None:
            return lambda _, x, *__: x
        name = stored.name or ""
        if name not in self._weights:
            integers, steps = known_constant(stored), np.array(known_constant(scale))
            shape = [1] * integers.ndim
            if steps.size > 1:
                shape[node.attributes["axis"].as_int()] = steps.size
            reader = next(iter(node.outputs[0].uses())).node
            self._weights[name] = _Weight(
                latent=nn.Parameter(torch.from_numpy(integers.astype(np.float32))),
                start=torch.from_numpy(steps.reshape(shape)),
                gain=nn.Parameter(torch.zeros(shape)),
                layer=reader,
                grid=weight_grid(reader, self._scheme),
                scale_name=scale.name or "",
            )
        return lambda *_: self._weights[name].value()

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


def _noise(node: ir.Node, step: float, dequantizer: ir.Node, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the change of a layer's output if every input moves by one step, each in its own direction."""
    integers, scale = (known_constant(value) for value in dequantizer.inputs[:2])
    axis = weight_axis(node)
    others = tuple(each for each in range(integers.ndim) if each != axis)
    lengths = np.sqrt(np.square(integers.astype(np.float32)).sum(axis=others)) * scale
    noise = np.maximum(lengths, scale) * step
    return np.broadcast_to(noise if noise.size == shape[-1] else noise.mean(), shape).astype(np.float32)
