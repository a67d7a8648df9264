"""How far two models' outputs are apart: by what they mean."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from passes.graphs import model_of

from edgeopt.errors import ConfigError, ModelError
from edgeopt.graph.ending import applied_activation, with_applied
from edgeopt.metrics import ClassReading, Discrepancy, OutputReading, readings_of
from edgeopt.metrics.discrepancy import Columns, DetectionReading, RawReading
from edgeopt.pipeline.agreement import allowed
from edgeopt.pipeline.outputs import read_outputs, told_kinds
from edgeopt.spec import (
    ClassificationDecoding,
    Decoding,
    ModelSpec,
    Preprocessing,
    TensorSpec,
    preset,
)

RANDOM = np.random.default_rng(0)
SCORES = arrays(np.float32, (1, 5), elements=st.floats(-8, 8, width=32))
BOXES = DetectionReading(boxes=Columns(stop=4), scores=Columns(start=4))
READINGS: dict[str, OutputReading] = {
    "softmax": ClassReading(),
    "probabilities": ClassReading(activation="none"),
    "sigmoid": ClassReading(activation="sigmoid", exclusive=False),
    "independent": ClassReading(activation="none", exclusive=False),
    "boxes": BOXES,
    "transposed": DetectionReading(boxes=Columns(axis=1, stop=4), scores=Columns(axis=1, start=4)),
    "objectness": DetectionReading(
        boxes=Columns(stop=4), objectness=Columns(start=4, stop=5), scores=Columns(start=5), activation="sigmoid"
    ),
    "background": DetectionReading(
        boxes=Columns(stop=4), scores=Columns(start=4), activation="softmax", background="last"
    ),
    "ranked": DetectionReading(boxes=Columns(stop=4), scores=Columns(start=4), is_ranked=True),
    "raw": RawReading(),
}


def spec(decoding: Decoding, shape: tuple[int, ...], classes: int = 3) -> ModelSpec:
    return ModelSpec(
        name="m",
        task="classification" if isinstance(decoding, ClassificationDecoding) else "detection",
        input=TensorSpec(name="x", shape=("N", 3, 8, 8)),
        outputs=(TensorSpec(name="y", shape=("N", *shape)),),
        preprocessing=Preprocessing(),
        decoding=decoding,
        labels=tuple(map(str, range(classes))),
    )


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def distance(reading: OutputReading, first: np.ndarray, second: np.ndarray) -> float:
    return float(Discrepancy([reading])([first], [second]))


def detections(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes, scores], axis=1)[None].astype(np.float32)


# Classes


def test_a_network_that_ends_in_softmax_is_judged_by_its_probabilities():
    exact = 6.0 * np.eye(1000, dtype=np.float32)[:1]
    wrong = 6.0 * np.eye(1000, dtype=np.float32)[1:2]
    (applied,) = readings_of(spec(ClassificationDecoding(activation="none", applied="softmax"), (1000,), 1000))
    by_logits = distance(READINGS["softmax"], exact, wrong)
    assert by_logits > 1.0
    assert distance(applied, softmax(exact), softmax(wrong)) == pytest.approx(by_logits, rel=1e-6)
    assert distance(READINGS["softmax"], softmax(exact), softmax(wrong)) < 0.001, "what a second softmax makes of it"


@given(SCORES, SCORES)
def test_several_labels_cost_the_divergence_of_each(first, second):
    p, q = (1.0 / (1.0 + np.exp(-each.astype(float))) for each in (first, second))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum()
    assert distance(READINGS["sigmoid"], first, second) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert distance(READINGS["independent"], p, q) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_probabilities_that_rounding_took_to_zero_do_not_cost_the_world():
    exact, rounded = np.array([[0.9, 0.098, 0.002]]), np.array([[0.9, 0.1, 0.0]])
    assert 0.0 < distance(READINGS["probabilities"], exact, rounded) < 0.5


def test_the_class_axis_is_where_the_labels_are():
    scores = [RANDOM.normal(size=(1, 3, 1, 1)) for _ in range(2)]
    (reading,) = readings_of(spec(ClassificationDecoding(), (3, 1, 1)))
    flat = (each.reshape(1, 3) for each in scores)
    assert distance(reading, *scores) == pytest.approx(distance(ClassReading(), *flat))


# Detectors


def test_normalized_boxes_are_no_scores_and_background_counts_as_background():
    """(1, 300, 4 + classes) with boxes from 0 to 1, as RT-DETR gives them."""
    boxes, scores = RANDOM.random((300, 4)), np.full((300, 3), 0.001)
    scores[:5, 1] = 0.9
    exact = detections(boxes, scores)
    background, objects = exact.copy(), exact.copy()
    background[:, 5:, :4] = RANDOM.random((295, 4))
    objects[:, :5, :4] = RANDOM.random((5, 4))
    assert distance(BOXES, exact, background) < 1e-3
    assert distance(BOXES, exact, objects) > 100 * distance(BOXES, exact, background)


@pytest.mark.parametrize("size", [1.0, 640.0])
def test_neither_the_boxes_unit_nor_the_layout_changes_anything(size):
    boxes, scores = [RANDOM.random((20, 4)) for _ in range(2)], [RANDOM.random((20, 3)) for _ in range(2)]
    first, second = (detections(size * box, score) for box, score in zip(boxes, scores, strict=True))
    expected = distance(BOXES, *(detections(box, score) for box, score in zip(boxes, scores, strict=True)))
    assert distance(BOXES, first, second) == pytest.approx(expected, rel=1e-5)
    turned = (np.swapaxes(each, 1, 2) for each in (first, second))
    assert distance(READINGS["transposed"], *turned) == pytest.approx(expected, rel=1e-5)


def test_boxes_and_scores_in_outputs_of_their_own_cost_the_same_as_in_one():
    reading = DetectionReading(boxes=Columns(output=1), scores=Columns(output=0))
    first, second = (detections(RANDOM.random((20, 4)), RANDOM.random((20, 3))) for _ in range(2))
    apart = ([each[..., 4:], each[..., :4]] for each in (first, second))
    assert Discrepancy([reading])(*apart) == pytest.approx(distance(BOXES, first, second))


def test_what_the_decoding_multiplies_is_multiplied():
    """An anchor without an object may be sure of its class: YOLOX's are."""
    exact = np.zeros((1, 50, 8), np.float32)
    exact[..., :4], exact[..., 5:] = 0.5, 0.9
    exact[:, 0, 4] = 0.8
    (reading,) = readings_of(spec(preset("yolox", grid={"strides": (32,)}), (50, 8)))
    background = exact.copy()
    background[:, 1:, :4] *= 3.0
    background[:, 1:, 5:] *= 0.1
    assert distance(reading, exact, background) == 0.0


def test_the_class_that_stands_for_background_makes_no_box_count():
    exact = np.zeros((1, 10, 8), np.float32)
    exact[..., :4], exact[..., 7] = 0.5, 9.0  # all are background, and sure of it
    moved = exact.copy()
    moved[..., :4] = 0.9
    nothing = distance(READINGS["background"], exact, moved)
    with_objects = np.concatenate([exact, exact], axis=1)
    with_objects[:, 0, 4] = 20.0
    moved_too = with_objects.copy()
    moved_too[:, 0, :4] = 0.9
    assert distance(READINGS["background"], with_objects, moved_too) > 0.5
    assert Discrepancy([READINGS["background"]]).noise([exact], [exact]) == 0.0
    assert nothing == pytest.approx(0.64, rel=0.1), "relative: nothing else is there"


def test_an_image_that_shows_nothing_does_not_outweigh_all_others():
    empty, faint = np.zeros((1, 300, 6), np.float32), np.zeros((1, 300, 6), np.float32)
    faint[0, 0, 4] = 0.1
    assert distance(BOXES, empty, faint) < 0.1


@given(st.permutations(range(12)))
def test_the_order_of_ranked_candidates_means_nothing(order):
    first = detections(RANDOM.random((12, 4)), RANDOM.random((12, 3)))
    assert distance(READINGS["ranked"], first, first[:, order]) == pytest.approx(0.0, abs=1e-9)
    assert list(order) == list(range(12)) or distance(BOXES, first, first[:, order]) > 0.01


def test_ranked_candidates_that_are_missing_invented_or_of_another_class_cost():
    """(1, 300, 6) rows of box, score and class, as YOLO26 gives them, with zeros where nothing is."""
    reading = DetectionReading(
        boxes=Columns(stop=4), scores=Columns(start=4, stop=5), classes=Columns(start=5), is_ranked=True
    )
    exact = np.zeros((1, 300, 6), np.float32)
    exact[0, 0], exact[0, 1] = (10, 10, 50, 50, 0.9, 3), (200, 200, 300, 260, 0.6, 7)
    swapped, missing, invented, other, moved = (exact.copy() for _ in range(5))
    swapped[0, [0, 1]] = swapped[0, [1, 0]]
    swapped[0, [0, 1], 4] = (0.76, 0.74)
    missing[0, 1] = 0.0
    invented[0, 2] = (100, 100, 140, 140, 0.8, 1)
    other[0, 0, 5] = 4
    moved[0, 0, :4] += 25
    costs = [distance(reading, exact, each) for each in (exact, swapped, missing, invented, other, moved)]
    assert costs[0] == pytest.approx(0.0, abs=1e-9)
    assert costs[1] < 0.1, "a little less and a little more"
    assert min(costs[2:]) > 0.01
    assert min(costs[2:5]) > 2 * costs[1]


# All of them


def test_other_numbers_cost_their_relative_squared_error():
    first, second = RANDOM.normal(size=(1, 64)), RANDOM.normal(size=(1, 64))
    expected = np.square(second - first).sum() / np.square(first).sum()
    assert distance(RawReading(), first, second) == pytest.approx(expected)
    assert Discrepancy([RawReading()]).divergence([first], [second]) is None


def test_outputs_that_nothing_reads_do_not_count_and_the_others_are_averaged():
    first = [RANDOM.normal(size=(1, 4)) for _ in range(3)]
    second = [first[0], first[1] + 1.0, first[2] + 100.0]
    one = Discrepancy([RawReading(output=1)])(first, second)
    assert Discrepancy([RawReading(output=0), RawReading(output=1)])(first, second) == pytest.approx(one / 2)


@pytest.mark.parametrize("name", READINGS)
@given(seed=st.integers(0, 1000))
def test_equals_cost_nothing_and_others_something(name, seed):
    random = np.random.default_rng(seed)
    reading = READINGS[name]
    shape = (1, 9, 20) if name == "transposed" else (1, 20, 9) if isinstance(reading, DetectionReading) else (1, 9)
    first, second = (random.random(shape) for _ in range(2))
    if name == "probabilities":
        first, second = first / first.sum(), second / second.sum()
    assert distance(reading, first, second) > 0.0
    assert distance(reading, first, first) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("decoding", "reading"),
    [
        (ClassificationDecoding(), ClassReading(scores=Columns(axis=1))),
        (
            ClassificationDecoding(activation="sigmoid"),
            ClassReading(scores=Columns(axis=1), activation="sigmoid", exclusive=False),
        ),
        (
            ClassificationDecoding(activation="none", applied="sigmoid"),
            ClassReading(scores=Columns(axis=1), activation="none", exclusive=False),
        ),
        (ClassificationDecoding(activation="none"), RawReading()),
    ],
)
def test_a_specification_says_what_a_classifiers_output_means(decoding, reading):
    assert readings_of(spec(decoding, (3,))) == (reading,)


def test_a_specification_says_which_columns_of_a_detector_are_scores():
    (yolo,) = readings_of(spec(preset("yolov8"), (7, 84)))
    assert (yolo.boxes, yolo.scores) == (Columns(axis=1, stop=4), Columns(axis=1, start=4))
    (yolox,) = readings_of(spec(preset("yolox"), (84, 8)))
    assert yolox.objectness == Columns(start=4, stop=5)


# Files without a specification


def readings(model: ir.Model, reference: list[list[np.ndarray]], *told: str) -> tuple[OutputReading, ...]:
    return tuple(each.reading for each in read_outputs(model, reference, told_kinds(told)))


def numbers(*images: np.ndarray) -> RawReading:
    """Numbers that are neither scores nor boxes, whose least signal is the mean of what images give."""
    return RawReading(least=float(np.mean([np.sum(np.square(image, dtype=np.float64)) for image in images])))


def graph(ending: str, shape: str = "1, 10") -> ir.Model:
    return model_of(f"g (float[{shape}] x) => (float[{shape}] y) {{ {ending} }}")


@pytest.mark.parametrize(
    ("ending", "kind", "why"),
    [
        ("y = Relu(x)", "softmax", "ends in a Relu and no activation"),
        ("y = Softmax(x)", "probabilities", "ends in a Softmax"),
        ("s = Softmax(x)  y = Identity(s)", "probabilities", "ends in a Softmax"),
        ("y = Sigmoid(x)", "independent", "ends in a Sigmoid"),
    ],
)
def test_class_scores_are_told_by_the_graph_and_said(ending, kind, why):
    (read,) = read_outputs(graph(ending, "1, 20"), [[9 * RANDOM.random((1, 20))]])
    assert (read.output, read.kind) == ("y", kind)
    assert why in read.why
    expected = READINGS[kind]
    assert (read.reading.activation, read.reading.exclusive) == (expected.activation, expected.exclusive)


@pytest.mark.parametrize("shape", [(1, 40, 7), (1, 7, 40)])
def test_candidates_are_told_by_columns_that_are_probabilities(shape):
    array = RANDOM.random(shape)
    (reading,) = readings(graph("y = Relu(x)", "1, 40, 7"), [[array]])
    axis = shape.index(7)
    assert reading == DetectionReading(boxes=Columns(axis=axis, stop=4), scores=Columns(axis=axis, start=4))
    (reading,) = readings(graph("y = Relu(x)", "1, 40, 7"), [[array], [3.0 * array]])
    assert reading == numbers(array, 3.0 * array)


def test_two_outputs_of_boxes_and_scores_are_one_detector():
    model = model_of("g (float[1, 40, 4] x, float[1, 40, 9] s) => (a, b) { a = Identity(x)  b = Sigmoid(s) }")
    scores, boxes = RANDOM.random((1, 40, 9)), 99.0 * RANDOM.random((1, 40, 4))
    for pair in ([scores, boxes], [boxes, scores]):
        (reading,) = readings(model, [pair])
        at = int(pair[1] is boxes)
        assert reading == DetectionReading(boxes=Columns(output=at), scores=Columns(output=1 - at))


def test_rows_of_box_score_and_class_are_ranked_candidates():
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, :3] = [(9, 9, 50, 50, 0.9, 3), (20, 20, 30, 60, 0.6, 7), (1, 2, 3, 4, 0.2, 0)]
    model = graph("y = Relu(x)", "1, 300, 6")
    (read,) = read_outputs(model, [[rows]])
    assert (read.reading.is_ranked, read.reading.classes) == (True, Columns(start=5, stop=6))
    assert "falls from row to row" in read.why
    unsorted = rows[:, ::-1]
    assert readings(model, [[unsorted]]) == (numbers(unsorted),)


def test_outputs_of_boxes_scores_and_labels_are_ranked_candidates():
    """As RT-DETR's and D-FINE's own exports give them."""
    text = "g (float[1, 9, 4] x, float[1, 9] s, int64[1, 9] l) => (a, b, c)"
    model = model_of(text + " { a = Identity(l)  b = Identity(x)  c = Identity(s) }")
    outputs = [np.arange(9)[None] % 3, 99.0 * RANDOM.random((1, 9, 4)), RANDOM.random((1, 9))]
    (reading,) = readings(model, [outputs])
    assert reading == DetectionReading(
        boxes=Columns(output=1),
        scores=Columns(output=2, axis=None),
        classes=Columns(output=0, axis=None),
        is_ranked=True,
    )
    shuffled = [each[:, ::-1] for each in outputs]
    assert Discrepancy([reading])(outputs, shuffled) == pytest.approx(0.0, abs=1e-9)
    relabelled = [(outputs[0] + 1) % 3, *outputs[1:]]
    assert Discrepancy([reading])(outputs, relabelled) > 0.1


def test_an_embedding_of_one_number_and_whole_feature_maps_are_raw():
    assert readings(graph("y = Relu(x)", "1, 1"), [[np.ones((1, 1))]]) == (numbers(np.ones(1)),)
    assert readings(graph("y = Relu(x)", "1, 8, 4, 4"), [[np.ones((1, 8, 4, 4))]]) == (numbers(np.ones(128)),)


def test_landmarks_whose_softmax_is_flat_are_judged_as_numbers_too() -> None:
    model = graph("y = Identity(x)", "1, 136")
    faces = [[RANDOM.uniform(0, 1, (1, 136))] for _ in range(8)]
    read = read_outputs(model, faces)
    assert [each.kind for each in read] == ["softmax", "raw"]
    assert "makes all 136 as likely in every image" in read[1].why
    moved = [faces[0][0] + RANDOM.normal(0, 0.1, (1, 136))]
    shown = Discrepancy([each.reading for each in read])(faces[0], moved)
    assert shown > 0.01 > Discrepancy([ClassReading()])(faces[0], moved)
    (told,) = read_outputs(model, faces, told_kinds(["softmax"]))
    assert told.kind == "softmax"


def test_a_classifier_that_is_sure_of_some_images_only_gives_scores() -> None:
    """As published ImageNet networks do: of some photographs they know nothing."""
    unsure = [[RANDOM.normal(0, 0.2, (1, 1000))] for _ in range(12)]
    sure = [[RANDOM.normal(0, 1.5, (1, 1000)) + 9 * (np.arange(1000) == number)] for number in range(4)]
    (read,) = read_outputs(graph("y = Identity(x)", "1, 1000"), unsure + sure)
    assert (read.kind, read.reading) == ("softmax", ClassReading(scores=Columns(axis=1)))


def test_what_the_user_says_is_taken_and_what_cannot_be_is_refused():
    scores = [[RANDOM.random((1, 10))]]
    (read,) = read_outputs(graph("y = Relu(x)"), scores, told_kinds(["raw"]))
    assert (read.reading, read.why) == (numbers(scores[0][0]), "as told")
    assert readings(graph("y = Relu(x)"), scores, "softmax", "y=raw") == (numbers(scores[0][0]),)
    with pytest.raises(ConfigError, match="say probabilities"):
        readings(graph("y = Softmax(x)"), scores, "softmax")
    with pytest.raises(ConfigError, match="no scores of several classes"):
        readings(graph("y = Relu(x)", "1, 1"), [[np.ones((1, 1))]], "sigmoid")
    with pytest.raises(ConfigError, match="is not detection"):
        readings(graph("y = Relu(x)"), scores, "detection")
    with pytest.raises(ConfigError, match="no output 'z'"):
        readings(graph("y = Relu(x)"), scores, "z=raw")


@pytest.mark.parametrize(
    ("options", "message"),
    [(["sofmax"], "Did you mean 'softmax'"), (["raw", "softmax"], "say one"), (["y="], "Say one of")],
)
def test_kinds_of_outputs_that_nobody_knows_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        told_kinds(options)


def test_integers_are_not_compared():
    model = model_of("g (float[1, 20] x) => (a, b) { a = ArgMax(x)  b = Relu(x) }")
    classes, scores = np.zeros((1, 1), np.int64), 9.0 * RANDOM.random((1, 20))
    (reading,) = readings(model, [[classes, scores]])
    assert reading.scores.output == 1
    with pytest.raises(ModelError, match="no floating-point output"):
        read_outputs(model, [[classes, classes]])


# Networks that apply their activation themselves


def test_an_activation_is_found_behind_what_moves_values():
    output = graph("s = Softmax(x)  y = Cast<to=1>(s)").graph.outputs[0]
    assert applied_activation(output) == "softmax"
    assert applied_activation(graph("s = Softmax(x)  y = Relu(s)").graph.outputs[0]) == "none"
    assert applied_activation(graph("y = Identity(x)").graph.outputs[0]) == "none"


def test_a_second_activation_is_an_error_that_says_what_to_set():
    output = graph("y = Softmax(x)").graph.outputs[0]
    noted = with_applied(spec(ClassificationDecoding(activation="none"), (3,)), [output])
    assert noted.decoding == ClassificationDecoding(activation="none", applied="softmax")
    with pytest.raises(ModelError, match='activation = "none"'):
        with_applied(spec(ClassificationDecoding(), (3,)), [output])
    detector = spec(preset("yolov8"), (7, 84))
    assert with_applied(detector, [output]) is detector


def test_a_map_of_what_an_image_does_not_show_counts_by_what_others_show():
    """Text, outlines and defects are seldom there; the faintest error would outweigh all other images."""
    shown, empty = np.zeros((1, 1, 8, 8)), np.full((1, 1, 8, 8), 1e-7)
    shown[..., 2:4, 2:7] = 0.95
    model = graph("y = Sigmoid(x)", "1, 1, 8, 8")
    distance = Discrepancy(readings(model, [[shown], [empty]]))
    assert distance([empty], [empty * 30]) < 1e-9
    assert distance([shown], [shown * 0.9]) == pytest.approx(0.01)
    assert distance([empty], [shown]) > 1
    blank = Discrepancy(readings(model, [[empty], [empty]]))
    assert blank([empty], [empty * 30]) < 1e-6
    assert blank([empty], [empty + 0.1]) > 1


@pytest.mark.parametrize(("shape", "axis"), [((1, 40, 64), 2), ((1, 5, 8, 8), 1), ((1, 8, 8, 5), 3)])
def test_numbers_that_sum_to_one_at_each_place_are_classes_of_places(shape: tuple[int, ...], axis: int) -> None:
    """Characters along a line, and segmentation: a line of 40 places looks like boxes and 36 scores besides."""
    logits = 4 * RANDOM.normal(size=shape)
    shares = np.exp(logits) / np.exp(logits).sum(axis=axis, keepdims=True)
    model = graph("y = Softmax(x)", str(shape)[1:-1])
    (read,) = read_outputs(model, [[shares]])
    places = ClassReading(scores=Columns(axis=axis), activation="none", is_of_places=True)
    assert (read.kind, read.reading) == ("probabilities", places)
    assert allowed([read.reading]) > allowed([ClassReading()])
    assert "at each place" in read.why
    (told,) = read_outputs(graph("y = Relu(x)", str(shape)[1:-1]), [[logits]], told_kinds(["softmax"]))
    assert told.reading == ClassReading(scores=Columns(axis=axis), is_of_places=True)


def test_scores_of_places_that_end_in_a_sigmoid_are_no_boxes() -> None:
    """As a level of NanoDet's and PicoDet's scores, of whose numbers the first four are between 0 and 1, too."""
    scores = RANDOM.random((1, 40, 10))
    (read,) = read_outputs(graph("s = Sigmoid(x)  y = Identity(s)", "1, 40, 10"), [[scores]])
    assert (read.kind, read.reading) == ("raw", numbers(scores))
    assert "ends in a Sigmoid" in read.why
