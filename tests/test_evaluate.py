"""evaluate: figures of models whose answers are known, comparisons, and what must not be compared."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import tiny

from edgeopt.bundle import Bundle, Calibration
from edgeopt.bundle.classes import changes, per_class
from edgeopt.config import DataSource, EvaluateConfig
from edgeopt.dataset import ArrayPicture, Boxes, Dataset, Sample
from edgeopt.dataset.loading import load
from edgeopt.errors import ConfigError, DataError, ModelError, TargetError
from edgeopt.evaluate import (
    Accuracy,
    ClassChange,
    PackedArray,
    Runner,
    class_changes,
    class_sentence,
    confusion,
    confusion_csv,
    evaluate,
    evaluate_bundle,
    image_results,
    images_csv,
    results_by_variant,
    results_json,
    surest_mistakes,
    threshold_advice,
)
from edgeopt.evaluate.mistakes import write_mistakes
from edgeopt.intervals import bootstrap_interval
from edgeopt.metrics import ClassificationMetrics, DetectionMetrics
from edgeopt.references import importable
from edgeopt.spec import (
    ClassificationDecoding,
    Letterbox,
    ModelSpec,
    Normalization,
    Preprocessing,
    TensorSpec,
    preset,
    replace,
)

LABELS = ("dark", "grey", "light")


def classifier(batch: int | str = "N", **decoding: object) -> ModelSpec:
    return ModelSpec(
        name="by brightness",
        task="classification",
        input=TensorSpec(name="x", shape=(batch, 1, 4, 4)),
        outputs=(TensorSpec(name="y", shape=(batch, 3)),),
        preprocessing=Preprocessing(channels="GRAY", normalization=Normalization()),
        decoding=ClassificationDecoding(**decoding),
        labels=LABELS,
    )


def classify(offset: float = 0.0, factor: float = 40.0) -> Callable:
    """A network whose answer is the class whose brightness (0, .5, 1) is nearest, after an error of `offset`."""

    def run(inputs):
        brightness = inputs["x"].mean(axis=(1, 2, 3)) + offset
        return {"y": -factor * np.abs(brightness[:, None] - np.array([0.0, 0.5, 1.0])).astype(np.float32)}

    return run


def plain(values: list[int], targets: list[int | None]) -> Dataset:
    """Images of one grey value each."""
    rows = zip(values, targets, strict=True)
    samples = tuple(
        Sample(f"{index}.png", target, ArrayPicture(np.full((4, 4, 3), value, np.uint8)))
        for index, (value, target) in enumerate(rows)
    )
    return Dataset("classification", LABELS, samples, skipped=("broken.png: empty",))


@pytest.fixture
def dataset() -> Dataset:
    """Six images, of which the last is labelled otherwise than it looks."""
    return plain([10, 20, 120, 130, 240, 250], [0, 0, 1, 1, 2, 1])


class TestClassification:
    def test_figures(self, dataset):
        accuracy = evaluate(Runner(classify(), classifier()), dataset)
        metrics = accuracy.metrics
        assert isinstance(metrics, ClassificationMetrics)
        assert accuracy.value == metrics.top1 == pytest.approx(5 / 6)
        assert metrics.top5 == 1.0
        assert metrics.confusion_matrix().tolist() == [[2, 0, 0], [0, 2, 1], [0, 0, 1]]
        assert [row.support for row in metrics.per_class] == [2, 3, 1]
        assert (accuracy.images, accuracy.unreadable) == (6, 1)
        assert accuracy.comparison is None
        assert accuracy.summary() == "top-1 83.33 % on 6 images, 1 unreadable"

    @pytest.mark.parametrize("batch", [1, 4, 6, 16])
    def test_a_fixed_batch_is_filled_up(self, dataset, batch):
        seen = []

        def run(inputs):
            seen.append(inputs["x"].shape)
            return classify()(inputs)

        accuracy = evaluate(Runner(run, classifier(batch)), dataset)
        assert accuracy.value == pytest.approx(5 / 6)
        assert set(seen) == {(batch, 1, 4, 4)}

    def test_survives_json(self, dataset):
        spec = classifier()
        baseline = evaluate(Runner(classify(), spec), dataset)
        accuracy = evaluate(Runner(classify(0.2), spec), dataset, baseline=baseline)
        assert msgspec.json.decode(msgspec.json.encode(accuracy), type=Accuracy) == accuracy
        through_manifest = msgspec.json.decode(msgspec.json.encode({"accuracy": msgspec.to_builtins(accuracy)}))
        assert msgspec.convert(through_manifest["accuracy"], Accuracy) == accuracy

    def test_beside_a_baseline(self, dataset):
        baseline = evaluate(Runner(classify(), classifier()), dataset)
        worse = evaluate(Runner(classify(0.4), classifier()), dataset, baseline=baseline)
        assert worse.comparison is not None
        assert worse.value < 5 / 6
        assert worse.comparison.metric_drop == pytest.approx(5 / 6 - worse.value)
        assert worse.comparison.agreement == pytest.approx(2 / 6), "only the lightest two stay what they were"
        assert worse.comparison.kl > 0.1
        assert "agreement with the baseline" in worse.summary()

    def test_beside_itself(self, dataset):
        baseline = evaluate(Runner(classify(), classifier()), dataset)
        same = evaluate(Runner(classify(), classifier()), dataset, baseline=baseline)
        assert same.comparison.metric_drop == 0
        assert same.comparison.agreement == 1
        assert same.comparison.kl == pytest.approx(0, abs=1e-6)

    def test_divergence_is_that_of_the_softmax(self, dataset):
        runs = [classify(factor=4.0), classify(0.1, factor=4.0)]
        baseline, other = (Runner(run, classifier()) for run in runs)
        comparison = evaluate(other, dataset, baseline=evaluate(baseline, dataset)).comparison
        images = np.stack([np.full((1, 4, 4), dataset.image(index).mean() / 255) for index in range(6)])
        p, q = (np.exp(run({"x": images})["y"].astype(float)) for run in runs)
        p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
        assert comparison.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-4)

    def test_several_labels_diverge_by_each(self, dataset):
        spec = classifier(activation="sigmoid")
        runs = [classify(factor=4.0), classify(0.1, factor=4.0)]
        baseline, other = (Runner(run, spec) for run in runs)
        comparison = evaluate(other, dataset, baseline=evaluate(baseline, dataset)).comparison
        images = np.stack([np.full((1, 4, 4), dataset.image(index).mean() / 255) for index in range(6)])
        p, q = (1.0 / (1.0 + np.exp(-run({"x": images})["y"].astype(float))) for run in runs)
        expected = (p * np.log(p / q) + (1.0 - p) * np.log((1.0 - p) / (1.0 - q))).sum(axis=1).mean()
        assert comparison.kl == pytest.approx(expected, rel=1e-3)

    def test_scores_that_are_no_probabilities_have_no_divergence(self, dataset):
        spec = classifier(activation="none")
        baseline = evaluate(Runner(classify(), spec), dataset)
        assert evaluate(Runner(classify(), spec), dataset, baseline=baseline).comparison.kl is None

    def test_the_statistic_is_the_metric_of_any_images(self, dataset):
        accuracy = evaluate(Runner(classify(), classifier()), dataset)
        statistic = accuracy.statistic()
        assert statistic(np.arange(6)) == accuracy.value
        assert statistic(np.array([0, 1, 5, 5])) == 0.5

    def test_a_paired_bootstrap_can_be_drawn(self, dataset):
        baseline = evaluate(Runner(classify(), classifier()), dataset)
        worse = evaluate(Runner(classify(0.4), classifier()), dataset, baseline=baseline)
        before, after = baseline.statistic(), worse.statistic()
        interval = bootstrap_interval(6, lambda images: before(images) - after(images), resamples=50)
        assert interval.estimate == pytest.approx(worse.comparison.metric_drop)

    def test_a_limit_spreads_over_the_images(self, dataset):
        accuracy = evaluate(Runner(classify(), classifier()), dataset, EvaluateConfig(limit=3))
        assert accuracy.images == 3
        assert accuracy.outcomes.true.unpack().tolist() == [0, 1, 2]

    def test_progress_reaches_the_end(self, dataset):
        seen: list[float] = []
        evaluate(Runner(classify(), classifier(4)), dataset, progress=seen.append)
        assert seen == [pytest.approx(4 / 6), 1.0]


OWN_METRICS = """
import numpy as np

def share_of_zeros(results, truths):
    assert len(results) == len(truths)
    return np.float32(sum(result.classes[0] == 0 for result in results) / len(results))

def nothing(results, truths):
    return None
"""


class TestExtraMetrics:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[None]:
        (tmp_path / "own_metrics.py").write_text(OWN_METRICS)
        with importable(tmp_path, "own_metrics:nothing"):
            yield

    def test_ours_and_the_users_stand_beside_the_main_one_and_beside_the_baselines(self, own):
        config = EvaluateConfig(metrics=("balanced_accuracy", "own_metrics:share_of_zeros"))
        data = plain([10, 20, 10, 120], [0, 0, 0, 1])
        baseline = evaluate(Runner(classify(), classifier()), data, config)
        assert baseline.extra == {"balanced_accuracy": 1.0, "own_metrics:share_of_zeros": 0.75}
        darker = evaluate(Runner(classify(offset=-0.4), classifier()), data, config, baseline=baseline)
        assert darker.value == 0.75
        assert darker.extra == {"balanced_accuracy": 0.5, "own_metrics:share_of_zeros": 1.0}
        assert darker.comparison.extra_drops == {"balanced_accuracy": 0.5, "own_metrics:share_of_zeros": -0.25}
        assert darker.comparison.worst_drop == ("balanced_accuracy", 0.5)
        assert "balanced_accuracy 50.00 %, share_of_zeros 100.00 %" in darker.summary()

    def test_f1_is_of_what_predict_shows(self, scenes):
        found = evaluate(detect(0.9), scenes, EvaluateConfig(metrics=("f1",)))
        assert found.extra["f1"] == pytest.approx(found.at_threshold.f1)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("own_metrics:nothing", "'own_metrics:nothing' must give a number, and gave None"),
            ("own_metrics:nothin", "Did you mean 'nothing'"),
            ("f1", "is for detection"),
        ],
    )
    def test_what_is_no_metric_is_named(self, name, message, own):
        with pytest.raises((ConfigError, ModelError), match=message):
            evaluate(Runner(classify(), classifier()), plain([0], [0]), EvaluateConfig(metrics=(name,)))


class TestRefusals:
    def test_other_labels_are_named(self, dataset):
        other = replace(classifier(), labels=("dark", "gray", "light"))
        with pytest.raises(DataError, match="class 1 is 'grey' in the data and 'gray' in the model"):
            evaluate(Runner(classify(), other), dataset)

    def test_another_number_of_labels(self, dataset):
        with pytest.raises(DataError, match="3 in the data, 2 in the model"):
            evaluate(Runner(classify(), replace(classifier(), labels=("dark", "grey"))), dataset)

    def test_data_of_another_task(self, dataset):
        with pytest.raises(DataError, match="labels for detection"):
            evaluate(Runner(classify(), classifier()), Dataset("detection", LABELS, dataset.samples))

    def test_no_images(self):
        with pytest.raises(DataError, match="no images"):
            evaluate(Runner(classify(), classifier()), Dataset("classification", LABELS, ()))

    def test_an_image_without_its_class(self):
        with pytest.raises(DataError, match="has NoneType for its class"):
            evaluate(Runner(classify(), classifier()), plain([1], [None]))

    @pytest.mark.parametrize("values", [[10, 20], [10, 20, 30]])
    def test_a_baseline_of_other_images(self, dataset, values):
        baseline = evaluate(Runner(classify(), classifier()), plain(values, [0] * len(values)))
        with pytest.raises(DataError, match="baseline was evaluated on other images"):
            evaluate(Runner(classify(), classifier()), dataset, baseline=baseline)

    def test_a_baseline_of_other_truths(self):
        baseline = evaluate(Runner(classify(), classifier()), plain([10, 20], [0, 0]))
        with pytest.raises(DataError, match="other images or labels"):
            evaluate(Runner(classify(), classifier()), plain([10, 20], [0, 1]), baseline=baseline)

    def test_an_image_that_has_gone(self, tmp_path: Path):
        from edgeopt.dataset import FilePicture

        samples = (Sample("gone.png", 0, FilePicture(tmp_path / "gone.png")),)
        with pytest.raises(DataError, match=r"gone\.png"):
            evaluate(Runner(classify(), classifier()), Dataset("classification", LABELS, samples))


DETECTOR = ModelSpec(
    name="boxes",
    task="detection",
    input=TensorSpec(name="x", shape=(1, 3, 64, 64), dtype="uint8"),
    outputs=(TensorSpec(name="y", shape=(1, 6, 3)),),
    preprocessing=Preprocessing(steps=(Letterbox(size=(64, 64)),)),
    decoding=preset("yolov8", score_threshold=0.5),
    labels=("cat", "dog"),
)


def detect(dogs: float) -> Runner:
    """Finds a cat in every image, something that is not there with little certainty, and a dog with the score given."""
    columns = [[16, 16, 20, 20, 0.9, 0.0], [50, 50, 10, 10, 0.2, 0.0], [40, 40, 16, 16, 0.0, dogs]]
    return Runner(lambda _: {"y": np.array(columns, np.float32).T[None]}, DETECTOR)


@pytest.fixture
def scenes() -> Dataset:
    """Images of twice the network's size, with a cat and a dog where `detect` finds them, after an empty one."""
    both = Boxes.of([[12, 12, 52, 52], [64, 64, 96, 96]], [0, 1])
    pixels = np.zeros((128, 128, 3), np.uint8)
    targets = [Boxes.of([], []), both, both]
    samples = tuple(Sample(f"{index}", target, ArrayPicture(pixels)) for index, target in enumerate(targets))
    return Dataset("detection", ("cat", "dog"), samples)


class TestDetection:
    def test_figures(self, scenes):
        accuracy = evaluate(detect(0.8), scenes)
        metrics = accuracy.metrics
        assert isinstance(metrics, DetectionMetrics)
        assert accuracy.value == metrics.ap
        assert metrics.ar100 == 1.0
        assert metrics.support == (2, 2)
        assert accuracy.score_threshold == 0.5
        assert accuracy.at_threshold.precision == pytest.approx(4 / 6), "of 6 shown, 2 are in the empty image"
        assert accuracy.at_threshold.recall == 1.0
        assert accuracy.at_threshold.f1 == pytest.approx(0.8)
        assert accuracy.at_threshold.mistakes == ((1, 0), (1, 0)), "a cat and a dog in the empty image"

    def test_beside_a_baseline(self, scenes):
        baseline = evaluate(detect(0.8), scenes)
        worse = evaluate(detect(0.0), scenes, baseline=baseline)
        assert worse.value < baseline.value
        assert worse.comparison.metric_drop == pytest.approx(baseline.value - worse.value)
        assert worse.comparison.agreement == pytest.approx(2 * 3 / 9)
        assert worse.comparison.kl is None
        same = evaluate(detect(0.8), scenes, baseline=baseline)
        assert (same.comparison.metric_drop, same.comparison.agreement) == (0, 1)

    def test_survives_json(self, scenes):
        baseline = evaluate(detect(0.8), scenes)
        accuracy = evaluate(detect(0.4), scenes, baseline=baseline)
        assert msgspec.json.decode(msgspec.json.encode(accuracy), type=Accuracy) == accuracy

    def test_what_was_shown_comes_back(self, scenes):
        shown = evaluate(detect(0.8), scenes).outcomes.shown(DETECTOR.labels)
        assert [each.labels for each in shown] == [("cat", "dog")] * 3
        np.testing.assert_allclose(shown[2].boxes, [[12, 12, 52, 52], [64, 64, 96, 96]], atol=1e-4)

    def test_nothing_shown_in_any_image(self, scenes):
        nothing = Runner(lambda _: {"y": np.zeros((1, 6, 3), np.float32)}, DETECTOR)
        accuracy = evaluate(nothing, scenes)
        assert accuracy.value == 0
        assert [len(each) for each in accuracy.outcomes.shown(DETECTOR.labels)] == [0, 0, 0]

    def test_the_statistic_is_the_metric_of_any_images(self, scenes):
        accuracy = evaluate(detect(0.8), scenes)
        statistic = accuracy.statistic()
        assert statistic(np.arange(3)) == pytest.approx(accuracy.value)
        assert statistic(np.array([1, 2])) > accuracy.value
        assert statistic(np.array([0, 0])) == 0, "nothing is to be found there"

    def test_a_detector_with_a_classifiers_decoding(self, scenes):
        wrong = replace(DETECTOR, decoding=ClassificationDecoding())
        with pytest.raises(DataError, match="decoding is for classification"):
            evaluate(Runner(lambda _: {}, wrong), scenes)


class TestClasses:
    def test_a_ruined_class_is_said_whatever_the_mean_says(self):
        data = plain([10] * 20 + [120] * 20 + [250] * 20, [0] * 20 + [1] * 20 + [2] * 20)
        baseline = evaluate(Runner(classify(), classifier()), data)
        worse = evaluate(Runner(classify(0.4), classifier()), data, baseline=baseline)
        changes = class_changes(baseline, worse, LABELS)
        assert [each.label for each in changes if each.lost_much] == [each.label for each in worse.comparison.lost]
        assert worse.comparison.lost
        assert all(each.low <= each.change <= each.high for each in changes)
        assert [each.change for each in changes] == sorted(each.change for each in changes)
        assert f"lost much: {changes[0].label}" in worse.summary()
        assert "% (20 in the test set)" in class_sentence(changes[0])

    @pytest.mark.parametrize(
        ("support", "after", "beyond_chance", "said"),
        [
            (2, 0.0, False, False),
            (8, 0.0, False, True),
            (50, 0.44, False, False),
            (50, 0.44, True, True),
            (50, 0.46, True, False),
        ],
    )
    def test_what_a_few_images_lost_is_no_finding(self, support, after, beyond_chance, said):
        change = ClassChange(
            label="a", support=support, before=0.5, after=after, low=-0.6, high=0.0, beyond_chance=beyond_chance
        )
        assert change.lost_much == said
        assert ("too few to rule out chance" in class_sentence(change)) != beyond_chance

    def test_of_many_classes_one_loses_by_chance(self):
        """The change that is beyond chance of one class is not beyond that of the worst of a thousand."""
        data = plain([10] * 20 + [120] * 20 + [250] * 20, [0] * 20 + [1] * 20 + [2] * 20)
        baseline = evaluate(Runner(classify(), classifier()), data)
        draws = np.random.default_rng(0).normal(-0.1, 0.04, (2000, 3))
        worse = replace(baseline.metrics.per_class[0], f1=0.9)
        per = (worse, *baseline.metrics.per_class[1:])
        other = replace(baseline, metrics=replace(baseline.metrics, per_class=per))
        assert changes(baseline, other, LABELS, draws)[0].beyond_chance
        thousand = (*LABELS, *(f"class {index}" for index in range(997)))
        many = [
            replace(each, metrics=replace(each.metrics, per_class=(*each.metrics.per_class, *per[1:2] * 997)))
            for each in (baseline, other)
        ]
        wide = np.pad(draws, ((0, 0), (0, 997)))
        assert not changes(*many, thousand, wide)[0].beyond_chance

    def test_the_same_model_loses_nothing(self, dataset):
        baseline = evaluate(Runner(classify(), classifier()), dataset)
        assert {each.change for each in class_changes(baseline, baseline, LABELS)} == {0.0}

    def test_of_a_detector(self, scenes):
        baseline = evaluate(detect(0.8), scenes)
        worse = evaluate(detect(0.0), scenes, baseline=baseline)
        changes = class_changes(baseline, worse, DETECTOR.labels)
        assert [each.label for each in changes] == ["dog", "cat"]
        assert changes[0].after == 0
        assert changes[1].change == 0
        assert worse.comparison.lost == (), "of two dogs"

    def test_figures_by_class_are_those_of_the_metrics(self, dataset, scenes):
        for accuracy in (evaluate(Runner(classify(), classifier()), dataset), evaluate(detect(0.8), scenes)):
            expected = per_class(accuracy)
            values = accuracy.outcomes.by_class(len(expected))(np.arange(accuracy.images))
            np.testing.assert_allclose(values, expected)


class TestImages:
    def test_right_wrong_and_what_changed(self, dataset):
        baseline = evaluate(Runner(classify(), classifier()), dataset)
        worse = evaluate(Runner(classify(0.4), classifier()), dataset, baseline=baseline)
        found = results_by_variant({"fp32": baseline, "int8": worse}, dataset, "fp32")
        assert [each.right for each in found["fp32"]] == [True] * 5 + [False]
        assert found["fp32"][0].change is None
        assert found["fp32"][5].truth == LABELS[1]
        assert sum(each.right for each in found["int8"]) == round(6 * worse.value)
        assert [each.change for each in found["int8"]].count("broke") == 5 - sum(
            each.right for each in found["int8"][:5]
        )
        assert [each.image for each in surest_mistakes(found["fp32"], 3)] == ["5.png"]

    def test_false_and_missed_boxes(self, scenes):
        baseline = evaluate(detect(0.8), scenes)
        worse = evaluate(detect(0.0), scenes, baseline=baseline)
        found = image_results(worse, scenes, baseline)
        assert [each.false for each in found] == [("cat",), (), ()]
        assert [each.missed for each in found] == [(), ("dog",), ("dog",)]
        assert [each.change for each in found] == ["mended", "broke", "broke"], "a false dog in the empty image is gone"
        assert found[1].truth == "1 cat, 1 dog"
        assert found[1].baseline == "1 cat, 1 dog"
        assert [each.mistakes for each in found] == [1, 1, 1]

    def test_wrong_pictures_are_files_by_variant_and_reason(self, dataset, tmp_path):
        baseline = evaluate(Runner(classify(), classifier()), dataset)
        worse = evaluate(Runner(classify(0.4), classifier()), dataset, baseline=baseline)
        both = {"fp32": baseline, "int8": worse}
        found = results_by_variant(both, dataset, "fp32")
        count = write_mistakes(tmp_path / "wrong", both, found, dataset, "fp32", 4)
        files = sorted(path.relative_to(tmp_path / "wrong").as_posix() for path in tmp_path.rglob("*.jpg"))
        assert len(files) == count
        assert [name for name in files if name.startswith("fp32")] == [
            f"fp32/surest/001 {LABELS[1]} as {LABELS[2]} 5.jpg"
        ]
        broke = min(4, sum(each.change == "broke" for each in found["int8"]))
        assert sum(name.startswith("int8/broke") for name in files) == broke > 0
        assert all(cv2.imread(str(tmp_path / "wrong" / name)) is not None for name in files)
        rows = list(csv.DictReader(io.StringIO((tmp_path / "wrong" / "classes.csv").read_text())))
        assert [(row["class"], row["false"], row["missed"]) for row in rows[:3]] == [
            (LABELS[0], "0", "0"), (LABELS[1], "0", "1"), (LABELS[2], "1", "0"),
        ]  # fmt: skip
        assert [row["FP32 missed"] for row in rows] == ["", "", "", "0", "1", "0"]

    def test_wrong_boxes_are_drawn_beside_the_truth(self, scenes, tmp_path):
        baseline = evaluate(detect(0.8), scenes)
        found = results_by_variant({"fp32": baseline}, scenes, "fp32")
        assert write_mistakes(tmp_path, {"fp32": baseline}, found, scenes, "fp32", 9) > 0
        picture = cv2.imread(str(next(tmp_path.rglob("*.jpg"))))
        assert picture.shape[1] == 2 * picture.shape[0], "two pictures side by side"
        text = (tmp_path / "classes.csv").read_text()
        assert text.splitlines()[1].startswith("fp32,cat,")

    def test_other_images_are_refused(self, dataset):
        accuracy = evaluate(Runner(classify(), classifier()), dataset)
        with pytest.raises(DataError, match="is not what the bundle was evaluated on"):
            image_results(accuracy, plain([10, 20], [0, 1]))

    def test_tables(self, dataset, scenes):
        baseline = evaluate(Runner(classify(), classifier()), dataset)
        found = results_by_variant({"fp32": baseline, "int8": baseline}, dataset, "fp32")
        rows = list(csv.DictReader(io.StringIO(images_csv(found))))
        assert len(rows) == 12
        assert rows[5] | {"score": ""} == {
            "variant": "fp32", "image": "5.png", "truth": LABELS[1], "predicted": LABELS[2], "score": "",
            "right": "false", "mistakes": "1", "false": "", "missed": "", "fp32": "", "fp32_right": "", "change": "",
        }  # fmt: skip
        matrix, labels = confusion(baseline, dataset)
        assert confusion_csv(matrix, labels).splitlines()[2] == f"{LABELS[1]},0,2,1"
        matrix, labels = confusion(evaluate(detect(0.8), scenes), scenes)
        assert labels == ("cat", "dog", "(nothing)")
        assert matrix.tolist() == [[2, 0, 0], [0, 2, 0], [1, 1, 0]]

    def test_json_has_every_image_and_class(self, dataset):
        baseline = evaluate(Runner(classify(), classifier()), dataset)
        results = {"fp32": baseline, "int8": baseline}
        found = msgspec.json.decode(
            msgspec.json.encode(results_json(results, results_by_variant(results, dataset, "fp32"), "fp32", LABELS))
        )
        assert found["fp32"]["value"] == baseline.value
        assert found["fp32"]["classes"] == []
        assert len(found["int8"]["classes"]) == 3
        assert found["int8"]["per_image"][0] | {"score": 0} == {
            "image": "0.png", "truth": LABELS[0], "predicted": LABELS[0], "score": 0, "right": True, "false": [],
            "missed": [], "baseline": LABELS[0], "baseline_right": True, "change": "same",
        }  # fmt: skip


class TestThresholds:
    def test_the_curve_says_what_another_threshold_would_give(self, scenes):
        accuracy = evaluate(detect(0.8), scenes)
        curve = accuracy.curve
        rows = zip(curve.thresholds, curve.precision, curve.recall, strict=True)
        at = {threshold: (precision, recall) for threshold, precision, recall in rows}
        assert at[0.1] == (pytest.approx(4 / 9, abs=1e-4), 1.0), "the uncertain box is false in three images"
        assert at[0.5] == (pytest.approx(accuracy.at_threshold.precision, abs=1e-4), accuracy.at_threshold.recall)
        assert at[0.85] == (pytest.approx(2 / 3, abs=1e-4), 0.5)
        advice = threshold_advice(accuracy.curve, accuracy.score_threshold)
        assert "recall 100.0 %: the highest with recall 95 % or more" in "\n".join(advice)
        assert advice[-1].startswith("score ≥ 0.50: precision 66.7 %")


class TestPackedArray:
    @pytest.mark.parametrize(
        "array",
        [
            np.array([0, 300, 7]),
            np.array([[1.5, -2.5]], np.float32),
            np.array([[True, False]]),
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.int64),
        ],
    )
    def test_comes_back_through_json(self, array):
        packed = msgspec.json.decode(msgspec.json.encode(PackedArray.of(array)), type=PackedArray)
        np.testing.assert_array_equal(packed.unpack(), array)
        assert packed.unpack().dtype == array.dtype

    @pytest.mark.parametrize("change", [{"data": b"no zlib"}, {"shape": (5,)}, {"dtype": "nonsense"}])
    def test_damage_is_noticed(self, change):
        with pytest.raises(DataError, match="damaged"):
            replace(PackedArray.of(np.arange(3)), **change).unpack()


@pytest.fixture
def colours() -> Dataset:
    samples = tuple(Sample(name, index, ArrayPicture(tiny.colour(name))) for index, name in enumerate(tiny.COLOURS))
    return Dataset("classification", tiny.COLOURS, samples)


class TestBundle:
    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Bundle:
        return tiny.write(tmp_path / "x.edgeopt")

    def test_every_variant_beside_the_baseline(self, bundle, colours):
        results = evaluate_bundle(bundle, colours)
        assert list(results) == ["ort-fp32", "ort-int8", "ov-fp32", "ov-int8"]
        assert all(accuracy.value == 1 for accuracy in results.values())
        assert results["ort-fp32"].comparison is None
        assert results["ov-int8"].comparison.agreement == 1

    def test_images_that_were_calibrated_on_are_refused_by_what_they_show(self, bundle, colours):
        calibration = Calibration(
            method="mse", images=1, fingerprint="f", names=("first.png",), hashes=(colours.content_hash(0),)
        )
        calibrated = Bundle(bundle.path, replace(bundle.manifest, calibration=calibration))
        with pytest.raises(DataError, match=r"1 of \d+ images .* is the calibration image first\.png"):
            evaluate_bundle(calibrated, colours)
        others = colours.subset(index for index in range(len(colours)) if index != 0)
        assert evaluate_bundle(calibrated, others, variant="ort-fp32")

    def test_one_variant_beside_the_baseline(self, bundle, colours):
        assert list(evaluate_bundle(bundle, colours, variant="ov-int8")) == ["ort-fp32", "ov-int8"]

    def test_progress_names_the_variants(self, bundle, colours):
        class Display:
            lines: tuple[str, ...] = ()

            def begin(self, stage):
                self.lines += (f"begin {stage}",)

            def update(self, done, total=1.0, text=""):
                assert 0 < done <= total

            def end(self, summary, *, reused):
                self.lines += (summary,)

        display = Display()
        evaluate_bundle(bundle, colours, variant="ort-fp32", progress=display)
        assert display.lines == ("begin ort-fp32", "top-1 100.00 % on 3 images")

    def test_a_variant_that_does_not_run_here_is_left_out_aloud(self, bundle, colours, monkeypatch, caplog):
        def refuse(opened, variant, **_):
            if variant.target == "ort":
                raise TargetError("no such engine here")
            return real(opened, variant)

        from edgeopt.evaluate import bundles

        real = bundles.open_variant
        monkeypatch.setattr(bundles, "open_variant", refuse)
        with caplog.at_level(logging.WARNING):
            results = evaluate_bundle(bundle, colours)
        assert list(results) == ["ov-fp32", "ov-int8"]
        assert results["ov-int8"].comparison is None
        assert "'ort-fp32' is not evaluated: no such engine here" in caplog.text
        with pytest.raises(TargetError, match="no such engine here"):
            evaluate_bundle(bundle, colours, variant="ort-int8")

    def test_nothing_runs_here(self, bundle, colours, monkeypatch):
        def refuse(*_, **__):
            raise TargetError("no")

        monkeypatch.setattr("edgeopt.evaluate.bundles.open_variant", refuse)
        with pytest.raises(TargetError, match=r"no variant of .* runs here"):
            evaluate_bundle(bundle, colours)


@pytest.mark.slow
def test_yolox_nano_on_real_images(shared: Path):
    """The published network's AP on the first 128 images of COCO val2017, as other evaluations give it."""
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
        decoding=preset("yolox"),
        labels=dataset.labels,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(shared / "model_yolox_nano" / "yolox_nano.onnx"), options)
    accuracy = evaluate(Runner(lambda inputs: {"output": session.run(None, inputs)[0]}, spec), dataset)
    assert accuracy.images == 128
    assert accuracy.value == pytest.approx(0.342, abs=0.002)
    assert accuracy.statistic()(np.arange(128)) == pytest.approx(accuracy.value)
