"""Check, before a quantized graph is written, that it is valid and that the engines which it is for load it."""

from __future__ import annotations

import importlib.util
import logging
import platform
import re
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.calibrate.tap import Feeds, onnx_session
from edgeopt.config import SchemeName
from edgeopt.errors import ModelError, TargetError
from edgeopt.graph.edit import constant
from edgeopt.graph.operators import LINEAR_OPS

_LOG = logging.getLogger(__name__)
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

_OTHERWISE = 0.05
"""Power of a difference, over that of an answer, beyond what roundings in another order explain."""

_FIX_NUMBER = "Call reshape with one before compile_model; edgeopt's runtime does"


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


def warn_of_open_batch(model: ir.Model, scheme: SchemeName, images: Sequence[Feeds], name: str) -> None:
    """Warn where OpenVINO, given the file as it is, answers otherwise than with a fixed number of images.

    Its kernels for open numbers had several such faults (2026.4.1). edgeopt's own sessions compile for each number.

    Args:
        model: quantized.
        scheme: that it was quantized by.
        images: inputs of some, batch 1.
        name: of the file.
    """
    is_open = any(
        value.shape is not None and len(value.shape) and value.shape.is_dynamic(0) for value in model.graph.inputs
    )
    if scheme not in _OPENVINO or not is_open or importlib.util.find_spec("openvino") is None:
        return
    try:
        error = _open_batch_error(ir.to_proto(model).SerializeToString(), images)
    except RuntimeError as refusal:
        first, *_ = str(refusal).strip().splitlines() or [""]
        _LOG.warning("%s: OpenVINO does not run it for any number of images (%s). %s", name, first[:200], _FIX_NUMBER)
        return
    if error > _OTHERWISE:
        _LOG.warning(
            "%s: OpenVINO answers otherwise where it is compiled for any number of images (by %.0f %% of the answers' "
            "power), and right for a fixed number. %s",
            name,
            100.0 * error,
            _FIX_NUMBER,
        )


def _open_batch_error(model: bytes, images: Sequence[Feeds]) -> float:
    from edgeopt.runtime.ov import OvSession, library

    openvino, worst = library(), 0.0
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    with OvSession(model) as session:
        for image in images:
            answers = compiled({port.any_name: image[port.any_name] for port in compiled.inputs}).values()
            for answer, expected in zip(answers, session.run(image).values(), strict=True):
                if answer.shape == expected.shape and np.issubdtype(expected.dtype, np.floating):
                    difference = np.square(answer.astype(np.float64) - expected).sum()
                    worst = max(worst, float(difference / max(np.square(expected.astype(np.float64)).sum(), 1e-30)))
    return worst
