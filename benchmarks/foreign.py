"""Graphs as exporters leave them: is INT8 of the cleaned graph as fast as NNCF's of the same file, and as clean files?

Run as ``python -m benchmarks.foreign [--kind NAME]…``. A small network is written once clean, and once with each
kind of remains: Pads before convolutions with their sizes computed from Shape, BatchNormalization behind layers,
hard-swish in four nodes, factors and offsets a channel, weights on the left, nodes that do nothing. Each file is
quantized by edgeopt for OpenVINO, and by NNCF (`performance`) where that is installed, on the same inputs; files run in
OpenVINO in alternation, with the float file as OpenVINO cleans it. Writes ``results/foreign.json``.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import openvino
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.recorded import processor, record
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import CalibrateConfig, QuantizeConfig
from edgeopt.pipeline.standalone import quantize_file
from edgeopt.progress import Silent

RESULTS = Path(__file__).resolve().parent / "results" / "foreign.json"
SIDE, CHANNELS, LAYERS = 56, 32, 6
SAMPLES = 32
ROUNDS = 300
"""Runs of each file, in alternation."""

Layer = Callable[[str, str, int], str]
"""Text that computes one tensor from another, by their names and the number of the layer."""


def clean(x: str, y: str, layer: int) -> str:
    return f"{y}_c = Conv <pads = [1, 1, 1, 1]> ({x}, w{layer}, b{layer})\n {y} = Relu ({y}_c)"


def padded(x: str, y: str, layer: int) -> str:
    """A "same" Pad, its sizes computed from Shape."""
    return f"""{y}_s = Shape ({x})
        {y}_h = Gather ({y}_s, rows)
        {y}_o = Div ({y}_h, {y}_h)
        {y}_u = Unsqueeze ({y}_o, first)
        {y}_l = Concat <axis = 0> (zeros, {y}_u, {y}_u, zeros, {y}_u, {y}_u)
        {y}_p = Pad ({x}, {y}_l)
        {y}_c = Conv ({y}_p, w{layer}, b{layer})
        {y} = Relu ({y}_c)"""


def mirrored(x: str, y: str, layer: int) -> str:
    """A Pad that no convolution has."""
    return f"""{y}_p = Pad <mode = "reflect"> ({x}, around)
        {y}_c = Conv ({y}_p, w{layer}, b{layer})
        {y} = Relu ({y}_c)"""


def normalized(x: str, y: str, layer: int) -> str:
    return f"""{y}_i = Identity ({x})
        {y}_c = Conv <pads = [1, 1, 1, 1]> ({y}_i, w{layer}, b{layer})
        {y}_n = BatchNormalization ({y}_c, gamma, beta, mean, variance)
        {y} = Relu ({y}_n)"""


def affine(x: str, y: str, layer: int) -> str:
    return f"""{y}_c = Conv <pads = [1, 1, 1, 1]> ({x}, w{layer})
        {y}_m = Mul ({y}_c, factor)
        {y}_a = Add (offset, {y}_m)
        {y} = Relu ({y}_a)"""


def hard_swish(x: str, y: str, layer: int) -> str:
    return f"""{y}_c = Conv <pads = [1, 1, 1, 1]> ({x}, w{layer}, b{layer})
        {y}_t = Add ({y}_c, three)
        {y}_k = Clip ({y}_t, zero, six)
        {y}_m = Mul ({y}_c, {y}_k)
        {y} = Div ({y}_m, six)"""


def idle(x: str, y: str, layer: int) -> str:
    return f"""{y}_s = Shape ({x})
        {y}_r = Reshape ({x}, {y}_s)
        {y}_q = Slice ({y}_r, first, end, second)
        {y}_c = Conv <pads = [1, 1, 1, 1]> ({y}_q, w{layer}, b{layer})
        {y}_v = Relu ({y}_c)
        {y} = Relu ({y}_v)"""


def left(x: str, y: str, layer: int) -> str:
    return f"""{y}_f = Reshape ({x}, flat)
        {y}_m = MatMul (square{layer}, {y}_f)
        {y}_r = Reshape ({y}_m, image)
        {y} = Relu ({y}_r)"""


KINDS: Mapping[str, Layer] = {
    "clean": clean, "Pad from Shape": padded, "Pad by reflection": mirrored, "BatchNormalization": normalized,
    "Mul and Add": affine, "hard-swish in nodes": hard_swish, "nodes that do nothing": idle, "weight on the left": left,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, action="append")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments.kind or KINDS:
            record(RESULTS, {"kind": kind, "cpu": processor()} | measured(kind, Path(folder)), ("kind", "cpu"))


def measured(kind: str, folder: Path) -> dict[str, Any]:
    """Return medians of milliseconds, and of the paired ratios to NNCF's file and to the float one."""
    path, out = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(network(KINDS[kind]), path)
    samples = np.random.default_rng(0).uniform(-1, 1, (SAMPLES, 1, 3, SIDE, SIDE)).astype(np.float32)
    np.savez(folder / "c.npz", x=samples[:, 0])
    config = QuantizeConfig(scheme="openvino", repairs=())
    quantize_file(path, folder / "c.npz", None, CalibrateConfig(), config, out, Silent(), max_discrepancy=10.0)
    core = openvino.Core()
    models = {"float": core.read_model(path), "edgeopt": core.read_model(out)}
    if importlib.util.find_spec("nncf") is not None:
        import nncf

        models["nncf"] = nncf.quantize(core.read_model(path), nncf.Dataset(list(samples)))
    times = alternated({name: compiled(core, model) for name, model in models.items()}, samples[0])
    return {
        **{f"{name}_ms": round(1e3 * statistics.median(each), 4) for name, each in times.items()},
        **{f"edgeopt_to_{name}": ratio(times["edgeopt"], each) for name, each in times.items() if name != "edgeopt"},
    }


def network(layer: Layer) -> onnx.ModelProto:
    """A few layers of one kind, and a classifier behind them."""
    text = "h0 = Conv <pads = [1, 1, 1, 1]> (x, stem)\n" + "\n".join(
        layer(f"h{index}", f"h{index + 1}", index) for index in range(LAYERS)
    )
    text += f"\n p = GlobalAveragePool (h{LAYERS})\n f = Flatten (p)\n y = Gemm (f, head)"
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> g (float[1, 3, {SIDE}, {SIDE}] x) => (float[1, 10] y) {{ {text} }}'
    )
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants().items() if name in read
    )
    return model


def constants() -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(1)

    def weight(*shape: int) -> NDArray[np.float32]:
        return random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)

    layers = {}
    for index in range(LAYERS):
        layers |= {f"w{index}": weight(CHANNELS, CHANNELS, 3, 3), f"b{index}": 0.1 * weight(CHANNELS, 1)[:, 0]}
        layers[f"square{index}"] = weight(CHANNELS, CHANNELS)
    ones = np.ones(CHANNELS, np.float32)
    return layers | {
        "stem": weight(CHANNELS, 3, 3, 3), "head": weight(CHANNELS, 10),
        "gamma": ones, "beta": 0 * ones, "mean": 0.1 * ones, "variance": 2 * ones,
        "factor": random.uniform(0.5, 1.5, (1, CHANNELS, 1, 1)).astype(np.float32),
        "offset": random.normal(0, 0.1, (1, CHANNELS, 1, 1)).astype(np.float32),
        "three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "rows": np.int64(2),
        "first": np.array([0]), "second": np.array([2]), "end": np.array([1 << 40]), "zeros": np.array([0, 0]),
        "around": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "flat": np.array([1, CHANNELS, SIDE * SIDE]),
        "image": np.array([1, CHANNELS, SIDE, SIDE]),
    }  # fmt: skip


def compiled(core: openvino.Core, model: openvino.Model) -> openvino.InferRequest:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return core.compile_model(model, "CPU", settings).create_infer_request()


def alternated(requests: Mapping[str, openvino.InferRequest], sample: NDArray[np.float32]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in requests}
    for turn in range(ROUNDS + 10):
        for name, request in requests.items():
            start = time.perf_counter()
            request.infer([sample])
            if turn >= 10:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(first: list[float], second: list[float]) -> float:
    """Return the median of the ratios of runs that followed each other."""
    return round(statistics.median(one / two for one, two in zip(first, second, strict=True)), 4)


if __name__ == "__main__":
    with errors_reported():
        main()
