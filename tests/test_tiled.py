"""Tiles: small objects of large pictures are found, each once, and large ones stay whole."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_postprocess import model

from edgeopt.cli import main
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import ArrayPicture, Boxes, Dataset, Sample
from edgeopt.errors import ConfigError, DataError
from edgeopt.evaluate import Runner, evaluate
from edgeopt.preprocess.tiling import windows
from edgeopt.runtime import Tiled, load
from edgeopt.spec import (
    ClassificationDecoding,
    Letterbox,
    ModelSpec,
    Preprocessing,
    TensorSpec,
    Tiles,
    preset,
    replace,
)

SIDE = 64
SPEC = ModelSpec(
    name="squares",
    task="detection",
    input=TensorSpec(name="x", shape=(2, SIDE, SIDE, 3), dtype="uint8"),
    outputs=(TensorSpec(name="y", shape=(2, 5, 40)),),
    preprocessing=Preprocessing(steps=(Letterbox(size=(SIDE, SIDE), fill=0),), channels="BGR", layout="NHWC"),
    decoding=preset("yolov8", score_threshold=0.3),
    labels=("square",),
)


def see(inputs):
    """A network that finds bright spots of four by four pixels or more."""
    found = np.zeros((len(inputs["x"]), 5, 40), np.float32)
    for image, rows in zip(inputs["x"], found, strict=True):
        bright = (image[..., 0] > 127).astype(np.uint8)
        spots = [each for each in cv2.connectedComponentsWithStats(bright)[2][1:] if min(each[2:4]) >= 4]
        for place, (left, top, width, height, _) in enumerate(spots):
            rows[:, place] = left + width / 2, top + height / 2, width, height, 0.9
    return {"y": found}


def picture(*boxes: tuple[int, int, int, int], height: int = 300, width: int = 400) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = 255
    return image


SMALL = [(10, 20, 16, 26), (61, 60, 67, 66), (200, 140, 207, 147), (390, 290, 398, 299), (47, 250, 55, 258)]


def found_in(image: np.ndarray, tiles: Tiles = Tiles()) -> list[list[int]]:  # noqa: B008 - a frozen struct
    result = Tiled(Runner(see, SPEC), tiles).predict(image)
    return sorted(np.rint(result.boxes).astype(int).tolist())


class TestTiled:
    def test_small_objects_are_found_once_each_also_on_borders_of_tiles(self):
        assert found_in(picture(*SMALL)) == sorted(map(list, SMALL))

    def test_without_tiles_they_are_lost(self):
        assert found_in(picture(*SMALL), Tiles(size=400)) == []

    def test_what_is_larger_than_a_tile_is_one_object(self):
        large = (100, 80, 260, 220)
        (box,) = found_in(picture(large))
        np.testing.assert_allclose(box, large, atol=8)  # seen at a sixth of the size

    def test_neighbours_in_one_tile_stay_apart(self):
        pair = [(20, 20, 30, 30), (32, 20, 42, 30)]
        assert found_in(picture(*pair)) == list(map(list, pair))

    def test_a_picture_of_the_networks_size_has_one_tile(self):
        assert found_in(picture((5, 5, 12, 12), height=SIDE, width=SIDE)) == [[5, 5, 12, 12]]

    def test_boxes_in_pixels_of_the_tile_are_moved_to_the_picture(self):
        spec = replace(SPEC, decoding=replace(SPEC.decoding, space="original"))
        found = Tiled(Runner(see, spec), Tiles(whole=False)).predict(picture(*SMALL))
        assert sorted(np.rint(found.boxes).astype(int).tolist()) == sorted(map(list, SMALL))

    def test_the_score_and_the_number_of_detections_count_for_the_whole(self):
        spec = replace(SPEC, decoding=replace(SPEC.decoding, max_detections=2))
        tiled = Tiled(Runner(see, spec), Tiles())
        assert len(tiled.predict(picture(*SMALL))) == 2
        assert len(tiled.predict(picture(*SMALL), score=0.95)) == 0

    def test_a_classifier_is_refused(self):
        with pytest.raises(ConfigError, match="is a classifier, and tiles are for detectors"):
            Tiled(Runner(see, model(ClassificationDecoding())), Tiles())

    def test_evaluation_sees_what_tiles_show(self):
        truth = Boxes.of(SMALL, [0] * len(SMALL))
        images = (Sample("a", truth, ArrayPicture(picture(*SMALL))),)
        dataset = Dataset("detection", SPEC.labels, images)
        whole, tiled = (
            evaluate(Runner(see, SPEC), dataset, EvaluateConfig(tiles=each)) for each in (None, Tiles(overlap=0.25))
        )
        assert (whole.value, tiled.value) == (0.0, 1.0)
        assert tiled.at_threshold.f1 == 1.0


@given(st.integers(1, 1500), st.integers(1, 700), st.floats(0.0, 0.9))
def test_tiles_cover_a_picture_and_overlap_as_asked(whole, side, overlap):
    found = windows((whole, 8), (side, 8), Tiles(overlap=overlap, whole=False))
    edges = [(top, bottom) for _, top, _, bottom in found]
    assert (edges[0][0], edges[-1][1]) == (0, whole)
    assert all(end - start == min(side, whole) for start, end in edges)
    assert all(before[1] - after[0] >= int(side * overlap) - 1 for before, after in itertools.pairwise(edges))


def test_very_many_tiles_are_refused():
    with pytest.raises(DataError, match="makes 160000 tiles of 10 x 10"):
        windows((4000, 4000), (64, 64), Tiles(size=10, overlap=0.0))


def test_the_commands_take_tiles(tmp_path, monkeypatch):
    bundle = tiny.write(tmp_path / "t.edgeopt", tiny.DETECTOR)
    photo = tmp_path / "red.png"
    cv2.imwrite(str(photo), tiny.colour("red", 60, 80))
    run = CliRunner().invoke(main, ["run", str(bundle.path), str(photo), "--tiles", "32", "--overlap", "0.25"])
    assert run.exit_code == 0, run.output
    with load(bundle.path) as predictor:
        expected = Tiled(predictor, Tiles(size=32, overlap=0.25)).predict(photo)
    assert run.stdout.count("[") == min(len(expected), 10)
    refused = CliRunner().invoke(main, ["run", str(bundle.path), str(photo), "--overlap", "0.25"])
    assert refused.exit_code == 2
    assert "--overlap goes with --tiles" in refused.output
