"""Read an ``.onnx`` file whole, in the one form that the rest of edgeopt knows; refuse what edge engines cannot run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx_ir.passes import common

from edgeopt.errors import EdgeoptError, ModelError
from edgeopt.graph.constants import refuse_unfilled
from edgeopt.graph.other_files import other_file
from edgeopt.passes.rewrite.float_edges import float_edges
from edgeopt.passes.rewrite.to_float32 import to_float32
from edgeopt.source.onnx_shapes import correct_shapes
from edgeopt.source.refusals import (
    refuse_newer,
    refuse_other_kinds,
    refuse_training,
    refuse_unknown_operators,
)
from edgeopt.source.weights import check_file

_LOG = logging.getLogger(__name__)
_NAMING = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE)
_LOWEST_IR = 4
"""IR version from which an initializer need not be an input too."""


def external_files(path: Path) -> list[Path]:
    """List the files that an ``.onnx`` keeps its larger tensors in.

    Raises:
        ModelError: one is missing or outside the model's folder.
    """
    return _external_files(_load(path), path)


def read_onnx(path: Path, change: Callable[[ir.Model], object] | None = None, *, custom: bool = False) -> ir.Model:
    """Read an ``.onnx`` and its external data into memory; functions are expanded into the graph.

    A network whose input or output is quantized integers takes and gives floats.

    Args:
        path: the file.
        change: called with the graph before its operators are looked at, such as to remove some.
        custom: take operators of other domains, to look at and not to run.

    Raises:
        ModelError: not an ONNX model, external data that is missing or outside its folder, or custom operators.
    """
    try:
        return _in_one_form(_load(path), path, change, custom=custom)
    except EdgeoptError:
        raise
    except Exception as error:  # onnx, onnx_ir and protobuf raise all kinds where a graph is malformed
        cause = error.__cause__ or error
        if (fault := _fault(path)) is not None:
            raise ModelError(f"{path} is malformed: {fault or cause}. Export it again") from error
        raise


def _fault(path: Path) -> str | None:
    """Return what onnx.checker says against a file; None if nothing."""
    try:
        onnx.checker.check_model(onnx.load(path, load_external_data=False), full_check=True)
    except Exception as error:  # noqa: BLE001 - protobuf's and onnx's errors share no base
        return " ".join(str(error).split())[:300].rstrip(".")
    return None


def _in_one_form(
    network: ir.Model, path: Path, change: Callable[[ir.Model], object] | None, *, custom: bool
) -> ir.Model:
    """Change a network, in place where it can be, into the form that `read_onnx` gives."""
    if _external_files(network, path):
        _follow_links(network, path)
        ir.external_data.load_to_model(network)
    try:
        common.TopologicalSortPass()(network)  # engines sort, so that some converters append nodes anywhere
        common.InlinePass()(network)
        common.NameFixPass()(network)  # onnxruntime refuses nodes of the same name
        common.RemoveUnusedFunctionsPass()(network)  # type: ignore[no-untyped-call]
    except ir.passes.PassError as error:
        raise ModelError(f"{path} cannot be read: {error}. Check it with onnx.checker") from error
    if change is not None:
        change(network)
    if not custom:
        refuse_unknown_operators(network, path)
        refuse_training(network.graph.all_nodes(), path)
    _name_domain(network)
    common.RemoveInitializersFromInputsPass()(network)
    network.ir_version = max(network.ir_version, _LOWEST_IR)
    if types := to_float32(network):
        _LOG.warning("%s computes in %s: it is read as float32, its inputs and outputs too", path, " and ".join(types))
    correct_shapes(network, str(path))
    return float_edges(network)


def _name_domain(network: ir.Model) -> None:
    """Call ONNX's own domain "" everywhere: "ai.onnx", its other name, is one that few tools know."""
    if "ai.onnx" in network.opset_imports:
        network.opset_imports.setdefault("", network.opset_imports["ai.onnx"])
        del network.opset_imports["ai.onnx"]
    for node in network.graph.all_nodes():
        if node.domain == "ai.onnx":
            node.domain = ""


def _follow_links(network: ir.Model, path: Path) -> None:
    """Name the files themselves where links stand for them, which onnx_ir opens none of."""
    for graph in network.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                file = (path.absolute().parent / tensor.location).resolve()
                value.const_value = ir.ExternalTensor(
                    file.name, tensor.offset, tensor.length, tensor.dtype,
                    shape=tensor.shape, name=tensor.name, base_dir=file.parent,
                )  # fmt: skip


def _external_files(network: ir.Model, path: Path) -> list[Path]:
    """Return them, of the file's folder or of the one that its link leads to, as in a hub's cache."""
    folder = path.absolute().parent
    within = {folder.resolve(), path.resolve().parent}
    tensors = (value.const_value for graph in network.graphs() for value in graph.initializers.values())
    files = []
    for location in sorted({str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}):
        file = (folder / location).resolve()
        if ".." in Path(location).parts or not any(file.is_relative_to(each) for each in within):
            raise ModelError(f"{path} keeps weights in {location}, outside its own folder. It is not opened")
        files.append(check_file(file, f"{path} keeps its weights in {location}"))
    return files


def _load(path: Path) -> ir.Model:
    check_file(path, "[model] source")
    try:
        proto = onnx.load(path, load_external_data=False)
        _require_text(proto, path)
        refuse_newer(proto, path)
        refuse_other_kinds(proto, path)
        _densify(proto.graph)
        _complete(proto.graph)
        network = ir.from_proto(proto)
        ir.external_data.set_base_dir(network.graph, path.parent)
        refuse_unfilled(network, path)
        return network
    except (DecodeError, ValueError, TypeError, ir.serde.SerdeError) as error:
        if (what := other_file(path)) is not None:
            raise ModelError(f"{path} is not an ONNX model: it is {what}") from error
        cause = error if error.__cause__ is None else error.__cause__
        raise ModelError(f"{path} is not an ONNX model: {cause}. Check it with onnx.checker") from error


def _require_text(message: Any, path: Path) -> None:
    """Refuse names that are not UTF-8: protobuf gives them as bytes, and fails where it writes them again."""
    if message.DESCRIPTOR is onnx.TensorProto.DESCRIPTOR:  # holds no names but its own, and many numbers
        fields: Any = [(message.DESCRIPTOR.fields_by_name["name"], message.name)]
    else:
        fields = message.ListFields()
    for field, value in fields:
        is_one = isinstance(value, (str, bytes)) or hasattr(value, "ListFields")
        for each in [value] if is_one else value if field.type in _NAMING else ():
            if field.type == field.TYPE_MESSAGE:
                _require_text(each, path)
            elif field.type == field.TYPE_STRING and isinstance(each, bytes):
                raise ModelError(f"{path} is malformed: the {field.name} {each[:60]!r} is not UTF-8. Export it again")


def _complete(graph: onnx.GraphProto) -> None:
    """Name a graph that has no name, and open the sizes that some converters write as -1."""
    graph.name = graph.name or "network"
    for value in (*graph.input, *graph.output, *graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_value < 0:
                side.ClearField("dim_value")


def _densify(graph: onnx.GraphProto) -> None:
    """Write sparse constants out: neither onnx_ir nor an engine's quantized layers know them."""
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_dense(sparse))
    del graph.sparse_initializer[:]
    for attribute in (each for node in graph.node for each in node.attribute):
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
            dense = _dense(attribute.sparse_tensor)
            attribute.CopyFrom(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=dense))
        elif attribute.type == onnx.AttributeProto.GRAPH:
            _densify(attribute.g)


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    indices = onnx.numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    values = onnx.numpy_helper.to_array(sparse.values)
    dense = np.zeros(shape, values.dtype)
    places = np.unravel_index(indices, shape) if indices.ndim == 1 else tuple(indices.T)
    dense[places] = values
    return onnx.numpy_helper.from_array(dense, sparse.values.name)
