"""Find constants whose data do not fill their shape: damaged files have them, and they fail where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from edgeopt.errors import ModelError

_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def refuse_unfilled(network: ir.Model, path: Path) -> None:
    """Refuse a network with a constant that has fewer or more data than its shape and type take.

    Args:
        network: as it was read, with the folder of its external data set.
        path: its file.

    Raises:
        ModelError: there is such a constant.
    """
    for name, tensor in _constants(network):
        fault = None
        if isinstance(tensor, ir.TensorProtoTensor):
            fault = _fault(tensor)
        elif isinstance(tensor, ir.ExternalTensor):
            fault = _fault_outside(tensor)
        if tensor is not None and fault is not None:
            kind = f"{str(tensor.dtype.name).lower()} {list(tensor.shape.numpy())}"
            raise ModelError(f"{path} is malformed: its constant '{name}', {kind}, {fault}. Export or copy it again")


def _constants(network: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol | None]]:
    """Yield every constant of a network, its subgraphs and its functions, with a name."""
    for graph in network.graphs():
        for name, value in graph.initializers.items():
            yield name, value.const_value
    nodes = (*network.graph.all_nodes(), *(node for function in network.functions.values() for node in function))
    for node in nodes:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR:
                yield str(node.name or next((value.name for value in node.outputs), "")), attribute.value


def _fault(tensor: ir.TensorProtoTensor) -> str | None:
    """Return what is wrong with a tensor's data; None if nothing is."""
    held, size = tensor.raw, tensor.size
    if held.HasField("raw_data") and tensor.dtype not in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        needed, there = -(-size * tensor.dtype.bitwidth // 8), len(held.raw_data)
        return None if there == needed else f"has {there} bytes of data where {needed} fill it"
    if size and not held.HasField("raw_data") and not any(len(getattr(held, name)) for name in _TYPED):
        return "has no data"
    try:
        tensor.numpy()
    except (ValueError, TypeError, AssertionError) as error:
        return f"cannot be read: {error}"
    return None


def _fault_outside(tensor: ir.ExternalTensor) -> str | None:
    """Return what a file of its own lacks for a tensor; None if nothing, or if there is no such file."""
    file, end = Path(tensor.path), (tensor.offset or 0) + -(-tensor.size * tensor.dtype.bitwidth // 8)
    if not file.is_file() or (there := file.stat().st_size) >= end:
        return None
    return f"ends at byte {end} of {tensor.location}, which has {there}"
