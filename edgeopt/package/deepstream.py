"""Files for DeepStream's nvinfer: a detector whose network gives (N, rows, 6) detections.

Keys are those of NVIDIA's documentation, "Gst-nvinfer" and "Gst-nvdspreprocess", File Configuration Specifications. A
network that takes bytes gets them from nvdspreprocess, as nvinfer itself makes floats only. Nothing of it has run on
DeepStream yet.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from edgeopt.bundle import Variant
from edgeopt.errors import TargetError
from edgeopt.heads import Part
from edgeopt.package.contents import Files, Source
from edgeopt.spec import DetectionDecoding, Letterbox, ModelSpec, Normalization, Resize, image_size

_LOG = logging.getLogger(__name__)
_MODES = {"fp32": 0, "int8": 1, "fp16": 2}
"""nvinfer's network-mode, by precision. The engine is built by edgeopt and has its types in itself."""
_COLORS = {"RGB": 0, "BGR": 1, "GRAY": 2}
_ROWS = {"boxes": (0, 4), "scores": (4, 5), "classes": (5, 6)}
"""Columns of a detection: x1, y1, x2, y2 in pixels of the network's input, score, number of the class."""
_PARSER = "edgeopt_rows.cpp"
_LIBRARY = "libedgeopt_rows.so"


def configuration(source: Source) -> Files:
    """Return nvinfer's configuration, labels, the graph, and a parser of the rows.

    Raises:
        TargetError: the bundle has no variant for TensorRT, its network gives no such rows, or DeepStream cannot
            prepare pictures as it wants them.
    """
    variant = source.variant("deepstream")
    spec = source.spec(variant)
    decoding = _rows(source, spec)
    batch = spec.input.shape[0] if isinstance(spec.input.shape[0], int) else 1
    prepared = _prepared(source, spec)
    engine = f"model_b{batch}.plan"
    infer: dict[str, Any] = {
        "gpu-id": 0,
        "onnx-file": "model.onnx",
        "model-engine-file": engine,
        "labelfile-path": "labels.txt",
        "batch-size": batch,
        "network-mode": _MODES[variant.precision],
        "network-type": 0,
        "num-detected-classes": len(spec.labels),
        "process-mode": 1,
        "gie-unique-id": 1,
        "interval": 0,
        "output-blob-names": spec.outputs[0].name,
        "parse-bbox-func-name": "NvDsInferParseEdgeoptRows",
        "custom-lib-path": _LIBRARY,
        "cluster-mode": 2 if decoding.nms else 4,
    }
    classes = {"pre-cluster-threshold": decoding.score_threshold, "topk": decoding.max_detections}
    if decoding.nms:
        classes["nms-iou-threshold"] = decoding.iou_threshold
    found: dict[str, Any] = {
        "model.onnx": source.bundle.plain_file(variant.name),
        "labels.txt": "".join(f"{label}\n" for label in spec.labels).encode(),
        _PARSER: (files("edgeopt") / "templates" / _PARSER).read_bytes(),
        "build.sh": _build(source, variant, engine),
    }
    if spec.preprocessing.normalization is None:
        found["config_preprocess.txt"] = _text(
            source, {"property": _preprocess(spec, batch, prepared), "group-0": _GROUP, "user-configs": _PIXELS}
        )
    else:
        infer |= {**prepared, **_normalized(source, spec.preprocessing.normalization)}
        infer["model-color-format"] = _COLORS[spec.preprocessing.channels]
    found["config_infer.txt"] = _text(source, {"property": infer, "class-attrs-all": classes})
    return found


def _rows(source: Source, spec: ModelSpec) -> DetectionDecoding:
    """Return the decoding of a network that gives detections as rows."""
    decoding = spec.decoding
    if isinstance(decoding, DetectionDecoding) and decoding.classes is not None and len(spec.outputs) == 1:
        columns = {name: _columns(getattr(decoding, name)) for name in _ROWS}
        plain = decoding.form == "xyxy" and decoding.unit == "pixels" and decoding.axes == "xy" and decoding.batched
        if plain and columns == _ROWS and decoding.space == "network" and decoding.numbering == 0:
            return decoding
    raise TargetError(
        f"'{source.name}' does not give rows of x1, y1, x2, y2, score, class, which DeepStream's parser reads. Build "
        'it with [model] tail = "topk" or "nms"'
    )


def _columns(part: Part) -> tuple[int, int | None]:
    return part.start, part.stop


def _prepared(source: Source, spec: ModelSpec) -> dict[str, int]:
    """Return how pictures are scaled: to the network's size, with or without their shape."""
    steps = spec.preprocessing.steps
    step = steps[0] if len(steps) == 1 else None
    if not isinstance(step, (Resize, Letterbox)):
        shown = ", ".join(type(each).__name__ for each in steps) or "no step"
        raise TargetError(
            f"DeepStream scales a picture to the network's size, or fits it in; '{source.name}' is prepared by {shown}"
            ". Build it with one step, resize or letterbox"
        )
    if step.antialias:
        _LOG.warning("DeepStream does not antialias, and '%s' was measured so: evaluate it there", source.name)
    if isinstance(step, Resize):
        return {"maintain-aspect-ratio": 0}
    if step.fill != 0:
        _LOG.warning("DeepStream fills with black, and '%s' was measured with %s: evaluate it", source.name, step.fill)
    return {"maintain-aspect-ratio": 1, "symmetric-padding": int(step.anchor == "center")}


def _preprocess(spec: ModelSpec, batch: int, prepared: Mapping[str, int]) -> dict[str, Any]:
    """Return nvdspreprocess's settings for a network that takes bytes."""
    height, width = image_size(spec.input, spec.preprocessing.layout)
    channels = 1 if spec.preprocessing.channels == "GRAY" else 3
    planes = (channels, height, width) if spec.preprocessing.layout == "NCHW" else (height, width, channels)
    return {
        "enable": 1,
        "target-unique-ids": 1,
        "network-input-order": 0 if spec.preprocessing.layout == "NCHW" else 1,
        "process-on-frame": 1,
        "unique-id": 5,
        "gpu-id": 0,
        **prepared,
        "processing-width": width,
        "processing-height": height,
        "scaling-buf-pool-size": 6,
        "tensor-buf-pool-size": 6,
        "network-input-shape": ";".join(map(str, (batch, *planes))),
        "network-color-format": _COLORS[spec.preprocessing.channels],
        "tensor-data-type": 1,
        "tensor-name": spec.input.name,
        "scaling-pool-memory-type": 0,
        "scaling-pool-compute-hw": 0,
        "scaling-filter": 1,
        "custom-lib-path": "/opt/nvidia/deepstream/deepstream/lib/gst-plugins/libcustom2d_preprocess.so",
        "custom-tensor-preparation-function": "CustomTensorPreparation",
    }


_GROUP = {
    "src-ids": 0,
    "custom-input-transformation-function": "CustomAsyncTransformation",
    "process-on-roi": 0,
}
_PIXELS = {"pixel-normalization-factor": 1.0}


def _normalized(source: Source, spec: Normalization) -> dict[str, Any]:
    """Return nvinfer's factor and offsets: ``factor * (pixel - offset)``."""
    if len(set(spec.std)) != 1:
        raise TargetError(
            f"DeepStream divides all channels by one number, and '{source.name}' has std {spec.std}. Put the "
            "normalization into the graph, as edgeopt does where [model.preprocessing] says none"
        )
    offsets = [mean / spec.scale for mean in (spec.mean if len(spec.mean) > 1 else spec.mean * 3)]
    return {"net-scale-factor": spec.scale / spec.std[0], "offsets": ";".join(f"{each:g}" for each in offsets)}


def _build(source: Source, variant: Variant, engine: str) -> bytes:
    return f"""\
#!/bin/sh
# {source.about}.
# On the device: builds the engine of variant {variant.name}, and the parser of its rows.
set -eu
cd "$(dirname "$0")"
edgeopt compile model.onnx --target {variant.target} -o {engine}
deepstream=${{DEEPSTREAM:-/opt/nvidia/deepstream/deepstream}}
c++ -O2 -std=c++17 -Wall -shared -fPIC -I"$deepstream/sources/includes" -I"${{CUDA_HOME:-/usr/local/cuda}}/include" \\
  {_PARSER} -o {_LIBRARY}
""".encode()


def _text(source: Source, groups: Mapping[str, Mapping[str, Any]]) -> bytes:
    lines = [f"# {source.about}."]
    for name, values in groups.items():
        lines += [f"[{name}]", *(f"{key}={value}" for key, value in values.items()), ""]
    return "\n".join(lines).encode()
