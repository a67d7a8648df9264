"""Classifiers on features: where graphs are cut, that operators compute what scikit-learn does, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.config import FitConfig
from edgeopt.errors import ConfigError, DataError, ModelError
from edgeopt.fit import appended, cut_at_features, fit_classifier, head_alone
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.postprocess.neighbors import Prototypes
from edgeopt.runtime.ort import OrtSession
from edgeopt.spec import ClassificationDecoding, ModelSpec, NeighborsDecoding, Preprocessing, TensorSpec, replace

NETWORK = """<ir_version: 8, opset_import: ["" : 18]>
net (float[N,3,8,8] x) => (float[N,{classes}] y)
<float[6,3,3,3] w = {{ {w} }}, float[{classes},6] c = {{ {c} }}>
{{
    a = Conv <pads = [1,1,1,1]> (x, w)
    b = Relu (a)
    p = GlobalAveragePool (b)
    f = Flatten (p)
    {end}
}}"""
ENDS = {
    "gemm": "y = Gemm <transB = 1> (f, c)",
    "softmax": "l = Gemm <transB = 1> (f, c)\n y = Softmax (l)",
    "headless": "y = Identity (f)",
    "headless relu": "l = Gemm <transB = 1> (f, c)\n y = Relu (l)",
}
CLASSIFIERS = ("svm", "rbf_svm", "mlp", "knn")


def network(end: str, classes: int = 4) -> ir.Model:
    rng = np.random.default_rng(0)
    classes = 6 if end == "headless" else classes
    numbers = {
        "w": ", ".join(f"{value:.3f}" for value in rng.normal(size=162)),
        "c": ", ".join(f"{value:.3f}" for value in rng.normal(size=6 * classes)),
    }
    return optimize(ir.from_onnx_text(NETWORK.format(classes=classes, end=ENDS[end], **numbers)))


def run(model: ir.Model, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    with OrtSession(ir.to_proto(model).SerializeToString()) as session:
        return session.run(inputs)


def blobs(classes: int, features: int = 12, each: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of well separated classes, of very different variances."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, features)) * 3.0
    truth = np.repeat(np.arange(classes), each)
    rows = (centres[truth] + rng.normal(size=(len(truth), features))) * np.geomspace(0.01, 10.0, features) + 5.0
    return rows.astype(np.float32), truth


def fit(rows: np.ndarray, truth: np.ndarray, **settings: Any):
    labels = tuple(f"class {index}" for index in range(int(truth.max()) + 1))
    return fit_classifier(rows, truth, labels, FitConfig(**settings), 100_000, "ort"), labels


def spec_of(decoding: Any, labels: tuple[str, ...]) -> ModelSpec:
    tensor = TensorSpec(name="embedding", shape=("N", 1))
    return ModelSpec(
        name="test", task="classification", input=tensor, outputs=(tensor,), preprocessing=Preprocessing(),
        decoding=decoding, labels=labels,
    )  # fmt: skip


# Where a graph is cut


@pytest.mark.parametrize("end", ["gemm", "softmax"])
def test_features_are_what_the_layer_of_classes_reads(end: str) -> None:
    images = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    cut, output = cut_at_features(network(end), "y", "auto")
    assert output == TensorSpec(name="features", shape=("N", 6))
    headless = network("headless")
    np.testing.assert_allclose(run(cut, x=images)["features"], run(headless, x=images)["y"], atol=1e-6)
    assert not any(node.op_type == "Gemm" for node in cut.graph)


@pytest.mark.parametrize(("end", "count"), [("headless", 6), ("headless relu", 4)])
def test_a_network_without_classes_gives_its_output(end: str, count: int) -> None:
    """A network that ends in a pooled convolution, or in a ReLU, has no layer of classes."""
    model = network(end)
    cut, output = cut_at_features(model, "y", "auto")
    assert output.shape == ("N", count)
    images = np.ones((1, 3, 8, 8), np.float32)
    np.testing.assert_allclose(run(cut, x=images)["features"], run(model, x=images)["y"], atol=1e-6)


def test_a_named_map_is_averaged_over_its_places() -> None:
    model = network("gemm")
    name = next(node.outputs[0].name for node in model.graph if node.op_type == "Relu")
    cut, output = cut_at_features(model, "y", name)
    assert output.shape == ("N", 6)
    automatic, _ = cut_at_features(model, "y", "auto")
    images = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(cut, x=images)["features"], run(automatic, x=images)["features"], atol=1e-6)


def relu_of(model: ir.Model) -> str:
    return next(node.outputs[0].name or "" for node in model.graph if node.op_type == "Relu")


def test_a_grid_keeps_where_something_is() -> None:
    model = network("gemm")
    name = relu_of(model)
    images = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    every = {}
    for grid in (1, 2, 4, 8):
        cut, output = cut_at_features(model, "y", name, grid)
        assert output.shape == ("N", 6 * grid * grid)
        every[grid] = run(cut, x=images)["features"].reshape(2, 6, grid, grid)
    for grid in (1, 2, 4):
        cells = every[8].reshape(2, 6, grid, 8 // grid, grid, 8 // grid).mean(axis=(3, 5))
        np.testing.assert_allclose(every[grid], cells, atol=1e-6)


@pytest.mark.parametrize(("features", "grid"), [("relu", 3), ("auto", 2)])
def test_a_grid_that_does_not_part_the_map_is_refused(features: str, grid: int) -> None:
    model = network("gemm")
    name = relu_of(model) if features == "relu" else features
    with pytest.raises(ConfigError, match=rf"grid = {grid} parts each side of a map .* Name a map"):
        cut_at_features(model, "y", name, grid)


def test_tokens_are_averaged() -> None:
    model = optimize(
        ir.from_onnx_text("""<ir_version: 8, opset_import: ["" : 18]>
        net (float[N,5,3] x) => (float[N,5,3] y) { y = Relu (x) }""")
    )
    cut, output = cut_at_features(model, "y", "auto")
    tokens = np.random.default_rng(0).random((2, 5, 3)).astype(np.float32)
    assert output.shape == ("N", 3)
    np.testing.assert_allclose(run(cut, x=tokens)["features"], tokens.mean(axis=1), atol=1e-6)


def test_an_unknown_tensor_is_refused_with_the_closest() -> None:
    model = network("gemm")
    name = next(node.outputs[0].name for node in model.graph if node.op_type == "Relu")
    with pytest.raises(
        ConfigError, match=f"features = '{name}x' is not a tensor of the backbone. Did you mean '{name}'"
    ):
        cut_at_features(model, "y", f"{name}x")


# What the operators compute


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_operators_compute_what_scikit_learn_fitted(classifier: str, classes: int) -> None:
    rows, truth = blobs(classes)
    found, labels = fit(rows, truth, classifier=classifier, folds=2, hidden=8)
    output = run(head_alone(found.head, rows.shape[1], 18), features=rows)[found.head.output]
    expected = found.expected(rows.astype(np.float64))
    if isinstance(found.decoding, ClassificationDecoding):
        output, expected = (each - each.mean(axis=1, keepdims=True) for each in (output, expected))
        scores = output
    else:
        scores = Prototypes(spec_of(found.decoding, labels)).logits(output)
    np.testing.assert_allclose(output, expected, atol=2e-4, rtol=2e-4)
    assert (scores.argmax(axis=1) == truth).mean() > 0.95
    assert found.score is not None
    assert found.score > 0.9
    fresh, known = blobs(classes, seed=0)
    assert (fresh == rows).all()
    assert (known == truth).all()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_same_pictures_give_the_same_classifier(classifier: str) -> None:
    rows, truth = blobs(3, each=8)
    first, second = (fit(rows, truth, classifier=classifier, folds=2, hidden=8)[0] for _ in range(2))
    graphs = [
        ir.to_proto(head_alone(each.head, rows.shape[1], 18)).SerializeToString(deterministic=True)
        for each in (first, second)
    ]
    assert graphs[0] == graphs[1]
    assert first.decoding == second.decoding


@pytest.mark.parametrize("classes", [2, 3])
def test_more_pictures_than_are_compared_in_pairs_give_a_linear_svm_too(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, truth = blobs(classes)
    compared, _ = fit(rows, truth, classifier="svm")
    monkeypatch.setattr("edgeopt.fit.classifiers._MOST_COMPARED", 10)
    passed, _ = fit(rows, truth, classifier="svm")
    for found in (compared, passed):
        scores = run(head_alone(found.head, rows.shape[1], 18), features=rows)["scores"]
        assert (scores.argmax(axis=1) == truth).mean() > 0.95
    assert not np.array_equal(compared.head.weight, passed.head.weight)


def test_gaussian_kernels_tell_what_no_plane_does() -> None:
    """Four groups at right angles, opposite ones of one class."""
    rng = np.random.default_rng(0)
    angle = np.repeat(np.arange(4) * np.pi / 2, 30) + rng.normal(size=120) * 0.2
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    truth = np.repeat([0, 1, 0, 1], 30)
    kernels, linear = (fit(rows, truth, classifier=name)[0] for name in ("rbf_svm", "svm"))
    assert kernels.score > 0.95
    assert linear.score < 0.75


def test_weights_of_a_class_do_not_span_more_than_its_scale_in_int8_can_hold() -> None:
    """Features of variances from 1e-4 to 100 share one scale a class: most would be rounded to zero."""
    rows, truth = blobs(3)
    found, _ = fit(rows, truth, classifier="svm")
    weight = np.abs(found.head.weight)
    steps = weight / weight.max(axis=0) * 127
    assert (steps > 0.5).mean() > 0.5


def test_scores_are_probabilities_on_pictures_left_out() -> None:
    """Overlapping classes: the mean score of the best class is about the share that is right."""
    rng = np.random.default_rng(3)
    truth = np.repeat([0, 1, 2], 200)
    centres = rng.normal(size=(3, 8))
    rows, fresh = ((centres[truth] + rng.normal(size=(600, 8)) * 1.5).astype(np.float32) for _ in range(2))
    found, _ = fit(rows, truth, classifier="svm")
    logits = run(head_alone(found.head, 8, 18), features=fresh)["scores"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = powers / powers.sum(axis=1, keepdims=True)
    right = (scores.argmax(axis=1) == truth).mean()
    assert abs(scores.max(axis=1).mean() - right) < 0.06


@pytest.mark.parametrize("classifier", ["svm", "mlp", "rbf_svm"])
def test_balanced_weights_win_back_a_rare_class(classifier: str) -> None:
    rng = np.random.default_rng(1)
    counts, centres = (100, 6), np.array([[0.0] * 6, [1.2] * 6])
    rows = np.concatenate([rng.normal(size=(n, 6)) + centre for n, centre in zip(counts, centres, strict=True)])
    truth = np.repeat([0, 1], counts)
    fresh = (rng.normal(size=(300, 6)) + centres[1]).astype(np.float32)
    recalls = []
    for weights in ("none", "balanced"):
        found, _ = fit(rows.astype(np.float32), truth, classifier=classifier, class_weights=weights, folds=2, hidden=8)
        scores = run(head_alone(found.head, 6, 18), features=fresh)["scores"]
        recalls.append(float((scores.argmax(axis=1) == 1).mean()))
    assert recalls[1] > recalls[0] + 0.03


def test_a_head_is_appended_to_a_graph_with_its_batch() -> None:
    cut, _ = cut_at_features(network("gemm"), "y", "auto")
    rows, truth = blobs(3, features=6)
    found, _ = fit(rows, truth, classifier="knn")
    whole, output = appended(cut, found.head)
    assert output == TensorSpec(name="embedding", shape=("N", 6))
    images = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(run(whole, x=images)["embedding"], axis=1), 1.0, atol=1e-4)
    assert len(cut.graph.outputs) == 1, "the graph that was given stays as it was"
    assert cut.graph.outputs[0].name == "features"


# Prototypes


def test_a_class_of_few_prototypes_stands_a_chance_beside_one_of_many() -> None:
    rng = np.random.default_rng(0)
    many, few = (rng.normal(size=(n, 16)) * 0.4 + centre for n, centre in ((60, 1.0), (2, -1.0)))
    found, labels = fit(np.concatenate([many, few]).astype(np.float32), np.repeat([0, 1], (60, 2)), classifier="knn")
    fresh = (rng.normal(size=(40, 16)) * 0.4 - 1.0).astype(np.float32)
    embedded = run(head_alone(found.head, 16, 18), features=fresh)["embedding"]
    logits = Prototypes(spec_of(found.decoding, labels)).logits(embedded)
    assert (logits.argmax(axis=1) == 1).mean() > 0.95


def test_more_pictures_than_prototypes_are_condensed() -> None:
    rows, truth = blobs(2, each=30)
    found, _ = fit(rows, truth, classifier="knn", prototypes=5)
    assert found.decoding.counts == (5, 5)
    assert found.notes == ("60 pictures became 10 prototypes",)


def test_prototypes_keep_their_direction_in_int8() -> None:
    rows, truth = blobs(3, features=64)
    found, labels = fit(rows, truth, classifier="knn", prototypes=100)
    embedded = found.expected(rows.astype(np.float64))
    kept = Prototypes(spec_of(replace(found.decoding, temperature=1.0, neighbors=1), labels)).logits(embedded)
    own = kept[np.arange(len(rows)), truth]
    assert own.min() > 0.9995, "each picture is its own nearest prototype"


def test_one_picture_a_class_is_enough_for_prototypes() -> None:
    rows, truth = blobs(4, each=1)
    found, labels = fit(rows, truth, classifier="knn")
    assert found.score is None
    logits = Prototypes(spec_of(found.decoding, labels)).logits(found.expected(rows.astype(np.float64)))
    assert (logits.argmax(axis=1) == truth).all()


def test_prototypes_that_are_not_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="7 bytes of prototypes are not rows of one length for 2 of them"):
        NeighborsDecoding(prototypes=b"1234567", counts=(1, 1))


# Refused


def test_a_class_with_one_picture_is_refused_with_what_takes_it() -> None:
    rows, truth = blobs(3)
    keep = (truth < 2) | (np.arange(len(truth)) == len(truth) - 1)
    with pytest.raises(DataError, match=r"a single picture of 'class 2', and 'svm'.* classifier = .knn."):
        fit(rows[keep], truth[keep], classifier="svm")


def test_a_class_without_pictures_is_refused() -> None:
    rows, truth = blobs(2)
    with pytest.raises(DataError, match="no picture of 'class 1'"):
        fit(rows, truth * 2, classifier="knn")


def test_too_many_support_vectors_are_refused_with_what_to_use() -> None:
    rng = np.random.default_rng(0)
    rows, truth = rng.normal(size=(60, 50)).astype(np.float32), rng.integers(0, 2, 60)
    with pytest.raises(ModelError, match="support vectors of 50 features, and 20 are allowed for ov, trt") as refused:
        fit_classifier(rows, truth, ("a", "b"), FitConfig(classifier="rbf_svm"), 1000, "ov, trt")
    assert 'classifier = "svm", which has 0.00 million and is right on' in str(refused.value)
    assert "[fit] support_vectors = " in str(refused.value)


def test_features_that_never_change_are_refused() -> None:
    with pytest.raises(DataError, match="the same features"):
        fit(np.ones((20, 4), np.float32), np.repeat([0, 1], 10))
