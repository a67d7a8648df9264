"""Small networks of every kind of operator, made at random: quantized in every scheme, they stay what they were.

    python tests/nightly/small_graphs.py [--count N] [--seed S]

A network that edgeopt refuses by an error of its own passes. Everything else must give a file that onnx.checker passes,
that the engines of its scheme load, and that is close to the float network.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from numpy.typing import NDArray

SIDES = (1, 3, 4, 7, 8, 12, 16, 20)
SCHEMES = ("tensorrt", "openvino", "onnxruntime", "arm")
OPSETS = (11, 13, 15, 17, 18, 19, 21)
SAMPLES = 12
MOST_STEPS = 7


@dataclasses.dataclass
class Network:
    """A graph under construction; `value` is what comes last."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    opset: int
    random: np.random.Generator
    nodes: list[ir.Node] = dataclasses.field(default_factory=list)
    constants: list[ir.Value] = dataclasses.field(default_factory=list)
    names: int = 0

    def name(self, kind: str) -> str:
        """A name, now and then one that edgeopt would have given itself."""
        self.names += 1
        ending = self.draw(st.sampled_from(("", "", "", "/scale", "/quantized", "/int8", "/folded")))
        return f"{kind.lower()}_{self.names}{ending}"

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """An initializer, or what a Constant node gives."""
        name = self.name("constant")
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        if self.draw(st.integers(0, 4)):
            value = ir.Value(
                name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype)
            )
            self.constants.append(value)
            return value
        return self.add("Constant", [], {"value": ir.AttrTensor("value", tensor)})

    def weight(self, *shape: int) -> ir.Value:
        """Random weights; channels differ in size."""
        fan_in = max(1, int(np.prod(shape[1:])))
        array = self.random.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)
        if self.draw(st.booleans()):
            array *= np.geomspace(0.3, 3, shape[0]).astype(np.float32).reshape(-1, *[1] * (len(shape) - 1))
        if not self.draw(st.integers(0, 5)):  # computed
            half = self.constant((array / 2).astype(np.float32))
            return self.add("Mul", [half, self.constant(np.float32(2))])
        if not self.draw(st.integers(0, 9)):
            half = self.constant(array.astype(np.float16))
            return self.add("Cast", [half], {"to": ir.DataType.FLOAT})
        return self.constant(array)

    def integers(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))

    def add(
        self, kind: str, inputs: list[ir.Value | None], attributes: dict[str, Any] | None = None, outputs: int = 1
    ) -> Any:
        """Append a node; return its output or outputs."""
        made = [ir.Value(name=self.name(kind)) for _ in range(outputs)]
        node = ir.Node(
            "", kind, inputs, ir.convenience.convert_attributes(attributes or {}), outputs=made, name=self.name(kind)
        )
        self.nodes.append(node)
        return made[0] if outputs == 1 else made


@dataclasses.dataclass(frozen=True)
class Tensor:
    value: ir.Value
    shape: tuple[int, ...]


def convolution(net: Network, x: Tensor) -> Tensor:
    channels = x.shape[1]
    out = net.draw(st.sampled_from(SIDES))
    groups = net.draw(st.sampled_from([1, 1, channels, 2 if channels % 2 == 0 else 1]))
    out = -(-out // groups) * groups
    kernel = net.draw(st.sampled_from((1, 3, 3, 2)))
    stride, pad = net.draw(st.sampled_from((1, 1, 2))), net.draw(st.sampled_from((0, kernel // 2)))
    if min(x.shape[2:]) + 2 * pad < kernel:
        kernel, pad = 1, 0
    inputs: list[ir.Value | None] = [x.value, net.weight(out, channels // groups, kernel, kernel)]
    if net.draw(st.booleans()):
        inputs.append(net.constant(net.random.normal(0, 0.1, out).astype(np.float32)))
    attributes: dict[str, Any] = {"group": groups, "strides": [stride, stride]}
    if net.draw(st.booleans()):
        attributes["pads"] = [pad] * 4
        sizes = [(side + 2 * pad - kernel) // stride + 1 for side in x.shape[2:]]
    else:
        automatic = net.draw(st.sampled_from(("SAME_UPPER", "SAME_LOWER", "VALID")))
        attributes["auto_pad"] = automatic
        sizes = [(side - kernel) // stride + 1 if automatic == "VALID" else -(-side // stride) for side in x.shape[2:]]
    if min(sizes) < 1:
        return x
    return Tensor(net.add("Conv", inputs, attributes), (x.shape[0], out, *sizes))


def transposed_convolution(net: Network, x: Tensor) -> Tensor:
    channels = x.shape[1]
    groups = net.draw(st.sampled_from([1, channels]))
    out = groups * net.draw(st.sampled_from((1, 2))) if groups > 1 else net.draw(st.sampled_from(SIDES))
    stride = net.draw(st.sampled_from((1, 2)))
    if max(x.shape[2:]) > 16:
        stride = 1
    inputs: list[ir.Value | None] = [x.value, net.weight(channels, out // groups, 2, 2)]
    if net.draw(st.booleans()):
        inputs.append(net.constant(net.random.normal(0, 0.1, out).astype(np.float32)))
    value = net.add("ConvTranspose", inputs, {"group": groups, "strides": [stride, stride]})
    return Tensor(value, (x.shape[0], out, *[(side - 1) * stride + 2 for side in x.shape[2:]]))


def normalization(net: Network, x: Tensor) -> Tensor:
    channels = x.shape[1]
    parameters = [
        net.constant(array.astype(np.float32))
        for array in (
            net.random.uniform(0.5, 2, channels), net.random.normal(0, 0.3, channels),
            net.random.normal(0, 0.3, channels), net.random.uniform(0.5, 2, channels),
        )
    ]  # fmt: skip
    return Tensor(net.add("BatchNormalization", [x.value, *parameters]), x.shape)


def activation(net: Network, x: Tensor) -> Tensor:
    kinds = [
        "Relu",
        "Sigmoid",
        "LeakyRelu",
        "Tanh",
        "HardSigmoid",
        "Elu",
        "relu6",
        "silu",
        "hard-swish",
        "Softplus",
        "Abs",
    ]
    if net.opset >= 14:
        kinds.append("HardSwish")
    if net.opset >= 20:
        kinds.append("Gelu")
    kind = net.draw(st.sampled_from(kinds))
    match kind:
        case "relu6":
            limits = [net.constant(np.float32(0)), net.constant(np.float32(6))]
            return Tensor(net.add("Clip", [x.value, *limits]), x.shape)
        case "silu":
            return Tensor(net.add("Mul", [x.value, net.add("Sigmoid", [x.value])]), x.shape)
        case "hard-swish":
            three, zero, six = (net.constant(np.float32(each)) for each in (3, 0, 6))
            clipped = net.add("Clip", [net.add("Add", [x.value, three]), zero, six])
            if net.draw(st.booleans()):
                return Tensor(net.add("Div", [net.add("Mul", [x.value, clipped]), six]), x.shape)
            return Tensor(net.add("Mul", [x.value, net.add("Div", [clipped, six])]), x.shape)
    return Tensor(net.add(kind, [x.value]), x.shape)


def affine(net: Network, x: Tensor) -> Tensor:
    kind = net.draw(st.sampled_from(("Mul", "Add", "Sub", "Div")))
    axes = (x.shape[1], *[1] * (len(x.shape) - 2))
    shape = net.draw(st.sampled_from(((), (1,), axes, (1, *axes))))
    array = net.constant(net.random.uniform(0.5, 2, shape).astype(np.float32))
    inputs: list[ir.Value | None] = [x.value, array]
    if kind != "Div" and net.draw(st.booleans()):
        inputs.reverse()
    return Tensor(net.add(kind, inputs), x.shape)


def pad(net: Network, x: Tensor) -> Tensor:
    mode = net.draw(st.sampled_from(("constant", "constant", "reflect", "edge")))
    sides = [net.draw(st.integers(0, min(2, min(x.shape[2:]) - 1))) for _ in range(4)]
    inputs: list[ir.Value | None] = [x.value, net.integers(0, 0, *sides[:2], 0, 0, *sides[2:])]
    if mode == "constant" and net.draw(st.booleans()):
        inputs.append(net.constant(np.float32(net.draw(st.sampled_from((0, 0, 1))))))
    shape = (*x.shape[:2], x.shape[2] + sides[0] + sides[2], x.shape[3] + sides[1] + sides[3])
    return Tensor(net.add("Pad", inputs, {"mode": mode}), shape)


def pool(net: Network, x: Tensor) -> Tensor:
    kind = net.draw(st.sampled_from(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean")))
    if kind.startswith("Global"):
        return Tensor(net.add(kind, [x.value]), (*x.shape[:2], 1, 1))
    if kind == "ReduceMean":
        if net.opset < 18:
            return Tensor(net.add(kind, [x.value], {"axes": [2, 3], "keepdims": 1}), (*x.shape[:2], 1, 1))
        return Tensor(net.add(kind, [x.value, net.integers(2, 3)], {"keepdims": 1}), (*x.shape[:2], 1, 1))
    if min(x.shape[2:]) < 3:
        return x
    stride, around = net.draw(st.sampled_from((1, 2))), net.draw(st.sampled_from((0, 1)))
    attributes: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [stride, stride], "pads": [around] * 4}
    if kind == "AveragePool":
        attributes["count_include_pad"] = net.draw(st.sampled_from((0, 1)))
    sizes = [(side + 2 * around - 3) // stride + 1 for side in x.shape[2:]]
    return Tensor(net.add(kind, [x.value], attributes), (*x.shape[:2], *sizes))


def resize(net: Network, x: Tensor) -> Tensor:
    if max(x.shape[2:]) > 16:
        return x
    mode = net.draw(st.sampled_from(("nearest", "linear")))
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    roi = net.constant(np.zeros(0, np.float32))
    value = net.add("Resize", [x.value, roi, scales], {"mode": mode, "coordinate_transformation_mode": "asymmetric"})
    return Tensor(value, (*x.shape[:2], *[2 * side for side in x.shape[2:]]))


def residual(net: Network, x: Tensor) -> Tensor:
    channels = x.shape[1]
    weight = net.weight(channels, channels, 3, 3)
    branch = net.add("Conv", [x.value, weight], {"pads": [1] * 4})
    if net.draw(st.booleans()):
        branch = net.add("Relu", [branch])
    order = [x.value, branch] if net.draw(st.booleans()) else [branch, x.value]
    kind = net.draw(st.sampled_from(("Add", "Add", "Mul", "Sub", "Concat")))
    if kind == "Concat":
        return Tensor(net.add(kind, order, {"axis": 1}), (x.shape[0], 2 * channels, *x.shape[2:]))
    return Tensor(net.add(kind, order), x.shape)


def joined(net: Network, x: Tensor) -> Tensor:
    """A constant in a Concat."""
    grid = net.constant(net.random.uniform(-1, 1, (x.shape[0], 2, *x.shape[2:])).astype(np.float32))
    return Tensor(net.add("Concat", [x.value, grid], {"axis": 1}), (x.shape[0], x.shape[1] + 2, *x.shape[2:]))


def split(net: Network, x: Tensor) -> Tensor:
    channels = x.shape[1]
    if channels % 2:
        return x
    if net.opset < 13:
        parts = net.add("Split", [x.value], {"axis": 1, "split": [channels // 2] * 2}, outputs=2)
    else:
        parts = net.add("Split", [x.value, net.integers(channels // 2, channels // 2)], {"axis": 1}, outputs=2)
    shape = (x.shape[0], channels // 2, *x.shape[2:])
    if net.draw(st.booleans()):
        return Tensor(net.add("Add", list(parts)), shape)
    return Tensor(net.add("Concat", list(reversed(parts)), {"axis": 1}), x.shape)


def gate(net: Network, x: Tensor) -> Tensor:
    """Squeeze and excite."""
    channels = x.shape[1]
    mean = net.add("GlobalAveragePool", [x.value])
    weighed = net.add("Conv", [mean, net.weight(channels, channels, 1, 1)])
    return Tensor(net.add("Mul", [x.value, net.add("Sigmoid", [weighed])]), x.shape)


def shuffle(net: Network, x: Tensor) -> Tensor:
    """Channels in another order, by shapes that are computed or written."""
    n, channels, height, width = x.shape
    if channels % 2 or channels < 2:
        return x
    value = net.add("Reshape", [x.value, net.integers(n, 2, channels // 2, height, width)])
    value = net.add("Transpose", [value], {"perm": [0, 2, 1, 3, 4]})
    if net.draw(st.booleans()):
        return Tensor(net.add("Reshape", [value, net.add("Shape", [x.value])]), x.shape)
    return Tensor(net.add("Reshape", [value, net.integers(*x.shape)]), x.shape)


def tokens(net: Network, x: Tensor) -> Tensor:
    """A product along the channels, its constant on either side and of any rank, and back to an image."""
    n, channels, height, width = x.shape
    out = net.draw(st.sampled_from((4, 8, 16, 20)))
    flat = net.add("Reshape", [x.value, net.integers(n, channels, height * width)])
    form = net.draw(st.sampled_from(("right", "left", "rank 3", "experts", "einsum", "attention")))
    if form == "left":
        product = net.add("MatMul", [net.weight(out, channels), flat])
        return Tensor(net.add("Reshape", [product, net.integers(n, out, height, width)]), (n, out, height, width))
    if form == "experts" and channels % 2 == 0:  # a matrix for each half of the channels
        halves = net.add("Reshape", [x.value, net.integers(n, 2, channels // 2, height * width)])
        last = net.add("Transpose", [halves], {"perm": [0, 1, 3, 2]})
        product = net.add("MatMul", [last, net.weight(2, channels // 2, out // 2)])
        back = net.add("Transpose", [product], {"perm": [0, 1, 3, 2]})
        return Tensor(net.add("Reshape", [back, net.integers(n, out, height, width)]), (n, out, height, width))
    last = net.add("Transpose", [flat], {"perm": [0, 2, 1]})
    match form:
        case "right":
            product = net.add("MatMul", [last, net.weight(channels, out)])
        case "rank 3":
            product = net.add("MatMul", [last, net.weight(1, channels, out)])
        case "einsum" if net.opset >= 12:
            product = net.add("Einsum", [last, net.weight(channels, out)], {"equation": "ntc,co->nto"})
        case _:
            query, key = (net.add("MatMul", [last, net.weight(channels, out)]) for _ in range(2))
            scores = net.add("MatMul", [query, net.add("Transpose", [key], {"perm": [0, 2, 1]})])
            scaled = net.add("Mul", [scores, net.constant(np.float32(out**-0.5))])
            attention = net.add("Softmax", [scaled], {"axis": 2})
            product = net.add("MatMul", [attention, net.add("MatMul", [last, net.weight(channels, out)])])
    back = net.add("Transpose", [product], {"perm": [0, 2, 1]})
    return Tensor(net.add("Reshape", [back, net.integers(n, out, height, width)]), (n, out, height, width))


def branch(net: Network, x: Tensor) -> Tensor:
    """A choice that the image decides, with a convolution in one of its branches."""
    channels = x.shape[1]
    mean = net.add("ReduceMean", [x.value], {"keepdims": 0})
    positive = net.add("Greater", [mean, net.constant(np.float32(0))])
    kind = ir.TensorType(ir.DataType.FLOAT)
    outer, net.nodes = net.nodes, []
    then = net.add("Conv", [x.value, net.weight(channels, channels, 1, 1)])
    inner, net.nodes = net.nodes, []
    other = net.add("Relu", [x.value])
    rest, net.nodes = net.nodes, outer
    for value in (then, other):
        value.type, value.shape = kind, ir.Shape(x.shape)
    graphs = [
        ir.Graph([], [value], nodes=nodes, name=net.name("branch")) for value, nodes in ((then, inner), (other, rest))
    ]
    attributes = {
        "then_branch": ir.AttrGraph("then_branch", graphs[0]),
        "else_branch": ir.AttrGraph("else_branch", graphs[1]),
    }
    return Tensor(net.add("If", [positive], attributes), x.shape)


def no_op(net: Network, x: Tensor) -> Tensor:
    kind = net.draw(st.sampled_from(("Identity", "Dropout", "Cast", "Reshape", "Slice", "Relu")))
    match kind:
        case "Cast":
            return Tensor(net.add("Cast", [x.value], {"to": ir.DataType.FLOAT}), x.shape)
        case "Reshape":
            return Tensor(net.add("Reshape", [x.value, net.integers(*x.shape)]), x.shape)
        case "Slice":
            end = net.integers(np.iinfo(np.int64).max)
            return Tensor(net.add("Slice", [x.value, net.integers(0), end, net.integers(2)]), x.shape)
    return Tensor(net.add(kind, [x.value]), x.shape)


STEPS = (
    convolution, convolution, convolution, activation, activation, normalization, affine, pad, pool, resize, residual,
    joined, split, gate, shuffle, tokens, no_op, transposed_convolution, branch,
)  # fmt: skip


def head(net: Network, x: Tensor) -> Tensor:
    kind = net.draw(st.sampled_from(("gemm", "gemm", "matmul", "convolution", "none")))
    out, channels = net.draw(st.sampled_from((5, 16, 20))), x.shape[1]
    if kind == "convolution":
        value = net.add("Conv", [x.value, net.weight(out, channels, 1, 1)])
        return Tensor(value, (x.shape[0], out, *x.shape[2:]))
    if kind == "none":
        return x
    pooled = net.add("GlobalAveragePool", [x.value])
    flat = net.add("Flatten", [pooled])
    if kind == "matmul":
        return Tensor(net.add("MatMul", [flat, net.weight(channels, out)]), (x.shape[0], out))
    transposed = net.draw(st.booleans())
    weight = net.weight(out, channels) if transposed else net.weight(channels, out)
    bias = net.constant(net.random.normal(0, 0.1, out).astype(np.float32))
    value = net.add("Gemm", [flat, weight, bias], {"transB": int(transposed)})
    if net.draw(st.booleans()):
        value = net.add("Softmax", [value], {"axis": 1})
    return Tensor(value, (x.shape[0], out))


@st.composite
def networks(draw: Callable[[st.SearchStrategy[Any]], Any]) -> onnx.ModelProto:
    """A network of images, of one or more layers, in one of the opsets that files have."""
    opset = draw(st.sampled_from(OPSETS))
    net = Network(draw, opset, np.random.default_rng(draw(st.integers(0, 1 << 16))))
    shape = (1, draw(st.sampled_from((1, 3, 4))), *draw(st.sampled_from(((12, 12), (16, 16), (9, 14)))))
    image = ir.val(draw(st.sampled_from(("x", "images", "x/scale"))), ir.DataType.FLOAT, ir.Shape(shape))
    x = convolution(net, Tensor(image, shape)) if draw(st.integers(0, 4)) else Tensor(image, shape)
    for step in draw(st.lists(st.sampled_from(STEPS), max_size=MOST_STEPS)):
        if len(x.shape) == 4 and np.prod(x.shape) < 40_000 and max(x.shape[2:]) < 40:
            x = step(net, x)
    x = head(net, x)
    if x.value is image:
        x = convolution(net, Tensor(image, shape))
    if x.value is image:
        x = Tensor(net.add("Conv", [image, net.weight(8, shape[1], 1, 1)]), (1, 8, *shape[2:]))
    x.value.type, x.value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(x.shape)
    graph = ir.Graph(
        [image], [x.value], nodes=net.nodes, initializers=net.constants, opset_imports={"": opset}, name="g"
    )
    return ir.to_proto(ir.Model(graph, ir_version=10 if opset > 19 else 8))


def run(model: onnx.ModelProto, samples: NDArray[np.float32]) -> list[NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [session.run(None, {name: sample[None]})[0] for sample in samples]


def pictures(shape: list[int]) -> NDArray[np.float32]:
    """(samples, C, H, W) smooth numbers from -1 to 1; noise alone would vanish in averages."""
    random = np.random.default_rng(0)
    coarse = random.uniform(-1, 1, (SAMPLES, shape[0], 3, 3))
    rows, columns = ((np.arange(side) * 3) // side for side in shape[1:])
    noisy = coarse[:, :, rows][..., columns] + random.normal(0, 0.1, (SAMPLES, *shape))
    return np.clip(noisy, -1, 1).astype(np.float32)


def loads(model: bytes, scheme: str) -> None:
    """Open a file in every engine of its scheme that is here."""
    import onnxruntime
    import openvino

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    if scheme in ("openvino", "arm"):
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        openvino.Core().compile_model(openvino.Core().read_model(model), "CPU", settings)


def problems(model: onnx.ModelProto, folder: Path, schemes: tuple[str, ...] = SCHEMES) -> list[str]:
    """Quantize a network in every scheme; say what went wrong, each beginning with its kind."""
    from edgeopt.config import CalibrateConfig, QuantizeConfig
    from edgeopt.errors import AccuracyError, EdgeoptError
    from edgeopt.pipeline.standalone import quantize_file
    from edgeopt.progress import Silent

    shape = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim][1:]
    samples = pictures(shape)
    try:
        onnx.checker.check_model(model, full_check=True)
        exact = run(model, samples)
    except Exception as error:  # noqa: BLE001 - the generator's own mistake, which is not looked for
        return [f"not a network: {error}"]
    if not all(np.isfinite(each).all() for each in exact):
        return ["not a network: not finite"]
    onnx.save(model, folder / "float.onnx")
    np.savez(folder / "c.npz", **{model.graph.input[0].name: samples})
    found = []
    for scheme in schemes:
        out = folder / f"{scheme}.onnx"
        out.unlink(missing_ok=True)
        config = QuantizeConfig(scheme=scheme, repairs=())
        calibration = CalibrateConfig(minimum_images=4, method="minmax")
        try:
            quantize_file(
                folder / "float.onnx", folder / "c.npz", None, calibration, config, out, Silent(),
                max_discrepancy=10.0,
            )  # fmt: skip
        except AccuracyError as error:
            found.append(f"far: {scheme}: {error}")
            continue
        except EdgeoptError as error:
            found.append(f"refused: {scheme}: {error}")
            continue
        except Exception as error:  # noqa: BLE001 - that is what this looks for
            found.append(f"traceback: {scheme}: {type(error).__name__}: {error}")
            continue
        made = onnx.load(out)
        try:
            onnx.checker.check_model(made, full_check=True)
            loads(made.SerializeToString(), scheme)
            results = run(made, samples)
        except Exception as error:  # noqa: BLE001
            found.append(f"invalid: {scheme}: {type(error).__name__}: {error}")
            continue
        signal = np.sqrt(np.mean([np.square(each).mean() for each in exact]))
        error_ = np.sqrt(np.mean([np.square(a - b).mean() for a, b in zip(exact, results, strict=True)]))
        spread = max(signal, 1e-6)
        if error_ / spread > 0.25:
            found.append(f"far: {scheme}: {error_ / spread:.2f} of the signal")
    return found


def main() -> int:
    """Make as many networks as asked for, print what went wrong with them, and keep those files."""
    import hypothesis

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the networks that fail")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    counts: collections.Counter[str] = collections.Counter()

    @hypothesis.settings(
        max_examples=arguments.count, deadline=None, database=None, phases=(hypothesis.Phase.generate,),
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.seed(arguments.seed)
    @hypothesis.given(networks())
    def every(model: onnx.ModelProto) -> None:
        with tempfile.TemporaryDirectory() as folder:
            found = problems(model, Path(folder))
        counts["networks"] += 1
        counts.update(problem.split(":")[0] for problem in found)
        for problem in found:
            sys.stdout.write(f"{counts['networks']}: {' '.join(problem.split())[:400]}\n")
        sys.stdout.flush()
        if arguments.keep is not None and any(not each.startswith(("refused", "not a")) for each in found):
            arguments.keep.mkdir(parents=True, exist_ok=True)
            onnx.save(model, arguments.keep / f"{arguments.seed}_{counts['networks']}.onnx")

    every()
    sys.stdout.write(", ".join(f"{count} {what}" for what, count in counts.items()) + "\n")
    return int(counts["traceback"] + counts["invalid"] + counts["far"] > 0)


if __name__ == "__main__":
    sys.exit(main())
