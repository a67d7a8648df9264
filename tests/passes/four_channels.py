"""Sixteen random images of four channels, and what tests on ranges and exemption need of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from graphs import model_of, run

from edgeopt.calibrate import CalibrationTable, calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.metrics import Discrepancy
from edgeopt.metrics.discrepancy import RawReading

X = np.random.default_rng(0).normal(size=(16, 4, 8, 8)).astype(np.float32)
FEEDS = [{"x": X[index : index + 1]} for index in range(len(X))]
RAW = Discrepancy([RawReading()])
IMAGES = [(str(index), feeds) for index, feeds in enumerate(FEEDS)]


def typed(model: ir.Model) -> ir.Model:
    """With the shapes that `optimize` would have inferred."""
    tapped = model.clone()
    tapped.graph.outputs[:] = [node.outputs[0] for node in tapped.graph]
    arrays = run(tapped, x=X)
    for node in model.graph:
        output = node.outputs[0]
        node.name = f"{node.op_type} {output.name}"
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", *arrays[output.name].shape[1:]))
    return model


def network(loud: float = 1.0, unheard: float = 0.0) -> ir.Model:
    """Two layers; the first channel between them is `loud` times the others, and counts by `unheard`."""
    random = np.random.default_rng(4)
    first, second = random.normal(size=(8, 4, 1, 1)), random.normal(size=(8, 8, 1, 1))
    first[0] *= loud
    second[:, 0] *= unheard
    text = """
    g (float[N,4,8,8] x, float[8,4,1,1] w1, float[8,8,1,1] w2) => (y)
    { a = Conv(x, w1)  r = Relu(a)  y = Conv(r, w2) }
    """
    return typed(model_of(text, w1=first, w2=second))


def table(model: ir.Model) -> CalibrationTable:
    return calibrate(model, IMAGES, CalibrateConfig(minimum_images=1))


def error(model: ir.Model, quantized: ir.Model) -> float:
    return float(np.square(run(quantized, x=X)["y"] - run(model, x=X)["y"]).mean())
