"""Tails in a whole bundle: cut off or put on, INT8 is built before them, and the same objects are found."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from edgeopt.bundle import Bundle
from edgeopt.cli import main
from edgeopt.lint.parsers import accepted
from edgeopt.postprocess import Detections
from edgeopt.runtime import load

SIDE, CLASSES = 64, 3
QUICK = (
    "--set", "benchmark.duration_s=0.05", "--set", "benchmark.warmup_s=0", "--set", "benchmark.minimum_queries=4",
    "--set", 'compile.targets=["ort", "ov", "trt"]', "--set", "quantize.repairs=[]",
    "--set", "calibrate.minimum_images=4",
)  # fmt: skip
BODY = """
    a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (images, wa)  ar = Relu (a)
    b = Conv <pads = [1, 1, 1, 1], strides = [4, 4]> (ar, wb)  br = Relu (b)
    c = Conv (br, wc)
    f = Reshape (c, flat)
    s = Sigmoid (f)
    y = Mul (s, scale)
"""
"""Centres and sizes in pixels and scores, from one level of 8 x 8 cells: (1, 7, 64), as Ultralytics writes YOLOv8."""
BEST = """
    turned = Transpose <perm = [0, 2, 1]> (y)
    xy, wh, all = Split <axis = 2> (turned, parts)
    half = Mul (wh, middle)  first = Sub (xy, half)  last = Add (xy, half)
    boxes = Concat <axis = 2> (first, last)
    top = ReduceMax <axes = [2], keepdims = 0> (all)
    best, index = TopK <axis = 1> (top, many)
    number = ArgMax <axis = 2, keepdims = 0> (all)
    at = Unsqueeze (index, two)
    chosen = GatherND <batch_dims = 1> (boxes, at)
    classes = GatherND <batch_dims = 1> (number, at)
    named = Cast <to = 1> (classes)
    score = Unsqueeze (best, two)  column = Unsqueeze (named, two)
    output0 = Concat <axis = 2> (chosen, score, column)
"""


def write(path: Path, *, whole: bool = False) -> Path:
    """Write a detector with seeded weights, which ends in its candidates or in the best 20 of them."""
    rng = np.random.default_rng(3)
    shape = "1, 20, 6" if whole else f"1, {4 + CLASSES}, 64"
    end = BEST if whole else "output0 = Identity (y)"
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> g (float[1, 3, {SIDE}, {SIDE}] images) => '
        f"(float[{shape}] output0) {{ {BODY} {end} }}"
    )
    scale = np.ones((1, 4 + CLASSES, 1), np.float32)
    scale[:, :2], scale[:, 2:4] = SIDE, SIDE / 3
    constants = {
        "wa": rng.normal(0, 0.4, (16, 3, 3, 3)), "wb": rng.normal(0, 0.2, (32, 16, 3, 3)),
        "wc": rng.normal(0, 0.05, (4 + CLASSES, 32, 1, 1)), "scale": scale, "middle": np.float32(0.5),
    }  # fmt: skip
    integers = {"flat": [1, 4 + CLASSES, 64], "parts": [2, 2, CLASSES], "many": [20], "two": [2]}
    arrays = {name: np.asarray(array, np.float32) for name, array in constants.items()}
    for name, array in (arrays | {name: np.int64(values) for name, values in integers.items()}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    metadata = {"author": "Ultralytics", "task": "detect", "stride": "8", "imgsz": f"[{SIDE}, {SIDE}]"}
    metadata |= {"names": str({number: f"thing {number}" for number in range(CLASSES)})}
    for key, value in (metadata | ({"end2end": "True"} if whole else {})).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(24):
        picture = cv2.resize(rng.integers(0, 256, (5, 5, 3), np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder


def built(model: Path, photos: Path, tail: str) -> Bundle:
    out = model.parent / tail
    command = ["build", str(model), "--data", str(photos), "--out", str(out), *QUICK, "--set", f'model.tail="{tail}"']
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return Bundle.open(next(out.glob("*.edgeopt")))


def found(bundle: Bundle, photos: Path, variant: str = "ort-fp32") -> list[tuple[int, list[float]]]:
    """Return classes and boxes that a variant finds in a picture, the best first."""
    with load(bundle.path, variant=variant) as predictor:
        result = predictor.predict(photos / "0.png")
    assert isinstance(result, Detections)
    rows = sorted(
        zip(result.scores.round(4), result.classes.tolist(), result.boxes.tolist(), strict=True), reverse=True
    )
    return [(number, box) for _, number, box in rows]


def require_parsed(graph: Path) -> None:
    """Check that TensorRT's parsers have each operator, and that the one that is installed takes the graph."""
    network = onnx.load(graph)
    assert {node.op_type for node in network.graph.node} <= accepted("8.5")
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return
    library = importlib.import_module("tensorrt_rtx")
    log = library.Logger(library.Logger.ERROR)
    definition = library.Builder(log).create_network(0)
    parser = library.OnnxParser(definition, log)
    assert parser.parse(network.SerializeToString()), parser.get_error(0).desc()


def same(left: list[tuple[int, list[float]]], right: list[tuple[int, list[float]]]) -> None:
    assert len(left) > 1
    assert [number for number, _ in left] == [number for number, _ in right]
    np.testing.assert_allclose([box for _, box in left], [box for _, box in right], atol=0.01)


@pytest.fixture(scope="module")
def plain(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return built(write(tmp_path_factory.mktemp("plain") / "m.onnx"), photos, "keep")


@pytest.mark.parametrize(("tail", "operator"), [("topk", "TopK"), ("nms", "NonMaxSuppression")])
def test_a_tail_that_is_put_on_is_in_every_variant(
    tail: str, operator: str, plain: Bundle, photos: Path, tmp_path: Path
) -> None:
    bundle = built(write(tmp_path / "m.onnx"), photos, tail)
    variants = {variant.name: variant for variant in bundle.manifest.variants}
    assert {"ort-fp32", "ort-int8", "ov-fp32", "ov-int8", "trt-fp32", "trt-fp16", "trt-int8"} == set(variants)
    assert all(operator in variant.nodes for variant in variants.values())
    for target in ("ort", "ov"):
        assert variants[f"{target}-int8"].nodes["QuantizeLinear"] >= 3
        for precision in ("fp32", "int8"):
            name = f"{target}-{precision}"
            same(found(bundle, photos, name), found(plain, photos, name))
    for name in ("trt-fp16", "trt-int8"):
        require_parsed(bundle.file(name))


def test_a_tail_that_is_cut_off_is_in_no_variant(photos: Path, tmp_path: Path) -> None:
    model = write(tmp_path / "m.onnx", whole=True)
    whole, cut = built(model, photos, "keep"), built(model, photos, "cut")
    for variant in cut.manifest.variants:
        assert "TopK" not in variant.nodes
    assert next(each for each in cut.manifest.variants if each.precision == "int8").nodes["QuantizeLinear"] >= 3
    for target in ("ort", "ov"):
        best = found(whole, photos, f"{target}-fp32")
        same(found(cut, photos, f"{target}-fp32")[: len(best)], best)
