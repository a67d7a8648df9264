"""State an older opset where it says the same: what onnxruntime adds to graphs of newer ones it cannot read on x86."""

from __future__ import annotations

import onnx
import onnx_ir as ir

OLDER = 20
"""Opset whose QuantizeLinear does not state its result's type. From 21 on onnxruntime 1.32 states it of those that it
adds (its pull request 28144), makes uint8 of int8 activations on x86 afterwards, and refuses the contradiction."""
_NEWEST = 26
"""Opset up to which, by ONNX's changelog, operators of `OLDER` got more types and attributes, and no other meaning. But
for GroupNormalization, which `OLDER` has not (deprecated)."""


def older_label(model: ir.Model) -> ir.Model:
    """Return a graph as one of `OLDER` where all of its operators are the same in that; else as it is.

    Args:
        model: not modified.
    """
    if not OLDER < model.opset_imports.get("", 0) <= _NEWEST:
        return model
    result = model.clone()
    result.opset_imports[""] = OLDER
    try:
        onnx.checker.check_model(ir.to_proto(result), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return model
    return result
