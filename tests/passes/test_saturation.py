"""Weights cannot saturate the kernels of x86 processors without VNNI, whose model is held against OpenVINO's own."""

from __future__ import annotations

import io
import os
import platform
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from saturating_kernels import saturating_conv

from edgeopt.graph.edit import add_initializer
from edgeopt.passes.quantize.matrix import weight_from_matrix, weight_matrix
from edgeopt.passes.quantize.saturation import WEIGHT_LIMIT, WeightGrid, pair_grid, weight_grid
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.repair.layers.gptq import round_second_order
from edgeopt.passes.repair.layers.moments import Moments

SHAPES = {
    "pointwise": ((16, 32, 1, 1), 1),
    "dense": ((16, 32, 3, 3), 1),
    "first layer": ((16, 3, 3, 3), 1),
    "grouped": ((16, 8, 3, 3), 4),
    "depthwise": ((32, 1, 3, 3), 32),
}
"""Weight and groups."""
SIZE = 9

SCRIPT = """
import io, sys, numpy as np, openvino
data = np.load(io.BytesIO(sys.stdin.buffer.read()))
core, found = openvino.Core(), {}
for name in sorted({key.split('/')[0] for key in data}):
    network = core.read_model(data[name + '/model'].tobytes(), b'')
    compiled = core.compile_model(network, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1})
    found[name] = np.array(compiled(data[name + '/x'])[0])
answer = io.BytesIO()
np.savez(answer, **found)
sys.stdout.buffer.write(answer.getvalue())
"""


def one_layer(call: str, weight: np.ndarray, axis: int, x: np.ndarray) -> ir.Model:
    """A layer of integers as a Q/DQ model whose output is the integer sum; `call` takes ``(d, w)``."""
    text = f"""
    g (float[{",".join(map(str, x.shape))}] x, float[{weight.shape[axis]}] ws) => (float y)
    <float s = {{1.0}}, {x.dtype.name} z = {{0}}>
    {{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  w = DequantizeLinear<axis={axis}>(x, ws)
       y = {call}(d, w) }}
    """
    model = model_of(text, ws=np.ones(weight.shape[axis], np.float32))
    model.graph.outputs[0].shape = None
    model.graph[2].replace_input_with(0, add_initializer(model.graph, "stored", weight))
    return model


def layer(weight: np.ndarray, groups: int, x: np.ndarray) -> bytes:
    """One convolution of integers."""
    return ir.to_proto(one_layer(f"Conv<group={groups}>", weight, 0, x)).SerializeToString()


def run_without_vnni(layers: dict[str, tuple[bytes, np.ndarray]]) -> dict[str, np.ndarray]:
    """Outputs of one-layer models in OpenVINO with AVX2's kernels, which are chosen when a process starts."""
    arrays = {f"{name}/model": np.frombuffer(model, np.uint8) for name, (model, _) in layers.items()}
    arrays |= {f"{name}/x": x.astype(np.float32) for name, (_, x) in layers.items()}
    given = io.BytesIO()
    np.savez(given, **arrays)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=given.getvalue(),
        capture_output=True,
        check=True,
        timeout=120,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
    )
    return dict(np.load(io.BytesIO(done.stdout)))


x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="kernels of x86: not tested here")


@x86
@pytest.mark.parametrize("dtype", [np.uint8, np.int8], ids=["u8", "s8"])
def test_the_model_of_the_kernels_is_what_openvino_computes_without_vnni(dtype):
    rng, layers, expected = np.random.default_rng(0), {}, {}
    for name, (shape, groups) in SHAPES.items():
        weight = rng.integers(-127, 128, shape, dtype=np.int8)
        limits = np.iinfo(dtype)
        x = rng.integers(limits.max // 2, limits.max + 1, (1, shape[1] * groups, SIZE, SIZE)).astype(dtype)
        layers[name] = layer(weight, groups, x), x
        expected[name] = saturating_conv(x, weight, groups=groups)
    found = run_without_vnni(layers)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


CALLS = {
    "odd channels": ("Conv", (16, 5, 3, 3), (1, 5, 9, 9), 0),
    "small groups": ("Conv<group=4>", (12, 3, 3, 3), (1, 12, 9, 9), 0),
    "depthwise with a multiplier": ("Conv<group=16>", (32, 1, 3, 3), (1, 16, 9, 9), 0),
    "transposed": ("ConvTranspose<strides=[2,2]>", (16, 8, 2, 2), (1, 16, 9, 9), 1),
    "transposed, 3x3": ("ConvTranspose", (16, 8, 3, 3), (1, 16, 9, 9), 1),
    "matrix": ("Gemm", (33, 10), (4, 33), 1),
    "transposed matrix": ("Gemm<transB=1>", (32, 64), (4, 64), 0),
    "sequence": ("MatMul", (64, 32), (1, 7, 64), 1),
}
"""Operator, weight, input and the axis of the weight's scales."""


@x86
@pytest.mark.parametrize("dtype", [np.uint8, np.int8], ids=["u8", "s8"])
def test_openvino_without_vnni_computes_protected_weights_as_written_for_every_operator(dtype):
    rng, limits, layers, written = np.random.default_rng(0), np.iinfo(dtype), {}, {}
    for name, (call, shape, size, axis) in CALLS.items():
        full = rng.integers(-127, 128, shape, dtype=np.int8)
        one = one_layer(call, full, axis, np.zeros(size, dtype)).graph[-1]
        one.inputs[1].shape = ir.Shape(shape)
        matrix = pair_grid(one).fit(weight_matrix(one, full.astype(np.float32)))
        protected = weight_from_matrix(one, matrix, shape).astype(np.int8)
        for kind, weight in (("full", full), ("protected", protected)):
            x = rng.integers(limits.max // 2, limits.max + 1, size).astype(dtype)
            model = one_layer(call, weight, axis, x)
            written[kind, name] = run(model, x=x.astype(np.float32))["y"]
            layers[f"{kind} {name}"] = ir.to_proto(model).SerializeToString(), x
    found = run_without_vnni(layers)
    for (kind, name), array in written.items():
        is_right = np.allclose(found[f"{kind} {name}"], array, rtol=1e-5, atol=0.5)
        assert is_right == (kind == "protected"), (kind, name)


def node(weight: np.ndarray, groups: int = 1, kind: str = "Conv") -> ir.Node:
    value = ir.Value(name="w", shape=ir.Shape(weight.shape), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor(weight.astype(np.float32), name="w")
    return ir.node(kind, [ir.Value(name="x"), value], {"group": groups} if groups > 1 else {}, name="layer")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8], ids=["u8", "s8"])
def test_weights_on_the_grid_never_saturate_whatever_the_input(name, dtype):
    shape, groups = SHAPES[name]
    rng, limits = np.random.default_rng(1), np.iinfo(dtype)
    weight = rng.standard_t(3, shape).astype(np.float32)
    layer_node, grid = node(weight, groups), weight_grid(node(weight, groups), OPENVINO)
    matrix = weight_matrix(layer_node, weight)
    integers = weight_from_matrix(layer_node, grid.nearest(matrix, grid.scale(matrix)), shape).astype(np.int8)
    largest = np.full((1, shape[1] * groups, SIZE, SIZE), limits.max, dtype)
    anything = rng.choice([limits.min, limits.max], largest.shape).astype(dtype)
    for x in (largest, anything):
        np.testing.assert_array_equal(saturating_conv(x, integers, groups=groups), exact_conv(x, integers, groups))
    full = WeightGrid(grid.columns)
    unprotected = weight_from_matrix(layer_node, full.nearest(matrix, full.scale(matrix)), shape).astype(np.int8)
    saturates = (saturating_conv(largest, unprotected, groups=groups) != exact_conv(largest, unprotected, groups)).any()
    assert saturates == (name != "depthwise")


def exact_conv(x: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    """The convolution in exact arithmetic: one channel after another makes no pairs."""
    shape = (weight.shape[0] // groups, weight.shape[1])
    result = []
    for group in range(groups):
        channels = x[:, group * shape[1] : (group + 1) * shape[1]]
        kernels = weight[group * shape[0] : (group + 1) * shape[0]]
        result.append(sum(saturating_conv(channels[:, [c]], kernels[:, [c]]) for c in range(shape[1])))
    return np.concatenate(result, axis=1)


@given(
    arrays(np.float32, (2, 3, 18), elements=st.floats(-300, 300, width=32)),
    st.sampled_from([(2, 3, 3), (3, 3, 2), (18,)]),
)
def test_fitting_leaves_no_pair_too_large_and_grows_no_weight(integers, shape):
    kernel = shape if len(shape) == 3 else (18, 1, 1)
    grid = pair_grid(node(np.zeros((3, *kernel))))
    whole = np.round(integers)
    fitted = grid.fit(whole)
    assert grid.overflowing(fitted) == 0.0
    assert (np.abs(fitted) <= np.minimum(np.abs(whole), WEIGHT_LIMIT)).all()
    assert (np.sign(fitted) * np.sign(whole) >= 0).all()
    small = np.clip(whole, -64, 64)
    np.testing.assert_array_equal(grid.fit(small), small)


def test_second_order_rounding_keeps_pairs_in_bounds():
    rng = np.random.default_rng(2)
    weight = rng.standard_t(3, (1, 12, 36)).astype(np.float32)
    inputs = rng.gamma(0.5, size=(500, 36)).astype(np.float32)
    grid = pair_grid(node(np.zeros((12, 4, 3, 3))))
    scale = 0.8 * grid.scale(weight)  # clipping: much is out of bounds
    integers = round_second_order(
        weight, scale, Moments.of(inputs[None], np.zeros((1, 36), np.float32), np.full(500, 0.002, np.float32)), grid
    )
    assert grid.overflowing(integers) == 0.0
    assert np.abs(integers).max() <= WEIGHT_LIMIT

    def error(candidate):
        return float(np.mean((inputs @ (candidate * scale[:, :, None] - weight)[0].T) ** 2))

    assert error(integers) < error(grid.nearest(weight, scale))


@pytest.mark.parametrize("kind", ["Gemm", "MatMul", "ConvTranspose"])
def test_matrices_of_every_operator_are_made_back_into_weights(kind):
    weight = (
        np.random.default_rng(3).normal(size=(6, 4, 2, 2) if kind == "ConvTranspose" else (6, 4)).astype(np.float32)
    )
    layer_node = node(weight, 2 if kind == "ConvTranspose" else 1, kind)
    matrix = weight_matrix(layer_node, weight)
    assert matrix.shape == ((2, 4, 12) if kind == "ConvTranspose" else (1, 4, 6))
    assert pair_grid(layer_node).columns == matrix.shape[2]
    np.testing.assert_array_equal(weight_from_matrix(layer_node, matrix, weight.shape), weight)
