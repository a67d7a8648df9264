"""Alignment: an INT8 variant's scores are moved to where the baseline's lie, without labels, and rankings stay."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_postprocess import IDENTITY, model

from edgeopt.errors import SettingError
from edgeopt.evaluate.align import Answers, can_align, fit_alignment
from edgeopt.metrics import confidence
from edgeopt.postprocess import class_scores, decode
from edgeopt.postprocess.alignment import to_baseline, to_own
from edgeopt.runtime import load
from edgeopt.spec import ClassificationDecoding, ModelSpec, ScoreCurve, ScoreCurves, Temperature, preset, replace

DETECTOR = model(preset("yolov8", score_threshold=0.3))
CLASSIFIER = model(ClassificationDecoding())
CURVE = ScoreCurve(own=(0.1, 0.3, 0.6), baseline=(0.2, 0.5, 0.9))
LEVELS = (0.3, 0.5, 0.7)


def sigmoid(odds: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-odds))


def seen(seed: int, images: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, class and log odds of the detections of a float network."""
    random = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), random.integers(0, 30, images))
    return image, random.integers(0, 3, len(image)), random.normal(-1.5, 2.0, len(image))


def answers(image: np.ndarray, category: np.ndarray, odds: np.ndarray, images: int = 200) -> Answers:
    scores = sigmoid(odds)
    kept = scores >= 0.01
    return Answers(images, image[kept], category[kept], scores[kept])


def squeezed(odds: np.ndarray, seed: int = 0) -> np.ndarray:
    """Log odds after a quantization that makes a network less sure, and that adds noise."""
    return 0.7 * odds - 0.5 + np.random.default_rng(seed).normal(0.0, 0.1, len(odds))


class TestDetectors:
    def test_as_many_are_found_on_other_images_at_every_threshold(self):
        image, category, odds = seen(0)
        alignment = fit_alignment(DETECTOR, answers(image, category, odds), answers(image, category, squeezed(odds)))
        _, _, others = seen(1)
        for level in LEVELS:
            wanted = (sigmoid(others) >= level).sum()
            before = (sigmoid(squeezed(others, 1)) >= level).sum()
            after = (to_baseline(sigmoid(squeezed(others, 1)), alignment.curve) >= level).sum()
            assert abs(after - wanted) < 0.05 * wanted < abs(before - wanted)
        assert alignment.classes == {}

    def test_equal_networks_keep_their_scores(self):
        same = answers(*seen(0))
        assert fit_alignment(DETECTOR, same, same) is None

    def test_noise_alone_moves_nothing_far(self):
        image, category, odds = seen(0)
        noisy = answers(image, category, odds + np.random.default_rng(3).normal(0.0, 0.1, len(odds)))
        alignment = fit_alignment(DETECTOR, answers(image, category, odds), noisy)
        if alignment is not None:
            np.testing.assert_allclose(to_baseline(LEVELS, alignment.curve), LEVELS, atol=0.02)

    def test_as_many_in_all_is_no_reason_where_no_image_is_answered_better(self):
        image, category, odds = seen(0)
        elsewhere = np.random.default_rng(100).permutation(200)[image]
        other = answers(elsewhere, category, odds - 0.3)
        assert fit_alignment(DETECTOR, answers(image, category, odds), other) is None

    def test_a_class_that_moved_otherwise_has_a_curve_of_its_own(self):
        image, category, odds = seen(0)
        own = np.where(category == 2, odds - 2.0, odds)
        alignment = fit_alignment(DETECTOR, answers(image, category, odds), answers(image, category, own))
        assert "class2" in alignment.classes
        assert to_own(0.5, alignment.classes["class2"]) == pytest.approx(sigmoid(np.array(-2.0)), abs=0.03)

    def test_too_few_detections_say_nothing(self):
        image, category, odds = seen(0, images=2)
        few = answers(image, category, odds, 2)
        assert fit_alignment(DETECTOR, few, answers(image, category, squeezed(odds), 2)) is None

    def test_the_result_of_a_fit_survives_json(self):
        image, category, odds = seen(0)
        alignment = fit_alignment(DETECTOR, answers(image, category, odds), answers(image, category, squeezed(odds)))
        spec = replace(DETECTOR, alignment=alignment)
        assert msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec) == spec


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20))
def test_a_curve_keeps_the_ranking_and_has_a_way_back(scores):
    ranked = np.sort(np.array(scores))
    there = to_baseline(ranked, CURVE)
    assert (np.diff(there) >= 0.0).all()
    assert ((there >= 0.0) & (there <= 1.0)).all()
    np.testing.assert_allclose(to_own(there, CURVE), ranked, atol=1e-6)


def test_a_curve_meets_its_knots():
    np.testing.assert_allclose(to_baseline(CURVE.own, CURVE), CURVE.baseline)


@pytest.mark.parametrize("own", [(), (0.5, 0.4, 0.6), (0.0, 0.5, 0.6), (0.1, 0.2)])
def test_a_curve_that_does_not_rise_is_refused(own):
    with pytest.raises((SettingError, msgspec.ValidationError), match="score curve"):
        ScoreCurve(own=own, baseline=(0.2, 0.5, 0.9))


def output(*scores: tuple[int, float]) -> dict[str, np.ndarray]:
    """Boxes side by side, each with a class and its score."""
    raw = np.zeros((1, 7, len(scores)), np.float32)
    for place, (index, score) in enumerate(scores):
        raw[0, :4, place] = 50 + 100 * place, 50, 40, 40
        raw[0, 4 + index, place] = score
    return {"y": raw}


class TestDecoding:
    def test_the_threshold_counts_in_the_baselines_scores(self):
        spec = replace(DETECTOR, alignment=ScoreCurves(curve=CURVE))
        outputs = output((0, 0.31), (1, 0.29), (2, 0.1))
        spec = replace(spec, decoding=replace(spec.decoding, score_threshold=0.5))
        (found,) = decode(outputs, spec, [IDENTITY])
        assert found.labels == ("class0",)
        assert found.scores[0] == pytest.approx(to_baseline(0.31, CURVE), rel=1e-5)

    def test_a_score_on_the_threshold_counts(self):
        spec = replace(DETECTOR, decoding=preset("yolov8", score_threshold=0.2), alignment=ScoreCurves(curve=CURVE))
        assert len(decode(output((0, 0.1001), (0, 0.0999)), spec, [IDENTITY])[0]) == 1

    def test_curves_of_classes_may_change_the_order_between_classes(self):
        lifted = ScoreCurve(own=(0.2,), baseline=(0.8,))
        spec = replace(DETECTOR, alignment=ScoreCurves(curve=CURVE, classes={"class1": lifted}))
        (found,) = decode(output((0, 0.31), (1, 0.29)), spec, [IDENTITY])
        assert found.labels == ("class1", "class0")
        assert (np.diff(found.scores) <= 0.0).all()


class TestClassifiers:
    def test_a_temperature_makes_the_mean_confidence_the_baselines(self):
        random = np.random.default_rng(0)
        logits = random.normal(0.0, 3.0, (300, 3)).astype(np.float32)
        own = 0.5 * logits + random.normal(0.0, 0.05, logits.shape).astype(np.float32)

        def told(values: np.ndarray) -> Answers:
            scores = class_scores({"y": values}, CLASSIFIER, [IDENTITY] * len(values))
            return Answers(len(values), np.repeat(np.arange(len(values)), 3), np.tile(np.arange(3), len(values)),
                           scores.ravel().astype(np.float64))  # fmt: skip

        alignment = fit_alignment(CLASSIFIER, told(logits), told(own))
        assert alignment.value == pytest.approx(0.5, rel=0.05)
        assert fit_alignment(CLASSIFIER, told(logits), told(logits)) is None

    @pytest.mark.parametrize("applied", ["none", "softmax"])
    def test_a_temperature_keeps_the_ranking_and_the_sum(self, applied):
        logits = np.array([[2.0, 1.0, -1.0], [0.0, 0.5, 3.0]], np.float32)
        decoding = ClassificationDecoding(activation="softmax" if applied == "none" else "none", applied=applied)
        given = logits if applied == "none" else class_scores({"y": logits}, CLASSIFIER, [IDENTITY] * 2)
        spec = replace(model(decoding), alignment=Temperature(value=0.5))
        scores = class_scores({"y": given}, spec, [IDENTITY] * 2)
        expected = class_scores({"y": 2.0 * logits}, CLASSIFIER, [IDENTITY] * 2)
        np.testing.assert_allclose(scores, expected, rtol=1e-4)
        (first, _) = decode({"y": given}, spec, [IDENTITY] * 2)
        assert first.labels == ("class0", "class1", "class2")

    @pytest.mark.parametrize("applied", ["none", "sigmoid"])
    def test_independent_classes_go_along_a_curve(self, applied):
        probabilities = np.array([[0.3, 0.1, 0.6]], np.float32)
        given = probabilities if applied == "sigmoid" else np.log(probabilities / (1 - probabilities))
        decoding = ClassificationDecoding(activation="sigmoid" if applied == "none" else "none", applied=applied)
        spec = replace(model(decoding), alignment=ScoreCurves(curve=CURVE))
        np.testing.assert_allclose(class_scores({"y": given}, spec, [IDENTITY]), [[0.5, 0.2, 0.9]], rtol=1e-4)

    def test_scores_that_are_no_probabilities_cannot_be_aligned(self):
        assert not can_align(model(ClassificationDecoding(activation="none")))


def test_a_bundle_predicts_with_the_alignment_of_the_variant(tmp_path):
    variants = [replace(variant, alignment=Temperature(value=0.25)) if variant.precision == "int8" else variant
                for variant, _ in tiny.engines()]  # fmt: skip
    bundle = tiny.write(tmp_path / "tiny.edgeopt", variants=tuple(variants))
    red = tiny.colour("red")
    with load(bundle.path, variant="ort-int8") as aligned:
        scores = aligned.predict(red).scores
        raw = aligned.infer(aligned.prepare(red), copy=True)
        plain = class_scores(raw.outputs, replace(aligned.spec, alignment=None), raw.geometries)[0]
    np.testing.assert_allclose(np.sort(scores), np.sort(plain**4 / (plain**4).sum()), rtol=1e-3)


def test_confidence_of_a_known_case():
    found = confidence([0.95, 0.85, 0.75, 0.65], [True, True, True, False], 0.9)
    assert found.calibration_error == pytest.approx((0.05 + 0.15 + 0.25 + 0.65) / 4)
    assert (found.coverage, found.threshold) == (0.75, 0.75)
    assert confidence([0.9], [False], 0.5).coverage == 0.0
    assert confidence([0.9], [False], 0.5).threshold is None
