"""Shapes of an ``.onnx`` file's tensors, as its own operators give them: what it records beside them may be wrong."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeopt.calibrate.tap import onnx_session
from edgeopt.errors import ModelError

_LOG = logging.getLogger(__name__)


def correct_shapes(network: ir.Model, name: str) -> None:
    """Forget the shapes that a file records for tensors inside it, and correct those of its outputs; in place.

    Editors and converters leave the former behind when they change a graph, and some leave the latter out.

    Args:
        network: whose operators are of ONNX's own domain.
        name: of the file, for messages.

    Raises:
        ModelError: an output without a shape, and onnxruntime cannot run the network to find it.
    """
    outputs = list(network.graph.outputs)
    for graph in network.graphs():
        for node in graph:
            for value in node.outputs:
                if value not in outputs:
                    value.shape = None
    declared = [value.shape for value in outputs]
    for value in outputs:
        value.shape = None
    inferred = _inferred(network)
    for value, shape in zip(outputs, declared, strict=True):
        found = inferred.get(value.name or "")
        value.shape = shape if found is None else _merged(shape, found, f"{name} records '{value.name}'")
    if any(value.shape is None for value in outputs):
        _run_for_shapes(network, name)


def _inferred(network: ir.Model) -> dict[str, ir.Shape]:
    """Return the shapes of outputs that follow from the operators; none where inference fails."""
    part = network.clone()
    common.ShapeInferencePass(check_type=False, strict_mode=False)(part)
    return {value.name or "": value.shape for value in part.graph.outputs if value.shape is not None}


def _merged(declared: ir.Shape | None, found: ir.Shape, where: str) -> ir.Shape:
    """Return what a file says, corrected where its operators say otherwise."""
    if declared is None:
        return found
    if len(declared) == len(found):
        sides = [
            theirs if isinstance(theirs, int) and theirs != ours else ours
            for ours, theirs in zip(declared, found, strict=True)
        ]
        wrong = any(isinstance(ours, int) and ours != side for ours, side in zip(declared, sides, strict=True))
        if not wrong:
            return declared
        found = ir.Shape(sides)
    _LOG.warning("%s %s, but its operators give %s: that was taken", where, declared, found)
    return found


def _run_for_shapes(network: ir.Model, name: str) -> None:
    """Find the ranks of outputs by running the network on zeros; their sizes stay open."""
    feeds = {}
    for value in network.graph.inputs:
        if value.shape is None or value.dtype is None:
            raise ModelError(f"{name} gives neither its input '{value.name}' nor its output a shape. Export it again")
        sides = [side if isinstance(side, int) else 1 for side in value.shape]
        feeds[value.name or ""] = np.zeros(sides, value.dtype.numpy())
    try:
        arrays = onnx_session(network).run(None, feeds)
    except Exception as error:  # onnxruntime's errors have no base class of their own
        missing = ", ".join(f"'{value.name}'" for value in network.graph.outputs if value.shape is None)
        raise ModelError(
            f"{name} gives its output {missing} no shape, and does not run on zeros, by which it would be found: "
            f"{' '.join(str(error).split()).rstrip('.')}. Export it again with shapes of its outputs"
        ) from error
    for value, array in zip(network.graph.outputs, arrays, strict=True):
        if value.shape is None and isinstance(array, np.ndarray):
            value.shape = ir.Shape([f"{value.name}_{axis}" for axis in range(array.ndim)])
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
