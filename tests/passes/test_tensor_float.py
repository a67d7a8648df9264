"""TensorFloat-32 as a GPU rounds it: 10 bits of each operand, and nothing else."""

from __future__ import annotations

import numpy as np
from graphs import model_of, run

from edgeopt.passes.rewrite.tensor_float import round_operands

TEXT = """
g (float[N,4,6,8] x, float[5,4,3,3] w1, float[7,5] w2) => (float[N,7] y, float[N,4,6,8] s)
{ s = Relu(x)  a = Conv(s, w1)  p = GlobalAveragePool(a)  f = Flatten(p)  y = Gemm<transB=1>(f, w2) }
"""


def to_ten_bits(array: np.ndarray) -> np.ndarray:
    """By the bits themselves: to nearest, ties to even."""
    bits = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~np.uint64(0x1FFF)).astype(np.uint32).view(np.float32)


def test_operands_have_ten_bits_and_other_values_all_of_theirs():
    model = model_of(TEXT)
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 8)).astype(np.float32)
    weights = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    before = run(model, x=x)
    round_operands(model)
    after = run(model, x=x)
    np.testing.assert_array_equal(after["s"], before["s"])
    by_hand = model_of(TEXT, w1=to_ten_bits(weights["w1"]), w2=to_ten_bits(weights["w2"]))
    assert 1e-5 < np.abs(after["y"] - before["y"]).max() < 1e-2
    convolved = run(by_hand, x=to_ten_bits(x))["y"]
    np.testing.assert_allclose(after["y"], convolved, atol=2e-3)


def test_rounding_is_exact():
    model = model_of("g (float[N,3] x, float[3,3] w1) => (float[N,3] y) { y = MatMul(x, w1) }", w1=np.eye(3))
    round_operands(model)
    x = (np.random.default_rng(1).normal(size=(1000, 3)) * 10.0 ** np.arange(-3, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(run(model, x=x)["y"], to_ten_bits(x))


def test_integers_and_half_precision_stay():
    model = model_of("g (float16[N,3] x, float16[3,3] v) => (float16[N,3] y) { y = MatMul(x, v) }")
    round_operands(model)
    assert [node.op_type for node in model.graph] == ["MatMul"]
