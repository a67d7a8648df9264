"""The interpreter computes what onnxruntime computes, operator by operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import model_of, run

from edgeopt.passes.gradients.attributes import UnsupportedOperatorError
from edgeopt.passes.gradients.interpreter import Interpreter

X = np.random.default_rng(0).normal(size=(1, 8, 9, 7)).astype(np.float32)

NODES = {
    "Conv, padded unevenly": "y = Conv<pads=[1,0,2,1], strides=[2,1]>(x, w)",
    "Conv, dilated": "y = Conv<dilations=[2,2]>(x, w)",
    "Conv, SAME_UPPER": 'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)',
    "Conv, SAME_LOWER": 'y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w)',
    "ConvTranspose": "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(x, w)",
    "ConvTranspose, padded unevenly": "y = ConvTranspose<strides=[2,2], pads=[1,0,0,1]>(x, w)",
    "Relu": "y = Relu(x)",
    "LeakyRelu": "y = LeakyRelu<alpha=0.1>(x)",
    "Sigmoid": "y = Sigmoid(x)",
    "HardSigmoid": "y = HardSigmoid<alpha=0.3, beta=0.4>(x)",
    "HardSwish": "y = HardSwish(x)",
    "Tanh": "y = Tanh(x)",
    "Elu": "y = Elu<alpha=0.7>(x)",
    "Softplus": "y = Softplus(x)",
    "Exp": "y = Exp(x)",
    "Erf": "y = Erf(x)",
    "Abs": "y = Abs(x)",
    "Softmax": "y = Softmax<axis=1>(x)",
    "LogSoftmax": "y = LogSoftmax(x)",
    "Clip, one bound": "a = Constant<value_float=0.5>()\n  y = Clip(x, , a)",
    "Identity": "y = Identity(x)",
    "Sub": "y = Sub(x, x)",
    "Div": "a = Exp(x)\n  y = Div(x, a)",
    "Pow": "a = Constant<value_float=2.0>()\n  y = Pow(x, a)",
    "Max": "a = Neg(x)\n  y = Max(x, a)",
    "Sum": "y = Sum(x, x, x)",
    "Mean": "y = Mean(x, x)",
    "MatMul": "a = Transpose<perm=[0,1,3,2]>(x)\n  y = MatMul(x, a)",
    "PRelu": "a = Constant<value_float=0.2>()\n  y = PRelu(x, a)",
    "MaxPool": "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,0,0]>(x)",
    "MaxPool, ceil": "y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)",
    "AveragePool": "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)",
    "AveragePool, padding counts": "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)",
    "GlobalAveragePool": "y = GlobalAveragePool(x)",
    "GlobalMaxPool": "y = GlobalMaxPool(x)",
    "ReduceMean": "a = Constant<value_ints=[2,3]>()\n  y = ReduceMean<keepdims=0>(x, a)",
    "ReduceMax": "a = Constant<value_ints=[-1]>()\n  y = ReduceMax(x, a)",
    "ReduceSum over all": "y = ReduceSum<keepdims=0>(x)",
    "ReduceL2": "a = Constant<value_ints=[1]>()\n  y = ReduceL2(x, a)",
    "ReduceProd": "a = Constant<value_ints=[2,3]>()\n  y = ReduceProd(x, a)",
    "Concat": "y = Concat<axis=1>(x, x)",
    "Split, equal": "a, y = Split<axis=1, num_outputs=2>(x)",
    "Split, sizes": "s = Constant<value_ints=[3,5]>()\n  a, y = Split<axis=1>(x, s)",
    "Slice": "a = Constant<value_ints=[1,-6]>()\n  b = Constant<value_ints=[100,-1]>()\n"
             "  c = Constant<value_ints=[1,3]>()\n  d = Constant<value_ints=[2,1]>()\n  y = Slice(x, a, b, c, d)",
    "Slice, backwards": "a = Constant<value_ints=[-1]>()\n  b = Constant<value_ints=[-100]>()\n"
                        "  c = Constant<value_ints=[2]>()\n  d = Constant<value_ints=[-2]>()\n"
                        "  y = Slice(x, a, b, c, d)",
    "Gather": "a = Constant<value_ints=[0,-1,2]>()\n  y = Gather<axis=1>(x, a)",
    "Reshape": "a = Constant<value_ints=[0,2,-1]>()\n  y = Reshape(x, a)",
    "Flatten": "y = Flatten<axis=2>(x)",
    "Transpose": "y = Transpose(x)",
    "Unsqueeze and Squeeze": "a = Constant<value_ints=[0,-1]>()\n  b = Unsqueeze(x, a)\n  y = Squeeze(b, a)",
    "Expand": "a = Constant<value_ints=[2,1,1,1]>()\n  y = Expand(x, a)",
    "Tile": "a = Constant<value_ints=[1,2,1,2]>()\n  y = Tile(x, a)",
    "Pad": "a = Constant<value_ints=[0,0,1,2,0,0,0,1]>()\n  b = Constant<value_float=3.0>()\n  y = Pad(x, a, b)",
    "Pad, reflect": 'a = Constant<value_ints=[0,0,1,2,0,0,0,1]>()\n  y = Pad<mode="reflect">(x, a)',
    "Pad, edge": 'a = Constant<value_ints=[0,0,1,2,0,0,0,1]>()\n  y = Pad<mode="edge">(x, a)',
    "Shape": "a = Shape(x)\n  y = Cast<to=1>(a)",
    "Cast": "a = Cast<to=6>(x)\n  y = Cast<to=1>(a)",
    "Where": "a = Abs(x)\n  b = Greater(x, a)\n  c = Equal(x, a)\n  y = Where(c, x, a)",
    "DepthToSpace": "y = DepthToSpace<blocksize=2>(x)",
    "DepthToSpace, CRD": 'y = DepthToSpace<blocksize=2, mode="CRD">(x)',
    "Resize, nearest": 'a = Constant<value_floats=[1.0,1.0,2.0,2.0]>()\n'
                       '  y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", '
                       'nearest_mode="floor">(x, , a)',
    "Resize, nearest by halves": 'a = Constant<value_floats=[1.0,1.0,1.5,0.5]>()\n  y = Resize<mode="nearest">(x, , a)',
    "Resize, linear": 'a = Constant<value_floats=[1.0,1.0,2.0,0.6]>()\n  y = Resize<mode="linear">(x, , a)',
    "Resize, align_corners": 'a = Constant<value_ints=[1,8,18,5]>()\n'
                             '  y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , a)',
    "ArgMax": "a = ArgMax<axis=1>(x)\n  y = Cast<to=1>(a)",
    "Gelu": 'y = Gelu<approximate="tanh">(x)',
    "Dropout": "y = Dropout(x)",
}  # fmt: skip


@pytest.mark.parametrize("node", NODES.values(), ids=NODES.keys())
def test_an_operator_computes_what_onnxruntime_computes(node):
    weight = ", float[8,8,3,3] w" if ", w" in node else ""
    model = model_of(f"g (float[1,8,9,7] x{weight}) => (float y)\n{{\n  {node}\n}}", opset=20)
    (actual,) = Interpreter(model.graph).run({"x": torch.from_numpy(X)})
    np.testing.assert_allclose(actual.numpy(), run(model, x=X)["y"], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("attributes", ["", "transB=1", "alpha=0.5, beta=2.0"])
def test_gemm(attributes):
    shape = "5,8" if "transB" in attributes else "8,5"
    nodes = f"y = Gemm<{attributes}>(x, w, w_b)" if attributes else "y = Gemm(x, w, w_b)"
    model = model_of(f"g (float[3,8] x, float[{shape}] w, float[5] w_b) => (float y) {{ {nodes} }}")
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    (actual,) = Interpreter(model.graph).run({"x": torch.from_numpy(x)})
    np.testing.assert_allclose(actual.numpy(), run(model, x=x)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("y = Det(x)", "Det"),
        ('a = Constant<value_floats=[1.0,1.0,2.0,2.0]>()\n  y = Resize<mode="cubic">(x, , a)', "cubic"),
        ('y = ConvTranspose<auto_pad="SAME_UPPER">(x, x)', "automatic padding"),
    ],
)
def test_what_cannot_be_run_is_named(node, message):
    model = model_of(f"g (float[1,8,9,7] x) => (float y)\n{{\n  {node}\n}}")
    with pytest.raises(UnsupportedOperatorError, match=message):
        Interpreter(model.graph).run({"x": torch.from_numpy(X)})
