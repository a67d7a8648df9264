"""What TensorRT-RTX makes of FP16 and INT8 graphs: the type that each convolution and product runs in, GPU by GPU.

Run as ``python -m benchmarks.rtx_types [--network NAME]``. RTX builds ahead of time on any machine, so that this needs
no GPU and says nothing about speed. The networks have seeded weights, on which the types do not depend. Writes
``results/rtx_types.json``: a row for each network, precision and GPU, with every layer's type.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from benchmarks.recorded import Row, record
from benchmarks.seeded import Seeded, pictures, seeded_graph
from edgeopt.bundle import EngineSettings
from edgeopt.bundle.records import Arithmetic
from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig, TensorRTBuild, TensorRTOptions
from edgeopt.errors import TargetError
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import TENSORRT
from edgeopt.pipeline.precision import to_float16
from edgeopt.runtime.trt.library import load_library
from edgeopt.spec import ModelSpec
from edgeopt.targets import rtx

RESULTS = Path(__file__).resolve().parent / "results" / "rtx_types.json"
WORK = Path("build/rtx_types")
NETWORKS = {
    "mobilenet_v2": Seeded("edgeopt:mobilenet_v2"),
    "yolox_nano": Seeded("edgeopt:yolox_nano"),
    "vit_tiny": Seeded("edgeopt:vit_tiny"),
}
GPUS = ((), ("SM75",), ("SM80",), ("SM86",), ("SM89",), ("SM120",))
"""Compute capabilities to build for; none: all that the library serves by default."""
IMAGES = 8
"""For the ranges, on which the types do not depend."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Build and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=sorted(NETWORKS), action="append", help="Default: all.")
    chosen = parser.parse_args(arguments)
    for name in chosen.network or NETWORKS:
        path, spec = seeded_graph(NETWORKS[name], name, WORK)
        for precision, onnx in graphs(ir.load(path), spec):
            for gpus in GPUS:
                record(RESULTS, row(name, precision, onnx, gpus), ("network", "precision", "gpus"))


def graphs(model: ir.Model, spec: ModelSpec) -> Iterator[tuple[str, bytes]]:
    """Yield the graphs of a build's ``fp16`` and ``int8`` variants for a GPU, serialized."""
    config = CalibrateConfig(method="minmax", images=IMAGES, minimum_images=1)
    quantized = quantize(model, calibrate(model, pictures(spec, IMAGES), config), TENSORRT)
    for precision, source in (("fp16", model), ("int8", quantized)):
        half = to_float16(source, pictures(spec, IMAGES), config)
        yield precision, ir.to_proto(half.model).SerializeToString()


def row(network: str, precision: str, onnx: bytes, gpus: tuple[str, ...]) -> Row:
    """Build one engine; a GPU that the library does not serve with it gives the reason."""
    settings = EngineSettings(tensorrt=TensorRTOptions(build=TensorRTBuild(compute_capabilities=gpus)))
    found: Row = {
        "network": network,
        "precision": precision,
        "gpus": "+".join(gpus) or "all",
        "library": load_library("tensorrt_rtx").title,
        "onnx_mb": round(len(onnx) / 1e6, 2),
    }
    try:
        compiled = rtx.compile_and_tell(onnx, settings)
    except TargetError as error:
        return {**found, "failed": str(error)[:300]}
    assert compiled.arithmetic is not None
    return {
        **found,
        "plan_mb": round(len(compiled.engine) / 1e6, 2),
        "kernels": compiled.arithmetic.kernels,
        "refused": compiled.arithmetic.refusal(),
        "layers": by_type(compiled.arithmetic),
    }


def by_type(arithmetic: Arithmetic) -> dict[str, str]:
    """Return the names of layers, in one text, by operator and type."""
    found: dict[str, list[str]] = {}
    for layer in arithmetic.layers:
        found.setdefault(f"{layer.operator} {layer.runs_in}", []).append(layer.name)
    return {kind: " ".join(names) for kind, names in found.items()}


if __name__ == "__main__":
    main()
