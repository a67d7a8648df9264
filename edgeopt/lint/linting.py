"""The verb: a graph, an engine, its layer list, or a whole bundle → a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from edgeopt.bundle import Bundle, EngineSettings
from edgeopt.config import TargetName
from edgeopt.errors import ModelError, TargetError
from edgeopt.hardware import device as board
from edgeopt.lint import engine_rules, rejected, slow
from edgeopt.lint.findings import Finding, LintReport
from edgeopt.lint.graph import Linted
from edgeopt.spec import replace

_TENSORRT = ("trt", "rtx")
_GENERAL: dict[str, Callable[[Linted], Iterator[Finding]]] = {
    "empty-graph": rejected.empty_graph,
    "dangling-input": rejected.dangling_inputs,
    "opset": rejected.versions,
    "custom-operator": rejected.custom_operators,
    "tensor-type": rejected.tensor_types,
    "half-quantized": slow.half_quantized,
    "needless-qdq": slow.needless_quantizers,
}
_FOR_TENSORRT: dict[str, Callable[[Linted], Iterator[Finding]]] = {
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


def lint(path: Path, target: TargetName = "trt", device: str | None = None) -> LintReport:
    """Look for what a target rejects or runs badly.

    Args:
        path: an ``.onnx`` graph; a bundle's folder; an engine (``.plan``, ``.engine``; needs a GPU that runs it); or
            the inspector's layer list of one (``.json``).
        target: whose rules apply; a bundle's variants each have their own.
        device: a board's name, for estimates from its memory bandwidth.

    Raises:
        ModelError: the file cannot be read as any of these.
        ConfigError: no such device.
        BundleError: the bundle is not whole.
    """
    bandwidth = board(device).bandwidth_gb_s if device else None
    if path.is_dir():
        return _lint_bundle(path)
    if path.suffix == ".json":
        return _lint_layers(path, target, _text(path), bandwidth)
    if path.suffix in (".plan", ".engine"):
        return _lint_layers(path, target, _inspect(path, target), bandwidth)
    rules = _rules(target)
    return LintReport(
        path=str(path), target=target, findings=tuple(_lint_graph(path, target)), rules=(_INFERENCE, *rules)
    )


_INFERENCE = "shape-inference"


def _rules(target: str) -> dict[str, Callable[[Linted], Iterator[Finding]]]:
    return {**_GENERAL, **(_FOR_TENSORRT if target in _TENSORRT else {})}


def _lint_graph(path: Path, target: str) -> list[Finding]:
    model, problem = _with_types(_read(path))
    linted = Linted(model, target)
    inconsistent = [
        Finding(rule=_INFERENCE, severity="error", node="", reason=problem, fix="export the model again")
    ] * bool(problem)
    return inconsistent + [found for rule in _rules(target).values() for found in rule(linted)]


def _read(path: Path) -> ir.Model:
    try:
        model = ir.load(path)
        ir.external_data.load_to_model(model)
    except Exception as error:  # protobuf's and onnx_ir's errors share no base
        raise ModelError(f"{path} cannot be read as an ONNX model: {error}") from error
    return model


def _with_types(model: ir.Model) -> tuple[ir.Model, str]:
    """The graph with types and shapes between its nodes, as far as there are any, and what is inconsistent in them."""
    proto, problem = ir.to_proto(model), ""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        problem = str(error)
        inferred = onnx.shape_inference.infer_shapes(proto)
    return ir.from_proto(inferred), problem


def _lint_bundle(path: Path) -> LintReport:
    """Each variant whose file is a graph, by its target's rules."""
    bundle = Bundle.open(path)
    findings: list[Finding] = []
    rules = {_INFERENCE: None}
    for variant in bundle.manifest.variants:
        file = bundle.file(variant.name)
        if file.suffix == ".onnx":
            rules |= dict.fromkeys(_rules(variant.target))
            found = _lint_graph(file, variant.target)
            findings += [replace(one, variant=variant.name) for one in found]
    targets = ", ".join(sorted({variant.target for variant in bundle.manifest.variants}))
    return LintReport(path=str(path), target=targets, findings=tuple(findings), rules=tuple(rules))


def _lint_layers(path: Path, target: str, text: str, bandwidth: float | None) -> LintReport:
    layers = engine_rules.read_layers(text)
    findings = tuple(found for rule in engine_rules.RULES.values() for found in rule(layers, bandwidth))
    return LintReport(path=str(path), target=target, findings=findings, rules=tuple(engine_rules.RULES))


def _inspect(path: Path, target: str) -> str:
    from edgeopt.runtime.trt import open_engine  # only engines need TensorRT

    try:
        with open_engine(path, target, EngineSettings(), reuse_outputs=False) as session:
            return session.layers_json()
    except TargetError as error:
        raise TargetError(
            f"the layers of {path} can be listed only where it runs, and here: {str(error).rstrip('.')}. Lint its ONNX "
            "graph, or the list that trtexec --exportLayerInfo=layers.json --profilingVerbosity=detailed writes there"
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
