"""Operators that TensorRT's ONNX parsers accept, by release, and the rule that names what one refuses.

Facts from docs/operators.md of onnx-tensorrt at its branches 8.5-GA, 8.6-GA, 10.0-GA and 10.1-GA; nothing that one
release accepts is refused by a later one of these. RTX 1.7 was asked itself (``OnnxParser.supports_operator``): the
list of full TensorRT 11 could not be had. That a parser accepts an operator does not say that a kernel for it exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.graph.operators import STANDARD_DOMAINS
from edgeopt.lint.findings import Finding
from edgeopt.lint.graph import Linted, finding
from edgeopt.passes.rewrite.lower_opset import LOWERED_OPSET, for_tensorrt_8, lower_opset

_FIRST_ACCEPTED: Mapping[str, str] = {
    "8.5": """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip
        Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
        Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool
        GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish Identity If
        InstanceNormalization IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool
        MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu
        Pad Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal
        ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round Scan Scatter ScatterElements ScatterND Selu
        Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum
        Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor""",
    "8.6": "GroupNormalization IsInf LayerNormalization",
    "10.0": "CastLike Gelu Hardmax Mish",
    "10.1": "DeformConv",
    "RTX 1.7": """
        Attention BlackmanWindow CausalConvWithState HammingWindow HannWindow LinearAttention RMSNormalization
        RotaryEmbedding STFT Swish TensorScatter""",
}
"""Operators of ONNX's own domain under the release that is the first of these to accept them."""
_PLUGINS: Mapping[str, frozenset[str]] = {"RTX 1.7": frozenset(("DeformConv",))}
"""Operators that need a plugin which full TensorRT has and a release has not."""
_CUBIC = "10.0"
"""First release whose Resize interpolates cubically (the same documents)."""
_FROM = {"8.5": "8.5 (JetPack 5.1)", "8.6": "8.6 (JetPack 6.0)"}


@cache
def accepted(release: str) -> frozenset[str]:
    """Return the operators that the parser of a release of the table accepts."""
    releases = list(_FIRST_ACCEPTED)
    known = releases[: releases.index(release) + 1]
    return frozenset(name for each in known for name in _FIRST_ACCEPTED[each].split()) - _PLUGINS.get(release, set())


def refused_by(*releases: str) -> Callable[[Linted], Iterator[Finding]]:
    """Return the rule that names the operators which one of `releases` refuses.

    It is an error where all of them do, and a warning where only some do.
    """

    def refused_operators(linted: Linted) -> Iterator[Finding]:
        for node in linted.nodes:
            if node.domain not in STANDARD_DOMAINS:
                continue
            refusing = [release for release in releases if _refuses(release, node)]
            if not refusing:
                continue
            named = ", ".join(_FROM.get(release, release) for release in refusing)
            form = " with cubic interpolation" if node.op_type == "Resize" else ""
            yield finding(
                "refused-operator", "error" if len(refusing) == len(releases) else "warning", node,
                f"the ONNX parser of TensorRT {named} refuses {node.op_type}{form}",
                _remedy(node, refusing, releases),
            )  # fmt: skip

    return refused_operators


def older_opset(linted: Linted) -> Iterator[Finding]:
    """TensorRT 8 reads operators of later opsets with the meaning that they had in 17."""
    if linted.opset <= LOWERED_OPSET:
        return
    reason = f"is of opset {linted.opset}, and TensorRT 8.5 and 8.6 read everything as of {LOWERED_OPSET}"
    try:
        lower_opset(linted.model, "the graph")
    except ModelError as error:
        yield finding("opset-17", "error", None, f"the graph {reason}", str(error))
        return
    fix = "build it with edgeopt, which lowers it for target trt8: the file itself is misread there"
    yield finding("opset-17", "warning", None, f"the graph {reason}", fix)


def lowered(rule: Callable[[Linted], Iterator[Finding]]) -> Callable[[Linted], Iterator[Finding]]:
    """Return a rule that looks at the graph as it is lowered, where it can be: newer operators are gone there."""

    def of_lowered(linted: Linted) -> Iterator[Finding]:
        try:
            yield from rule(Linted(for_tensorrt_8(linted.model), linted.target))
        except ModelError:
            yield from rule(linted)

    return of_lowered


def _refuses(release: str, node: ir.Node) -> bool:
    if node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") == "cubic":
        releases = list(_FIRST_ACCEPTED)
        return releases.index(release) < releases.index(_CUBIC)
    return node.op_type not in accepted(release)


def _remedy(node: ir.Node, refusing: Sequence[str], releases: Sequence[str]) -> str:
    later = [release for release in releases if release not in refusing]
    takes = f"use TensorRT {later[0]} or later, or " if later else ""
    return f"{takes}write {node.op_type} in other operators, or leave it to the host"
