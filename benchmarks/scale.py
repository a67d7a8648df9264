"""Time and memory of quantizing, by network and number of calibration images.

Run as ``python -m benchmarks.scale [--network NAME] [--images N] [--repairs none|fast|all] [--minutes N]``; all but
``--minutes`` may be repeated. Networks are those of `NETWORKS`, with seeded weights and made pictures: neither changes
what quantizing costs. Each measurement is a process of its own that makes its pictures one at a time, calibrates and
repairs. Writes ``results/scale.json``: a row for each network, number of images and choice of repairs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from benchmarks.apart import Meter, apart, tell
from benchmarks.recorded import record
from benchmarks.seeded import Seeded, pictures, seeded_graph
from edgeopt.calibrate.spool import spooled_images
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import FAST_REPAIRS, CalibrateConfig, QuantizeConfig
from edgeopt.graph.edit import add_initializer, make_node
from edgeopt.graph.operators import macs
from edgeopt.hardware import machine
from edgeopt.metrics import readings_of
from edgeopt.passes.repair.trials import REPAIRS
from edgeopt.pipeline.quantizing import quantize_graph
from edgeopt.spec import ClassificationDecoding, ModelSpec, Normalization, Preprocessing, TensorSpec

RESULTS = Path(__file__).resolve().parent / "results" / "scale.json"
FILES = Path("build/scale")
NETWORKS = {
    "resnet50": Seeded("edgeopt:resnet50"),
    "yolox_s 640": Seeded("edgeopt:yolox_s", size=(640, 640)),
    "vit_s": Seeded("edgeopt:vit_tiny", {"width": 384, "heads": 6}),
    "vgg head": None,
}
"""The last is the end of VGG-16: its 25,088-wide layer and the one that follows."""
CHOICES = {"none": (), "fast": FAST_REPAIRS, "all": REPAIRS}
WIDE, _HIDDEN, _CLASSES = (512, 7, 7), 4096, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(NETWORKS), action="append")
    parser.add_argument("--images", type=int, action="append", help="default: 512")
    parser.add_argument("--repairs", choices=sorted(CHOICES), action="append", help="default: all")
    parser.add_argument("--minutes", type=float)
    arguments = parser.parse_args()
    for name in arguments.network or NETWORKS:
        graph, spec = float_graph(name)
        for images in arguments.images or (512,):
            for choice in arguments.repairs or ("all",):
                row = apart(quantized, name, graph, spec, images, choice, arguments.minutes)
                record(RESULTS, row, ("network", "images", "choice", "minutes"))


def float_graph(name: str) -> tuple[Path, ModelSpec]:
    """Make or find the float graph of a network."""
    network = NETWORKS[name]
    return vgg_head() if network is None else seeded_graph(network, name.replace(" ", "-"), FILES)


def vgg_head() -> tuple[Path, ModelSpec]:
    """The two layers, from (N, 512, 7, 7) to ten classes."""
    path, size = FILES / "vgg-head.onnx", int(np.prod(WIDE))
    spec = vgg_head_spec()
    if not path.is_file():
        random = np.random.default_rng(0)
        floats = ir.TensorType(ir.DataType.FLOAT)
        x = ir.Value(name="x", shape=ir.Shape(("N", *WIDE)), type=floats)
        graph = ir.Graph([x], [], nodes=[], opset_imports={"": 18}, name="vgg_head")
        value = _added(graph, "Flatten", [x], ("N", size))
        for layer, (inputs, outputs) in enumerate(((size, _HIDDEN), (_HIDDEN, _CLASSES))):
            value = _added(graph, "Relu", [value], ("N", inputs))
            array = (random.standard_normal((outputs, inputs), np.float32) * np.sqrt(2 / inputs)).astype(np.float32)
            weight = add_initializer(graph, f"w{layer}", array)
            value = _added(graph, "Gemm", [value, weight], ("N", outputs), transB=1)
        value.name = "y"
        graph.outputs.append(value)
        FILES.mkdir(parents=True, exist_ok=True)
        ir.save(ir.Model(graph, ir_version=10), path)
    return path, spec


def vgg_head_spec() -> ModelSpec:
    """What the two layers take and give."""
    return ModelSpec(
        name="vgg_head",
        task="classification",
        labels=tuple(map(str, range(_CLASSES))),
        input=TensorSpec(name="x", shape=("N", *WIDE), dtype="float32"),
        outputs=(TensorSpec(name="y", shape=("N", _CLASSES), dtype="float32"),),
        preprocessing=Preprocessing(steps=(), channels="RGB", normalization=Normalization()),
        decoding=ClassificationDecoding(),
    )


def _added(
    graph: ir.Graph, operator: str, inputs: list[ir.Value], shape: tuple[Any, ...], **attributes: int
) -> ir.Value:
    name = f"{operator}_{len(graph)}"
    node = make_node(operator, inputs, attributes, name=name, shape=ir.Shape(shape), dtype=ir.DataType.FLOAT)
    graph.append(node)
    return node.outputs[0]


def quantized(
    name: str, path: Path, spec: ModelSpec, images: int, choice: str, minutes: float | None
) -> dict[str, Any]:
    """Calibrate, quantize and repair a network in this process; what that took."""
    model = ir.load(path)
    samples = spooled_images(pictures(spec, images))
    meter = Meter()
    result = quantize_graph(
        model,
        samples,
        CalibrateConfig(images=images),
        QuantizeConfig(repairs=CHOICES[choice], minutes=minutes),
        "openvino",
        readings_of(spec),
        progress=tell,
    )
    return {
        "network": name,
        "images": images,
        "choice": choice,
        "minutes": minutes,
        "gmacs": round(sum(map(macs, model.graph)) / 1e9, 2),
        "input_mb": round(sum(array.nbytes for array in samples[0][1].values()) * images / 1e6),
        "weights_mb": round(path.stat().st_size / 1e6),
        **meter.cost(),
        "repairs": [msgspec.to_builtins(trial) | {"kept": trial.is_kept} for trial in result.trials],
        "cpu": machine().cpu.model,
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }


if __name__ == "__main__":
    with errors_reported():
        main()
