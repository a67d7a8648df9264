"""Check, before a quantized graph is written, that it is valid and that the engines which it is for load it."""

from __future__ import annotations

import importlib.util
import platform
import re

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.calibrate.tap import onnx_session
from edgeopt.config import SchemeName
from edgeopt.errors import ModelError, TargetError
from edgeopt.graph.edit import constant
from edgeopt.graph.operators import LINEAR_OPS

_OPENVINO: tuple[SchemeName, ...] = ("openvino",)
"""Schemes whose files OpenVINO runs."""
_SIGNED: tuple[SchemeName, ...] = ("tensorrt", "arm")
"""Schemes of int8 activations, for GPUs and ARM: on x86 onnxruntime may refuse to load what it makes of them (see
`passes.rewrite.older_label`), which says nothing of where they run."""
_ARM = ("aarch64", "arm64")
_UNKNOWN = re.compile(r"No conversion rule found for operations: ([\w, -]+?)(?: -- | To |$)")
"""OpenVINO's words for the operators that it does not have."""
_CURE = (
    "Leave the layer that it names float (--exclude), take another scheme, or simplify the model elsewhere, and "
    "please report it"
)


def require_finite(model: ir.Model, name: str) -> None:
    """Check that the weights of convolutions and matrix products are numbers; else every image would be blamed.

    Raises:
        ModelError: some are NaN or infinite.
    """
    for node in model.graph:
        for value in node.inputs[1:] if node.op_type in LINEAR_OPS else ():
            array = constant(value)
            if array is not None and not np.isfinite(array).all():
                count = int((~np.isfinite(array)).sum())
                raise ModelError(
                    f"{name}: '{value and value.name}' of node '{node.name}' holds {count} numbers that are NaN or "
                    "infinite: training went wrong, or the file is damaged. Export it from an earlier checkpoint"
                )


def require_loadable(model: ir.Model, scheme: SchemeName, name: str, baseline: ir.Model) -> None:
    """Check a graph with onnx.checker, in onnxruntime, and in OpenVINO where it is for it and that is installed.

    Args:
        model: quantized.
        scheme: that it was quantized by.
        name: of the file, for messages.
        baseline: the float network, which tells whether quantizing is to blame.

    Raises:
        ModelError: one of them refuses it; the message holds its reason.
    """
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{name}: the quantized graph is not valid: {error}. {_CURE}") from error
    try:
        onnx_session(model, fused=scheme not in _SIGNED or platform.machine() in _ARM)
    except ModelError as error:
        raise ModelError(f"{name}: {error}. {_CURE}") from error
    if scheme in _OPENVINO and importlib.util.find_spec("openvino") is not None:
        _require_openvino(model, name, baseline)


def _require_openvino(model: ir.Model, name: str, baseline: ir.Model) -> None:
    if (error := _refused_by_openvino(model)) is None:
        return
    if (reason := _refused_by_openvino(baseline)) is not None:
        unknown = _UNKNOWN.search(str(reason))
        operators = f", for want of {unknown[1].strip()}" if unknown else f": {reason}"
        raise ModelError(
            f"{name}: OpenVINO does not load the network, be it quantized or not{operators}. Take another scheme, such "
            "as onnxruntime, or export it without that"
        ) from reason
    raise ModelError(f"{name}: OpenVINO does not load the quantized graph: {error}. {_CURE}") from error


def _refused_by_openvino(model: ir.Model) -> TargetError | None:
    from edgeopt.runtime.ov import OvSession

    try:
        with OvSession(ir.to_proto(model).SerializeToString()):
            return None
    except TargetError as error:
        return error
