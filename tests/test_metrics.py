"""metrics: classification and similarity against the definition, detection against pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeopt import metrics
from edgeopt.config import DataSource
from edgeopt.dataset import Boxes
from edgeopt.dataset.loading import load
from edgeopt.errors import DataError
from edgeopt.metrics.detection import precision_table
from edgeopt.postprocess import Detections, decode
from edgeopt.preprocess import batch
from edgeopt.spec import Letterbox, ModelSpec, Normalization, Preprocessing, TensorSpec, preset


class TestConfusion:
    def test_rows_are_truths_and_columns_predictions(self):
        matrix = metrics.confusion_matrix([0, 0, 1, 2], [0, 1, 1, 1], 3)
        assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]

    @pytest.mark.parametrize(("true", "predicted"), [([3], [0]), ([0], [-1])])
    def test_a_class_outside_is_named(self, true, predicted):
        with pytest.raises(DataError, match=r"class index (3|-1) is outside 0 to 2"):
            metrics.confusion_matrix(true, predicted, 3)

    def test_one_prediction_an_image(self):
        with pytest.raises(DataError, match="1 predictions for 2 images"):
            metrics.confusion_matrix([0, 1], [0], 2)


class TestReport:
    def test_equals_scikit_learn(self):
        sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
        rng = np.random.default_rng(0)
        true, predicted = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
        report = metrics.classification_report(metrics.confusion_matrix(true, predicted, 5), list("abcde"))
        precision, recall, f1, support = sklearn.precision_recall_fscore_support(true, predicted)
        np.testing.assert_allclose([row.precision for row in report.per_class], precision)
        np.testing.assert_allclose([row.recall for row in report.per_class], recall)
        np.testing.assert_allclose([row.f1 for row in report.per_class], f1)
        assert [row.support for row in report.per_class] == support.tolist()
        macro = [report.macro_precision, report.macro_recall, report.macro_f1]
        np.testing.assert_allclose(macro, [precision.mean(), recall.mean(), f1.mean()])
        assert report.top1 == pytest.approx((true == predicted).mean())

    def test_classes_without_images_do_not_count(self):
        report = metrics.classification_report(np.array([[2, 0, 1], [0, 0, 0], [0, 0, 1]]), list("abc"))
        assert report.macro_recall == pytest.approx((2 / 3 + 1) / 2)
        assert report.per_class[1].support == 0

    def test_the_confusion_matrix_comes_back(self):
        matrix = np.array([[2, 0, 1], [0, 0, 0], [0, 0, 1]])
        report = metrics.classification_report(matrix, list("abc"))
        again = msgspec.json.decode(msgspec.json.encode(report), type=metrics.ClassificationMetrics)
        assert again == report
        np.testing.assert_array_equal(again.confusion_matrix(), matrix)

    def test_no_images(self):
        with pytest.raises(DataError, match="no images"):
            metrics.classification_report(np.zeros((2, 2), int), ["a", "b"])

    def test_labels_that_do_not_fit(self):
        with pytest.raises(DataError, match="3 labels"):
            metrics.classification_report(np.eye(2, dtype=int), ["a", "b", "c"])


@given(
    arrays(np.int64, (7, 4), elements=st.integers(0, 3)),
    arrays(np.int64, 7, elements=st.integers(0, 3)),
    st.integers(1, 4),
)
def test_top_k_is_the_head_of_a_stable_ranking(scores, true, k):
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = (ranked == true[:, None]).any(axis=1)
    np.testing.assert_array_equal(metrics.hits_in_top_k(scores, true, k), expected)
    assert metrics.top_k_accuracy(scores, true, k) == pytest.approx(expected.mean())


class TestSimilarity:
    def test_agreement(self):
        assert metrics.agreement([0, 1, 2, 3], [0, 1, 3, 3]) == 0.75

    @pytest.mark.parametrize("b", [[0], []])
    def test_agreement_of_nothing(self, b):
        with pytest.raises(ValueError, match="equally long, not empty"):
            metrics.agreement([], b)

    def test_kl_is_its_definition(self):
        p, q = np.array([[0.2, 0.3, 0.5]]), np.array([[0.4, 0.4, 0.2]])
        expected = (p * np.log(p / q)).sum()
        np.testing.assert_allclose(metrics.kl(np.log(p) + 7.0, np.log(q) - 3.0), [expected])

    @given(arrays(np.float32, (3, 4), elements=st.floats(-50, 50, width=32)))
    def test_kl_of_equals_is_zero_and_never_negative(self, logits):
        np.testing.assert_allclose(metrics.kl(logits, logits + 2), 0.0, atol=1e-6)
        assert (metrics.kl(logits, logits[::-1]) >= 0).all()

    def test_sqnr(self):
        assert metrics.sqnr_db(np.array([10.0]), np.array([9.0])) == pytest.approx(20.0)
        assert metrics.sqnr_db(np.ones(3), np.ones(3)) == float("inf")
        assert metrics.sqnr_db(np.zeros(3), np.ones(3)) == float("-inf")


def found(rows: Sequence[Sequence[float]], classes: Sequence[int], scores: Sequence[float]) -> Detections:
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    labels = tuple(map(str, classes))
    return Detections(boxes, np.array(scores, np.float32), np.array(classes, np.int64), labels)


def by_pycocotools(predictions, truths, classes: int):
    """The reference's twelve figures and its precision table."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is the reference")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    annotations, results = [], []
    for image, (prediction, truth) in enumerate(zip(predictions, truths, strict=True), start=1):
        sizes = truth.boxes.astype(float)
        for box, category, crowd in zip(sizes, truth.classes, truth.crowd, strict=True):
            extent = box[2:] - box[:2]
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": int(category), "iscrowd": int(crowd),
                "bbox": [*box[:2], *extent], "area": extent[0] * extent[1],
            })  # fmt: skip
        for box, category, score in zip(
            prediction.boxes.astype(float), prediction.classes, prediction.scores, strict=True
        ):
            bbox = [*box[:2], *(box[2:] - box[:2])]
            results.append({"image_id": image, "category_id": int(category), "bbox": bbox, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco.COCO()
        reference.dataset = {
            "images": [{"id": index + 1} for index in range(len(truths))],
            "annotations": annotations,
            "categories": [{"id": index, "name": str(index)} for index in range(classes)],
            "info": {},
        }
        reference.createIndex()
        run = evaluation.COCOeval(reference, reference.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats, run.eval["precision"][:, :, :, 0, 2]


def assert_equal_to_pycocotools(predictions, truths, classes: int) -> metrics.DetectionMetrics:
    stats, table = by_pycocotools(predictions, truths, classes)
    ours = metrics.average_precision(predictions, truths, classes)
    figures = [
        ours.ap, ours.ap50, ours.ap75, ours.ap_small, ours.ap_medium, ours.ap_large,
        ours.ar1, ours.ar10, ours.ar100, ours.ar_small, ours.ar_medium, ours.ar_large,
    ]  # fmt: skip
    np.testing.assert_allclose([-1 if value is None else value for value in figures], stats, atol=1e-9)
    for index, value in enumerate(ours.per_class):
        rows = table[:, :, index]
        assert value == (None if (rows == -1).all() else pytest.approx(rows.mean(), abs=1e-9))
    return ours


@st.composite
def scenes(draw):
    """Images whose detections are near their objects, with crowds, ties, equal boxes and images without either."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    classes = draw(st.integers(1, 3))
    coarse = draw(st.booleans())
    predictions, truths = [], []
    for _ in range(draw(st.integers(1, 6))):
        count, extra = rng.integers(0, 12), rng.integers(0, 15)
        corner = rng.uniform(0, 200, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(4, 160, (count, 2))], axis=1)
        chosen = rng.integers(0, count, extra) if count else np.zeros(0, int)
        near = boxes[chosen] + rng.normal(0, 6, (len(chosen), 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])
        scores = rng.random(len(chosen))
        if coarse:
            boxes, near, scores = boxes.round(-1), near.round(-1), scores.round(1)
        own = rng.integers(0, classes, count)
        truths.append(Boxes.of(boxes.tolist(), own.tolist(), (rng.random(count) < 0.2).tolist()))
        guessed = np.where(rng.random(len(chosen)) < 0.8, own[chosen], rng.integers(0, classes, len(chosen)))
        predictions.append(found(near, guessed, scores))
    return predictions, truths, classes


class TestPairs:
    @settings(max_examples=60)
    @given(scenes())
    def test_each_detection_finds_what_average_precision_says(self, scene):
        predictions, truths, classes = scene
        matches = metrics.match(predictions, truths, classes)["all"]
        right = wrong = missed = 0
        for prediction, truth in zip(predictions, truths, strict=True):
            objects = metrics.pair(prediction, truth)
            crowd = np.append(truth.crowd, False)[objects]
            right += int(((objects != metrics.NOTHING) & ~crowd).sum())
            wrong += int((objects == metrics.NOTHING).sum())
            missed += int((~truth.crowd).sum())
            alone = objects[(objects != metrics.NOTHING) & ~crowd]
            assert len(set(alone.tolist())) == len(alone), "an object was found twice"
            assert (truth.classes[alone] == prediction.classes[(objects != metrics.NOTHING) & ~crowd]).all()
        assert (right, wrong) == (matches.right[0].sum(), matches.wrong[0].sum())
        assert missed == len(matches.truth_image)

    @settings(max_examples=30)
    @given(scenes())
    def test_the_confusion_matrix_counts_each_box_and_object_once(self, scene):
        predictions, truths, classes = scene
        matrix = metrics.detection_confusion(predictions, truths, classes)
        assert matrix.shape == (classes + 1, classes + 1)
        sought = np.bincount(np.concatenate([each.classes[~each.crowd] for each in truths]), minlength=classes)
        assert (matrix[:classes].sum(axis=1) == sought).all()
        assert matrix[:, :classes].sum() <= sum(map(len, predictions))
        assert matrix[classes, classes] == 0

    def test_a_box_of_another_class_is_a_confusion(self):
        matrix = metrics.detection_confusion(
            [found([[0, 0, 10, 10], [50, 50, 60, 60]], [1, 0], [0.9, 0.8])],
            [Boxes.of([[0, 0, 10, 10], [80, 80, 90, 90]], [0, 0])],
            2,
        )
        assert matrix.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


class TestCurve:
    @settings(max_examples=40)
    @given(scenes(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]))
    def test_it_is_what_predict_would_return_at_that_threshold(self, scene, threshold):
        predictions, truths, classes = scene
        curve = metrics.precision_recall_curve(metrics.match(predictions, truths, classes)["all"], [threshold])
        expected = metrics.precision_recall([each.above(threshold) for each in predictions], truths, classes)
        assert curve.recall[0] == pytest.approx(expected.recall, abs=1e-4)
        assert curve.precision[0] in (pytest.approx(expected.precision, abs=1e-4), 1.0)

    def test_advice(self):
        curve = metrics.PrecisionRecallCurve(
            thresholds=(0.1, 0.3, 0.5, 0.7), precision=(0.5, 0.8, 0.75, 0.96), recall=(0.9, 0.8, 0.5, 0.2)
        )
        assert curve.best() == 1
        assert curve.at_precision(0.95) == 3
        assert curve.at_precision(0.7) == 1
        assert curve.at_precision(0.99) is None
        assert curve.at_recall(0.8) == 1
        assert curve.at_recall(0.95) is None


class TestAveragePrecision:
    @settings(max_examples=60)
    @given(scenes())
    def test_equals_pycocotools(self, scene):
        predictions, truths, classes = scene
        if not any((~truth.crowd).any() for truth in truths) or not sum(map(len, predictions)):
            return  # no average precision, or nothing that pycocotools could load
        assert_equal_to_pycocotools(predictions, truths, classes)

    def test_equals_pycocotools_with_more_detections_than_count(self):
        rng = np.random.default_rng(1)
        corner = rng.uniform(0, 300, (260, 2))
        boxes = np.concatenate([corner, corner + 40], axis=1)
        truth = Boxes.of(boxes[:60], [0] * 60)
        assert_equal_to_pycocotools([found(boxes, [0] * 260, rng.random(260))] * 2, [truth] * 2, 1)

    def test_a_perfect_detector(self):
        truth = Boxes.of([[0, 0, 10, 10], [20, 20, 200, 200]], [0, 2])
        ours = metrics.average_precision([found(truth.boxes, [0, 2], [0.9, 0.8])], [truth], 3)
        assert (ours.ap, ours.ap50, ours.ar100, ours.ap_small, ours.ap_large) == (1, 1, 1, 1, 1)
        assert ours.ap_medium is None
        assert ours.per_class == (1.0, None, 1.0)
        assert ours.support == (1, 0, 1)
        assert msgspec.json.decode(msgspec.json.encode(ours), type=metrics.DetectionMetrics) == ours

    def test_nothing_found(self):
        ours = metrics.average_precision([found([], [], [])], [Boxes.of([[0, 0, 9, 9]], [0])], 1)
        assert (ours.ap, ours.ar100) == (0, 0)

    def test_no_objects(self):
        with pytest.raises(DataError, match="no image has an object"):
            metrics.average_precision([found([[0, 0, 1, 1]], [0], [0.5])], [Boxes.of([], [])], 1)

    def test_one_prediction_an_image(self):
        with pytest.raises(ValueError, match="1 predictions do not go with the truths of 0 images"):
            metrics.average_precision([found([], [], [])], [], 1)

    def test_an_unknown_class(self):
        with pytest.raises(ValueError, match="0 to 0"):
            metrics.average_precision([found([[0, 0, 1, 1]], [3], [0.5])], [Boxes.of([], [])], 1)

    @settings(max_examples=25)
    @given(scenes(), st.data())
    def test_weights_are_repeated_images(self, scene, data):
        predictions, truths, classes = scene
        # Distinct scores, because the order of equal ones is arbitrary once images are repeated.
        rng = np.random.default_rng(0)
        predictions = [found(each.boxes, each.classes, rng.random(len(each))) for each in predictions]
        weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(truths), max_size=len(truths))))
        repeated = np.repeat(np.arange(len(truths)), weights)
        once = precision_table(metrics.match(predictions, truths, classes)["all"], weights)
        again = metrics.match([predictions[i] for i in repeated], [truths[i] for i in repeated], classes)["all"]
        np.testing.assert_allclose(once, precision_table(again), atol=1e-9)

    def test_on_real_images(self, shared):
        """Noisy copies of the annotations of real photographs, with their crowds and their sizes."""
        instances = json.loads((shared / "coco_val128" / "instances.json").read_text())
        index = {category["id"]: number for number, category in enumerate(instances["categories"])}
        rng = np.random.default_rng(0)
        predictions, truths = [], []
        for image in instances["images"]:
            own = [each for each in instances["annotations"] if each["image_id"] == image["id"]]
            rows = np.array([each["bbox"] for each in own], float).reshape(-1, 4)
            rows[:, 2:] += rows[:, :2]
            classes = [index[each["category_id"]] for each in own]
            truths.append(Boxes.of(rows.tolist(), classes, [bool(each["iscrowd"]) for each in own]))
            noisy = rows + rng.normal(0, 4, rows.shape)
            noisy[:, 2:] = np.maximum(noisy[:, 2:], noisy[:, :2] + 1)
            predictions.append(found(np.tile(noisy, (2, 1)), classes * 2, rng.random(2 * len(own))))
        assert assert_equal_to_pycocotools(predictions, truths, len(index)).ap > 0.3

    @pytest.mark.slow
    def test_on_a_real_detector(self, shared):
        """YOLOX-nano's nearly 25,000 detections on 128 photographs."""
        onnxruntime = pytest.importorskip("onnxruntime", reason="runs the published network")
        source = DataSource(format="coco", path="coco_val128/images", annotations="coco_val128/instances.json")
        dataset = load(source, shared)
        spec = ModelSpec(
            name="yolox-nano",
            task="detection",
            input=TensorSpec(name="images", shape=(1, 3, 416, 416)),
            outputs=(TensorSpec(name="output", shape=(1, 3549, 85)),),
            preprocessing=Preprocessing(
                steps=(Letterbox(size=(416, 416), anchor="top_left"),),
                channels="BGR",
                normalization=Normalization(scale=1.0),
            ),
            decoding=preset("yolox", score_threshold=0.001, iou_threshold=0.65),
            labels=dataset.labels,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        session = onnxruntime.InferenceSession(str(shared / "model_yolox_nano" / "yolox_nano.onnx"), options)
        predictions = []
        for index in range(len(dataset)):
            tensor, geometries = batch([dataset.image(index)], spec.preprocessing)
            predictions += decode({"output": session.run(None, {"images": tensor})[0]}, spec, geometries)
        truths = [sample.target for sample in dataset]
        ours = assert_equal_to_pycocotools(predictions, truths, len(dataset.labels))
        assert ours.ap == pytest.approx(0.342, abs=0.002)


class TestPrecisionRecall:
    def test_counts_at_half_overlap(self):
        truth = Boxes.of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 1])
        prediction = found([[0, 0, 10, 9], [0, 0, 10, 10], [80, 80, 90, 90]], [0, 0, 0], [0.9, 0.8, 0.7])
        result = metrics.precision_recall([prediction], [truth], 2)
        assert (result.precision, result.recall, result.f1) == (pytest.approx(1 / 3), 0.5, pytest.approx(0.4))
        assert result.per_class == ((pytest.approx(1 / 3), 1.0, 0.5), (0.0, 0.0, 0.0))

    def test_finding_a_crowd_is_neither_right_nor_wrong(self):
        truth = Boxes.of([[0, 0, 100, 100], [0, 0, 5, 5]], [0, 0], [True, False])
        result = metrics.precision_recall([found([[10, 10, 20, 20]], [0], [0.9])], [truth], 1)
        assert (result.precision, result.recall) == (0.0, 0.0)


class TestDetectionAgreement:
    def test_of_a_model_with_itself(self):
        same = [found([[0, 0, 10, 10], [3, 3, 9, 9]], [0, 1], [0.9, 0.8]), found([], [], [])]
        assert metrics.detection_agreement(same, same, 2) == 1.0
        assert metrics.detection_agreement(same[1:], same[1:], 2) == 1.0

    def test_is_symmetric_and_counts_what_only_one_found(self):
        a = [found([[0, 0, 10, 10], [30, 30, 40, 40]], [0, 0], [0.9, 0.8])]
        b = [found([[0, 0, 10, 11]], [0], [0.7])]
        assert metrics.detection_agreement(a, b, 1) == metrics.detection_agreement(b, a, 1) == pytest.approx(2 / 3)


def made_up_scenes(images: int, seed: int = 0) -> tuple[list[Detections], list[Boxes]]:
    """Objects, and detections near them with few different scores, so that many are equal."""
    rng = np.random.default_rng(seed)
    found, truths = [], []
    for _ in range(images):
        count = int(rng.integers(0, 5))
        corners = rng.uniform(0, 200, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(10, 150, (count, 2))], axis=1).astype(np.float32)
        classes = rng.integers(0, 3, count)
        truths.append(Boxes(boxes, classes, rng.random(count) < 0.1))
        near = np.repeat(boxes, 2, axis=0) + rng.normal(0, 8, (2 * count, 4)).astype(np.float32)
        scores = (rng.integers(1, 6, 2 * count) / 5).astype(np.float32)
        guessed = np.where(rng.random(2 * count) < 0.8, np.repeat(classes, 2), rng.integers(0, 3, 2 * count))
        found.append(Detections(near, scores, guessed, tuple("abc"[index] for index in guessed)))
    return found, truths


@pytest.mark.parametrize("seed", range(3))
def test_matches_of_parts_are_those_of_all_images(seed: int) -> None:
    found, truths = made_up_scenes(40, seed)
    whole = metrics.match(found, truths, 3)
    cuts = [slice(0, 7), slice(7, 8), slice(8, 40)]
    parts = [metrics.match(found[cut], truths[cut], 3) for cut in cuts]
    for area, expected in whole.items():
        joined = metrics.concatenated([part[area] for part in parts])
        for name in ("image", "category", "rank", "score", "right", "wrong", "truth_image", "truth_category"):
            np.testing.assert_array_equal(getattr(joined, name), getattr(expected, name))
    high = [each.above(0.6) for each in found]
    assert metrics.precision_recall_of(whole["all"].above(0.6)) == metrics.precision_recall(high, truths, 3)
