"""Maps of where a network looks: found in any graph, true to it, compared fairly, and kept where a gate reads them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx_ir as ir
import pytest
import tiny
from click.testing import CliRunner

from edgeopt.bundle import Bundle, write_bundle
from edgeopt.bundle.records import Attribution
from edgeopt.calibrate.tap import onnx_session
from edgeopt.cli import main
from edgeopt.config import DataSource
from edgeopt.dataset import Dataset, load
from edgeopt.dataset.samples import ArrayPicture, Sample
from edgeopt.errors import BundleError, MeasurementError, MissingExtraError, ModelError
from edgeopt.explain import Settings, explain, variants_to_compare
from edgeopt.explain.compare import likeness, points_at
from edgeopt.explain.features import FeatureMap, with_feature_maps
from edgeopt.explain.maps import ChannelScales, joined, principal_direction, projected, scaled
from edgeopt.gate import GateConfig, Side, gate_bundles, to_markdown
from edgeopt.gate.decide import with_attribution
from edgeopt.gate.run import verdict_of
from edgeopt.gate.verdict import AttributionFinding
from edgeopt.heads import Part
from edgeopt.intervals import Interval
from edgeopt.report import content as read_report
from edgeopt.report import write_page
from edgeopt.report.explained import worth
from edgeopt.spec import (
    DetectionDecoding,
    Letterbox,
    ModelSpec,
    Normalization,
    Preprocessing,
    TensorSpec,
    preset,
    replace,
)

sys.path.insert(0, str(tiny.DATA))
from make_tiny import CLASSIFIER, CLASSIFIER_INT8, content

SEEN = np.ones((4, 6), np.bool_)


def classifier(size: int = 8, labels: tuple[str, ...] = tiny.COLOURS) -> ModelSpec:
    output = TensorSpec(name="scores", shape=("N", len(labels)))
    return replace(
        tiny.CLASSIFIER, input=TensorSpec(name="image", shape=("N", 3, size, size)), outputs=(output,), labels=labels
    )


def detector(outputs: tuple[TensorSpec, ...], decoding: DetectionDecoding, size: int = 32) -> ModelSpec:
    return replace(
        tiny.DETECTOR, input=TensorSpec(name="image", shape=(1, 3, size, size)), outputs=outputs, decoding=decoding
    )


def maps_of(text: str, spec: ModelSpec) -> list[tuple[str, int, int]]:
    model = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    _, maps = with_feature_maps(model, spec)
    return [(each.source, each.rows, each.columns) for each in maps]


# Where the map is


POOLED = """net (float[N, 3, 8, 8] image, float[5, 3, 3, 3] w, float[3, 5] v, float[3] b) => (float[N, 3] scores)
{{
    conv = Conv<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(image, w)
    features = Relu(conv)
    {pooling}
    scores = Gemm<transB = 1>(flat, v, b)
}}"""


@pytest.mark.parametrize(
    "pooling",
    [
        "means = GlobalAveragePool(features) flat = Flatten(means)",
        "flat = ReduceMean<axes = [2, 3], keepdims = 0>(features)",
        "means = AveragePool<kernel_shape = [4, 4]>(features) flat = Flatten(means)",
        "strongest = GlobalMaxPool(features) flat = Flatten(strongest)",
    ],
)
def test_a_classifiers_map_is_what_it_pools_however_it_does(pooling: str) -> None:
    assert maps_of(POOLED.format(pooling=pooling), classifier()) == [("features", 4, 4)]


def test_channels_may_come_last_and_classes_may_be_a_convolution() -> None:
    last = POOLED.format(
        pooling="last = Transpose<perm = [0, 2, 3, 1]>(features) flat = ReduceMean<axes = [1, 2], keepdims = 0>(last)"
    )
    assert maps_of(last, classifier()) == [("last", 4, 4)]
    convolved = """net (float[N, 3, 8, 8] image, float[5, 3, 3, 3] w, float[3, 5, 1, 1] v) => (float[N, 3] scores)
    {
        features = Conv<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(image, w)
        classes = Conv<kernel_shape = [1, 1]>(features, v)
        means = GlobalAveragePool(classes)
        scores = Flatten(means)
    }"""
    assert maps_of(convolved, classifier()) == [("features", 4, 4)]


def test_a_transformers_tokens_are_taken_before_what_only_its_class_token_reads() -> None:
    text = """net (float[N, 3, 8, 8] image, float[6, 3, 2, 2] w, float[1, 1, 6] token, float[6, 3] v)
        => (float[N, 3] scores) <int64[3] shape = {0, 6, 16}, int64 first = {0}>
    {
        patches = Conv<kernel_shape = [2, 2], strides = [2, 2]>(image, w)
        flat = Reshape(patches, shape)
        places = Transpose<perm = [0, 2, 1]>(flat)
        tokens = Concat<axis = 1>(token, places)
        turned = Transpose<perm = [0, 2, 1]>(tokens)
        likeness = MatMul(tokens, turned)
        shares = Softmax<axis = 2>(likeness)
        mixed = MatMul(shares, tokens)
        after = Add(tokens, mixed)
        own = Gather<axis = 1>(after, first)
        scores = MatMul(own, v)
    }"""
    assert maps_of(text, classifier()) == [("tokens", 4, 4)]
    pooled = text.replace("own = Gather<axis = 1>(after, first)", "own = ReduceMean<axes = [1], keepdims = 0>(after)")
    assert maps_of(pooled, classifier())[0][1:] == (4, 4)


def test_attention_of_as_many_tokens_as_pixels_is_no_map() -> None:
    text = """net (float[N, 3, 16, 16] image, float[6, 3, 4, 4] w, float[6, 3] v) => (float[N, 3] scores)
    <int64[3] shape = {0, 6, 16}, int64[1] heads = {1}>
    {
        patches = Conv<kernel_shape = [4, 4], strides = [4, 4]>(image, w)
        flat = Reshape(patches, shape)
        tokens = Transpose<perm = [0, 2, 1]>(flat)
        query = Unsqueeze(tokens, heads)
        key = Transpose<perm = [0, 1, 3, 2]>(query)
        likeness = MatMul(query, key)
        shares = Softmax<axis = 3>(likeness)
        mixed = MatMul(shares, query)
        joined = Squeeze(mixed, heads)
        after = Add(tokens, joined)
        means = ReduceMean<axes = [1], keepdims = 0>(after)
        scores = MatMul(means, v)
    }"""
    assert [place[1:] for place in maps_of(text, classifier(16))] == [(4, 4)]


def head(size: int, number: int) -> str:
    return f"""
        neck{number} = Conv<kernel_shape = [1, 1], strides = [{size}, {size}]>(image, w)
        forboxes{number} = Conv<kernel_shape = [1, 1]>(neck{number}, w5)
        forclasses{number} = Conv<kernel_shape = [1, 1]>(neck{number}, w5)
        boxes{number} = Conv<kernel_shape = [1, 1]>(forboxes{number}, w4)
        raw{number} = Conv<kernel_shape = [1, 1]>(forclasses{number}, w3)
        classes{number} = Sigmoid(raw{number})"""


WEIGHTS = "float[5, 3, 1, 1] w, float[5, 5, 1, 1] w5, float[4, 5, 1, 1] w4, float[3, 5, 1, 1] w3"


def test_a_detectors_maps_are_those_of_its_scores_among_joined_columns() -> None:
    """As YOLOX: boxes, objectness and classes of a level side by side, then level after level."""
    text = f"""net (float[1, 3, 32, 32] image, {WEIGHTS}, float[1, 5, 1, 1] w1) => (float[1, 20, 8] predictions)
    <int64[3] flat = {{1, 8, -1}}>
    {{{head(8, 0)}{head(16, 1)}
        object0 = Conv<kernel_shape = [1, 1]>(forboxes0, w1)
        object1 = Conv<kernel_shape = [1, 1]>(forboxes1, w1)
        all0 = Concat<axis = 1>(boxes0, object0, classes0)
        all1 = Concat<axis = 1>(boxes1, object1, classes1)
        rows0 = Reshape(all0, flat)
        rows1 = Reshape(all1, flat)
        rows = Concat<axis = 2>(rows0, rows1)
        predictions = Transpose<perm = [0, 2, 1]>(rows)
    }}"""
    output = TensorSpec(name="predictions", shape=(1, 20, 8))
    spec = detector((output,), preset("yolox", grid={"strides": (8, 16)}))
    assert maps_of(text, spec) == [("forclasses0", 4, 4), ("forclasses1", 2, 2)]


def test_a_detectors_maps_are_found_behind_a_split_and_decoded_boxes() -> None:
    """As YOLOv8: levels are joined, split into bins of distances and classes, and joined again."""
    text = f"""net (float[1, 3, 32, 32] image, {WEIGHTS}, float[4, 1] anchors) => (float[1, 7, 20] predictions)
    <int64[3] flat = {{1, 7, -1}}, int64[2] parts = {{4, 3}}>
    {{{head(8, 0)}{head(16, 1)}
        all0 = Concat<axis = 1>(boxes0, raw0)
        all1 = Concat<axis = 1>(boxes1, raw1)
        rows0 = Reshape(all0, flat)
        rows1 = Reshape(all1, flat)
        rows = Concat<axis = 2>(rows0, rows1)
        distances, logits = Split<axis = 1>(rows, parts)
        decoded = Sub(anchors, distances)
        shares = Sigmoid(logits)
        predictions = Concat<axis = 1>(decoded, shares)
    }}"""
    output = TensorSpec(name="predictions", shape=(1, 7, 20))
    assert maps_of(text, detector((output,), preset("yolov8"))) == [("forclasses0", 4, 4), ("forclasses1", 2, 2)]


def test_one_convolution_for_all_gives_the_map_that_it_reads() -> None:
    """As YOLOv5: three anchors' boxes, objectness and classes from one convolution a level."""
    text = """net (float[1, 3, 32, 32] image, float[5, 3, 1, 1] w, float[24, 5, 1, 1] v)
        => (float[1, 48, 8] predictions) <int64[5] apart = {1, 3, 8, 4, 4}, int64[3] flat = {1, 48, 8}>
    {
        neck = Conv<kernel_shape = [1, 1], strides = [8, 8]>(image, w)
        raw = Conv<kernel_shape = [1, 1]>(neck, v)
        anchors = Reshape(raw, apart)
        last = Transpose<perm = [0, 1, 3, 4, 2]>(anchors)
        shares = Sigmoid(last)
        predictions = Reshape(shares, flat)
    }"""
    decoding = DetectionDecoding(
        boxes=Part(stop=4), objectness=Part(start=4, stop=5), scores=Part(start=5), form="cxcywh"
    )
    output = TensorSpec(name="predictions", shape=(1, 48, 8))
    assert maps_of(text, detector((output,), decoding)) == [("neck", 4, 4)]


def test_a_network_without_places_is_told_what_does_work() -> None:
    text = """net (float[N, 3, 8, 8] image, float[192, 3] w) => (float[N, 3] scores)
    { flat = Flatten(image) scores = MatMul(flat, w) }"""
    with pytest.raises(ModelError, match="--method rise"):
        maps_of(text, classifier())


QUANTIZED = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 8, 8] image, float[5, 3, 3, 3] w, float[3, 5] v) => (float[N, 3] scores)
<float s = {0.02}, uint8 z = {0}>
{
    conv = Conv<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(image, w)
    features = Relu(conv)
    q = QuantizeLinear(features, s, z)
    dq = DequantizeLinear(q, s, z)
    means = GlobalAveragePool(dq)
    flat = Flatten(means)
    scores = Gemm<transB = 1>(flat, v)
}"""


def test_of_integers_the_map_is_what_they_stand_for_and_the_answer_stays() -> None:
    model = ir.from_onnx_text(QUANTIZED)
    tapped, (found,) = with_feature_maps(model, classifier())
    assert found.source == "dq"
    assert [value.name for value in model.graph.outputs] == ["scores"]
    random = np.random.default_rng(1)
    shapes = {"image": (1, 3, 8, 8), "w": (5, 3, 3, 3), "v": (3, 5)}
    feeds = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    before = onnx_session(model).run(None, feeds)
    scores, features = onnx_session(tapped).run(["scores", found.name], feeds)
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_allclose(features / 0.02, np.rint(features / 0.02), atol=1e-3)
    np.testing.assert_array_equal(found.cells(features), features[0].reshape(5, 16).T)


# Maps


def test_the_main_direction_is_that_of_the_strong_features_and_levels_are_joined() -> None:
    cells = np.zeros((24, 3), np.float32)
    cells[5], cells[6] = (4, -2, 0), (5, -2.5, 0.1)
    found = projected(cells, principal_direction(cells), (4, 6))
    assert np.flatnonzero(found > 0.5).tolist() == [5, 6]
    assert found.max() == 1.0
    coarse = np.zeros((2, 3), np.float32)
    coarse[1, 2] = 1.0
    both = joined([found, coarse])
    assert both.shape == (4, 6)
    assert both[3, 5] == pytest.approx(0.5)
    assert not principal_direction(np.ones((24, 3), np.float32)).any()


def test_channels_that_were_scaled_are_comparable_again() -> None:
    cells = np.random.default_rng(0).random((24, 3)).astype(np.float32)
    scales = ChannelScales()
    for _ in range(2):
        scales.add([cells], [cells * np.array([10, 0.1, 0], np.float32)])
    np.testing.assert_allclose(scales.of_level(0), [0.1, 10, 1], rtol=1e-5)


def test_likeness_is_one_for_the_same_and_low_for_the_opposite() -> None:
    values = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    assert likeness(values, values * 0.5, SEEN) == pytest.approx((1.0, 1.0, 1.0))
    assert likeness(values, 1 - values, SEEN).rank == pytest.approx(-1.0)
    assert likeness(values, 1 - values, SEEN).overlap == 0.0
    nothing = np.zeros_like(values)
    assert likeness(nothing, nothing, SEEN) == (1.0, 1.0, 1.0)
    assert likeness(values, nothing, SEEN).cosine == 0.0


def test_rank_correlation_is_spearmans_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed: ranks were not compared with its")
    random = np.random.default_rng(0)
    first, second = (random.integers(0, 5, (4, 6)).astype(np.float32) for _ in range(2))
    expected = stats.spearmanr(first.ravel(), second.ravel()).statistic
    assert likeness(first, second, SEEN).rank == pytest.approx(expected)


def test_padding_counts_for_nothing() -> None:
    first = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    second, seen = first.copy(), SEEN.copy()
    second[2:], seen[2:] = 7.0, False
    assert likeness(first, second, seen) == pytest.approx((1.0, 1.0, 1.0))
    objects = np.zeros((4, 6), np.bool_)
    objects[np.unravel_index(first[:2].argmax(), (2, 6))] = True
    assert points_at(second, objects, seen)


# Bundles


def halves() -> Dataset:
    """Pictures that are half grey and half of a colour, on the left or on the right."""
    samples = []
    for index in range(18):
        image = np.full((24, 32, 3), 60, np.uint8)
        columns = slice(0, 16) if index % 2 else slice(16, 32)
        image[:, columns, 2 - index % 3] = 220
        samples.append(Sample(f"half-{index}.png", index % 3, ArrayPicture(image)))
    return Dataset("classification", tiny.COLOURS, tuple(samples))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny.write(tmp_path / "tiny.edgeopt")


def found(bundle: Bundle, method: str, **settings: object) -> tuple[Attribution, list]:
    shown: list = []
    chosen = Settings(method, **{"masks": 40, **settings})
    data = halves()
    return explain(bundle, data, range(len(data)), chosen, variant="ort-int8", show=shown.append), shown


@pytest.mark.parametrize("method", ["eigen_cam", "grad_cam", "rise"])
def test_each_method_finds_the_half_that_the_answer_comes_from(bundle: Bundle, method: str) -> None:
    result, shown = found(bundle, method)
    assert result.images == result.same_answer == 18
    assert result.baseline == "ort-fp32"
    if method != "eigen_cam":  # whose pattern is that of the picture, not of the class
        for number, picture in enumerate(shown):
            left, right = (picture.maps[1][:, half].mean() for half in (slice(0, 4), slice(4, 8)))
            assert (left > right) == (number % 2 == 1)
    assert result.own is not None
    assert result.noise is not None
    assert result.shift < 0.2
    if method != "eigen_cam":
        assert result.own.insertion > result.noise.insertion
        assert result.own.deletion < result.noise.deletion
        assert result.gain is not None
        assert result.gain.low > 0.0
        assert worth(result).startswith("These maps say more than noise: insertion minus deletion +")
    assert [each.shift for each in result.pictures] == sorted((each.shift for each in result.pictures), reverse=True)
    assert sum(each.maps is not None for each in result.pictures) == 12


def test_maps_that_say_no_more_than_noise_are_no_reasons(bundle: Bundle) -> None:
    """They were shown beside the scores of noise, and which of both was better was left to the reader."""
    result, _ = found(bundle, "grad_cam")
    for low, high, said in ((-0.1, 0.1, "nothing that noise does not"), (-0.2, -0.1, "less than noise")):
        doubtful = worth(replace(result, gain=Interval(estimate=(low + high) / 2, low=low, high=high)))
        assert doubtful.startswith(f"These maps say {said}: ")
        assert doubtful.endswith("Do not read reasons into them; another --method may say more")
    assert worth(replace(result, gain=None)) == ""


EQUALIZED = CLASSIFIER.replace(
    "float[3, 3, 1, 1] weight = {8, 0, 0, 0, 8, 0, 0, 0, 8}",
    "float[3, 3, 1, 1] weight = {0.8, 0, 0, 0, 80, 0, 0, 0, 8}, float[1, 3, 1, 1] back = {10, 0.1, 1}",
).replace(
    "means = GlobalAveragePool(colours)", "unscaled = GlobalAveragePool(colours)\n    means = Mul(unscaled, back)"
)


def altered(folder: Path, int8: str) -> Bundle:
    """The tiny bundle with another graph for its INT8 variant."""
    files = {each.file: engine for each, engine in tiny.engines()}
    files["variants/ort-int8/model.onnx"] = content(int8)
    return write_bundle(folder / "altered.edgeopt", tiny.manifest(), files)


@pytest.mark.parametrize("method", ["eigen_cam", "grad_cam"])
def test_equalized_channels_are_no_shift(tmp_path: Path, method: str) -> None:
    result, _ = found(altered(tmp_path, EQUALIZED), method, judge=False)
    assert result.shift == pytest.approx(0.0, abs=1e-4)
    assert result.own is None


def test_a_network_that_looks_elsewhere_is_seen(tmp_path: Path) -> None:
    blind = CLASSIFIER_INT8.replace("{127, 0, 0, 0, 127, 0, 0, 0, 127}", "{0, 127, 0, 127, 0, 0, 0, 0, 127}")
    result, _ = found(altered(tmp_path, blind), "grad_cam", judge=False)
    assert result.shift > 0.2
    assert result.same_answer < result.images


def test_what_cannot_be_explained_so_says_what_can(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="compared with itself"):
        variants_to_compare(bundle, "ort-fp32")
    with pytest.raises(BundleError, match="no variant 'ort-int9'"):
        variants_to_compare(bundle, "ort-int9")
    detectors = tiny.write(tmp_path / "d.edgeopt", tiny.DETECTOR)
    with pytest.raises(BundleError, match="no INT8 variant"):
        variants_to_compare(detectors, None)


# The command, the page and the gate


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    data = halves()
    folder = tmp_path / "pictures"
    for number, sample in enumerate(data):
        path = folder / tiny.COLOURS[sample.target] / sample.name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), data.image(number))
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_writes_pictures_figures_and_a_page(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = run("explain", bundle.path, pictures, "--out", out, "--variant", "ort-int8", "--method", "grad_cam")
    assert "Grad-CAM, ort-int8. Maps of 18 pictures" in text
    assert "noise, which says nothing" in text
    assert len(list((out / "grad_cam").glob("*.png"))) == 18
    assert json.loads((out / "explanation.json").read_text())["grad_cam"]["images"] == 18
    page = (out / "explanation.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 18
    assert "http" not in page.replace("http-equiv", "")
    kept = Bundle.open(bundle.path).variant("ort-int8").attribution
    assert kept is not None
    assert kept.method == "grad_cam"


def test_one_picture_is_explained_and_not_kept(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    one = next(pictures.rglob("*.png"))
    text = run("explain", bundle.path, one, "--out", tmp_path / "out", "--variant", "ort-int8", "--quick")
    assert "fewer than 16" in text
    assert Bundle.open(bundle.path).variant("ort-int8").attribution is None


def test_a_page_that_cannot_be_written_is_said_before_anything_is_explained(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    out = tmp_path / "out"
    options = ["--out", str(out), "--variant", "ort-int8", "--method", "rise", "--masks", "10", "--quick"]
    result = CliRunner().invoke(main, ["explain", str(bundle.path), str(next(pictures.rglob("*.png"))), *options])
    assert result.exit_code == MissingExtraError.exit_code
    assert "edgeopt[explain]" in result.output
    assert not out.exists()


def test_the_bundles_page_shows_the_most_shifted_pictures_that_it_finds(bundle: Bundle, tmp_path: Path) -> None:
    result, _ = found(bundle, "eigen_cam", judge=False)
    opened = bundle.record("ort-int8", attribution=result)
    report = read_report(Bundle.open(opened.path).manifest)
    page = write_page(report, tmp_path / "page.html", halves()).read_text()
    assert "Where it looks, ort-int8" in page
    assert page.count('src="data:image/jpeg;base64,') == 12
    without = write_page(report, tmp_path / "without.html", force=True).read_text()
    assert "half-0.png" in without
    assert "data:image" not in without.split("</head>")[1].replace("img-src data:", "")


def test_the_gate_fails_what_shifted_more_than_is_allowed(bundle: Bundle) -> None:
    config = GateConfig(attribution_shift=0.5)
    sides = Side(bundle.path, "ort-fp32"), Side(bundle.path, "ort-int8")
    with pytest.raises(MeasurementError, match="never explained"):
        gate_bundles(*sides, [tiny.colour("red")], config)
    busy = verdict_of(("a", "b"), None, None, ("too busy",), (), config)
    assert with_attribution(busy, None) == busy
    kept = AttributionFinding(method="eigen_cam", shift=0.5, allowed=0.5, images=18, worst=("x.png",))
    assert with_attribution(busy, kept).outcome == "invalid"
    shifted = with_attribution(busy, replace(kept, shift=0.6))
    assert shifted.outcome == "fail"
    assert shifted.reasons == (
        "its eigen_cam maps of 18 pictures shifted from FP32's by 0.600 where 0.500 is allowed, most on x.png",
    )
    assert "shift of eigen\\_cam maps from FP32 | | 0.600 | | 0.500 |" in to_markdown(shifted)


# A real network


@pytest.fixture(scope="module")
def yolox(shared: Path) -> tuple[ir.Model, ModelSpec, Dataset]:
    model = ir.load(shared / "model_yolox_nano" / "yolox_nano.onnx")
    spec = ModelSpec(
        name="yolox-nano",
        task="detection",
        input=TensorSpec(name="images", shape=(1, 3, 416, 416)),
        outputs=(TensorSpec(name="output", shape=(1, 3549, 85)),),
        preprocessing=Preprocessing(
            steps=(Letterbox(size=(416, 416), anchor="top_left"),), channels="BGR", normalization=Normalization()
        ),
        decoding=preset("yolox"),
        labels=tuple(map(str, range(80))),
    )
    coco = shared / "coco_val128"
    source = DataSource(format="coco", path=str(coco / "images"), annotations=str(coco / "instances.json"), limit=4)
    return model, spec, load(source, Path.cwd())


def shuffled(model: ir.Model) -> ir.Model:
    """The same network with each convolution's weights in random order: it has learnt nothing (Adebayo et al. 2018)."""
    random, other = np.random.default_rng(0), model.clone()
    for value in other.graph.initializers.values():
        if value.shape is not None and len(value.shape) == 4 and value.const_value is not None:
            array = value.const_value.numpy()
            value.const_value = ir.tensor(random.permutation(array.ravel()).reshape(array.shape), name=value.name)
    return other


def test_weights_that_learnt_nothing_give_other_maps(yolox: tuple[ir.Model, ModelSpec, Dataset]) -> None:
    from edgeopt.preprocess import preprocess

    model, spec, data = yolox
    ranks = []
    networks = [with_feature_maps(each, spec) for each in (model, shuffled(model))]
    sessions = [onnx_session(each) for each, _ in networks]
    for number in range(4):
        tensor, _ = preprocess(data.image(number), spec.preprocessing)
        found = []
        for session, (_, maps) in zip(sessions, networks, strict=True):
            assert [(each.rows, each.columns) for each in maps] == [(52, 52), (26, 26), (13, 13)]
            arrays = session.run([each.name for each in maps], {"images": tensor[None].astype(np.float32)})
            found.append(joined([eigen_cam(*pair) for pair in zip(maps, arrays, strict=True)]))
        ranks.append(likeness(*found, np.ones(found[0].shape, np.bool_)).rank)
    assert max(ranks) < 0.7
    assert np.mean(ranks) < 0.5


def eigen_cam(place: FeatureMap, array: np.ndarray) -> np.ndarray:
    cells = place.cells(array)
    return projected(cells, principal_direction(cells), (place.rows, place.columns))


def test_nothing_stays_nothing() -> None:
    assert not scaled(np.full((2, 2), -1.0)).any()
