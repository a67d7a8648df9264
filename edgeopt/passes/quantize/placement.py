"""Place quantizers: choose which inputs of which nodes get them, and which tensors share a scale.

The graph is partitioned at each convolution and matrix product (a *linear* operator): its own inputs are quantized, and
nothing between it and the activation it fuses with. Operators that only move or choose values carry the scale through.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.graph.disjoint_sets import DisjointSets
from edgeopt.graph.edit import node_name, producer
from edgeopt.graph.operators import (
    LINEAR_OPS,
    QUANTIZERS,
    STANDARD_DOMAINS,
    carries_scale,
    data_inputs,
    operator,
    padding,
)
from edgeopt.passes.quantize.additional import additional_inputs
from edgeopt.passes.quantize.eligibility import UNRANKED, eligible, reached
from edgeopt.passes.quantize.moves import quantized_before
from edgeopt.passes.quantize.scheme import SCHEMES, QuantScheme

_QUANTIZED = (*QUANTIZERS, "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
"""Operators of a model that is quantized already."""

_LISTED = 5
"""Layers that a message names."""


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
    """Result of `place`."""

    layers: tuple[ir.Node, ...]
    """Names of convolutions and matrix products that are quantized."""
    edges: tuple[Edge, ...]
    """Inputs that read a quantizer's output, in graph order."""
    groups: tuple[tuple[str, ...], ...]
    """Names of the quantized tensors; those in one group share a scale."""
    movable: tuple[tuple[str, ...], ...]
    """Names of nodes whose quantizers must move together (see `movable`)."""
    reasons: dict[str, str]
    """Reason for each other convolution or matrix product that stays float, by node name."""


def place(model: ir.Model, scheme: QuantScheme, exclude: tuple[str, ...] = ()) -> Placement:
    """Decide where `scheme` wants quantizers in `model`.

    Args:
        model: optimized (see `optimize`).
        scheme: whose rules apply.
        exclude: glob patterns of names of layers that stay float.

    Raises:
        ModelError: nothing can be quantized, the model is quantized already, its opset is below 13, or it has operators
            of another domain.
        ConfigError: a pattern of `exclude` matches nothing.
    """
    _check(model)
    reasons = eligible(model.graph, scheme, exclude)
    linear = (node for node in model.graph if node.op_type in LINEAR_OPS)
    layers = {node: place for place, node in enumerate(linear) if reasons.get(node.name or "") == ""}
    if not layers:
        others = [other.name for other in SCHEMES.values() if "" in eligible(model.graph, other, exclude).values()]
        raise ModelError(_nothing(scheme, reasons, others))
    chosen = _Edges(averages_padding=scheme.averages_padding)
    for node in layers:
        chosen.add(node, 0)
    seen = reached(model.graph)
    for node in model.graph:
        for index in _residual_inputs(node, layers, scheme, seen):
            chosen.add(node, index)
    needed = chosen.tensors
    for node in model.graph:
        for index in additional_inputs(node, layers, needed, scheme):
            chosen.add(node, index)
    edges = chosen.in_order(model.graph)
    kept = tuple(edge for edge in edges if not _repeats(edge) or _wants_repeat(edge, scheme))
    floats = {name: reason for name, reason in reasons.items() if reason}
    return Placement(tuple(layers), kept, chosen.groups(), _moving_together(edges), floats)


def _nothing(scheme: QuantScheme, reasons: Mapping[str, str], others: Sequence[str]) -> str:
    """Say why no layer is quantized, and what to do about it: `others` are schemes that quantize one."""
    listed = "; ".join(f"'{name}': {reason}" for name, reason in itertools.islice(reasons.items(), _LISTED))
    more = f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
    left = f"scheme '{scheme.name}' leaves every layer in float: {listed}{more}"
    if not others and UNRANKED in reasons.values():
        return left  # the reason says what to do
    cure = f"Use scheme '{others[0]}', or FP16" if others else "No scheme quantizes any of them: use FP16"
    if any("FLOAT16" in reason for reason in reasons.values()):
        cure = "It is a float16 network: give the float32 one that it was made from, whose weights INT8 is rounded from"
    return f"{left}. {cure}"


def movable(graph: ir.Graph, edges: Iterable[Edge]) -> tuple[tuple[str, ...], ...]:
    """Names of nodes whose quantizers must move together, so that dropping those of one set leaves no layer half of it.

    A layer reads integers through every operator that carries the scale to it: that operator's own quantizers are the
    layer's, whether the scheme repeats them behind it or not.

    Args:
        graph: without quantizers.
        edges: inputs of layers that are quantized. Those of operators that carry the scale to them follow from them and
            need not be among them.
    """
    chosen = _Edges()
    for edge in edges:
        chosen.add(edge.node, edge.index)
    return _moving_together(chosen.in_order(graph))


def _moving_together(edges: Iterable[Edge]) -> tuple[tuple[str, ...], ...]:
    tied = DisjointSets()
    for edge in edges:
        tied.find(node_name(edge.node))
        before = producer(edge.node.inputs[edge.index])
        if before is not None and carries_scale(before):
            tied.join(node_name(edge.node), node_name(before))
    return tied.sets()


def _check(model: ir.Model) -> None:
    foreign = [node for node in model.graph if node.domain not in STANDARD_DOMAINS]
    if foreign:
        names = sorted({f"{node.domain}::{node.op_type}" for node in foreign})
        raise ModelError(
            f"cannot quantize operators of other domains: {', '.join(names)}. Export the model without them"
        )
    quantized = next((node for node in model.graph if node.op_type in _QUANTIZED), None)
    if quantized is not None:
        raise ModelError(
            f"the model is quantized already: node '{quantized.name}' is a {quantized.op_type}. Give the float model, "
            "or build from this file as it is: [quantize] file"
        )
    opset = model.opset_imports.get("", 0)
    if opset < 13:
        raise ModelError(f"the model has opset {opset}; quantization per channel needs 13 or more. Raise it first")
    if not any(node.op_type in LINEAR_OPS for node in model.graph):
        raise ModelError(
            f"the model has no {', '.join(LINEAR_OPS[:-1])} or {LINEAR_OPS[-1]}: there is nothing to quantize"
        )


class _Edges:
    """The edges so far; adding one follows the scale upwards."""

    def __init__(self, *, averages_padding: bool = True) -> None:
        self._averages_padding = averages_padding
        self._edges: set[Edge] = set()
        self._scales = DisjointSets()

    def add(self, node: ir.Node, index: int) -> None:
        """Quantize input `index` of `node` and what its producer carries the scale from."""
        edge = Edge(node, index)
        value = node.inputs[index]
        if edge in self._edges or value is None or value.const_value is not None:
            return
        self._edges.add(edge)
        self._scales.find(edge.tensor)
        before = value.producer()
        if before is None:
            return
        if quantized_before(before):
            for source in data_inputs(before):
                self.add(before, source)
                if Edge(before, source) in self._edges:
                    self._scales.join(edge.tensor, Edge(before, source).tensor)
        elif operator(before).averages and self._is_alone(before) and self._averages(before):
            self.add(before, 0)

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the tensors so far."""
        return frozenset(edge.tensor for edge in self._edges)

    def in_order(self, graph: ir.Graph) -> tuple[Edge, ...]:
        """Return all edges so far, in graph order."""
        order = {id(node): position for position, node in enumerate(graph)}
        return tuple(sorted(self._edges, key=lambda edge: (order[id(edge.node)], edge.index)))

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Tensors by shared scale, each group and all groups in the order of their first edge's addition."""
        return self._scales.sets()

    def _averages(self, node: ir.Node) -> bool:
        """Return True if an average of integers is right."""
        return self._averages_padding or padding(node) is None

    def _is_alone(self, node: ir.Node) -> bool:
        """Return True if `node` is the only reader of its input, so that quantizing it spares a float copy."""
        value = node.inputs[0]
        return value is not None and len(value.uses()) == 1


def _repeats(edge: Edge) -> bool:
    """Return True if the edge's tensor is on its grid already, because a pass-through operator makes it."""
    before = producer(edge.node.inputs[edge.index])
    return before is not None and quantized_before(before)


def _wants_repeat(edge: Edge, scheme: QuantScheme) -> bool:
    """Return True if a scheme repeats the pair of a tensor that is on its grid already."""
    if producer(edge.node.inputs[edge.index], "Pad") is not None:
        return not scheme.fuses_padding
    return scheme.requantize


def _residual_inputs(
    node: ir.Node, layers: Mapping[ir.Node, int], scheme: QuantScheme, seen: Collection[ir.Value]
) -> Iterator[int]:
    """Inputs of a residual Add that `scheme` quantizes: none unless one side ends a quantized layer's partition.

    Args:
        node: any.
        layers: those that are quantized, with their places in the graph.
        scheme: whose rule applies.
        seen: values that images reach; what is added to a constant is no residual.
    """
    if scheme.residual == "none" or node.op_type != "Add" or any(value not in seen for value in node.inputs):
        return
    branches = [_layer_of(value, layers) for value in node.inputs]
    if branches == [None, None]:
        return
    if scheme.residual == "both":
        yield from (0, 1)
        return
    order = [layers[branch] if branch is not None else -1 for branch in branches]
    yield int(order[0] > order[1])  # of two convolutions the later one fuses with the Add, as the one before it is done


def _layer_of(value: ir.Value | None, layers: Collection[ir.Node]) -> ir.Node | None:
    """Return the quantized layer whose partition ends in `value` and nowhere else."""
    while value is not None and len({usage.node for usage in value.uses()}) == 1:
        node = value.producer()
        if node is None:
            return None
        if node in layers:
            return node if node.op_type != "MatMul" else None  # what transformers add up stays float
        gated = _gated(node)
        if gated is not None:
            node_input = gated.producer()
            return node_input if node_input in layers else None
        if not operator(node).fuses:
            return None
        value = node.inputs[0]
    return None


def _gated(node: ir.Node) -> ir.Value | None:
    """Return the ``x`` of SiLU or HardSwish written as ``Mul(x, Sigmoid(x))``, where nothing else reads either."""
    if node.op_type != "Mul":
        return None
    for value, gate in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        sigmoid = producer(gate, "Sigmoid", "HardSigmoid")
        if sigmoid is None or value is None:
            continue
        if sigmoid.inputs[0] is value and {usage.node for usage in value.uses()} == {sigmoid, node}:
            return value
    return None
