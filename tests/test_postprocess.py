"""postprocess: decoding against a plain computation, and what non-maximum suppression promises."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeopt.errors import ModelError
from edgeopt.postprocess import Detections, class_scores, decode, nms, suppression
from edgeopt.preprocess import Geometry
from edgeopt.spec import (
    ClassificationDecoding,
    Decoding,
    ModelSpec,
    Preprocessing,
    TensorSpec,
    preset,
)

IDENTITY = Geometry(1.0, 1.0, 0.0, 0.0, 1000, 1000)


def model(decoding: Decoding, classes: int = 3, size: int = 64) -> ModelSpec:
    return ModelSpec(
        name="toy",
        task="classification" if isinstance(decoding, ClassificationDecoding) else "detection",
        input=TensorSpec(name="x", shape=("N", 3, size, size)),
        outputs=(TensorSpec(name="y", shape=("N", classes)),),
        preprocessing=Preprocessing(),
        decoding=decoding,
        labels=tuple(f"class{index}" for index in range(classes)),
    )


class TestClassification:
    def test_ranks_each_image_of_the_batch(self):
        logits = np.array([[0.0, 2.0, 1.0], [3.0, 0.0, 3.0]], np.float32)
        first, second = decode({"y": logits}, model(ClassificationDecoding(top_k=2)), [IDENTITY] * 2)
        assert first.classes.tolist() == [1, 2]
        assert first.labels == ("class1", "class2")
        np.testing.assert_allclose(first.scores, np.exp([2.0, 1.0]) / np.exp([0.0, 2.0, 1.0]).sum(), rtol=1e-6)
        assert second.classes.tolist() == [0, 2], "equal scores rank in the order of the classes"
        assert (second.label, second.score) == ("class0", pytest.approx(0.4879, abs=1e-4))

    def test_top_k_is_bounded_by_the_classes(self):
        (result,) = decode({"y": np.zeros((1, 3))}, model(ClassificationDecoding()), [IDENTITY])
        assert len(result.classes) == 3

    @pytest.mark.parametrize(
        ("activation", "expected"),
        [("none", [-200.0, 0.0, 200.0]), ("sigmoid", [0.0, 0.5, 1.0]), ("softmax", [0.0, 0.0, 1.0])],
    )
    def test_activations_stand_extreme_logits(self, activation, expected):
        spec = model(ClassificationDecoding(activation=activation))
        scores = class_scores({"y": np.array([[-200.0, 0.0, 200.0]], np.float32)}, spec, [])
        np.testing.assert_allclose(scores, [expected], atol=1e-7)
        assert scores.dtype == np.float32

    def test_half_precision_and_trailing_dimensions(self):
        logits = np.array([[0.0, 2.0, 1.0]], np.float16).reshape(1, 3, 1, 1)
        assert decode({"y": logits}, model(ClassificationDecoding()), [IDENTITY])[0].label == "class1"

    @given(arrays(np.int64, st.integers(1, 12), elements=st.integers(-3, 3)), st.integers(1, 14))
    def test_ranks_as_a_stable_sort_of_everything_does(self, logits, k):
        spec = model(ClassificationDecoding(activation="none", top_k=k), classes=len(logits))
        (result,) = decode({"y": logits[None].astype(np.float32)}, spec, [IDENTITY])
        assert result.classes.tolist() == sorted(range(len(logits)), key=lambda index: -logits[index])[:k]

    def test_what_is_no_number_ranks_last(self):
        spec = model(ClassificationDecoding(activation="none", top_k=2))
        (result,) = decode({"y": np.array([[np.nan, 1.0, np.nan]], np.float32)}, spec, [IDENTITY])
        assert result.classes.tolist() == [1, 0]

    @pytest.mark.parametrize("logits", [[1.0, -np.inf, -np.inf], [np.inf, 3.0, 2.0]])
    def test_infinite_scores_rank_as_any(self, logits):
        spec = model(ClassificationDecoding(activation="none", top_k=2))
        (result,) = decode({"y": np.array([logits], np.float32)}, spec, [IDENTITY])
        assert result.classes.tolist() == [0, 1]
        assert result.scores.tolist() == logits[:2]

    def test_leaves_the_engines_output_as_it_is(self):
        logits = np.array([[0.0, 2.0, 1.0]], np.float32)
        decode({"y": logits}, model(ClassificationDecoding(activation="none")), [IDENTITY])
        assert logits.tolist() == [[0.0, 2.0, 1.0]]

    def test_is_json(self):
        (result,) = decode({"y": np.array([[0.0, 9.0, 1.0]])}, model(ClassificationDecoding(top_k=1)), [IDENTITY])
        assert json.loads(json.dumps(result.to_dict()))["classes"][0]["label"] == "class1"


def yolox_output(size: int = 64, classes: int = 3) -> np.ndarray:
    anchors = sum((size // stride) ** 2 for stride in (8, 16, 32))
    return np.zeros((1, anchors, 5 + classes), np.float32)


class TestYolox:
    def test_decodes_offset_exponent_and_score(self):
        output = yolox_output()
        anchor = 64 + 2 * 4 + 3  # stride 16, row 2, column 3
        output[0, anchor] = [0.5, 0.25, np.log(2), np.log(1), 0.8, 0.1, 0.9, 0.2]
        (found,) = decode({"y": output}, model(preset("yolox")), [Geometry(0.5, 0.5, 4.0, 2.0, 1000, 1000)])
        centre, size = np.array([3.5 * 16, 2.25 * 16]), np.array([32, 16])
        corners = np.concatenate([centre - size / 2, centre + size / 2])
        np.testing.assert_allclose(found.boxes, [(corners - [4, 2, 4, 2]) / 0.5], rtol=1e-6)
        assert found.classes.tolist() == [1]
        assert found.labels == ("class1",)
        np.testing.assert_allclose(found.scores, [0.72], rtol=1e-6)

    def test_an_anchor_may_stand_for_several_classes(self):
        output = yolox_output()
        output[0, 30] = [0, 0, 1, 1, 1.0, 0.9, 0.1, 0.8]
        (found,) = decode({"y": output}, model(preset("yolox")), [IDENTITY])
        assert found.classes.tolist() == [0, 2]
        (best,) = decode({"y": output}, model(preset("yolox", class_agnostic=True)), [IDENTITY])
        assert best.classes.tolist() == [0]

    def test_each_image_has_its_own_geometry(self):
        output = np.repeat(yolox_output(), 2, axis=0)
        output[:, 30] = [0, 0, 1, 1, 1.0, 0.9, 0.0, 0.0]
        double = Geometry(2.0, 2.0, 0.0, 0.0, 1000, 1000)
        first, second = decode({"y": output}, model(preset("yolox")), [IDENTITY, double])
        np.testing.assert_allclose(first.boxes, second.boxes * 2)

    def test_boxes_are_cut_at_the_image_and_dropped_beyond_it(self):
        output = yolox_output()
        output[0, 0] = [0, 0, 2, 2, 1.0, 0.9, 0.0, 0.0]
        output[0, 63] = [0, 0, 0, 0, 1.0, 0.9, 0.0, 0.0]
        (found,) = decode({"y": output}, model(preset("yolox")), [Geometry(1.0, 1.0, 0.0, 0.0, 20, 10)])
        np.testing.assert_array_equal(found.boxes, [[0, 0, 20, 10]])

    def test_a_saturated_size_does_not_overflow(self):
        output = yolox_output()
        output[0, 0] = [0, 0, 300, 300, 1.0, 0.9, 0.0, 0.0]
        (found,) = decode({"y": output}, model(preset("yolox")), [IDENTITY])
        np.testing.assert_array_equal(found.boxes, [[0, 0, 1000, 1000]])

    def test_nothing_found(self):
        (found,) = decode({"y": yolox_output()}, model(preset("yolox")), [IDENTITY])
        assert len(found) == 0
        assert found.boxes.shape == (0, 4)
        assert found.to_dict() == {"detections": []}

    def test_wrong_strides_are_refused(self):
        with pytest.raises(ModelError, match=r"84 anchors.*strides \(8, 16\) has 80"):
            decode({"y": yolox_output()}, model(preset("yolox", grid={"strides": (8, 16)})), [IDENTITY])

    def test_dynamic_input_is_refused(self):
        spec = model(preset("yolox"), size="side")
        with pytest.raises(ModelError, match="height and width must be numbers"):
            decode({"y": yolox_output()}, spec, [IDENTITY])


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.001, 0.3, 0.7]))
def test_both_yolo_layouts_decode_to_the_same(seed, class_agnostic, threshold):
    rng = np.random.default_rng(seed)
    raw = yolox_output()
    raw[0, :, :4] = rng.normal(0, 1, raw[0, :, :4].shape)
    raw[0, :, 4:] = rng.random(raw[0, :, 4:].shape)
    grid, stride = [], []
    for step in (8, 16, 32):
        cells = 64 // step
        grid += [(column, row) for row in range(cells) for column in range(cells)]
        stride += [step] * cells**2
    grid, stride = np.array(grid), np.array(stride)[:, None]
    boxes = np.concatenate([(raw[0, :, :2] + grid) * stride, np.exp(raw[0, :, 2:4]) * stride], axis=1)
    yolo = np.concatenate([boxes, raw[0, :, 4:5] * raw[0, :, 5:]], axis=1).T[None].astype(np.float32)
    options = {"class_agnostic": class_agnostic, "score_threshold": threshold}
    (a,) = decode({"y": raw}, model(preset("yolox", **options)), [IDENTITY])
    (b,) = decode({"y": yolo}, model(preset("yolov8", **options)), [IDENTITY])
    assert a.classes.tolist() == b.classes.tolist()
    np.testing.assert_allclose(a.boxes, b.boxes, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-6)
    assert (a.scores >= threshold).all()


class TestBadOutputs:
    def test_a_missing_output_lists_what_there_is(self):
        with pytest.raises(ModelError, match=r"output 'y'.*gave: a, b"):
            decode({"b": np.zeros(1), "a": np.zeros(1)}, model(ClassificationDecoding()), [IDENTITY])

    @pytest.mark.parametrize(
        ("decoding", "shape"),
        [
            (ClassificationDecoding(), (1, 4)),
            (preset("yolox"), (1, 84, 9)),
            (preset("yolov8"), (1, 8, 84)),
        ],
    )
    def test_as_many_classes_as_labels(self, decoding, shape):
        with pytest.raises(ModelError, match="4 classes, but model 'toy' has 3 labels"):
            decode({"y": np.zeros(shape, np.float32)}, model(decoding), [IDENTITY])

    @pytest.mark.parametrize("shape", [(84, 8), (2, 84, 8)])
    def test_three_dimensions_and_one_geometry_an_image(self, shape):
        with pytest.raises(ModelError, match=r"for 1 images"):
            decode({"y": np.zeros(shape, np.float32)}, model(preset("yolox")), [IDENTITY])


def test_detections_above_a_score_and_as_json():
    boxes = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = Detections(boxes, np.array([0.9, 0.2], np.float32), np.array([1, 0]), ("cat", "dog"))
    best = found.above(0.5)
    assert best.labels == ("cat",)
    assert json.loads(json.dumps(best.to_dict())) == {
        "detections": [{"label": "cat", "class": 1, "score": pytest.approx(0.9), "box": [0.0, 1.0, 2.0, 3.0]}]
    }


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union else 0.0


def greedy(boxes, scores, classes, threshold, agnostic):
    """The textbook's loop."""
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        rivals = [other for other in kept if agnostic or classes[other] == classes[index]]
        if all(iou(boxes[index], boxes[other]) <= threshold for other in rivals):
            kept.append(index)
    return kept


@st.composite
def candidates(draw):
    """Boxes on a coarse grid, so that equal scores, equal boxes and empty boxes are common."""
    count = draw(st.integers(0, 40))
    corner = draw(arrays(np.int64, (count, 2), elements=st.integers(0, 12)))
    size = draw(arrays(np.int64, (count, 2), elements=st.integers(0, 10)))
    scores = draw(arrays(np.int64, count, elements=st.integers(0, 8)))
    classes = draw(arrays(np.int64, count, elements=st.integers(0, 2)))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32), scores.astype(np.float32) / 8, classes


class TestNms:
    # Thresholds that no ratio of small integers meets exactly, where rounding could decide.
    @given(candidates(), st.sampled_from([0.0, 0.3141, 0.4567, 0.6543]), st.booleans())
    def test_is_the_greedy_algorithm(self, found, threshold, agnostic):
        boxes, scores, classes = found
        expected = greedy(boxes, scores, classes, threshold, agnostic)
        assert nms(boxes, scores, classes, threshold, agnostic, 100).tolist() == expected
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(suppression, "_FEW", 0)
            assert nms(boxes, scores, classes, threshold, agnostic, 100).tolist() == expected, "also by blocks"

    @given(st.integers(0, 1000), st.sampled_from([0.3, 0.65]))
    def test_holds_across_blocks(self, seed, threshold):
        rng = np.random.default_rng(seed)
        corner = rng.uniform(0, 60, (600, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (600, 2))], axis=1).astype(np.float32)
        scores, classes = rng.random(600, dtype=np.float32), rng.integers(0, 2, 600)
        kept = nms(boxes, scores, classes, threshold, class_agnostic=False, max_detections=600)
        assert (np.diff(scores[kept]) <= 0).all(), "best first"
        again = nms(boxes[kept], scores[kept], classes[kept], threshold, class_agnostic=False, max_detections=600)
        assert again.tolist() == list(range(len(kept))), "what is kept does not suppress itself"
        lost = set(range(600)) - set(kept.tolist())
        for index in list(lost)[:20]:
            better = [k for k in kept if scores[k] >= scores[index] and classes[k] == classes[index]]
            assert max(iou(boxes[index], boxes[k]) for k in better) > threshold - 1e-5, "each lost box has its reason"

    @given(candidates(), st.integers(1, 5))
    def test_the_limit_keeps_the_best(self, found, limit):
        everything = nms(*found, 0.5, class_agnostic=False, max_detections=100)
        assert nms(*found, 0.5, class_agnostic=False, max_detections=limit).tolist() == everything[:limit].tolist()

    def test_a_suppressed_box_suppresses_nothing(self):
        boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)
        scores = np.array([0.9, 0.8, 0.7], np.float32)
        assert nms(boxes, scores, np.zeros(3, np.int64), 0.3).tolist() == [0, 2]
