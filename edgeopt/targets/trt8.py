"""TensorRT 8.5 and 8.6, of JetPack 5.1 and 6.0: as `targets.trt`, with graphs in the form that these releases read.

They read ONNX up to opset 17 and take types as permissions, not as orders. So a graph for them is lowered on the
workstation, where onnx can check it and onnxruntime run it, and lies in the bundle beside the one for newer releases.
A device could rewrite the newer one only without onnx, from FP16 scales back to FP32 and from INT8 weights back to
float, and nobody would have run what came out before it became an engine. The price is a second, larger file.
"""

from __future__ import annotations

from functools import partial

from edgeopt.config import TensorRTOptions
from edgeopt.hardware import Machine
from edgeopt.runtime import trt
from edgeopt.runtime.session import Target
from edgeopt.targets.trt import TARGET as NEWER
from edgeopt.targets.trt import compile, is_available  # noqa: A004 (the verb of every target)


def offers(here: Machine) -> str:
    """Say what the installed TensorRT can do, if it is one of these releases."""
    return trt.offers("trt8", here) or "any machine can put its graph into a bundle; the engine is built on the device"


TARGET = Target(
    name="trt8",
    compile=compile,
    open_engine=partial(trt.open_engine, target="trt8"),
    can_run=partial(trt.availability, "trt8"),
    can_compile=is_available,
    scheme="tensorrt",
    accelerated=True,
    distributions=("tensorrt",),
    float_layers="gpu",
    forms=("fixed_regions", "for_tensorrt_8", "float_weights"),
    keeps_types=False,
    options=TensorRTOptions,
    questions=tuple(each for each in NEWER.questions if each != "float32"),  # all its scales are float32
    lint_rules=("tensorrt", "tensorrt8"),
    list_layers=partial(trt.list_layers, target="trt8"),
    offers=offers,
    served_by={"deepstream": "nvinfer"},
)
