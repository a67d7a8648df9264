"""Choose the rules of a target, and check one graph against them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgeopt.errors import EdgeoptError, ModelError
from edgeopt.graph.constants import refuse_unfilled
from edgeopt.graph.other_files import other_file
from edgeopt.lint import cpu, parsers, rejected, slow
from edgeopt.lint.findings import Finding
from edgeopt.lint.graph import Linted
from edgeopt.references import resolve
from edgeopt.runtime.session import known_target

Rule: TypeAlias = Callable[[Linted], Iterable[Finding]]
_INFERENCE = "shape-inference"
_GENERAL: dict[str, Rule] = {
    "empty-graph": rejected.empty_graph,
    "dangling-input": rejected.dangling_inputs,
    "opset": rejected.versions,
    "custom-operator": rejected.custom_operators,
    "tensor-type": rejected.tensor_types,
    "half-quantized": slow.half_quantized,
    "needless-qdq": slow.needless_quantizers,
}
_TENSORRT: dict[str, Rule] = {
    "nms-in-graph": rejected.in_graph_nms,
    "data-dependent-shape": rejected.data_dependent,
    "int32-bias": rejected.integer_bias,
    "zero-point": rejected.zero_points,
    "quantized-type": rejected.quantized_types,
    "mixed-types": rejected.mixed_types,
    "dynamic-shape": rejected.dynamic_shapes,
    "channel-alignment": slow.channel_alignment,
    "fp16-overflow": slow.half_overflow,
    "unfused-qdq": slow.split_fusion,
    "unfused-qdq/residual": slow.both_branches,
    "weight-axis": slow.weight_axis,
    "grouped-int8": slow.grouped_int8,
}
_CPU: dict[str, Rule] = {
    "int8-coverage": cpu.coverage,
    "unfused-qdq": slow.split_fusion,
    "weight-axis": slow.weight_axis,
    "signed-activations": cpu.signed_activations,
    "saturation": cpu.saturation,
}
_OPENVINO: dict[str, Rule] = {"signed-concat": cpu.signed_parts}
_ONNXRUNTIME: dict[str, Rule] = {"float-kernel": cpu.float_kernels}
_TENSORRT_8: dict[str, Rule] = {
    "opset-17": parsers.older_opset,
    "refused-operator": parsers.lowered(parsers.refused_by("8.5", "8.6")),
}
GROUPS: dict[str, dict[str, Rule]] = {
    "tensorrt": _TENSORRT,
    "tensorrt8": _TENSORRT_8,
    "tensorrt10": {"refused-operator": parsers.refused_by("10.0", "10.1")},
    "tensorrt_rtx": {"refused-operator": parsers.refused_by("RTX 1.7")},
    "cpu": _CPU,
    "onnxruntime": _ONNXRUNTIME,
    "openvino": _OPENVINO,
}
"""Groups that `Target.lint_rules` may name."""


def rules(target: str, own: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the ids of all rules for a target's graphs, and the references of the user's `own`."""
    return (_INFERENCE, *_rules(target, own))


def lint_graph(path: Path, target: str, own: Sequence[str] = ()) -> list[Finding]:
    """Find what `target` rejects or runs badly in an ONNX file, and what the user's `own` rules find.

    Raises:
        ModelError: the file cannot be read.
        ConfigError: a rule of the user's that cannot be imported.
    """
    model, problem = _read(path)
    linted = Linted(model, target)
    inconsistent = [
        Finding(rule=_INFERENCE, severity="error", node="", reason=problem, fix="export the model again")
    ] * bool(problem)
    return inconsistent + [found for rule in _rules(target, own).values() for found in rule(linted)]


def _rules(target: str, own: Sequence[str]) -> dict[str, Rule]:
    known, found = known_target(target), dict(_GENERAL)
    for name in (*(known.lint_rules if known else ()), *own):
        found |= GROUPS[name] if name in GROUPS else {name: resolve(name, {}, "lint rule")}
    return found


def _read(path: Path) -> tuple[ir.Model, str]:
    """Return a file's graph with the types and shapes that can be inferred, and the inconsistencies in them."""
    try:
        model = ir.load(path)
        refuse_unfilled(model, path)
        ir.external_data.load_to_model(model)
        common.InlinePass()(model)
        common.RemoveInitializersFromInputsPass()(model)  # engines take them for constants
        return _with_types(model)
    except EdgeoptError:
        raise
    except Exception as error:  # protobuf's and onnx_ir's errors share no base
        what = other_file(path) if path.is_file() else None
        cause = error if error.__cause__ is None else error.__cause__
        reason = str(cause) if what is None else f"it is {what}"
        raise ModelError(f"{path} cannot be read as an ONNX model: {reason}") from error


def _with_types(model: ir.Model) -> tuple[ir.Model, str]:
    proto, problem = ir.to_proto(model), ""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        problem = str(error)
        inferred = onnx.shape_inference.infer_shapes(proto)
    return ir.from_proto(inferred), problem
