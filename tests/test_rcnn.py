"""R-CNN: regions without a network, what is learnt from them, and the one graph that a classifier on them becomes."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from edgeopt.boxes import Geometry
from edgeopt.config import FitConfig, RegionsConfig, parse_config
from edgeopt.errors import ConfigError, DataError, ModelError
from edgeopt.fit import require_learnable
from edgeopt.fit.heads import Linear
from edgeopt.fit.regions import REGIONS, fit_boxes, mistaken, on_regions, sampled, with_detections
from edgeopt.passes.rewrite.fixed_regions import fixed_regions
from edgeopt.postprocess import decode
from edgeopt.preprocess import feed, preprocess
from edgeopt.preprocess.regions import propose
from edgeopt.runtime.ort import OrtSession
from edgeopt.runtime.session import EngineSettings
from edgeopt.spec import (
    CenterCrop,
    ClassificationDecoding,
    ModelSpec,
    Normalization,
    Preprocessing,
    TensorSpec,
    replace,
)
from edgeopt.targets import rtx

SIDE = 96
SQUARES = [(10, 12, 34, 40), (50, 55, 86, 80)]
CONFIG = RegionsConfig(count=20, picture_size=(SIDE, SIDE))


def picture() -> np.ndarray:
    """Two squares on grey, the first blue and the second red, with the noise of a camera."""
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    for box, colour in zip(SQUARES, ((250, 40, 40), (40, 40, 250)), strict=True):
        cv2.rectangle(image, box[:2], (box[2] - 1, box[3] - 1), colour, thickness=-1)
    noise = np.random.default_rng(0).integers(-3, 4, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def backbone() -> tuple[ir.Model, ModelSpec]:
    """The mean of each channel of a region, which is 8 x 8 pixels."""
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[N,3] features) '
        "{ [pool] m = GlobalAveragePool(x) [flat] features = Flatten(m) }"
    )
    spec = ModelSpec(
        name="colours",
        task="classification",
        input=TensorSpec(name="x", shape=("N", 3, 8, 8)),
        outputs=(TensorSpec(name="features", shape=("N", 3)),),
        preprocessing=Preprocessing(steps=(CenterCrop(size=(8, 8)),), normalization=Normalization()),
        decoding=ClassificationDecoding(),
        labels=("any",),
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(graph)), spec


HEAD = Linear(40.0 * np.array([[-1.0, 1, 0], [0, -1, -1], [-1, 0, 1]]), np.array([33.0, -10, -10]))
"""Background, then much red, then much blue, from the means of red, green and blue."""


def detector(shift: float = 0.0) -> tuple[ir.Model, ModelSpec]:
    boxes = Linear(np.zeros((3, 8)), np.array([shift, 0, 0, 0] * 2))
    return with_detections(*on_regions(*backbone(), CONFIG), HEAD, boxes, ("red", "blue"))


def found(model: ir.Model, spec: ModelSpec, image: np.ndarray):
    pixels, geometry = preprocess(image, spec.preprocessing)
    with OrtSession(ir.to_proto(model).SerializeToString()) as session:
        rows = session.run(feed(spec, pixels[None], [geometry]))
    return decode(rows, spec, [geometry])[0], rows["predictions"]


def test_regions_are_found_without_a_network() -> None:
    regions = propose(picture(), 100)
    assert regions.shape == (100, 4)
    for box in SQUARES:
        assert min(np.abs(regions - box).max(axis=1)) <= 2
    assert not regions[-1].any()


def test_touching_objects_are_regions_of_their_own() -> None:
    """Six dark discs in a chain: to MSER they are one region."""
    image = np.full((SIDE, 3 * SIDE, 3), 200, np.uint8)
    centres = [(30 + 38 * index, 48) for index in range(6)]
    for centre in centres:
        cv2.circle(image, centre, 20, (90, 60, 120), thickness=-1)
    noise = np.random.default_rng(0).integers(-3, 4, image.shape)
    regions = propose((image + noise).clip(0, 255).astype(np.uint8), 60)
    for x, y in centres:
        box = np.array([x - 20, y - 20, x + 20, y + 20], np.float64)
        shared = np.minimum(regions[:, 2:], box[2:]) - np.maximum(regions[:, :2], box[:2])
        area = shared.clip(0).prod(axis=1)
        union = (regions[:, 2:] - regions[:, :2]).prod(axis=1) + 1600.0 - area
        assert (area / union).max() > 0.7


def test_a_plain_picture_has_no_regions_and_no_detections() -> None:
    plain = np.full((SIDE, SIDE, 3), 120, np.uint8)
    assert not propose(plain, 20).any()
    detections, rows = found(*detector(), plain)
    assert len(detections) == 0
    assert not rows[..., 4].any()


def test_a_classifier_on_regions_is_a_detector() -> None:
    detections, _ = found(*detector(), picture())
    assert sorted(detections.labels) == ["blue", "red"]
    for label, box in zip(("blue", "red"), SQUARES, strict=True):
        np.testing.assert_allclose(detections.boxes[detections.labels.index(label)], box, atol=2)
        assert detections.scores[detections.labels.index(label)] > 0.9


def test_boxes_are_moved_by_the_offsets_of_their_class() -> None:
    still, moved = (found(*detector(shift), picture())[0] for shift in (0.0, 0.25))
    width = still.boxes[:, 2] - still.boxes[:, 0]
    expected = np.clip(still.boxes[:, 0] + 0.25 * width, 0, SIDE)
    np.testing.assert_allclose(np.sort(moved.boxes[:, 0]), np.sort(expected), atol=0.1)


def test_the_graph_is_onnx_s_own_and_can_be_written_in_fixed_shapes() -> None:
    model, spec = detector()
    assert {node.domain for node in model.graph} == {""}
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    assert [value.name for value in model.graph.inputs] == ["x", REGIONS]
    assert spec.input.dtype == "uint8"
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    pixels, geometry = preprocess(picture(), spec.preprocessing)
    feeds = feed(spec, np.stack([pixels, pixels[:, ::-1].copy()]), [geometry] * 2)
    expected = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)[0]
    for each in (model, fixed_regions(model)):
        with OrtSession(ir.to_proto(each).SerializeToString()) as session:
            np.testing.assert_allclose(session.run(feeds)["predictions"][..., 4], expected[..., 4], atol=1e-4)
    assert "RoiAlign" not in {node.op_type for node in fixed_regions(model).graph}


def test_openvino_finds_the_same() -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed: R-CNN ran in onnxruntime alone")
    model, spec = detector()
    pixels, geometry = preprocess(picture(), spec.preprocessing)
    feeds = feed(spec, pixels[None], [geometry])
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(ir.to_proto(model).SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    _, expected = found(model, spec, picture())
    rows = compiled(feeds)[0]
    np.testing.assert_allclose(rows[..., 4], expected[..., 4], atol=1e-4)


def test_tensorrt_rtx_builds_it_in_one_engine() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no engine of R-CNN was built")
    model, _ = detector()
    assert len(rtx.compile(ir.to_proto(fixed_regions(model)).SerializeToString(), EngineSettings())) > 10_000


def test_regions_are_read_from_pixels_alone() -> None:
    _, spec = detector()
    geometry = Geometry(1, 1, 0, 0, SIDE, SIDE)
    with pytest.raises(ModelError, match=r"uint8, and takes float32.*fold_normalization"):
        feed(spec, np.zeros((1, 3, SIDE, SIDE), np.float32), [geometry])


def test_a_backbone_that_takes_one_image_at_a_time_is_refused() -> None:
    model, spec = backbone()
    fixed = replace(spec, input=TensorSpec(name="x", shape=(1, 3, 8, 8)))
    with pytest.raises(ModelError, match="one image at a time"):
        on_regions(model, fixed, CONFIG)


def test_objects_what_overlaps_them_and_background_are_learnt_from() -> None:
    boxes = np.array([[10.0, 10, 30, 30]], np.float32)
    proposed = np.array(
        [[10, 10, 30, 31], [10, 10, 30, 24], [60, 60, 90, 90], [12, 12, 22, 22], [0, 0, 0, 0]], np.float32
    )
    samples = sampled(proposed, boxes, np.array([4]), np.random.default_rng(0))
    known = {tuple(box): index for index, box in enumerate(samples.boxes.astype(int).tolist())}
    assert samples.classes[known[10, 10, 30, 30]] == samples.classes[known[10, 10, 30, 31]] == 5
    assert samples.classes[known[10, 10, 30, 24]] == 5
    assert samples.classes[known[60, 60, 90, 90]] == samples.classes[known[12, 12, 22, 22]] == 0
    assert (0, 0, 0, 0) not in known
    np.testing.assert_allclose(samples.offsets[known[10, 10, 30, 24]], [0, 3 / 14, 0, np.log(20 / 14)], atol=1e-6)


def test_more_background_is_kept_in_case_that_it_is_mistaken() -> None:
    boxes = np.array([[10.0, 10, 30, 30]], np.float32)
    corners = np.arange(40, 80, dtype=np.float32)
    far = np.stack([corners, corners, corners + 8, corners + 8], axis=1)
    rng = np.random.default_rng(0)
    samples = sampled(far, boxes, np.array([4]), rng)
    assert (len(samples.boxes), int(samples.spare.sum())) == (41, 28)
    assert not samples.classes[samples.spare].any()
    assert samples.classes[~samples.spare].tolist() == [5, *[0] * 12]
    among_many = sampled(far, boxes, np.array([4]), rng, pictures=5000)
    assert (len(among_many.boxes), int(among_many.spare.sum())) == (15, 2)


def test_the_background_that_is_mistaken_most_is_learnt_from() -> None:
    logits = np.array([[9.0, 0], [0, 1], [0, 5], [0, 3], [9, 0], [1, 1]])
    assert mistaken(logits, np.array([0, 0, 0, 0, 1, 1])).tolist() == [2, 3, 1, 5]
    many = mistaken(np.zeros((50, 3)), np.repeat([0, 1], 25))
    assert np.bincount(many // 25).tolist() == [12, 12]
    assert mistaken(logits[[0, 4]], np.array([0, 1])).tolist() == []
    assert mistaken(np.zeros((0, 3)), np.zeros(0, np.int64)).tolist() == []


def test_a_picture_without_boxes_shows_background() -> None:
    proposed = np.array([[10, 10, 30, 31], [60, 60, 90, 90]], np.float32)
    samples = sampled(proposed, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.random.default_rng(0))
    assert samples.classes.tolist() == [0, 0]
    assert samples.objects.tolist() == [0, 0]


def test_boxes_of_a_class_with_few_regions_stay_where_they_are() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 3))
    objects = np.array([1] * 55 + [2] * 5)
    offsets = features @ rng.standard_normal((3, 4)) + 0.5
    found = fit_boxes(features, objects, offsets, 2)
    predicted = (features @ found.weight + found.bias).reshape(-1, 2, 4)
    assert np.abs(predicted[:55, 0] - offsets[:55]).mean() < 0.3
    assert not predicted[:, 1].any()


RECIPE = """
name = "r"
[model]
source = "edgeopt:features"
backbone = "edgeopt:mobilenet_v2"
[data.train]
format = "digit_scenes"
[fit]
classifier = "{}"
[fit.regions]
count = 9
"""


def test_prototypes_know_no_background() -> None:
    config = parse_config(RECIPE.format("svm"))
    assert config.fit is not None
    assert config.fit.regions == RegionsConfig(count=9)
    with pytest.raises(ConfigError, match=r"background, which has no prototypes"):
        parse_config(RECIPE.format("knn"))


def test_regions_are_read_from_pixels_and_a_recipe_cannot_say_otherwise() -> None:
    with pytest.raises(ConfigError, match=r"regions from pixels. Remove \[export\] fold_normalization"):
        parse_config(RECIPE.format("svm") + "[export]\nfold_normalization = false\n")


def test_too_few_boxes_of_a_class_are_told_before_anything_is_computed() -> None:
    with pytest.raises(DataError, match=r"a single picture of 'b'.*Give two at least$"):
        require_learnable([5, 1, 9], ["a", "b", "background"], FitConfig(regions=CONFIG), "the set")
