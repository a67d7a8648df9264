"""Forms in which targets read graphs: rewrites that keep the numbers, as each target names those that it wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.bundle import Precision
from edgeopt.config import SchemeName
from edgeopt.runtime.session import FormName, Target
from edgeopt.targets import TARGETS, find_target

if TYPE_CHECKING:
    import onnx_ir as ir

_PASSES = "edgeopt.passes.rewrite"


@dataclass(frozen=True)
class _Form:
    """A pass, and the graphs that want it.

    Attributes:
        module: of `passes.rewrite`.
        wanted: by precision and scheme.
        asks: function of the module that tells if the pass changes a graph; empty: it is called in any case.
    """

    module: str
    wanted: Callable[[Precision, SchemeName | None], bool] = lambda _precision, _scheme: True
    asks: str = ""


_FORMS: Mapping[FormName, _Form] = {
    # OpenVINO's own scheme has uint8 already.
    "unsigned_activations": _Form(
        "unsigned_activations", lambda precision, scheme: precision == "int8" and scheme != "openvino"
    ),
    "convolve_tokens": _Form("convolve_tokens", lambda _, scheme: scheme == "openvino"),
    "bias_shared_results": _Form("bias_shared_results", lambda precision, _: precision == "int8", "has_unbiased"),
    "split_layers": _Form("split_layers", asks="has_split"),
    "fixed_regions": _Form("fixed_regions", asks="has_regions"),
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
    result = _formed(model, _wanted(target, precision, scheme))
    return None if result is model else result


def in_common_form(model: ir.Model, scheme: SchemeName) -> ir.Model:
    """Return an INT8 graph in the forms that all targets want whose own scheme it was quantized by.

    Args:
        model: not modified; what is returned where nothing is to be changed.
        scheme: that it was quantized by.
    """
    targets = [target for target in map(find_target, TARGETS) if target.scheme == scheme]
    wanted = [_wanted(target, "int8", scheme) for target in targets]
    return _formed(model, [name for name in next(iter(wanted), []) if all(name in each for each in wanted)])


def _formed(model: ir.Model, names: Sequence[FormName]) -> ir.Model:
    for name in names:
        form = _FORMS[name]
        module = import_module(f"{_PASSES}.{form.module}")
        if not form.asks or getattr(module, form.asks)(model):
            model = getattr(module, name)(model)
    return model


def file_in_form(path: Path, target: Target) -> bytes | None:
    """Return the content of an ``.onnx`` as a target reads it; None where that is as it is.

    Args:
        path: of any tool. One that cannot be read is left to the target, which says what is wrong with it.
        target: whose engine it becomes.

    Raises:
        ModelError: it has an operator that the target's releases cannot express.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    from edgeopt.passes.qdq.release import is_quantized

    try:
        model = ir.load(path)
        ir.external_data.load_to_model(model)
        common.RemoveInitializersFromInputsPass()(model)  # engines take them for constants
    except Exception:  # noqa: BLE001 - onnx_ir and protobuf raise all kinds of errors
        return None
    changed = in_form(model, target, "int8" if is_quantized(model) else "fp32", None)
    if changed is None:
        return None
    serialized: bytes = ir.to_proto(changed).SerializeToString()
    return serialized
