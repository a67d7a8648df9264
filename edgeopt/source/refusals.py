"""Say what stands against a model file before anything is made of it: what nothing here could run or quantize."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.graph.edit import constant, given
from edgeopt.source.plugin import PLUGINS

_STANDARD_DOMAINS = ("", "ai.onnx")
_TREES = "ai.onnx.ml"
"""Domain of classical models: trees, support vectors, scalers."""
_ONNXRUNTIME = ("com.microsoft", "com.microsoft.nchwc")


def refuse_newer(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse a file that is newer than the installed onnx.

    Raises:
        ModelError: its IR version or its opset is.
    """
    opset = max((each.version for each in proto.opset_import if each.domain in _STANDARD_DOMAINS), default=0)
    for what, found, known in (
        ("IR version", proto.ir_version, onnx.IR_VERSION),
        ("opset", opset, onnx.defs.onnx_opset_version()),
    ):
        if found > known:
            raise ModelError(
                f"{path} is of {what} {found}, and the installed onnx {onnx.__version__} knows {what}s up to {known}. "
                "Export the model with an older one, or update onnx and onnxruntime"
            )


def refuse_other_kinds(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse inputs and outputs that are no tensors: lists and optional ones, and maps, as classical models have.

    Raises:
        ModelError: there is one.
    """
    sides = itertools.product(["input"], proto.graph.input), itertools.product(["output"], proto.graph.output)
    for side, value in itertools.chain(*sides):
        kind = value.type
        if kind.HasField("map_type") or kind.sequence_type.elem_type.HasField("map_type"):
            raise ModelError(
                f"{path}: {side} '{value.name}' holds maps (ZipMap). Export the model with zipmap=False; trees and "
                "other classical models have no layers to quantize"
            )
        if kind.HasField("sequence_type") or kind.HasField("optional_type"):
            what = "a list of tensors" if kind.HasField("sequence_type") else "an optional tensor"
            raise ModelError(
                f"{path}: {side} '{value.name}' is {what}, and engines take and give tensors. Export each tensor as an "
                f"{side} of its own"
            )


def refuse_unknown_operators(network: ir.Model, path: Path) -> None:
    """Refuse operators that are not ONNX's.

    Raises:
        ModelError: there is one; the message names its node.
    """
    opset = network.opset_imports.get("", network.opset_imports.get("ai.onnx", 1))
    for node in network.graph.all_nodes():
        if node.domain not in _STANDARD_DOMAINS:
            what = f"{node.domain}::{node.op_type}, which is not a standard ONNX operator"
        elif not _is_known(node.op_type, opset):
            what = f"{node.op_type}, which ONNX does not have in opset {opset} (a plugin's, or an experiment's)"
        else:
            continue
        raise ModelError(f"{path}: node '{node.name}' is {what}. {_way_out(node)}")


def refuse_training(nodes: Iterable[ir.Node], path: Path) -> None:
    """Refuse a network that was exported in training mode, whose results are chance or depend on the batch.

    Raises:
        ModelError: it was; the message names the node.
    """
    for node in nodes:
        mode = constant(given(node, 2)) if node.op_type == "Dropout" else None
        trains = node.op_type == "BatchNormalization" and bool(node.attributes.get_int("training_mode", 0))
        if trains or (mode is not None and mode.any()):
            raise ModelError(
                f"{path}: node '{node.name}' is a {node.op_type} in training mode, so that the results depend on the "
                "other images of a batch or on chance. Export the network in evaluation mode (torch: model.eval())"
            )


def _is_known(kind: str, opset: int) -> bool:
    try:
        onnx.defs.get_schema(kind, opset)
    except onnx.defs.SchemaError:
        return False
    return True


def _way_out(node: ir.Node) -> str:
    if node.op_type in PLUGINS:
        return 'Cut it off with [model] tail = "cut"'
    if node.domain == _TREES:
        return "Classical models have no layers to quantize: run it in onnxruntime as it is"
    if node.domain in _ONNXRUNTIME:
        return "onnxruntime's optimizer writes it: give the file that it was optimized from"
    return "Export the model again without it, or replace it by standard ones"
