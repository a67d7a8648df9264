"""OpenVINO on CPUs.

The engine's file is the ONNX graph itself, after it was compiled and run once. Measured on YOLOX-nano: reading takes
16 ms as ONNX (3.66 MB) and 30 ms as OpenVINO's IR (4.53 MB in two files); compiling, the larger part, takes the same
240-260 ms from both. An exported blob loads in 58 ms but only in the same OpenVINO on the same kind of processor, and a
bundle has to outlive both.
"""

from __future__ import annotations

from functools import partial

from edgeopt.bundle import EngineSettings
from edgeopt.hardware import Machine
from edgeopt.hardware.kernels import onednn_kernels
from edgeopt.runtime import ov, ov_layers
from edgeopt.runtime.session import Target
from edgeopt.targets import ort
from edgeopt.targets.trial import run_once


def compile(onnx: bytes, settings: EngineSettings) -> bytes:  # noqa: A001 - the verb of every target
    """Return the graph as it is, once the CPU plugin has compiled and run all of it.

    Raises:
        MissingExtraError: openvino is not installed.
        TargetError: OpenVINO does not take the graph, or gives no finite numbers.
    """
    with ov.OvSession(onnx, settings) as session:
        run_once(session)
    return onnx


def offers(here: Machine) -> str:
    """Say how fast INT8 and BF16 are on this processor."""
    bf16 = here.cpu.bf16_instruction
    faster = "most networks" if "avx2" in here.cpu.features else "some networks only"
    return ort.offers(here, onednn_kernels, faster) + (f'; BF16 by {bf16} ([precision] cpu = "bf16")' if bf16 else "")


TARGET = Target(
    name="ov",
    compile=compile,
    open_engine=partial(ov.open_engine, target="ov"),
    can_run=ov.availability,
    can_compile=ov.availability,
    scheme="openvino",
    distributions=("openvino",),
    float_layers="cpu",
    forms=("unsigned_activations", "convolve_tokens", "split_layers", "bias_shared_results"),
    check=ov.check_precision,
    tunable=frozenset(("threads", "streams", "hint", "precision", "kernels")),
    slow_layers=ov_layers.faster_by_vnni,
    questions=("sums", "depthwise", "islands"),
    lint_rules=("cpu", "openvino"),
    arithmetic=ov.arithmetic,
    offers=offers,
    extra="openvino",
    served_by={"triton": "openvino", "ovms": "openvino"},
    properties=ov.properties_of,
    integer_kernels=onednn_kernels,
)
