"""Where quantizers go: which inputs of which nodes, and which tensors share a scale.

The graph is partitioned at each convolution and matrix product (a *head*): its own inputs are quantized, and nothing
between it and the activation it fuses with. Operators that only move or choose values carry the scale through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.passes.quantize.eligibility import HEADS, eligible
from edgeopt.passes.quantize.scheme import QuantScheme

_DOMAINS = ("", "ai.onnx")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
               "ConvInteger", "MatMulInteger")  # fmt: skip
PASS_THROUGH = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Resize", "Concat",
    "DepthToSpace", "SpaceToDepth", "GlobalMaxPool", "Expand",
)  # fmt: skip
"""Operators that carry the scale through: they take and give the same integers."""
_AVERAGE = ("AveragePool", "GlobalAveragePool", "ReduceMean")
"""Operators with INT8 kernels whose result has a finer grid than their input, so a scale of its own."""
_FUSED = ("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Gelu", "Swish",
          "BatchNormalization", "Tanh")  # fmt: skip
"""Pointwise operators of one activation that engines fuse into the head before them."""


@dataclass(frozen=True)
class Edge:
    """One input of one node."""

    node: ir.Node
    index: int

    @property
    def tensor(self) -> str:
        """Name of the tensor that the input reads."""
        value = self.node.inputs[self.index]
        assert value is not None
        return value.name or ""


@dataclass(frozen=True)
class Placement:
    """What `place` decided."""

    heads: tuple[ir.Node, ...]
    """Convolutions and matrix products that are quantized."""
    edges: tuple[Edge, ...]
    """Inputs that read a quantized tensor, in graph order."""
    groups: tuple[tuple[str, ...], ...]
    """Names of the quantized tensors; those in one group share a scale."""
    reasons: dict[str, str]
    """Why each other head stays float, by node name."""


def place(model: ir.Model, scheme: QuantScheme, exclude: tuple[str, ...] = ()) -> Placement:
    """Decide where `scheme` wants quantizers in `model`.

    Args:
        model: optimized (see `optimize`).
        scheme: whose rules apply.
        exclude: glob patterns of names of heads that stay float.

    Raises:
        ModelError: nothing can be quantized, the model is quantized already, its opset is below 13, or it has operators
            of another domain.
        ConfigError: a pattern of `exclude` matches nothing.
    """
    _check(model)
    reasons = eligible(model.graph, scheme, exclude)
    heads = [node for node in model.graph if reasons.get(node.name or "") == "" and node.op_type in HEADS]
    if not heads:
        raise ModelError(f"scheme '{scheme.name}' leaves every layer in float: {reasons}. Use another scheme, or FP16")
    chosen = _Edges()
    for node in heads:
        chosen.add(node, 0)
    for node in model.graph:
        for index in _residual_inputs(node, heads, scheme):
            chosen.add(node, index)
    order = {id(node): position for position, node in enumerate(model.graph)}
    kept = [edge for edge in chosen.edges if scheme.requantize or not _repeats(edge)]
    edges = sorted(kept, key=lambda edge: (order[id(edge.node)], edge.index))
    floats = {name: reason for name, reason in reasons.items() if reason}
    return Placement(tuple(heads), tuple(edges), chosen.groups(), floats)


def _check(model: ir.Model) -> None:
    foreign = [node for node in model.graph if node.domain not in _DOMAINS]
    if foreign:
        names = sorted({f"{node.domain}::{node.op_type}" for node in foreign})
        raise ModelError(
            f"cannot quantize operators of other domains: {', '.join(names)}. Export the model without them"
        )
    quantized = next((node for node in model.graph if node.op_type in _QUANTIZERS), None)
    if quantized is not None:
        raise ModelError(
            f"the model is quantized already: node '{quantized.name}' is a {quantized.op_type}. Give the float model"
        )
    opset = model.opset_imports.get("", 0)
    if opset < 13:
        raise ModelError(f"the model has opset {opset}; quantization per channel needs 13 or more. Raise it first")
    if not any(node.op_type in HEADS for node in model.graph):
        raise ModelError(f"the model has no {', '.join(HEADS[:-1])} or {HEADS[-1]}: there is nothing to quantize")


class _Edges:
    """The edges so far; adding one follows the scale upwards."""

    def __init__(self) -> None:
        self.edges: set[Edge] = set()
        self._leader: dict[str, str] = {}

    def add(self, node: ir.Node, index: int) -> None:
        """Quantize input `index` of `node` and what its producer carries the scale from."""
        edge = Edge(node, index)
        value = node.inputs[index]
        if edge in self.edges or value is None or value.const_value is not None:
            return
        self.edges.add(edge)
        self._find(edge.tensor)
        producer = value.producer()
        if producer is None:
            return
        if producer.op_type in PASS_THROUGH and not _interpolates(producer):
            for source in range(len(producer.inputs) if producer.op_type == "Concat" else 1):
                self.add(producer, source)
                if Edge(producer, source) in self.edges:
                    self._join(edge.tensor, Edge(producer, source).tensor)
        elif producer.op_type in _AVERAGE and self._is_alone(producer):
            self.add(producer, 0)

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Tensors by shared scale, each group and all groups in the order of their first edge's addition."""
        members: dict[str, list[str]] = {}
        for tensor in self._leader:
            members.setdefault(self._find(tensor), []).append(tensor)
        return tuple(tuple(names) for names in members.values())

    def _is_alone(self, node: ir.Node) -> bool:
        """Whether `node` is the only reader of its input, so that quantizing it spares a float copy."""
        value = node.inputs[0]
        return value is not None and len(value.uses()) == 1

    def _find(self, tensor: str) -> str:
        leader = self._leader.setdefault(tensor, tensor)
        while self._leader[leader] != leader:
            leader = self._leader[leader]
        return leader

    def _join(self, first: str, second: str) -> None:
        self._leader[self._find(first)] = self._find(second)


def _repeats(edge: Edge) -> bool:
    """Whether the tensor that the edge reads is on its grid already, because a pass-through operator gives it."""
    value = edge.node.inputs[edge.index]
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type in PASS_THROUGH and not _interpolates(producer)


def _interpolates(node: ir.Node) -> bool:
    """Whether a Resize computes values in between, which need not lie on the grid of its input."""
    mode = node.attributes.get("mode")
    return node.op_type == "Resize" and mode is not None and mode.as_string() != "nearest"


def _residual_inputs(node: ir.Node, heads: list[ir.Node], scheme: QuantScheme) -> Iterator[int]:
    """Inputs of a residual Add that `scheme` quantizes: none unless one side ends a quantized head's partition."""
    if node.op_type != "Add" or any(value is None or value.const_value is not None for value in node.inputs):
        return
    branches = [_head_of(value, heads) for value in node.inputs]
    if branches == [None, None]:
        return
    if scheme.residual == "both":
        yield from (0, 1)
        return
    order = [heads.index(branch) if branch is not None else -1 for branch in branches]
    yield int(order[0] > order[1])  # of two convolutions the later one fuses with the Add, as the one before it is done


def _head_of(value: ir.Value | None, heads: list[ir.Node]) -> ir.Node | None:
    """The quantized head whose partition ends in `value` and nowhere else."""
    while value is not None and len({usage.node for usage in value.uses()}) == 1:
        node = value.producer()
        if node is None:
            return None
        if node in heads:
            return node
        gated = _gated(node)
        if gated is not None:
            node_input = gated.producer()
            return node_input if node_input in heads else None
        if node.op_type not in _FUSED:
            return None
        value = node.inputs[0]
    return None


def _gated(node: ir.Node) -> ir.Value | None:
    """The ``x`` of SiLU or HardSwish written as ``Mul(x, Sigmoid(x))``, where nothing else reads either."""
    if node.op_type != "Mul":
        return None
    for value, gate in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        producer = gate.producer() if gate is not None else None
        if producer is None or producer.op_type not in ("Sigmoid", "HardSigmoid") or value is None:
            continue
        if producer.inputs[0] is value and {usage.node for usage in value.uses()} == {producer, node}:
            return value
    return None
