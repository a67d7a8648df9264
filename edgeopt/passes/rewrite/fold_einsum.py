"""Write Einsum, which no engine has an INT8 kernel for, as the MatMul that it is, with transpositions around it.

Products with constant weights, and those of two activations with one free and one summed label each (attention). What
else an Einsum may say (traces, outer products, sums of one operand) stays.
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import add_initializer, bypass, constant, make_node, node_name


@dataclass(frozen=True)
class _Product:
    """Labels of ``A, B -> C`` by the part they have, each in the order of the result or of A."""

    left: str
    right: str
    result: str

    @property
    def batch(self) -> str:
        """Labels of all three."""
        return "".join(label for label in self.result if label in self.left and label in self.right)

    @property
    def summed(self) -> str:
        """Labels of both operands that the result lacks."""
        return "".join(label for label in self.left if label in self.right and label not in self.result)

    def free(self, operand: str) -> str:
        """Labels that only this operand brings."""
        return "".join(label for label in self.result if label in operand and label not in self.batch)

    @property
    def is_matrix_product(self) -> bool:
        """True if no label stands twice in a term, or is summed in one operand alone."""
        terms = (self.left, self.right, self.result)
        once = all(len(set(term)) == len(term) for term in terms)
        return once and set(self.left) ^ set(self.right) <= set(self.result) <= set(self.left) | set(self.right)


def fold_einsum(model: ir.Model) -> None:
    """Rewrite what is a matrix product, in place.

    Args:
        model: with shapes on its values.
    """
    for node in list(model.graph):
        if node.op_type != "Einsum" or node.domain or len(node.inputs) != 2:
            continue
        product = _product(node)
        if product is None or not product.is_matrix_product or not product.summed:
            continue
        left, right = node.inputs
        if constant(right) is None and constant(left) is not None:
            product, left, right = _Product(product.right, product.left, product.result), right, left
        weight = constant(right)
        if left is None or right is None or constant(left) is not None:
            continue
        if weight is not None and not product.batch:
            _with_weight(model.graph, node, product, left, weight)
        elif weight is None:
            _of_activations(model.graph, node, product, left, right)


def _product(node: ir.Node) -> _Product | None:
    """Read the equation, its ellipses written out as labels."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    operands = terms.split(",")
    shapes = [value.shape for value in node.inputs if value is not None]
    if len(operands) != 2 or len(shapes) != 2 or any(shape is None for shape in shapes):
        return None
    if not arrow:
        letters = sorted(set(terms) - set(".,"))
        result = ("..." if "..." in terms else "") + "".join(each for each in letters if terms.count(each) == 1)
    counts = [len(shape or ()) - len(term.replace("...", "")) for term, shape in zip(operands, shapes, strict=True)]
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    most = max((count for term, count in zip(operands, counts, strict=True) if "..." in term), default=0)
    written = [
        term.replace("...", "".join(unused[most - count : most])) if "..." in term else term
        for term, count in zip((*operands, result), (*counts, most), strict=True)
    ]
    if any(len(term) != len(shape or ()) for term, shape in zip(written[:2], shapes, strict=True)):
        return None
    return _Product(*written)


def _with_weight(
    graph: ir.Graph, node: ir.Node, product: _Product, left: ir.Value, weight: NDArray[np.float32]
) -> None:
    """A product of tokens with a matrix: ``(free..., summed) x (summed, outputs)``."""
    rows, columns = product.free(product.left), product.free(product.right)
    sizes = dict(zip(product.right, weight.shape, strict=True))
    order = [product.right.index(label) for label in product.summed + columns]
    inner = math.prod(sizes[label] for label in product.summed)
    matrix = np.ascontiguousarray(weight.transpose(order).reshape(inner, -1))
    if not rows or not columns:
        return
    chain = _Chain(graph, node, left)
    chain.transpose(product.left, rows + product.summed)
    if len(product.summed) > 1:
        chain.reshape([0] * len(rows) + [inner])
    chain.matmul(add_initializer(graph, f"{node_name(node)}/matrix", matrix))
    if len(columns) != 1:
        chain.reshape([0] * len(rows) + [sizes[label] for label in columns])
    chain.transpose(rows + columns, product.result)
    chain.finish()


def _of_activations(graph: ir.Graph, node: ir.Node, product: _Product, left: ir.Value, right: ir.Value) -> None:
    """A product of two activations: ``(batch..., row, summed) x (batch..., summed, column)``."""
    rows, columns = product.free(product.left), product.free(product.right)
    if len(rows) != 1 or len(columns) != 1 or len(product.summed) != 1:
        return
    second = _Chain(graph, node, right, "right")
    second.transpose(product.right, product.batch + product.summed + columns)
    chain = _Chain(graph, node, left)
    chain.transpose(product.left, product.batch + rows + product.summed)
    chain.matmul(second.value)
    chain.transpose(product.batch + rows + columns, product.result)
    chain.finish()


class _Chain:
    """Nodes one behind the other, in place of an Einsum."""

    def __init__(self, graph: ir.Graph, node: ir.Node, value: ir.Value, side: str = "left") -> None:
        self._graph, self._node, self.value = graph, node, value
        self._name = f"{node_name(node)}/{side}"
        self._made: list[ir.Node] = []

    def transpose(self, before: str, after: str) -> None:
        """Bring axes with the labels `before` into the order `after`."""
        perm = [before.index(label) for label in after]
        if perm != sorted(perm):
            shape = self.value.shape
            moved = ir.Shape([shape[axis] for axis in perm]) if shape is not None else None
            self._add("Transpose", [self.value], {"perm": perm}, moved)

    def reshape(self, sides: list[int]) -> None:
        """Change the last axes; 0 keeps one of the first."""
        shape = self.value.shape
        changed = [shape[axis] if side == 0 else side for axis, side in enumerate(sides)] if shape is not None else None
        target = add_initializer(self._graph, f"{self._name}/shape", np.array(sides, np.int64))
        self._add("Reshape", [self.value, target], {}, None if changed is None else ir.Shape(changed))

    def matmul(self, right: ir.Value) -> None:
        """Multiply by `right`; the node has the Einsum's name."""
        first, second = self.value.shape, right.shape
        known = first is not None and second is not None
        shape = ir.Shape([*list(first)[:-1], second[-1]]) if known and first and second else None
        self._add("MatMul", [self.value, right], {}, shape, node_name(self._node))

    def finish(self) -> None:
        """Let what read the Einsum read the last node."""
        bypass(self._node.outputs[0], self.value)

    def _add(
        self,
        kind: str,
        inputs: list[ir.Value],
        attributes: dict[str, list[int]],
        shape: ir.Shape | None,
        name: str = "",
    ) -> None:
        name = name or f"{self._name}/{kind}{len(self._made) or ''}"
        made = make_node(
            kind, inputs, attributes, name=name, output=f"{self._name}/{kind}{len(self._made)}", shape=shape,
            dtype=self._node.outputs[0].dtype,
        )  # fmt: skip
        self._graph.insert_before(self._node, made)
        self._made.append(made)
        self.value = made.outputs[0]
