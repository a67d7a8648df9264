"""Operators of `models.regions` in ONNX, for torch's exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18

from edgeopt.models.regions import BIN, SAMPLES

_op: Any = opset18
_FLOAT = 1


def _suppression(boxes: Any, scores: Any, iou_threshold: float, score_threshold: float) -> Any:
    """NonMaxSuppression, and a 0 at each (image, box) that it selects; the rewrite `fixed_regions` looks for this."""
    selected = _op.NonMaxSuppression(
        boxes,
        _op.Unsqueeze(scores, _op.Constant(value_ints=[1])),
        _op.Gather(_op.Shape(scores), _op.Constant(value_ints=[1])),
        _op.Constant(value_floats=[iou_threshold]),
        _op.Constant(value_floats=[score_threshold]),
    )
    places = _op.Gather(selected, _op.Constant(value_ints=[0, 2]), axis=1)
    kept = _op.Cast(_op.Gather(selected, _op.Constant(value_int=1), axis=1), to=_FLOAT)  # the class, which is 0
    everything = _op.Expand(_op.Constant(value_float=1.0), _op.Shape(scores))
    return _op.ScatterND(everything, places, kept)


def _alignment(features: Any, boxes: Any, images: Any) -> Any:
    return _op.RoiAlign(
        features,
        boxes,
        images,
        coordinate_transformation_mode="output_half_pixel",
        mode="avg",
        output_height=BIN,
        output_width=BIN,
        sampling_ratio=SAMPLES,
        spatial_scale=1.0,
    )


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.edgeopt.suppress.default: _suppression,
    torch.ops.edgeopt.roi_align.default: _alignment,
}
"""ONNX for each operator."""
