"""Weights of another tool that saturate without VNNI are bounded: nearer there, the same where nothing overflowed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from graphs import model_of, run
from saturating_kernels import saturating_conv

from edgeopt.passes.qdq.bounded import bounded_weights
from edgeopt.passes.qdq.overflow import overflowing_layers, safe_processors
from edgeopt.passes.qdq.select import dequantized_constant
from edgeopt.runtime.ort import OrtSession

RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, 256, (2, 8, 6, 6), np.uint8)


def layer(weight: np.ndarray, scale: np.ndarray, bias: bool = False) -> ir.Model:
    """A convolution as onnxruntime's quantizer writes it."""
    channels = len(weight)
    with_bias = "b = DequantizeLinear<axis = 0>(ib, sb)  c = Conv(d, w, b)" if bias else "c = Conv(d, w)"
    model = model_of(f"""
    g (float[2, 8, 6, 6] x) => (float[2, {channels}, 4, 4] y)
    <float sx = {{0.01}}, uint8 zx = {{0}}>
    {{ q = QuantizeLinear(x, sx, zx)  d = DequantizeLinear(q, sx, zx)
       w = DequantizeLinear<axis = 0>(iw, sw)  {with_bias}  y = Identity(c) }}
    """)
    arrays = {"iw": weight, "sw": scale, "ib": np.full(channels, 500, np.int32), "sb": (0.01 * scale).ravel()}
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.name in arrays and value.const_value is None:
                value.const_value = ir.tensor(arrays[value.name], name=value.name)
                model.graph.register_initializer(value)
        node.name = node.outputs[0].name
    return model


def weights() -> tuple[np.ndarray, np.ndarray]:
    """Eight channels: four use all 8 bits, four few."""
    integers = np.concatenate([RANDOM.normal(0, 60, (4, 8, 3, 3)), RANDOM.normal(0, 15, (4, 8, 3, 3))])
    return np.clip(np.round(integers), -128, 127).astype(np.int8), RANDOM.uniform(0.001, 0.01, 8).astype(np.float32)


def constant(model: ir.Model) -> np.ndarray:
    array = dequantized_constant(next(node.inputs[1] for node in model.graph if node.op_type == "Conv"))
    assert array is not None
    return array


def by_kernels(model: ir.Model) -> np.ndarray:
    """What kernels without VNNI compute, in the units of the output."""
    dequantizer = next(node.inputs[1] for node in model.graph if node.op_type == "Conv").producer()
    integers, scale = (value.const_value.numpy() for value in dequantizer.inputs[:2])
    return saturating_conv(X, integers) * 0.01 * np.broadcast_to(scale, (len(integers),))[:, None, None]


def written(model: ir.Model) -> np.ndarray:
    with OrtSession(ir.to_proto(model).SerializeToString(), as_written=True) as session:
        return session.run({"x": (X * 0.01).astype(np.float32)})["y"].copy()


def test_kernels_that_saturate_compute_bounded_weights_nearer_to_what_was_written() -> None:
    model = layer(*weights())
    assert set(overflowing_layers(model)) == {"c"}
    bounded, layers = bounded_weights(model)
    assert layers == ("c",)
    assert overflowing_layers(bounded) == {}
    assert "avx2" in safe_processors(bounded)
    exact = written(model)
    errors = [np.linalg.norm(by_kernels(each) - exact) / np.linalg.norm(exact) for each in (model, bounded)]
    assert errors[1] < 0.4 * errors[0]
    np.testing.assert_allclose(by_kernels(bounded), written(bounded), rtol=1e-4, atol=1e-4)


def test_channels_that_do_not_overflow_keep_their_integers() -> None:
    model = layer(*weights())
    bounded, _ = bounded_weights(model)
    np.testing.assert_array_equal(constant(bounded)[4:], constant(model)[4:])
    assert (constant(bounded)[:4] != constant(model)[:4]).any()


def test_one_scale_for_all_stays_one_or_becomes_one_a_channel() -> None:
    integers, _ = weights()
    model = layer(integers, np.float32(0.01).reshape(()))
    bounded, _ = bounded_weights(model)
    assert overflowing_layers(bounded) == {}
    assert np.abs(constant(bounded) - constant(model)).max() < 0.01 * 64


def test_an_int32_bias_gets_the_scale_that_engines_take_it_to_have() -> None:
    model = layer(*weights(), bias=True)
    bounded, _ = bounded_weights(model)
    conv = next(node for node in bounded.graph if node.op_type == "Conv")
    scale = conv.inputs[1].producer().inputs[1].const_value.numpy()
    np.testing.assert_allclose(conv.inputs[2].producer().inputs[1].const_value.numpy(), 0.01 * scale, rtol=1e-6)
    old = next(node for node in model.graph if node.op_type == "Conv").inputs[2]
    np.testing.assert_allclose(dequantized_constant(conv.inputs[2]), dequantized_constant(old), rtol=1e-2)
    assert np.isfinite(written(bounded)).all()


def test_a_graph_that_overflows_nowhere_is_not_changed() -> None:
    integers, scale = weights()
    model = layer((integers // 3).astype(np.int8), scale)
    bounded, layers = bounded_weights(model)
    assert layers == ()
    np.testing.assert_array_equal(constant(bounded), constant(model))


def test_layers_that_share_a_weight_share_the_bounded_one() -> None:
    integers, scale = weights()
    model, alone = layer(integers, scale, bias=True), layer(integers, scale, bias=True)
    first = next(node for node in model.graph if node.op_type == "Conv")
    second = ir.node("Conv", first.inputs, name="second")
    total = ir.node("Add", [first.outputs[0], second.outputs[0]], name="sum")
    model.graph.insert_after(first, [second, total])
    model.graph[-1].replace_input_with(0, total.outputs[0])
    bounded, layers = bounded_weights(model)
    assert layers == ("c", "second")
    onnx.checker.check_model(ir.to_proto(bounded))
    convs = [node for node in bounded.graph if node.op_type == "Conv"]
    assert convs[0].inputs[1] is convs[1].inputs[1]
    np.testing.assert_allclose(written(bounded), 2 * written(bounded_weights(alone)[0]), rtol=1e-5, atol=1e-5)
    assert overflowing_layers(bounded) == {}


def test_layers_that_read_a_weight_in_two_ways_are_bounded_apart() -> None:
    text = """
    g (float[4,16] x, float ws) => (float[4,16] y) <uint8 z = {128}, float sw = {0.01}>
    { q = QuantizeLinear(x, ws, z)  d = DequantizeLinear(q, ws, z)  w = DequantizeLinear(iw, sw)
      a = MatMul(d, w)  b = Gemm<transB=1>(d, w)  y = Add(a, b) }
    """
    model = model_of(text, ws=np.float32(0.02))
    stored = model.graph[2].inputs[0]
    stored.const_value = ir.tensor(RANDOM.integers(-127, 127, (16, 16), np.int8), name="iw")
    model.graph.register_initializer(stored)
    for node in model.graph:
        node.name = node.outputs[0].name
    bounded, layers = bounded_weights(model)
    assert layers == ("a", "b")
    onnx.checker.check_model(ir.to_proto(bounded))
    assert overflowing_layers(bounded) == {}
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    expected = run(model, x=x)["y"]
    assert np.abs(run(bounded, x=x)["y"] - expected).max() < 0.3 * np.abs(expected).max()
