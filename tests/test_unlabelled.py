"""Images without labels: variants are compared with the float model's answers, and nothing calls that accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from identify.test_model_recipe import classifier as colour_network

from edgeopt.bundle import Bundle
from edgeopt.cli import main
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import ArrayPicture, Dataset, Sample
from edgeopt.errors import ConfigError, DataError
from edgeopt.evaluate import Accuracy, Runner, accept, confusion, evaluate, image_results
from edgeopt.metrics import AgreementMetrics
from edgeopt.spec import (
    ClassificationDecoding,
    Letterbox,
    ModelSpec,
    Normalization,
    Preprocessing,
    TensorSpec,
    preset,
)

SHADES = ("dark", "grey", "light")
CLASSIFIER = ModelSpec(
    name="by brightness",
    task="classification",
    input=TensorSpec(name="x", shape=("N", 1, 4, 4)),
    outputs=(TensorSpec(name="y", shape=("N", 3)),),
    preprocessing=Preprocessing(channels="GRAY", normalization=Normalization()),
    decoding=ClassificationDecoding(),
    labels=SHADES,
)
DETECTOR = ModelSpec(
    name="pets",
    task="detection",
    input=TensorSpec(name="x", shape=(1, 3, 64, 64)),
    outputs=(TensorSpec(name="y", shape=(1, 6, 3)),),
    preprocessing=Preprocessing(steps=(Letterbox(size=(64, 64)),)),
    decoding=preset("yolov8", score_threshold=0.5),
    labels=("cat", "dog"),
)


def images(*values: int, side: int = 4) -> Dataset:
    """Images of one grey value each, without labels."""
    samples = [
        Sample(f"{index}.png", None, ArrayPicture(np.full((side, side, 3), value, np.uint8)))
        for index, value in enumerate(values)
    ]
    return Dataset(None, (), tuple(samples))


def classify(offset: float = 0.0) -> Runner:
    """A network whose answer is the class whose brightness (0, .5, 1) is nearest, after an error of `offset`."""

    def run(inputs):
        brightness = inputs["x"].mean(axis=(1, 2, 3)) + offset
        return {"y": -40 * np.abs(brightness[:, None] - np.array([0.0, 0.5, 1.0])).astype(np.float32)}

    return Runner(run, CLASSIFIER)


def detect(cat: float, dog: float) -> Runner:
    """Finds a cat and a dog in every image, with these scores, the dog only in light ones."""

    def run(inputs):
        shown = dog if inputs["x"].mean() > 100 else 0.0
        rows = [[16, 16, 20, 20, cat, 0.0], [40, 40, 16, 16, 0.0, shown], [50, 50, 4, 4, 0.1, 0.0]]
        return {"y": np.array(rows, np.float32).T[None]}

    return Runner(run, DETECTOR)


def test_a_classifier_is_compared_with_the_best_classes_of_float() -> None:
    data = images(10, 20, 120, 130, 240, 250)
    baseline = evaluate(classify(), data)
    other = evaluate(classify(0.4), data, baseline=baseline)
    assert (baseline.metric, baseline.value, baseline.comparison) == ("agreement", 1.0, None)
    assert other.value == pytest.approx(2 / 6), "only the lightest two stay what they were"
    assert other.comparison is not None
    assert other.comparison.metric_drop == pytest.approx(4 / 6)
    assert other.comparison.kl is not None
    assert other.comparison.kl > 0.1
    assert other.confidence is None, "nobody knows which answers are right"
    assert isinstance(other.metrics, AgreementMetrics)
    assert other.metrics.support == (2, 2, 2)
    assert other.metrics.per_class[0] == 0.0


def test_a_detector_is_compared_with_the_boxes_of_float() -> None:
    data = images(0, 0, 255, 255, side=64)
    baseline = evaluate(detect(0.9, 0.9), data)
    other = evaluate(detect(0.9, 0.4), data, baseline=baseline)
    assert baseline.value == 1.0
    assert other.value == pytest.approx(2 * 4 / (6 + 4)), "Dice: 4 cats are shared, of 6 boxes and 4"
    assert isinstance(other.metrics, AgreementMetrics)
    assert other.metrics.per_class == (1.0, 0.0)
    assert other.metrics.support == (4, 2)
    assert other.statistic()(np.array([0, 1])) == 1.0, "images without a dog agree"
    assert other.comparison is not None
    assert other.comparison.drop is not None
    assert other.comparison.drop.low < other.comparison.metric_drop < other.comparison.drop.high
    assert (other.at_threshold, other.curve) == (None, None), "precision and recall need a truth"


def test_no_figure_is_called_accuracy() -> None:
    data = images(10, 120, 250)
    baseline = evaluate(classify(), data)
    for summary in (baseline.summary(), evaluate(classify(0.4), data, baseline=baseline).summary()):
        assert "without labels" in summary
        assert "top-1" not in summary


def test_it_survives_json() -> None:
    data = images(0, 255, side=64)
    baseline = evaluate(detect(0.9, 0.9), data)
    found = evaluate(detect(0.9, 0.4), data, baseline=baseline)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Accuracy) == found


def test_a_float_model_that_finds_nothing_proves_nothing() -> None:
    with pytest.raises(DataError, match=r"finds nothing in 2 images without labels .*0\.5"):
        evaluate(detect(0.2, 0.2), images(0, 255, side=64))


def test_metrics_of_the_recipe_need_labels() -> None:
    with pytest.raises(ConfigError, match="balanced_accuracy"):
        evaluate(classify(), images(10), EvaluateConfig(metrics=("balanced_accuracy",)))


def test_a_disagreement_has_a_limit_of_its_own() -> None:
    data = images(*[10] * 300)
    baseline = evaluate(classify(), data)
    shares = [replaced(evaluate(classify(), data, baseline=baseline), share) for share in (0.04, 0.06)]
    limits = EvaluateConfig(max_drop=0.0, max_disagreement=0.05)
    assert [accept(each, limits, "int8").accepted for each in shares] == [True, False]
    verdict = accept(shares[1], limits, "int8").verdict
    assert verdict.startswith("6.00 % of its answers differ from the float model's")
    assert "without labels, and [evaluate] max_disagreement allows 5.00 %" in verdict


def replaced(accuracy: Accuracy, drop: float) -> Accuracy:
    """The same with another share of disagreement."""
    assert accuracy.comparison is not None
    comparison = msgspec.structs.replace(accuracy.comparison, metric_drop=drop, drop=None)
    return msgspec.structs.replace(accuracy, comparison=comparison)


def test_answers_to_images_stand_beside_those_of_float() -> None:
    data = Dataset(None, DETECTOR.labels, images(0, 255, side=64).samples)
    baseline = evaluate(detect(0.9, 0.9), data)
    other = evaluate(detect(0.9, 0.4), data, baseline=baseline)
    same, changed = image_results(other, data, baseline)
    assert (same.change, changed.change) == ("same", "broke")
    assert changed.missed == ("dog",)
    matrix, _ = confusion(other, data, baseline)
    assert matrix.tolist() == [[2, 0, 0], [0, 0, 1], [0, 0, 0]]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(96):
        colour = np.eye(3)[number % 3] * 200 + 25
        cv2.imwrite(str(folder / f"{number}.png"), np.clip(colour + rng.normal(0, 12, (20, 24, 3)), 0, 255))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("out")
    network = colour_network(out / "colours.onnx", classes=3)
    quick = ("--set", "benchmark.duration_s=0.1", "--set", "benchmark.warmup_s=0.0", "--set", 'compile.targets=["ort"]')
    asked = ("--labels", "blue,green,red", "--normalization", "signed", "--set", "quantize.repairs=[]")
    result = run("build", network, "--data", photos, "--out", out, *asked, *quick)
    return out / "colours.edgeopt", result


def test_one_command_builds_from_images_alone(bundle: tuple[Path, Result]) -> None:
    path, result = bundle
    assert result.exit_code == 0, result.output
    manifest = Bundle.open(path).manifest
    accuracies = [each.accuracy for each in manifest.variants]
    assert [each is not None and each.metric for each in accuracies] == ["agreement", "agreement"]
    assert any("no labels" in note for note in manifest.notes)
    assert "top-1" not in result.output
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    assert "<h2>Agreement with FP32</h2>" in page
    assert "this is no accuracy" in page


def test_every_command_says_that_there_were_no_labels(bundle: tuple[Path, Result], tmp_path: Path) -> None:
    path, _ = bundle
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 24, 3), 40 * number, np.uint8))
    evaluated = run("evaluate", path, "--data", tmp_path)
    assert "this is no accuracy" in evaluated.output.replace("\n", " ")
    reported = json.loads(run("report", path, "--json").output)
    assert reported["metric"] == "agreement"
    assert "top-1" not in run("report", path, "--markdown").output
    gated = run("gate", f"{path}@ort-fp32", f"{path}@ort-int8", "--maximum-s", "1", "--accuracy-drop", "0.5")
    assert "agreement with its own FP32 model, on images without labels" in gated.output
    classed = run("benchmark", path, "--quick", "--duration", "0.1", "--allow-invalid", "--accuracy-class", "99")
    assert "images without labels" in classed.output


def test_evaluating_again_finds_the_same_images(bundle: tuple[Path, Result]) -> None:
    path, _ = bundle
    result = run("evaluate", path)
    assert result.exit_code == 0, result.output
    assert "recorded in" in result.output


def test_a_reading_that_labels_must_decide_is_asked_for(tmp_path: Path, photos: Path) -> None:
    network = colour_network(tmp_path / "colours.onnx", classes=3)
    result = run("build", network, "--data", photos, "--labels", "blue,green,red", "--check")
    assert result.exit_code == ConfigError.exit_code
    assert "model.preprocessing:" in result.output
