"""Layouts of nobody's family: what identification reads from their numbers decodes to the boxes that went in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.family_graphs import SIDE, Family, cells, network
from edgeopt.config import ModelConfig
from edgeopt.identify import Identification
from edgeopt.identify.identifying import identify
from edgeopt.identify.reading import facts_of
from edgeopt.postprocess import Detections, decode, fit
from edgeopt.preprocess import Geometry, batch, feed
from edgeopt.runtime.ort import OrtSession
from edgeopt.source import resolve
from edgeopt.spec import DetectionDecoding, ModelSpec, Preprocessing, TensorSpec, replace

CLASSES = 3
RNG = np.random.default_rng(4)
ANCHORS = cells()
COUNT = len(ANCHORS)
SEEN = RNG.choice(COUNT, 12, replace=False)
"""Anchors that see an object; the others see background, as in any picture."""
CENTRED = np.concatenate(
    [
        ANCHORS[:, :2] + RNG.uniform(-0.4, 0.4, (COUNT, 2)) * ANCHORS[:, 2:],
        RNG.uniform(1, 3, (COUNT, 2)) * ANCHORS[:, 2:],
    ],
    axis=1,
)
CORNERS = np.concatenate([CENTRED[:, :2] - CENTRED[:, 2:] / 2, CENTRED[:, :2] + CENTRED[:, 2:] / 2], axis=1)
SCORES = RNG.uniform(0.001, 0.02, (COUNT, CLASSES))
SCORES[SEEN, RNG.integers(0, CLASSES, len(SEEN))] = RNG.uniform(0.4, 0.9, len(SEEN))
LOGITS = np.log(SCORES / (1 - SCORES))
ONE = SCORES.max(axis=1, keepdims=True)
SHARES = np.concatenate([SCORES, 1 - SCORES.sum(axis=1, keepdims=True)], axis=1)
FINAL = np.argsort(-ONE[:, 0])[:40]
NUMBERS = SCORES.argmax(axis=1)[:, None]
ROWS = {"box": CORNERS[FINAL], "score": ONE[FINAL], "class": NUMBERS[FINAL]}


def side_by_side(*columns: np.ndarray, last: bool = False, batch: int | None = 1) -> np.ndarray:
    rows = np.concatenate(columns, axis=1).astype(np.float32)
    rows = rows.T.copy() if last else rows
    return rows if batch is None else np.repeat(rows[None], batch, axis=0)


def f(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


LAYOUTS = {
    "corners, channels first": {"o": side_by_side(CORNERS, SCORES, last=True)},
    "corners as shares, channels first": {"o": side_by_side(CORNERS / SIDE, SCORES, last=True)},
    "logits, channels first": {"o": side_by_side(CENTRED, LOGITS, last=True)},
    "scores before boxes, channels first": {"o": side_by_side(SCORES, CENTRED, last=True)},
    "scores before boxes, anchors first": {"o": side_by_side(SCORES, CORNERS)},
    "corner and size": {"o": side_by_side(CORNERS[:, :2], CENTRED[:, 2:], SCORES, last=True)},
    "y before x": {"o": side_by_side(CORNERS[:, [1, 0, 3, 2]] / SIDE, SCORES)},
    "one class, anchors first": {"o": side_by_side(CORNERS, ONE)},
    "without a batch": {"o": side_by_side(CENTRED, SCORES, last=True, batch=None)},
    "a fixed batch of eight": {"o": side_by_side(CENTRED, SCORES, last=True, batch=8)},
    "background last": {"o": side_by_side(CORNERS, SHARES)},
    "background first, apart": {"b": side_by_side(CORNERS / SIDE), "s": side_by_side(SHARES[:, [3, 0, 1, 2]])},
    "logits, apart": {"b": side_by_side(CORNERS), "s": side_by_side(LOGITS)},
    "softmax logits, apart": {"b": side_by_side(CORNERS), "s": side_by_side(np.log(SHARES))},
    "centres, apart": {"b": side_by_side(CENTRED), "s": side_by_side(SCORES)},
    "scores first and turned, apart": {"s": side_by_side(SCORES, last=True), "b": side_by_side(CORNERS / SIDE)},
    "both turned, apart": {"b": side_by_side(CORNERS, last=True), "s": side_by_side(SCORES, last=True)},
    "without a batch, apart": {"b": side_by_side(CORNERS, batch=None), "s": side_by_side(SCORES, batch=None)},
    "objectness apart": {"b": side_by_side(CENTRED), "x": side_by_side(ONE), "s": side_by_side(SCORES / ONE)},
    "rows of class, score, corners": {"o": side_by_side(ROWS["class"], ROWS["score"], ROWS["box"])},
    "rows of corners, class, score": {"o": side_by_side(ROWS["box"], ROWS["class"], ROWS["score"])},
    "rows of shares": {"o": side_by_side(ROWS["box"] / SIDE, ROWS["score"], ROWS["class"])},
    "rows without a batch": {"o": side_by_side(ROWS["box"], ROWS["score"], ROWS["class"], batch=None)},
    "rows apart": {"s": f(ROWS["score"].T), "k": ROWS["class"].T.copy(), "b": side_by_side(ROWS["box"])},
    "rows apart without a batch": {"b": f(ROWS["box"]), "k": f(ROWS["class"][:, 0]), "s": f(ROWS["score"][:, 0])},
    "rows apart and their number": {
        "n": np.full((1, 1), 40, np.int32), "b": side_by_side(ROWS["box"] / SIDE), "s": f(ROWS["score"].T),
        "k": f(ROWS["class"].T),
    },
}  # fmt: skip


def identified(outputs: dict[str, np.ndarray], labels: tuple[str, ...] = ()) -> Identification:
    return identify(facts_of(ir.from_proto(network(Family("?", "?", outputs)))), labels)


def found(outputs: dict[str, np.ndarray], told: Identification, classes: int) -> list[tuple[int, list[float]]]:
    """Decode as a recipe would that holds the only reading."""
    assert told.settled is not None, [each.name for each in told.candidates]
    tensors = tuple(TensorSpec(name=key, shape=array.shape, dtype=str(array.dtype)) for key, array in outputs.items())
    decoder = told.settled.decoder
    assert isinstance(decoder, DetectionDecoding)
    spec = ModelSpec(
        name="m",
        task="detection",
        input=TensorSpec(name="x", shape=(1, 3, SIDE, SIDE)),
        outputs=tensors,
        preprocessing=Preprocessing(),
        decoding=replace(fit(decoder, tensors, classes, (SIDE, SIDE)), nms=False),
        labels=tuple(map(str, range(classes))),
    )
    images = 8 if next(iter(outputs.values())).shape[0] == 8 else 1
    detections = decode(outputs, spec, [Geometry(1, 1, 0, 0, SIDE, SIDE)] * images)[0]
    return [(int(number), box.tolist()) for number, box in zip(detections.classes, detections.boxes, strict=True)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_of_nobodys_family_is_read_from_its_numbers(name: str) -> None:
    outputs = LAYOUTS[name]
    classes = 1 if "one class" in name else CLASSES
    result = found(outputs, identified(outputs), classes)
    order = SEEN[np.argsort(-ONE[SEEN, 0])]
    assert [number for number, _ in result] == ([0] * len(order) if classes == 1 else NUMBERS[order, 0].tolist())
    np.testing.assert_allclose([box for _, box in result], np.clip(CORNERS[order], 0, SIDE), atol=1e-2)


MAPS = {
    "bins and classes side by side": ({"": 64 + 6}, ["yolov8_levels", "yolox"]),
    "bins and classes apart": ({"b": 64, "c": 5}, ["yolov8_levels"]),
    "a box, objectness and classes": ({"": 5 + 5}, ["yolox"]),
    "three boxes a cell": ({"": 3 * (5 + 5)}, ["yolov5_levels", "yolox"]),
    "distances and classes": ({"c": 5, "b": 4}, ["rtmdet_levels"]),
}


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "channels first"])
@pytest.mark.parametrize("name", MAPS)
def test_maps_of_levels_are_read_whatever_their_order(name: str, last: bool) -> None:
    widths, presets = MAPS[name]
    outputs = {}
    for stride in (32, 8, 16):
        for part, width in widths.items():
            values = np.abs(RNG.normal(1, 1, (1, width, SIDE // stride, SIDE // stride))) * (
                stride if part == "b" else 1
            )
            outputs[f"m{part}{stride}"] = f(np.moveaxis(values, 1, -1).copy() if last else values)
    told = identified(outputs)
    assert [each.name for each in told.candidates] == presets
    tensors = [TensorSpec(name=key, shape=array.shape) for key, array in outputs.items()]
    for candidate in told.candidates:
        fitted = fit(candidate.decoder, tensors, candidate.classes, (SIDE, SIDE))
        assert [place[-1] for place in map(str, fitted.boxes.outputs)] == ["8", "6", "2"]


@pytest.mark.parametrize(("unit", "offset"), [("cells", 0.5), ("pixels", 0.0)])
def test_distances_in_cells_begin_in_the_middle_of_a_cell_and_those_in_pixels_at_its_corner(
    unit: str, offset: float
) -> None:
    outputs, expected = {}, []
    for stride in (8, 16, 32):
        sides = RNG.uniform(0.5, 1.5, (1, 4, SIDE // stride, SIDE // stride))
        scores = RNG.uniform(-9, -5, (1, CLASSES, SIDE // stride, SIDE // stride))
        scores[0, 1, 2, 1] = stride / 8
        outputs |= {f"c{stride}": f(scores), f"b{stride}": f(sides * (1 if unit == "cells" else stride))}
        away = sides[0, :, 2, 1] * [-1, -1, 1, 1]
        expected.append((np.array([1, 2, 1, 2]) + offset + away) * stride)
    result = found(outputs, identified(outputs), CLASSES)
    assert [number for number, _ in result] == [1, 1, 1]
    np.testing.assert_allclose([box for _, box in result], np.clip(expected, 0, SIDE)[::-1], atol=1e-3)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_recipe_can_hold_every_reading(name: str) -> None:
    keys = [each.decoding for each in identified(LAYOUTS[name]).candidates]
    while keys:
        for value in keys.pop().values():
            assert value is not None
            keys += [value] if isinstance(value, dict) else []


def test_objectness_is_told_by_the_names_in_the_file_or_left_open() -> None:
    outputs = {"o": side_by_side(CENTRED, ONE, SCORES / ONE, last=True)}
    family = Family("?", "?", outputs, {"names": str({0: "a", 1: "b", 2: "c"})})
    named = identify(facts_of(ir.from_proto(network(family))))
    assert (named.settled and named.settled.name) == "yolov5"
    assert len(found(outputs, named, CLASSES)) == len(SEEN)


@pytest.mark.parametrize("frozen", ["by its metadata", "by the recipe"])
def test_a_dynamic_detector_of_bytes_and_channels_last_is_identified_and_predicts(frozen: str, tmp_path: Path) -> None:
    outputs = LAYOUTS["corners, channels first"]
    metadata = {"imgsz": f"[{SIDE}, {SIDE}]"} if frozen == "by its metadata" else {}
    family = Family("?", "?", outputs, metadata, image=("high", "wide", 3), dtype="uint8")
    onnx.save(network(family), tmp_path / "m.onnx")
    size = None if metadata else (SIDE, SIDE)
    opened = resolve(ModelConfig(source="m.onnx", labels=("a", "b", "c"), input_size=size), tmp_path)
    assert (opened.spec.input.dtype, opened.spec.input.shape[1:]) == ("uint8", (SIDE, SIDE, 3))
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    images, geometries = batch([picture], opened.spec.preprocessing)
    with OrtSession(ir.to_proto(opened.onnx).SerializeToString()) as session:
        (result,) = decode(session.run(feed(opened.spec, images, geometries)), opened.spec, geometries)
    assert isinstance(result, Detections)
    order = SEEN[np.argsort(-ONE[SEEN, 0])]
    assert set(result.classes.tolist()) <= {0, 1, 2}
    np.testing.assert_allclose(result.boxes[0], np.clip(CORNERS[order[0]], 0, SIDE), atol=1e-2)
