"""Give an exported graph one form: meaningful, stable names and no unused parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir
from onnx_ir.passes import common

_SCOPES = "pkg.torch.onnx.name_scopes"
_WEIGHT = ".weight"


def clean(model: ir.Model, name: str) -> ir.Model:
    """Return a copy of `model` without metadata, unused parts and anonymous nodes.

    Nodes from torch are named by the module that they come from: one with weights as the weights are
    (``features.0.0``), others by module and operator (``features.0.2/Clip``). Nodes of a file keep their names where
    these are unique. So a pattern in ``[quantize] exclude`` means the same in every export of a network.
    """
    result = model.clone()
    taken: set[str] = set()
    for node in result.graph.all_nodes():
        node.name = _unique(_path_of(node) or node.name or f"{node.op_type}_{node.outputs[0].name}", taken)
    _name_values(result.graph)
    for tidy in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        tidy(result)
    result.doc_string = result.graph.doc_string = None
    result.metadata_props.clear()
    result.graph.metadata_props.clear()
    for value in _values(result):  # which the pass leaves, with notes that may name files of the exporter's machine
        value.doc_string = None
        value.metadata_props.clear()
    for initializer in result.graph.initializers.values():
        tensor = initializer.const_value
        if tensor is not None and (tensor.doc_string or tensor.metadata_props) and tensor.dtype != ir.DataType.STRING:
            initializer.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    result.graph.name, result.producer_name, result.producer_version = name, "edgeopt", None
    return result


def _path_of(node: ir.Node) -> str | None:
    """Return the path in the torch module that `node` comes from; None if it does not come from torch."""
    scopes = _scopes(node)
    if scopes is None:
        return None
    for value in node.inputs[1:]:
        if value is not None and value.is_initializer() and (value.name or "").endswith(_WEIGHT):
            return str(value.name).removesuffix(_WEIGHT)
    # The last scope is the operator's own, the first the whole network's, without a name.
    module = scopes[-2] if len(scopes) > 1 else ""
    return f"{module}/{node.op_type}" if module else node.op_type


def _scopes(node: ir.Node) -> list[str] | None:
    text = node.metadata_props.get(_SCOPES)
    if text is None:
        return None
    return [part.strip(" '\"") for part in text.strip("[]").split(",")]


def _unique(name: str, taken: set[str]) -> str:
    """Return `name`, or with the first number that makes it unique, and add the result to `taken`."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def _name_values(graph: ir.Graph) -> None:
    """Name the outputs of torch's nodes after them. Inputs, weights and outputs of the network keep their names."""
    kept = set(_names([*graph.inputs, *graph.initializers.values(), *graph.outputs]))
    for node in graph:
        if _scopes(node) is None:
            continue
        for i, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = _unique(f"{node.name}_output{f'_{i}' if i else ''}", kept)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from (*graph.inputs, *graph.initializers.values())
        for node in graph:
            yield from node.outputs


def _names(values: Iterable[ir.Value]) -> list[str]:
    return [value.name for value in values if value.name is not None]
