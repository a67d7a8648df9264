"""Tails of detectors: cut off, the rest with its decoding finds what the whole network finds."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.config import ModelConfig
from edgeopt.errors import ModelError
from edgeopt.postprocess import Detections, decode
from edgeopt.preprocess import batch, feed
from edgeopt.runtime.ort import OrtSession
from edgeopt.source import resolve
from edgeopt.spec import Decoding, Normalization, Preprocessing, Resize, preset, replace

PREPROCESSING = Preprocessing(steps=(Resize(size=(32, 32)),), normalization=Normalization())
HEAD = """
        maps = Conv<strides = [4, 4], kernel_shape = [4, 4]>(images, weights)
        flat = Reshape(maps, to_rows)
        rows = Transpose<perm = [0, 2, 1]>(flat)
        places, logits = Split<axis = 2>(rows, sizes)
        near = Sigmoid(places)
        moved = Mul(near, twenty)
        low, span = Split<axis = 2>(moved, halves)
        high = Add(low, span)
        corners = Concat<axis = 2>(low, high)
        scores = Sigmoid(logits)
"""
CONSTANTS = """int64[3] to_rows = {1, 7, 64}, int64[2] sizes = {4, 3}, int64[2] halves = {2, 2}, float twenty = {14.0},
         int64[1] ten = {10}, int64[2] all = {1, -1}, int64 classes = {3}, int64[1] two = {2},
         int64[3] four = {1, 1, 4}, int64[1] one = {1}, int64[1] zero = {0}, int64[2] class_and_row = {1, 2},
         float[1] iou = {0.4}, float[1] lowest = {0.05}, float hundred = {100}, int64[2] zero_one = {0, 1}"""
TOP_K = """
        all_scores = Reshape(scores, all)
        best, index = TopK<axis = 1>(all_scores, ten)
        number = Mod(index, classes)
        row = Div(index, classes)
        row3 = Unsqueeze(row, two)
        row4 = Tile(row3, four)
        chosen = GatherElements<axis = 1>(corners, row4)
        best3 = Unsqueeze(best, two)
        number3 = Unsqueeze(number, two)
        numbers = Cast<to = 1>(number3)
        output = Concat<axis = 2>(chosen, best3, numbers)
"""
SUPPRESSED = """
        by_class = Transpose<perm = [0, 2, 1]>(scores)
        kept = NonMaxSuppression(corners, by_class, ten, iou, lowest)
        image = Gather<axis = 1>(kept, zero)
        number = Gather<axis = 1>(kept, one)
        place = Gather<axis = 1>(kept, two)
        place1 = Squeeze(place, one)
        alone = Squeeze(corners, zero)
        found = Gather<axis = 0>(alone, place1)
        alone_scores = Squeeze(by_class, zero)
        pairs = Gather<axis = 1>(kept, class_and_row)
        score1 = GatherND(alone_scores, pairs)
        score = Unsqueeze(score1, one)
        images_f = Cast<to = 1>(image)
        number_f = Cast<to = 1>(number)
        output = Concat<axis = 1>(images_f, found, score, number_f)
"""
BY_CLASS = """
        flat_boxes = Squeeze(corners, zero)
        flat_scores = Squeeze(scores, zero)
        most = ReduceMax<axes = [1], keepdims = 0>(flat_scores)
        kind = ArgMax<axis = 1, keepdims = 0>(flat_scores)
        good = Greater(most, lowest)
        found = NonZero(good)
        at = Transpose<perm = [1, 0]>(found)
        some = GatherND(flat_boxes, at)
        best = GatherND(most, at)
        kinds = GatherND(kind, at)
        kinds_f = Cast<to = 1>(kinds)
        shift = Mul(kinds_f, hundred)
        shift2 = Unsqueeze(shift, one)
        apart = Add(some, shift2)
        apart3 = Unsqueeze(apart, zero)
        best3 = Unsqueeze(best, zero_one)
        kept = NonMaxSuppression(apart3, best3, ten, iou)
        place = Gather<axis = 1>(kept, two)
        place1 = Squeeze(place, one)
        boxes = Gather<axis = 0>(some, place1)
        score = Gather<axis = 0>(best, place1)
        labels = Gather<axis = 0>(kinds, place1)
"""
"""Suppression by class in one call: each class's boxes are moved to a place of their own, as torchvision does it."""
BINS = """
    <ir_version: 8, opset_import: ["" : 17]>
    graph (float[1, 3, 32, 32] images) => (float[1, 7, 64] output)
    <int64[3] to_rows = {1, 35, 64}, int64[2] sizes = {32, 3}, int64[4] apart = {1, 4, 8, 64},
     float[1, 8, 1, 1] counts = {0, 1, 2, 3, 4, 5, 6, 7}, int64[3] sides = {1, 4, 64}, int64[2] halves = {2, 2},
     float half = {0.5}, float stride = {4}>
    {
        maps = Conv<strides = [4, 4], kernel_shape = [4, 4]>(images, weights)
        flat = Reshape(maps, to_rows)
        bins, logits = Split<axis = 1>(flat, sizes)
        by_side = Reshape(bins, apart)
        turned = Transpose<perm = [0, 2, 1, 3]>(by_side)
        shares = Softmax<axis = 1>(turned)
        means = Conv(shares, counts)
        distances = Reshape(means, sides)
        before, behind = Split<axis = 1>(distances, halves)
        low = Sub(points, before)
        high = Add(points, behind)
        both = Add(low, high)
        centre = Mul(both, half)
        span = Sub(high, low)
        in_cells = Concat<axis = 1>(centre, span)
        boxes = Mul(in_cells, stride)
        scores = Sigmoid(logits)
        output = Concat<axis = 1>(boxes, scores)
    }
"""
PLUGIN = """
        num_dets, det_boxes, det_scores, det_classes = TRT.EfficientNMS_TRT<
            score_activation: int = 1, box_coding: int = 0, background_class: int = -1, max_output_boxes: int = 50,
            score_threshold: float = 0.2, iou_threshold: float = 0.4>(corners, logits)
"""


def write(path: Path, tail: str, outputs: str, domain: str = "") -> Path:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17{domain}]>
    graph (float[1, 3, 32, 32] images) => ({outputs})
    <{CONSTANTS}>
    {{{HEAD}{tail}}}
    """
    model = ir.from_onnx_text(textwrap.dedent(text))
    weights = np.random.default_rng(0).normal(0, 0.5, (7, 3, 4, 4)).astype(np.float32)
    value = next(each.inputs[1] for each in model.graph if each.op_type == "Conv")
    value.const_value = ir.tensor(weights, name="weights")
    model.graph.register_initializer(value)
    ir.save(model, path)
    return path


def source(path: Path, tail: str, decoding: Decoding | str | None) -> Any:
    config = ModelConfig(
        source=path.name, labels=("a", "b", "c"), preprocessing=PREPROCESSING, decoding=decoding, tail=tail
    )
    return resolve(config, path.parent)


def found(opened: Any, threshold: float = 0.1) -> list[Detections]:
    """Detections in a few pictures that the comparison has not seen."""
    decoding = replace(opened.spec.decoding, score_threshold=threshold, max_detections=10)
    results = []
    with OrtSession(ir.to_proto(opened.onnx).SerializeToString()) as session:
        for seed in range(4):
            picture = np.random.default_rng(seed + 10).integers(0, 256, (40, 50, 3), np.uint8)
            tensor, geometries = batch([picture], opened.spec.preprocessing)
            outputs = session.run(feed(opened.spec, tensor, geometries))
            results += decode(outputs, replace(opened.spec, decoding=decoding), geometries)
    return results


@pytest.mark.parametrize(
    ("tail", "outputs", "name"),
    [(TOP_K, "float[1, 10, 6] output", "yolov10"), (SUPPRESSED, "float[n, 7] output", "yolo_nas_flat")],
    ids=["TopK", "NonMaxSuppression"],
)
def test_without_its_tail_a_network_finds_the_same(tail: str, outputs: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", tail, outputs)
    whole, cut = source(path, "keep", name), source(path, "cut", name)
    assert not {node.op_type for node in cut.onnx.graph} & {"TopK", "NonMaxSuppression", "GatherND", "GatherElements"}
    assert [tensor.shape for tensor in cut.spec.outputs] == [(1, 64, 4), (1, 64, 3)]
    same(found(whole), found(cut))


def same(expected: list[Detections], actual: list[Detections]) -> None:
    assert sum(len(each) for each in expected) > 8
    for own, other in zip(expected, actual, strict=True):
        np.testing.assert_allclose(own.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(own.boxes, other.boxes, atol=1e-3)
        assert own.classes.tolist() == other.classes.tolist()


def test_suppression_that_moves_classes_apart_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", BY_CLASS, "float[n, 4] boxes, float[n] score, int64[n] labels")
    by_place = replace(preset("torchvision"), numbering=0)
    whole, cut = source(path, "keep", by_place), source(path, "cut", by_place)
    assert not {node.op_type for node in cut.onnx.graph} & {"NonMaxSuppression", "NonZero", "GatherND"}
    assert (cut.spec.decoding.choice, cut.spec.decoding.class_agnostic) == ("best", False)
    same(found(whole), found(cut))


def test_classes_that_a_tail_counts_from_one_are_cut_off(tmp_path: Path) -> None:
    tail = BY_CLASS.replace("labels = Gather", "found_labels = Gather") + "labels = Add(found_labels, one)\n"
    path = write(tmp_path / "m.onnx", tail, "float[n, 4] boxes, float[n] score, int64[n] labels")
    whole, cut = source(path, "keep", "torchvision"), source(path, "cut", "torchvision")
    assert (whole.spec.decoding.numbering, cut.spec.decoding.numbering) == (1, 0)
    same(found(whole), found(cut))


def test_means_over_bins_are_cut_off_and_decoded_on_the_host(tmp_path: Path) -> None:
    model = ir.from_onnx_text(textwrap.dedent(BINS))
    y, x = np.mgrid[:8, :8] + 0.5
    rng = np.random.default_rng(0)
    layers = {
        "weights": rng.normal(0, 0.6, (35, 3, 4, 4)).astype(np.float32),
        "points": np.stack([x.ravel(), y.ravel()])[None].astype(np.float32),
    }
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.name in layers and value.const_value is None:
                value.const_value = ir.tensor(layers[value.name], name=value.name)
                model.graph.register_initializer(value)
    ir.save(model, tmp_path / "m.onnx")
    strides = replace(preset("yolov8"), iou_threshold=0.6)
    whole, cut = source(tmp_path / "m.onnx", "keep", strides), source(tmp_path / "m.onnx", "cut", strides)
    assert (cut.spec.decoding.form, cut.spec.decoding.grid.strides) == ("dfl", (4,))
    assert "Softmax" not in {node.op_type for node in cut.onnx.graph}
    same(found(whole), found(cut))


def test_efficient_nms_is_cut_off_and_its_attributes_become_the_decoding(tmp_path: Path) -> None:
    outputs = "int32[1, 1] num_dets, float[1, 50, 4] det_boxes, float[1, 50] det_scores, int32[1, 50] det_classes"
    path = write(tmp_path / "plugin.onnx", PLUGIN, outputs, ', "TRT" : 1')
    with pytest.raises(ModelError, match=r'EfficientNMS_TRT.*tail = "cut"'):
        source(path, "keep", "efficient_nms")
    cut = source(path, "cut", "efficient_nms")
    assert (cut.spec.decoding.iou_threshold, cut.spec.decoding.activation) == (pytest.approx(0.4), "sigmoid")
    suppressed = source(write(tmp_path / "nms.onnx", SUPPRESSED, "float[n, 7] output"), "keep", "yolo_nas_flat")
    for own, other in zip(found(suppressed, 0.3), found(cut, 0.3), strict=True):
        np.testing.assert_allclose(own.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(own.boxes, other.boxes, atol=1e-3)


def test_a_network_without_a_tail_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "output = Concat<axis = 2>(corners, scores)", "float[1, 64, 7] output")
    described = replace(preset("deepstream"), scores=preset("ultralytics_rtdetr_queries").scores, classes=None)
    with pytest.raises(ModelError, match="ends in no TopK or NonMaxSuppression"):
        source(path, "cut", described)


@pytest.mark.parametrize("tail", ["cut", "topk", "nms"])
def test_a_network_that_is_no_graph_yet_is_told_instead_of_left_as_it_is(tail: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"tail is '{tail}', and edgeopt:yolox_nano is not an ONNX graph"):
        resolve(ModelConfig(source="edgeopt:yolox_nano", tail=tail), tmp_path, ("a", "b"))
