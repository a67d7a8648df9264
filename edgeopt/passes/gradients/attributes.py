"""A node's attributes as Python values, and the error for what the interpreter cannot run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import onnx_ir as ir

Attributes: TypeAlias = Mapping[str, Any]
"""Numbers, strings, tuples of them, and numpy arrays, by name."""


class UnsupportedOperatorError(Exception):
    """An operator, or a setting of one, that has no torch function here: no gradient flows through the network."""


def attributes_of(node: ir.Node) -> Attributes:
    """Return the attributes of `node`.

    Raises:
        UnsupportedOperatorError: it has a subgraph.
    """
    return {name: _value(node, attribute) for name, attribute in node.attributes.items()}


def _value(node: ir.Node, attribute: ir.Attr) -> Any:
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        raise UnsupportedOperatorError(f"{node.op_type} (it has a subgraph)")
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().numpy()
    return attribute.value
