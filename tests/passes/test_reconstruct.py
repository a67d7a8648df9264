"""Reconstruction lowers the error of layers and of the network, and never touches what it was given."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.calibrate.tap import outputs_as_written
from edgeopt.config import CalibrateConfig
from edgeopt.errors import ModelError
from edgeopt.graph.operators import LINEAR_OPS
from edgeopt.metrics import ClassReading, Discrepancy
from edgeopt.metrics.discrepancy import RawReading
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.matrix import weight_matrix
from edgeopt.passes.quantize.saturation import pair_grid
from edgeopt.passes.quantize.scheme import OPENVINO, TENSORRT, scheme
from edgeopt.passes.repair.layers.layerwise import walk
from edgeopt.passes.repair.layers.refit import Steps
from edgeopt.passes.repair.reconstruct import reconstruct
from edgeopt.passes.repair.trials import repair
from edgeopt.passes.rewrite.optimize import optimize

NETWORK = """
g (float[N,3,12,12] x, float[16,3,3,3] w1, float[16] w_b1, float[16,1,3,3] w2, float[24,16,1,1] w3, float[24,16] w4)
  => (float[N,16] y)
<float low = {0.0}, float high = {6.0}>
{
  a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1, w_b1)
  r = Clip(a, low, high)
  d = Conv<group=16, pads=[1,1,1,1]>(r, w2)
  e = Relu(d)
  f = Conv(e, w3)
  s = Sigmoid(f)
  m = Mul(f, s)
  p = GlobalAveragePool(m)
  q = Flatten(p)
  y = Gemm(q, w4)
}
"""
X = np.random.default_rng(0).normal(size=(24, 3, 12, 12)).astype(np.float32) * 3
FEEDS = [{"x": X[i : i + 1]} for i in range(len(X))]
SCORES = Discrepancy([ClassReading()])
RAW = Discrepancy([RawReading(output=0)])
IMAGES = [(str(i), feeds) for i, feeds in enumerate(FEEDS)]


def network() -> ir.Model:
    model = model_of(NETWORK)
    shapes = {"a": (16, 6, 6), "r": (16, 6, 6), "d": (16, 6, 6), "e": (16, 6, 6), "f": (24, 6, 6), "s": (24, 6, 6),
              "m": (24, 6, 6), "p": (24, 1, 1), "q": (24,), "y": (16,)}  # fmt: skip
    for node in model.graph:
        node.name = node.outputs[0].name
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape(("N", *shapes[node.name]))
    return model


def table(model: ir.Model):
    return calibrate(model, IMAGES, CalibrateConfig(method="minmax"))


VNNI_ONLY = scheme("openvino", ("vnni",))


@pytest.mark.parametrize("wanted", [OPENVINO, TENSORRT, VNNI_ONLY], ids=["openvino", "tensorrt", "vnni only"])
def test_every_layer_and_the_network_come_closer_to_the_float_one(wanted):
    model = network()
    plain = quantize(model, table(model), wanted)
    repaired, layers = reconstruct(model, plain, wanted, FEEDS)
    assert [layer.name for layer in layers] == ["a", "d", "f", "y"]
    assert all(layer.after <= layer.before for layer in layers)
    reference, before, after = (outputs_as_written(each, FEEDS) for each in (model, plain, repaired))
    assert SCORES.mean(reference, after) < SCORES.mean(reference, before)


def test_a_layer_whose_activation_cuts_off_nearly_everything():
    model = network()
    bias = np.full(16, -1000.0, np.float32)
    bias[0] = -3.0  # awake at few positions
    model.graph.initializers["w_b1"].const_value = ir.tensor(bias, name="w_b1")
    _, layers = reconstruct(model, quantize(model, table(model), OPENVINO), OPENVINO, FEEDS)
    assert all(0.0 <= layer.after <= layer.before for layer in layers)


def test_the_quantized_model_is_not_touched_and_weights_stay_int8():
    model = network()
    plain = quantize(model, table(model), OPENVINO)
    before = ir.to_proto(plain).SerializeToString()
    repaired, _ = reconstruct(model, plain, OPENVINO, FEEDS)
    assert ir.to_proto(plain).SerializeToString() == before
    integers = [value for value in repaired.graph.initializers.values() if value.dtype == ir.DataType.INT8]
    assert all(np.abs(value.const_value.numpy().astype(int)).max() <= 127 for value in integers)


def test_no_refitted_pair_of_weights_saturates_where_the_scheme_asks_for_that():
    model = network()
    found = {}
    for wanted in (OPENVINO, VNNI_ONLY):
        repaired, _ = reconstruct(model, quantize(model, table(model), wanted), wanted, FEEDS)
        layers = [node for node in repaired.graph if node.op_type in LINEAR_OPS]
        stored = {node: node.inputs[1].producer().inputs[0].const_value.numpy().astype(np.float32) for node in layers}
        found[wanted.processors] = [
            pair_grid(node).overflowing(weight_matrix(node, array)) for node, array in stored.items()
        ]
    assert max(found[OPENVINO.processors]) == 0.0
    assert max(found[VNNI_ONLY.processors]) > 0.0


def test_bias_correction_alone_keeps_the_integers():
    model = network()
    plain = quantize(model, table(model), OPENVINO)
    repaired, _ = reconstruct(model, plain, OPENVINO, FEEDS, Steps(clip=False, rounding=False))

    def integers(network: ir.Model) -> list[bytes]:
        dequantizers = [node for node in network.graph if node.op_type == "DequantizeLinear"]
        return [node.inputs[0].const_value.tobytes() for node in dequantizers if node.inputs[0].const_value is not None]

    assert integers(repaired) == integers(plain)


def test_a_model_that_was_not_quantized_from_the_float_one_is_an_error():
    model, other = network(), network()
    for node in other.graph:
        node.name = f"other_{node.name}"
    with pytest.raises(ModelError, match="lacks"):
        reconstruct(other, quantize(model, table(model), OPENVINO), OPENVINO, FEEDS)


def test_walking_gives_each_layer_the_inputs_of_the_whole_network():
    model = network()
    quantized = quantize(model, table(model), OPENVINO)
    tapped = quantized.clone()
    heads = {node.name: node.inputs[0] for node in tapped.graph if node.op_type in ("Conv", "Gemm")}
    tapped.graph.outputs[:] = list(heads.values())
    expected = run(tapped, x=X[:1])
    for node, layer_input in walk(quantized, FEEDS[:2]):
        assert len(layer_input) == 2
        actual = layer_input.decode(layer_input.image(0))
        np.testing.assert_allclose(actual, expected[heads[node.name].name], rtol=1e-5, atol=1e-6)


def test_repair_is_never_worse_on_the_images_it_is_judged_by_and_says_what_it_tried():
    model = network()
    repaired = repair(model, table(model), TENSORRT, IMAGES, SCORES)
    names = ["range_method mse", "equalization", "ranges", "exemption", "bias_correction+weight_clipping+gptq"]
    assert [trial.name for trial in repaired.trials] == names
    assert repaired.discrepancy <= repaired.trials[1].before
    plain = repair(model, table(model), TENSORRT, IMAGES, SCORES, repairs=())
    assert plain.trials == ()
    assert plain.discrepancy == repaired.trials[0].before


def test_a_wide_layer_takes_memory_for_its_samples_and_not_for_the_square_of_its_inputs():
    wide, images = 8192, 12
    random = np.random.default_rng(0)
    weights = {"w1": random.normal(size=(24, wide)) / 90, "w2": random.normal(size=(5, 24))}
    model = optimize(
        model_of(
            f"g (float[N,{wide}] x, float[24,{wide}] w1, float[5,24] w2) => (float[N,5] y)"
            "{ a = Gemm<transB=1>(x, w1)  r = Relu(a)  y = Gemm<transB=1>(r, w2) }",
            **{name: array.astype(np.float32) for name, array in weights.items()},
        )
    )
    feeds = [{"x": random.gamma(0.5, size=(1, wide)).astype(np.float32)} for _ in range(images)]
    observed = calibrate(model, [(str(i), each) for i, each in enumerate(feeds)], CalibrateConfig(minimum_images=1))
    plain = quantize(model, observed, OPENVINO)
    tracemalloc.start()
    _, layers = reconstruct(model, plain, OPENVINO, feeds)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < wide * wide / 2, "bytes; one number for each pair of inputs would take four times as many"
    assert len(layers) == 2
    assert sum(layer.after for layer in layers) < sum(layer.before for layer in layers)


def small(text: str, signature: str, seed: int = 0, **values: np.ndarray) -> tuple[ir.Model, ir.Model, list]:
    """A network of rows of 16 numbers, what it is quantized to, and its images."""
    model = optimize(model_of(f"g (float[1,16] x{signature}) => (float[1,16] y) {{ {text} }}", seed, **values))
    for node in model.graph:
        node.name = node.outputs[0].name
    rows = np.random.default_rng(7).normal(size=(24, 1, 16)).astype(np.float32)
    feeds = [{"x": row} for row in rows]
    images = [(str(index), each) for index, each in enumerate(feeds)]
    return model, quantize(model, calibrate(model, images, CalibrateConfig()), VNNI_ONLY), feeds


def test_refitting_a_layer_leaves_those_that_share_its_weight_as_they_are():
    model, plain, feeds = small("a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, w)", ", float[16,16] w")
    repaired, layers = reconstruct(model, plain, VNNI_ONLY, feeds)
    assert [layer.name for layer in layers] == ["a", "y"]
    again, apart = reconstruct(model, plain, VNNI_ONLY, feeds, is_over=iter([False, True]).__next__)
    assert [layer.name for layer in apart] == ["a"]
    stored = [
        {node.name: weight_matrix(node, node.inputs[1].producer().inputs[0].const_value.numpy())
         for node in each.graph if node.op_type == "MatMul"} for each in (plain, again, repaired)
    ]  # fmt: skip
    np.testing.assert_array_equal(stored[1]["y"], stored[0]["y"])
    assert (stored[1]["a"] != stored[0]["a"]).any()
    np.testing.assert_array_equal(stored[2]["a"], stored[1]["a"])
    onnx.checker.check_model(ir.to_proto(repaired), full_check=True)


def test_correcting_biases_copies_no_weight_that_layers_share():
    model, plain, feeds = small("a = Gemm(x, w)  r = Relu(a)  y = Gemm(r, w)", ", float[16,16] w")
    repaired, _ = reconstruct(model, plain, VNNI_ONLY, feeds, Steps(clip=False, rounding=False))
    made = {node.inputs[1] for node in repaired.graph if node.op_type == "Gemm"}
    assert len(made) == 1


@pytest.mark.parametrize(
    ("text", "shape", "refitted"),
    [
        ("y = Gemm(r, w2, w_bias)", "16", True),
        ("y = Gemm(r, w2, w_bias)", "1,16", True),
        ("y = Gemm(r, w2, w_bias)", "1", False),
        ("y = Gemm<beta = 0.5>(r, w2, w_bias)", "16", False),
        ("y = Gemm<beta = 0.5>(r, w2)", "16", False),
        ("b = Sigmoid(x)  y = Gemm(r, w2, b)", "16", False),
    ],
    ids=["one a channel", "a row", "one", "scaled", "scaled and none", "computed"],
)
def test_a_gemm_is_refitted_with_its_bias_or_not_at_all(text, shape, refitted):
    signature = f", float[16,16] w1, float[16,16] w2, float[{shape}] w_bias"
    model, plain, feeds = small(f"a = MatMul(x, w1)  r = Relu(a)  {text}", signature)
    repaired, layers = reconstruct(model, plain, VNNI_ONLY, feeds)
    assert ("y" in [layer.name for layer in layers]) == refitted
    reference, before, after = (outputs_as_written(each, feeds) for each in (model, plain, repaired))
    assert RAW.mean(reference, after) < RAW.mean(reference, before)
    bias = next(node for node in repaired.graph if node.name == "y").inputs[2:]
    assert not refitted or bias[0].const_value.shape == ir.Shape([int(size) for size in shape.split(",")])
