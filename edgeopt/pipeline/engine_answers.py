"""Warn where the engine that a quantized file is for answers otherwise than the file, as it is written, says.

Engines have faults of their own, which no judgement of the graph finds: OpenVINO 2026.4.1 averaged some maps wrongly,
added to constants in place, and lost scales for an open number of images.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate.tap import Feeds, Outputs, outputs_as_written
from edgeopt.config import SchemeName
from edgeopt.errors import TargetError
from edgeopt.pipeline.scheme_engine import SchemeEngine, engine_of
from edgeopt.source.tail import ends_in_choice

_LOG = logging.getLogger(__name__)
_OTHERWISE = 0.05
"""Power of a difference, over that of an answer, beyond what roundings in another order explain."""
_BEYOND_QUANTIZING = 4.0
"""Times the power of what quantizing itself changed: answers that turn over for little do so in an engine, too."""
_NOTHING = 1e-30
_FIX_NUMBER = "Call reshape with one before compile_model; edgeopt's runtime does"


def warn_of_engine(model: ir.Model, scheme: SchemeName, images: Sequence[Feeds], exact: Outputs, name: str) -> None:
    """Warn where its engine, as edgeopt's runtime opens it, answers otherwise than the graph as written.

    Nothing is said where that engine is not here, nor of networks that choose detections at their end: their rows
    change places.

    Args:
        model: quantized, for any number of images or for one.
        scheme: that it was quantized by.
        images: inputs of some, batch 1.
        exact: the float network's outputs for them.
        name: of the file.
    """
    engine = engine_of(scheme)
    if engine is None or ends_in_choice(model):
        return
    written = outputs_as_written(model, images)
    try:
        found = _answers(engine, model, images)
    except TargetError as refusal:
        _LOG.warning("%s: %s does not run it: %s", name, engine.name, refusal)
        return
    differs, quantizing = _difference(found, written), _difference(exact, written)
    if differs > max(_OTHERWISE, _BEYOND_QUANTIZING * quantizing):
        _LOG.warning(
            "%s: %s on this processor answers otherwise than the file says (by %.0f %% of the answers' power; "
            "quantizing itself changed %.1f %%). Take another engine, or leave the layer that is to blame float "
            "(--exclude), and please report it",
            name,
            engine.name,
            100.0 * differs,
            100.0 * quantizing,
        )


def _difference(found: Outputs, expected: Outputs) -> float:
    """Return the power of the difference over that of what was expected, of the output where it is largest."""
    outputs = zip(zip(*found, strict=True), zip(*expected, strict=True), strict=True)
    return max((_of_output(one, other) for one, other in outputs), default=0.0)


def _of_output(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    gap = signal = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.shape == other.shape and np.issubdtype(other.dtype, np.floating):
            signal += float(np.square(other.astype(np.float64)).sum())
            gap += float(np.square(one.astype(np.float64) - other).sum())
    return gap / max(signal, _NOTHING)


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
    engine = engine_of(scheme)
    if scheme != "openvino" or engine is None or not is_open:
        return
    try:
        found = _in_open_batch(ir.to_proto(model).SerializeToString(), images)
    except RuntimeError as refusal:
        first, *_ = str(refusal).strip().splitlines() or [""]
        _LOG.warning("%s: OpenVINO does not run it for any number of images (%s). %s", name, first[:200], _FIX_NUMBER)
        return
    differs = _difference(found, _answers(engine, model, images))
    if differs > _OTHERWISE:
        _LOG.warning(
            "%s: OpenVINO answers otherwise where it is compiled for any number of images (by %.0f %% of the answers' "
            "power), and right for a fixed number. %s",
            name,
            100.0 * differs,
            _FIX_NUMBER,
        )


def _answers(engine: SchemeEngine, model: ir.Model, images: Sequence[Feeds]) -> Outputs:
    names = [value.name or "" for value in model.graph.outputs]
    with engine.open(model) as session:
        return [[found[name].copy() for name in names] for found in map(session.run, images)]


def _in_open_batch(model: bytes, images: Sequence[Feeds]) -> Outputs:
    from edgeopt.runtime.ov import library

    openvino = library()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(model), "CPU", settings)
    names = [port.any_name for port in compiled.inputs]
    return [[np.array(each) for each in compiled({key: image[key] for key in names}).values()] for image in images]
