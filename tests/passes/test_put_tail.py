"""Tails that are put on: the graph's rows are those that decoding finds in all candidates, for every form of boxes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.recorded_decoders import RECORDS, Recorded
from edgeopt.errors import ModelError
from edgeopt.passes.rewrite.put_tail import CANDIDATES, put_tail
from edgeopt.postprocess import Detections, decode
from edgeopt.preprocess import Geometry
from edgeopt.runtime.ort import OrtSession
from edgeopt.runtime.ov import OvSession
from edgeopt.spec import ClassificationDecoding, ModelSpec, replace

DENSE = [name for name in RECORDS if "classes" not in Recorded(name).spec.decoding.parts]


def network(outputs: dict[str, np.ndarray]) -> ir.Model:
    """A network that gives these numbers for any image."""
    names = [f"out{index}" for index in range(len(outputs))]
    shapes = [list(array.shape) for array in outputs.values()]
    declared = ", ".join(f"float{shape} {name}" for shape, name in zip(shapes, names, strict=True))
    lines = "\n".join(f"{name} = Add(given_{name}, moved)" for name in names)
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, 8, 8] x) => ({declared}) '
        f"<float nothing = {{0.0}}> {{ mean = ReduceMean<keepdims = 0>(x) moved = Mul(mean, nothing) {lines} }}"
    )
    given = {f"given_{name}": array for name, array in zip(names, outputs.values(), strict=True)}
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.name in given and value.const_value is None:
                value.const_value = ir.tensor(given[value.name], name=value.name)
                model.graph.register_initializer(value)
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    return model


def run(model: ir.Model, session: Any = OrtSession) -> dict[str, np.ndarray]:
    with session(ir.to_proto(model).SerializeToString()) as opened:
        return dict(opened.run({"x": np.ones((1, 3, 8, 8), np.float32)}))


def detected(outputs: dict[str, np.ndarray], spec: ModelSpec) -> Detections:
    (found,) = decode(outputs, spec, [Geometry(1, 1, 0, 0, spec.input.shape[3], spec.input.shape[2])])
    assert isinstance(found, Detections)
    return found


def same(found: Detections, expected: Detections) -> None:
    assert len(expected) > 5
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    order = [
        sorted(zip(each.scores.round(4), each.classes, each.boxes.tolist(), strict=True)) for each in (found, expected)
    ]
    for own, other in zip(*order, strict=True):
        assert own[1] == other[1]
        np.testing.assert_allclose(own[2], other[2], rtol=1e-4, atol=5e-3)


@pytest.mark.parametrize("tail", ["topk", "nms"])
@pytest.mark.parametrize("name", DENSE)
def test_a_tail_gives_what_decoding_finds(name: str, tail: Any) -> None:
    recorded = Recorded(name)
    spec = recorded.spec
    built, changed = put_tail(network(recorded.outputs), spec, tail)
    same(detected(run(built), changed), detected(recorded.outputs, spec))
    assert changed.outputs[0].shape[1] in (6, 7) or changed.outputs[0].shape[2] == 6


@pytest.mark.parametrize("name", ["yolov8", "yolov5_levels", "yolox", "nanodet_plus", "rtdetr_logits"])
def test_a_tail_runs_in_openvino_too(name: str) -> None:
    recorded = Recorded(name)
    for tail in ("topk", "nms"):
        built, changed = put_tail(network(recorded.outputs), recorded.spec, tail)
        same(detected(run(built, OvSession), changed), detected(recorded.outputs, recorded.spec))


def test_few_bytes_leave_the_device() -> None:
    recorded = Recorded("yolov8")
    _, changed = put_tail(network(recorded.outputs), recorded.spec, "topk")
    anchors, classes = recorded.outputs["output0"].shape[2], 3
    assert changed.outputs[0].shape == (1, min(CANDIDATES, anchors * classes), 6)


def test_what_has_no_candidates_is_refused() -> None:
    ranked = Recorded("yolov10")
    with pytest.raises(ModelError, match=r"chooses its rows itself. Remove \[model\] tail"):
        put_tail(network(ranked.outputs), ranked.spec, "topk")
    classifier = replace(ranked.spec, decoding=ClassificationDecoding(), task="classification")
    with pytest.raises(ModelError, match="no head of a detector"):
        put_tail(network(ranked.outputs), classifier, "topk")


@pytest.mark.parametrize("name", ["yolov8", "yolov5_levels", "yolox", "nanodet_plus", "retinaface"])
def test_tensorrt_rtxs_parser_takes_the_choice_of_rows(name: str) -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="no graph was parsed by TensorRT-RTX")
    recorded = Recorded(name)
    built, _ = put_tail(network(recorded.outputs), recorded.spec, "topk")
    log = library.Logger(library.Logger.ERROR)
    definition = library.Builder(log).create_network(0)
    parser = library.OnnxParser(definition, log)
    assert parser.parse(ir.to_proto(built).SerializeToString()), parser.get_error(0).desc()


def test_an_old_graph_is_raised_to_an_opset_that_knows_the_operators() -> None:
    recorded = Recorded("yolov8")
    old = network(recorded.outputs)
    old.graph.opset_imports[""] = 11
    built, changed = put_tail(old, recorded.spec, "topk")
    same(detected(run(built), changed), detected(recorded.outputs, recorded.spec))
