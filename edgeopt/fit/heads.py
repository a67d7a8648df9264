"""Classifiers as operators of a graph: a product, a hidden layer, kernels, or an embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import add_initializer, make_node, names_in
from edgeopt.spec import ClassDecoding, TensorSpec

Array: TypeAlias = NDArray[Any]
SCORES, EMBEDDING = "scores", "embedding"
_SHORTEST = 1e-6
"""Added to a length, which may be 0 of a picture without any features."""


class Head(Protocol):
    """A classifier's operators."""

    @property
    def output(self) -> str:
        """Name of what it gives."""

    @property
    def size(self) -> int:
        """Number of values that it gives for an image."""

    @property
    def weights(self) -> int:
        """Number of its weights."""

    def write(self, ops: Operators, features: ir.Value) -> ir.Value:
        """Add its operators behind (N, F) features, and return (N, `size`)."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted classifier.

    Attributes:
        head: its operators.
        decoding: the meaning of what they give.
        expected: function from (n, F) features to what the head is to give for them, by scikit-learn's arithmetic.
        score: cross-validated share of right answers; the mean over classes where these were balanced.
        settings: what cross-validation chose, by name.
        rows: support vectors or prototypes; 0 of others.
        notes: sentences about it, for people.
    """

    head: Head
    decoding: ClassDecoding
    expected: Callable[[Array], Array]
    score: float | None
    settings: Mapping[str, float]
    rows: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Linear:
    """Logits by one product; `weight` (F, classes), `bias` (classes)."""

    weight: Array
    bias: Array
    output: str = SCORES

    @property
    def size(self) -> int:
        """Number of classes."""
        return int(self.weight.shape[1])

    @property
    def weights(self) -> int:
        """Number of its weights."""
        return int(self.weight.size)

    def write(self, ops: Operators, features: ir.Value) -> ir.Value:
        """Add a Gemm."""
        return ops.product("classifier", features, self.weight, self.bias)


@dataclass(frozen=True)
class Hidden:
    """Logits by a hidden layer of ReLUs; `first` and `last` are its products."""

    first: Linear
    last: Linear
    output: str = SCORES

    @property
    def size(self) -> int:
        """Number of classes."""
        return self.last.size

    @property
    def weights(self) -> int:
        """Number of its weights."""
        return self.first.weights + self.last.weights

    def write(self, ops: Operators, features: ir.Value) -> ir.Value:
        """Add Gemm, Relu, Gemm."""
        hidden = ops.product("hidden", features, self.first.weight, self.first.bias)
        return ops.product("classifier", ops.add("Relu", "hidden/Relu", hidden), self.last.weight, self.last.bias)


@dataclass(frozen=True)
class Embedding:
    """Features less their mean, over their deviation, at length 1; `mean` and `scale` (F), which multiplies."""

    mean: Array
    scale: Array
    output: str = EMBEDDING

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.mean)

    @property
    def weights(self) -> int:
        """Number of its weights."""
        return 2 * len(self.mean)

    def write(self, ops: Operators, features: ir.Value) -> ir.Value:
        """Add what scales, and a division by the length, which keeps clear of zero."""
        centred = ops.add("Sub", "embedding/center", features, ops.constant("embedding/mean", self.mean))
        scaled = ops.add("Mul", "embedding/scale", centred, ops.constant("embedding/scale.weight", self.scale))
        squares = ops.add("Mul", "embedding/square", scaled, scaled)
        axes = ops.constant("embedding/axes", np.array([1], np.int64))
        power = ops.add("ReduceSum", "embedding/power", squares, axes, keepdims=1)
        length = ops.add("Sqrt", "embedding/length", power)
        positive = ops.add("Add", "embedding/positive", length, ops.constant("embedding/least", np.array([_SHORTEST])))
        return ops.add("Div", "embedding/unit", scaled, positive)

    def of(self, features: Array) -> Array:
        """Compute the same: (n, F) of length 1."""
        scaled = (features - self.mean) * self.scale
        return np.asarray(scaled / (np.linalg.norm(scaled, axis=1, keepdims=True) + _SHORTEST))


@dataclass(frozen=True)
class Kernels:
    """Logits by Gaussian kernels of embeddings: ``exp(2 gamma (cosine - 1))`` is ``exp(-gamma distance^2)``.

    `vectors` (n, F) of length 1, `gamma`, `coefficients` (n, classes), `bias` (classes).
    """

    embedding: Embedding
    vectors: Array
    gamma: float
    coefficients: Array
    bias: Array
    output: str = SCORES

    @property
    def size(self) -> int:
        """Number of classes."""
        return len(self.bias)

    @property
    def weights(self) -> int:
        """Number of its weights."""
        return int(self.vectors.size + self.coefficients.size) + self.embedding.weights

    def write(self, ops: Operators, features: ir.Value) -> ir.Value:
        """Add the embedding, Gemm, Exp, Gemm."""
        unit = self.embedding.write(ops, features)
        slope = 2.0 * self.gamma
        exponents = ops.product("kernels", unit, slope * self.vectors.T, np.full(len(self.vectors), -slope))
        return ops.product("classifier", ops.add("Exp", "kernels/Exp", exponents), self.coefficients, self.bias)


@dataclass
class Operators:
    """Adds nodes to the end of a graph."""

    graph: ir.Graph
    _taken: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self._taken = names_in(self.graph)

    def add(self, kind: str, name: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add a node with one output, and return that."""
        name = self._free(name)
        node = make_node(kind, inputs, attributes, name=name, output=self._free(f"{name}_output"))
        self.graph.append(node)
        return node.outputs[0]

    def product(self, name: str, value: ir.Value, weight: Array, bias: Array) -> ir.Value:
        """Add a Gemm with (inputs, outputs) weights."""
        inputs = value, self.constant(f"{name}.weight", weight.T), self.constant(f"{name}.bias", bias)
        return self.add("Gemm", name, *inputs, transB=1)

    def constant(self, name: str, array: Array) -> ir.Value:
        """Add an initializer; numbers become float32."""
        return add_initializer(self.graph, name, array if array.dtype == np.int64 else array.astype(np.float32))

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def appended(model: ir.Model, head: Head) -> tuple[ir.Model, TensorSpec]:
    """Return a graph with a head behind its one output (N, F), and what it gives then; `model` is not modified."""
    whole = model.clone()
    (features,) = whole.graph.outputs
    assert features.shape is not None
    batch = features.shape[0]
    _write(whole.graph, head, features, batch)
    return whole, TensorSpec(name=head.output, shape=(batch if isinstance(batch, int) else "N", head.size))


def head_alone(head: Head, features: int, opset: int) -> ir.Model:
    """Return a graph of the head alone, from ``features`` (N, F): what it is compared with scikit-learn in."""
    shape, kind = ir.Shape(["N", features]), ir.TensorType(ir.DataType.FLOAT)
    given = ir.Value(name="features", shape=shape, type=kind)
    graph = ir.Graph([given], [], nodes=[], opset_imports={"": opset}, name="head")
    _write(graph, head, given, "N")
    return ir.Model(graph, ir_version=8)


def _write(graph: ir.Graph, head: Head, features: ir.Value, batch: Any) -> None:
    result = head.write(Operators(graph), features)
    result.name, result.shape, result.type = head.output, ir.Shape([batch, head.size]), ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.clear()
    graph.outputs.append(result)
