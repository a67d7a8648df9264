"""Tracking: objects keep their numbers through crossings, hiding and gaps."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from edgeopt.cli import main
from edgeopt.draw import draw
from edgeopt.postprocess import Detections
from edgeopt.runtime.assignment import assign
from edgeopt.runtime.tracking import Tracker

LABELS = ("cat", "dog")


def frame(*objects: tuple[float, float, float] | tuple[float, float, float, int]) -> Detections:
    """Detections of 40 by 40 pixels: centre x and y, score, and class."""
    rows = [(*each, 0)[:4] for each in objects]
    boxes = np.array([[x - 20, y - 20, x + 20, y + 20] for x, y, _, _ in rows], np.float32).reshape(-1, 4)
    classes = np.array([row[3] for row in rows], np.int64)
    scores = np.array([row[2] for row in rows], np.float32)
    return Detections(boxes, scores, classes, tuple(LABELS[index] for index in classes))


def numbers(tracker: Tracker, *objects: tuple[float, ...]) -> dict[float, int]:
    """Numbers of the objects that are told, by the x of their box."""
    found = tracker.update(frame(*objects))
    return {float(box[0] + 20): number for box, number in zip(found.boxes, found.tracks.tolist(), strict=True)}


class TestTracker:
    def test_objects_that_cross_keep_their_numbers(self):
        tracker = Tracker(0.5)
        for step in range(60):
            one, two = 20.0 + 6 * step, 380.0 - 6 * step
            assert numbers(tracker, (one, 100, 0.9), (two, 118, 0.8)) == {one: 1, two: 2}

    def test_a_low_score_continues_a_track_but_begins_none(self):
        tracker = Tracker(0.5)
        numbers(tracker, (50, 50, 0.9))
        for step in range(10):
            assert numbers(tracker, (50.0 + step, 50, 0.2), (300, 300, 0.2)) == {50.0 + step: 1}

    def test_what_is_hidden_for_a_while_comes_back_where_its_speed_takes_it(self):
        tracker = Tracker(0.5)
        for step in range(20):
            numbers(tracker, (50.0 + 4 * step, 50, 0.9))
        for _ in range(12):
            assert numbers(tracker) == {}
        assert numbers(tracker, (50.0 + 4 * 32, 50, 0.9)) == {178.0: 1}

    def test_after_a_long_time_it_is_another_object(self):
        tracker = Tracker(0.5)
        numbers(tracker, (50, 50, 0.9))
        for _ in range(40):
            numbers(tracker)
        numbers(tracker, (50, 50, 0.9))
        assert numbers(tracker, (50, 50, 0.9)) == {50.0: 2}

    def test_a_box_of_a_single_frame_is_not_told(self):
        tracker = Tracker(0.5)
        numbers(tracker, (50, 50, 0.9))
        assert numbers(tracker, (50, 50, 0.9), (300, 300, 0.9)) == {50.0: 1}
        assert numbers(tracker, (50, 50, 0.9)) == {50.0: 1}
        assert numbers(tracker, (50, 50, 0.9), (300, 300, 0.9)) == {50.0: 1}

    def test_a_new_object_is_told_from_its_second_frame_on(self):
        tracker = Tracker(0.5)
        numbers(tracker)
        assert numbers(tracker, (50, 50, 0.9)) == {}
        assert numbers(tracker, (52, 50, 0.9)) == {52.0: 1}

    def test_tracks_keep_to_a_class(self):
        tracker = Tracker(0.5)
        numbers(tracker, (50, 50, 0.9, 0))
        numbers(tracker, (50, 50, 0.9, 1))
        assert numbers(tracker, (50, 50, 0.9, 1)) == {50.0: 2}

    def test_noise_and_missed_frames_change_no_number(self):
        random = np.random.default_rng(0)
        tracker, told = Tracker(0.4), set()
        for step in range(150):
            seen = [
                (100 * index + step * (index - 2) * 0.5 + random.normal(0, 2), 80 * index + random.normal(0, 2), score)
                for index in range(1, 5)
                if (score := random.uniform(0.15, 0.95)) and random.random() > 0.1
            ]
            found = tracker.update(frame(*seen))
            assert len(set(found.tracks.tolist())) == len(found)
            told |= set(found.tracks.tolist())
        assert told == {1, 2, 3, 4}


def test_an_assignment_is_the_cheapest():
    random = np.random.default_rng(0)
    for _ in range(60):
        rows, columns = random.integers(1, 5, 2)
        costs, limit = random.random((rows, columns)), random.random()
        pairs = assign(costs, limit)
        assert len({column for _, column in pairs}) == len(pairs)
        total = sum(costs[pair] for pair in pairs) + limit * (rows - len(pairs))
        best = min(
            sum(limit if column < 0 else costs[row, column] for row, column in enumerate(choice))
            for choice in itertools.product(range(-1, columns), repeat=int(rows))
            if len(used := [column for column in choice if column >= 0]) == len(set(used))
        )
        assert total == pytest.approx(best)


def test_numbers_are_drawn_and_in_json():
    found = Tracker(0.5).update(frame((50, 50, 0.9)))
    assert found.to_dict()["detections"][0]["track"] == 1
    plain = frame((50, 50, 0.9))
    assert "track" not in plain.to_dict()["detections"][0]
    image = np.zeros((400, 400, 3), np.uint8)
    assert (draw(image, found) != draw(image, plain)).any()


class TestCommand:
    @pytest.fixture
    def video(self, tmp_path):
        path = tmp_path / "red.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
        for _ in range(6):
            writer.write(tiny.colour("red", 32, 32))
        writer.release()
        return path

    def test_numbers_stand_in_lines_and_in_the_table(self, tmp_path, video):
        bundle = tiny.write(tmp_path / "t.edgeopt", tiny.DETECTOR)
        table = tmp_path / "t.csv"
        run = CliRunner().invoke(main, ["run", str(bundle.path), str(video), "--track", "--csv", str(table)])
        assert run.exit_code == 0, run.output
        assert "#1 red" in run.stdout
        header, *rows = [line.split(",") for line in table.read_text().splitlines()]
        assert header[-1] == "track"
        assert {row[-1] for row in rows} >= {"1"}

    def test_pictures_are_no_video(self, tmp_path):
        bundle = tiny.write(tmp_path / "t.edgeopt", tiny.DETECTOR)
        cv2.imwrite(str(tmp_path / "red.png"), tiny.colour("red"))
        run = CliRunner().invoke(main, ["run", str(bundle.path), str(tmp_path / "red.png"), "--track"])
        assert run.exit_code != 0
        assert "is not a video" in run.output

    def test_a_classifier_has_no_objects(self, tmp_path, video):
        bundle = tiny.write(tmp_path / "t.edgeopt")
        run = CliRunner().invoke(main, ["run", str(bundle.path), str(video), "--track"])
        assert run.exit_code != 0
        assert "is a classifier" in run.output
