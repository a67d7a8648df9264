"""Rules on a built engine, whose layers TensorRT's inspector lists.

Layer types, format descriptions and tactic names as documented with the inspector; kernels' names are NVIDIA's own and
no interface, so that a name which says nothing is no finding.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from edgeopt.errors import ModelError
from edgeopt.lint.findings import Finding

_BYTES = {"Int8": 1, "FP8": 1, "Half": 2, "FP16": 2, "BF16": 2, "Float": 4, "FP32": 4, "Int32": 4, "Int64": 8}
_TENSOR_CORE = re.compile(r"imma|hmma|tensor\d|884|1688|16816|16832|qmma|_i8i8_|_e4m3", re.IGNORECASE)
_PLAIN_CORE = re.compile(r"sgemm|scudnn|ffma|dp4a|simt|cudnn_convolution", re.IGNORECASE)
_CONVOLUTION = re.compile(r"conv", re.IGNORECASE)

Layer = dict[str, Any]


def read_layers(text: str) -> list[Layer]:
    """Return the layers in the inspector's JSON.

    Raises:
        ModelError: not the inspector's JSON, or of an engine that was built without layer details.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError("this is not the layer list of a TensorRT engine (get_engine_information, JSON)") from error
    if any(not isinstance(layer, dict) for layer in layers):
        raise ModelError(
            "the engine was built without layer details, so that there is nothing to look at. Build it with "
            "profiling_verbosity DETAILED, as edgeopt does"
        )
    return list(layers)


def reformats(layers: list[Layer], bandwidth_gb_s: float | None) -> Iterator[Finding]:
    """Find copies from one memory layout to another."""
    for layer in layers:
        if layer.get("LayerType") != "Reformat" and "reformat" not in str(layer.get("Name", "")).lower():
            continue
        moved = sum(_size(tensor) for side in ("Inputs", "Outputs") for tensor in layer.get(side, ()))
        time = f", {moved / bandwidth_gb_s / 1e3:.1f} us at {bandwidth_gb_s:g} GB/s" if bandwidth_gb_s else ""
        yield Finding(
            rule="reformat",
            severity="warning",
            node=_name(layer),
            reason="copies a tensor into another layout or type",
            fix="look at the layers around it: one of them runs in another precision or with unaligned channels",
            cost=f"moves {moved / 1e6:.2f} MB{time}",
        )


def float_outputs(layers: list[Layer], bandwidth_gb_s: float | None) -> Iterator[Finding]:
    """Find INT8 convolutions that write float: four (or two) times the bytes, and a quantizer after it."""
    for layer in layers:
        if not _CONVOLUTION.search(str(layer.get("LayerType", ""))):
            continue
        inputs, outputs = layer.get("Inputs", ()), layer.get("Outputs", ())
        if inputs and outputs and _type(inputs[0]) == "Int8" and _type(outputs[0]) in ("FP32", "Float", "Half", "FP16"):
            extra = _size(outputs[0]) * (1 - 1 / _BYTES[_type(outputs[0])])
            time = f", {extra / bandwidth_gb_s / 1e3:.1f} us at {bandwidth_gb_s:g} GB/s" if bandwidth_gb_s else ""
            yield Finding(
                rule="int8-float-output",
                severity="warning",
                node=_name(layer),
                reason=f"an INT8 convolution that writes {_type(outputs[0])}: no quantizer fused with it",
                fix="quantize the input of the layer that reads it, or leave this layer in float",
                cost=f"writes {extra / 1e6:.2f} MB more{time}",
            )


def no_tensor_cores(layers: list[Layer], _bandwidth_gb_s: float | None) -> Iterator[Finding]:
    """Find convolutions whose kernel's name says that it runs on the ordinary cores."""
    for layer in layers:
        tactic = str(layer.get("TacticName", ""))
        if not _CONVOLUTION.search(str(layer.get("LayerType", ""))) or _TENSOR_CORE.search(tactic):
            continue
        if _PLAIN_CORE.search(tactic):
            yield Finding(
                rule="no-tensor-cores",
                severity="note" if layer.get("Groups", 1) != 1 else "warning",
                node=_name(layer),
                reason=f"kernel {tactic} does not use tensor cores",
                fix="align its channels to 16 (INT8) or 8 (FP16); depthwise convolutions have no such kernels",
            )


RULES = {"reformat": reformats, "int8-float-output": float_outputs, "no-tensor-cores": no_tensor_cores}


def _name(layer: Layer) -> str:
    return str(layer.get("Name", "(unnamed)"))


def _type(tensor: Layer) -> str:
    """Return the element type in a format's description, such as "Thirty-two wide channel vectorized Int8 format"."""
    described = str(tensor.get("Format/Datatype", tensor.get("Datatype", "")))
    return next((name for name in _BYTES if name in described), "")


def _size(tensor: Layer) -> int:
    """Return the bytes of a tensor; dynamic dimensions count as 1."""
    return math.prod(max(int(size), 1) for size in tensor.get("Dimensions", (0,))) * _BYTES.get(_type(tensor), 4)
