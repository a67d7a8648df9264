"""Forms in which targets read graphs: rewrites that keep the numbers, as each target names those that it wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.bundle import Precision
from edgeopt.config import SchemeName
from edgeopt.runtime.session import FormName, Target

if TYPE_CHECKING:
    import onnx_ir as ir

_PASSES = "edgeopt.passes.rewrite"


@dataclass(frozen=True)
class _Form:
    """A pass, and the graphs that want it."""

    module: str
    wanted: Callable[[Precision, SchemeName | None], bool] = lambda _precision, _scheme: True
    changes: Callable[[ir.Model], bool] = lambda _: True


def _has_regions(model: ir.Model) -> bool:
    from edgeopt.passes.rewrite.fixed_regions import has_regions

    return has_regions(model)


def _has_unbiased(model: ir.Model) -> bool:
    from edgeopt.passes.rewrite.bias_shared_results import has_unbiased

    return has_unbiased(model)


_FORMS: Mapping[FormName, _Form] = {
    # OpenVINO's own scheme has uint8 already.
    "unsigned_activations": _Form(
        "unsigned_activations", lambda precision, scheme: precision == "int8" and scheme != "openvino"
    ),
    "convolve_tokens": _Form("convolve_tokens", lambda _, scheme: scheme == "openvino"),
    "bias_shared_results": _Form("bias_shared_results", lambda precision, _: precision == "int8", _has_unbiased),
    "fixed_regions": _Form("fixed_regions", changes=_has_regions),
    "for_tensorrt_8": _Form("lower_opset"),
    "float_weights": _Form("float_weights"),
}


def forms_of(target: Target, precision: Precision, scheme: SchemeName | None) -> tuple[str, ...]:
    """Return the modules of the passes that a target's graphs go through.

    Args:
        target: whose engine it becomes.
        precision: of the graph.
        scheme: that it was quantized by; None of float graphs and of those of other tools.
    """
    return tuple(f"{_PASSES}.{_FORMS[name].module}" for name in _wanted(target, precision, scheme))


def _wanted(target: Target, precision: Precision, scheme: SchemeName | None) -> list[FormName]:
    return [name for name in target.forms if _FORMS[name].wanted(precision, scheme)]


def in_form(model: ir.Model, target: Target, precision: Precision, scheme: SchemeName | None) -> ir.Model | None:
    """Return a graph as a target reads it; None where that is as it is.

    Args:
        model: not modified.
        target: whose engine it becomes.
        precision: of the graph.
        scheme: that it was quantized by; None of float graphs and of those of other tools.

    Raises:
        ModelError: it has an operator that the target's releases cannot express.
    """
    result = model
    for name in _wanted(target, precision, scheme):
        if _FORMS[name].changes(result):
            result = getattr(import_module(f"{_PASSES}.{_FORMS[name].module}"), name)(result)
    return None if result is model else result


def file_in_form(path: Path, target: Target) -> bytes | None:
    """Return the content of an ``.onnx`` as a target reads it; None where that is as it is.

    Args:
        path: of any tool. One that cannot be read is left to the target, which says what is wrong with it.
        target: whose engine it becomes.

    Raises:
        ModelError: it has an operator that the target's releases cannot express.
    """
    import onnx_ir as ir

    from edgeopt.passes.qdq.release import is_quantized

    try:
        model = ir.load(path)
        ir.external_data.load_to_model(model)
    except Exception:  # noqa: BLE001 - onnx_ir and protobuf raise all kinds of errors
        return None
    changed = in_form(model, target, "int8" if is_quantized(model) else "fp32", None)
    if changed is None:
        return None
    serialized: bytes = ir.to_proto(changed).SerializeToString()
    return serialized
