"""Run an ONNX graph in torch, node after node, so that gradients flow through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from edgeopt.passes.gradients.attributes import Attributes, UnsupportedOperatorError, attributes_of
from edgeopt.passes.gradients.operators import OPERATORS, Operator

_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class _Step:
    """One node, ready to run."""

    function: Operator
    attributes: Attributes
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]


class Interpreter:
    """A graph as a function of its inputs and of whatever else replaces one of its values.

    Args:
        graph: in topological order; its weights are copied.
        replaced: for nodes by name, the function to call instead of the operator's; it gets the attributes and inputs.
        outputs: names of the tensors that `run` returns. Default: the graph's outputs.

    Raises:
        UnsupportedOperatorError: an operator that `OPERATORS` lacks.
    """

    def __init__(
        self,
        graph: ir.Graph,
        replaced: Mapping[str, Operator] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self.constants: dict[str, Tensor] = {
            name: torch.from_numpy(np.array(value.const_value.numpy()))
            for name, value in graph.initializers.items()
            if value.const_value is not None
        }
        self._steps = [_step(node, replaced or {}) for node in graph]
        self._outputs = [value.name or "" for value in graph.outputs] if outputs is None else list(outputs)

    def run(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the outputs.

        Args:
            feeds: its inputs by name; a value named as an initializer takes that one's place.
        """
        values: dict[str, Any] = {**self.constants, **feeds}
        for step in self._steps:
            inputs = [values[name] if name is not None else None for name in step.inputs]
            results = step.function(step.attributes, *inputs)
            values.update(zip(step.outputs, results if isinstance(results, tuple) else (results,), strict=False))
        return [values[name] for name in self._outputs]


def _step(node: ir.Node, replaced: Mapping[str, Operator]) -> _Step:
    function = replaced.get(node.name or "") or (OPERATORS.get(node.op_type) if node.domain in _DOMAINS else None)
    if function is None:
        raise UnsupportedOperatorError(f"{node.domain}::{node.op_type}" if node.domain else node.op_type)
    attributes = dict(attributes_of(node))
    if node.op_type == "Split":
        attributes.setdefault("num_outputs", len(node.outputs))
    inputs = tuple(None if value is None else value.name or "" for value in node.inputs)
    return _Step(function, attributes, inputs, tuple(output.name or "" for output in node.outputs))
