"""Inputs beside the image and several outputs: found in the file, filled everywhere, judged by their meaning."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.boxes import Geometry
from edgeopt.config import ExportConfig, ModelConfig
from edgeopt.errors import ModelError
from edgeopt.evaluate import Runner
from edgeopt.export import export
from edgeopt.metrics import Discrepancy, readings_of
from edgeopt.postprocess import decode
from edgeopt.preprocess import feed
from edgeopt.runtime.ort import OrtSession
from edgeopt.source import resolve
from edgeopt.spec import (
    AuxiliaryInput,
    ModelSpec,
    Normalization,
    Preprocessing,
    Resize,
    TensorSpec,
    preset,
    replace,
)

PREPROCESSING = Preprocessing(steps=(Resize(size=(8, 8)),), normalization=Normalization())
SIZED = """
    <ir_version: 8, opset_import: ["" : 17]>
    graph (float[1, 3, 8, 8] images, int64[1, 2] SIZE) => (int64[1, 2] labels, float[1, 2, 4] boxes, float[1, 2] scores)
    <float[1, 2, 4] shares = {0.0, 0.0, 0.5, 1.0, 0.25, 0.5, 1.0, 1.0}, int64[1, 2] numbers = {0, 1},
     int64[1] one = {1}, float[1, 2] base = {0.9, 0.4}, int64[1] none = {0}>
    {
        sides = Cast<to = 1>(SIZE)
        four = Concat<axis = 1>(sides, sides)
        frame = Unsqueeze(four, one)
        boxes = Mul(shares, frame)
        mean = ReduceMean<keepdims = 0, axes = [1, 2, 3]>(images)
        zero = Sub(mean, mean)
        scores = Add(base, zero)
        labels = Identity(numbers)
    }
"""


def opened(folder: Path, name: str = "orig_target_sizes", **changes: Any) -> Any:
    ir.save(ir.from_onnx_text(textwrap.dedent(SIZED.replace("SIZE", name))), folder / "m.onnx")
    config = {"source": "m.onnx", "labels": ("a", "b"), "preprocessing": PREPROCESSING, "decoding": "rtdetr", **changes}
    return resolve(ModelConfig(**config), folder)


def test_an_input_of_the_pictures_size_is_known_by_its_name_and_filled(tmp_path: Path) -> None:
    result = export(opened(tmp_path), ExportConfig())
    assert [each.holds for each in result.spec.auxiliary] == ["original_size"]
    with OrtSession(ir.to_proto(result.model).SerializeToString()) as session:
        runner = Runner(session.run, result.spec)
        prepared = runner.prepare_batch([np.zeros((20, 40, 3), np.uint8)])
        inferred = runner.infer(prepared)
    (found,) = decode(inferred.outputs, result.spec, inferred.geometries)
    assert found.boxes.tolist() == [[0, 0, 20, 20], [10, 10, 40, 20]]
    assert found.labels == ("a", "b")


def test_an_input_that_nobody_knows_is_described_in_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"takes 'frame_size' .* holds = "):
        opened(tmp_path, "frame_size")
    told = AuxiliaryInput(name="frame_size", holds="constant", value=(100, 50))
    spec = opened(tmp_path, "frame_size", inputs=(told,)).spec
    tensors = feed(spec, np.zeros((1, 3, 8, 8), np.float32), [])
    assert tensors["frame_size"].tolist() == [[100, 50]]
    assert tensors["frame_size"].dtype == np.int64
    with pytest.raises(ModelError, match=r"has no input 'frame'.*Did you mean 'frame_size'"):
        opened(tmp_path, "frame_size", inputs=(replace(told, name="frame"),))
    with pytest.raises(ModelError, match="holds 2 numbers an image, and 3 are given"):
        opened(tmp_path, "frame_size", inputs=(replace(told, value=(1, 2, 3)),))


@pytest.mark.parametrize(
    ("holds", "order", "expected"),
    [
        ("original_size", "hw", [20, 40]),
        ("original_size", "wh", [40, 20]),
        ("network_size", "wh", [16, 8]),
        ("scale", "hw", [0.4, 0.2]),
    ],
)
def test_inputs_are_sizes_and_factors_in_either_order(holds: Any, order: Any, expected: list[float]) -> None:
    spec = ModelSpec(
        name="m",
        task="detection",
        input=TensorSpec(name="x", shape=("N", 3, 8, 16)),
        auxiliary=(AuxiliaryInput(name="also", holds=holds, order=order),),
        outputs=(),
        preprocessing=PREPROCESSING,
        decoding=preset("rtdetr"),
        labels=("a",),
    )
    tensors = feed(spec, np.zeros((1, 3, 8, 16), np.float32), [Geometry(0.2, 0.4, 0, 0, 40, 20)])
    np.testing.assert_allclose(tensors["also"], [expected], rtol=1e-6)


def reading(name: str, **shapes: tuple[int, ...]) -> Discrepancy:
    tensors = tuple(TensorSpec(name=key, shape=shape) for key, shape in shapes.items())
    spec = ModelSpec(
        name="m",
        task="detection",
        input=TensorSpec(name="x", shape=(1, 3, 64, 64)),
        outputs=tensors,
        preprocessing=PREPROCESSING,
        decoding=preset(name),
        labels=("a", "b", "c"),
    )
    return Discrepancy(readings_of(spec))


def test_rows_that_the_network_ranks_are_compared_with_the_same_object() -> None:
    compare = reading("yolov10", output0=(1, 4, 6))
    rows = np.array([[[0, 0, 9, 9, 0.9, 0], [20, 20, 40, 40, 0.8, 1], [1, 1, 5, 5, 0.2, 2], [2, 2, 6, 6, 0.1, 0]]])
    swapped = rows[:, [1, 0, 2, 3]].copy()
    assert compare([rows], [swapped]) == pytest.approx(0.0, abs=1e-9)
    assert compare([rows], [rows[:, ::-1] * [1, 1, 1, 1, 0.5, 1]]) > 0.05


def test_no_rows_beside_some_are_an_error_and_beside_none_are_not() -> None:
    compare = reading("yolo_nas_flat", output=(0, 7))
    rows, none = np.array([[0, 0, 0, 9, 9, 0.9, 1.0]]), np.zeros((0, 7))
    assert compare([none], [none]) == 0.0
    assert compare([rows], [none]) > 0.5
    assert compare([none], [rows]) > 0.5


def test_levels_of_a_head_count_as_one_and_where_there_is_background_boxes_mean_nothing() -> None:
    shapes = {
        f"{kind}{stride}": (1, columns, 64 // stride, 64 // stride)
        for stride in (8, 16, 32)
        for kind, columns in (("b", 64), ("s", 3))
    }
    compare = reading("yolov8_levels", **shapes)
    rng = np.random.default_rng(0)
    outputs = [rng.normal(0, 1, shape) if name[0] == "b" else np.full(shape, -20.0) for name, shape in shapes.items()]
    outputs[1][0, 1, 2, 3] = 4.0  # one object of the finest level
    moved = [each.copy() for each in outputs]
    moved[4] += rng.normal(0, 3, moved[4].shape)  # the coarsest level sees background only
    assert compare(outputs, moved) < 1e-9
    moved = [each.copy() for each in outputs]
    moved[0][0, :, 2, 3] = rng.normal(0, 3, 64)
    assert compare(outputs, moved) > 0.01
