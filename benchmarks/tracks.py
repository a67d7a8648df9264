"""Tracks: how often objects that move, cross and vanish for a while keep their number.

Run as ``python -m benchmarks.tracks [--videos N] [--frames N]``. Handwritten digits, which `digit_scenes` tests with,
move over its photographs, bounce off the borders and cross each other; the detector of the recipe `digit-scenes` finds
them in every frame, and `runtime.tracking` follows them. Beside it the same detections are joined by the overlap of two
frames alone. MOTA is one less misses, false boxes and switches of numbers over all objects (Bernardin and Stiefelhagen
2008), at IoU .5. Writes ``results/tracks.json``: a row for each way of following.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from benchmarks.recorded import processor, record
from benchmarks.tiles import opened
from edgeopt.boxes import Boxes
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import ModelConfig
from edgeopt.dataset.digits import DIGIT_LABELS
from edgeopt.dataset.scenes import SCENES, SIDE, ScenePicture, compose, truth
from edgeopt.metrics import NOTHING, pair
from edgeopt.postprocess import Detections
from edgeopt.runtime.tracking import LOW, Tracker

RESULTS = Path(__file__).resolve().parent / "results" / "tracks.json"
DIGITS = ModelConfig(
    source="edgeopt:yolox_nano", weights="package:edgeopt/recipes/digit-scenes.safetensors", input_size=(160, 160)
)
_SCORE = 0.3
_FASTEST = 8
"""Pixels a frame, of 320."""
_OVERLAP = 0.3
Frame: TypeAlias = tuple[ScenePicture, Boxes]
Follow: TypeAlias = Callable[[Detections], Detections]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--frames", type=int, default=60)
    arguments = parser.parse_args()
    ways: dict[str, Callable[[], Follow]] = {
        "run --track": lambda: Tracker(_SCORE).update,
        "overlap of two frames": lambda: joined_by_overlap(),
    }
    counts = {way: np.zeros(4, np.int64) for way in ways}
    with opened(DIGITS, DIGIT_LABELS) as predictor:
        for number in range(arguments.videos):
            frames = list(video(SCENES["test"] + number, arguments.frames))
            found = [predictor.predict(picture.read(), score=LOW) for picture, _ in frames]
            for way, make in ways.items():
                detections = [each for each in found if isinstance(each, Detections)]
                counts[way] += judged(make(), detections, [truth for _, truth in frames])
    for way, (objects, missed, false, switches) in counts.items():
        row = {
            "way": way,
            "mota": 1.0 - float(missed + false + switches) / float(objects),
            "objects": int(objects),
            "missed": int(missed),
            "false": int(false),
            "switches": int(switches),
            "videos": arguments.videos,
            "frames": arguments.frames,
            "processor": processor(),
        }
        record(RESULTS, row, ("way",))


def video(number: int, frames: int) -> Iterator[Frame]:
    """Let the digits of a scene move, each as fast as it likes; in the truth an object's row stays the same."""
    random = np.random.default_rng(number)
    scene = compose("test", number)
    speeds = random.integers(-_FASTEST, _FASTEST + 1, (len(scene.placements), 2))
    for _ in range(frames):
        yield scene, truth(scene)
        moved = []
        for index, placement in enumerate(scene.placements):
            corner = np.array([placement.left, placement.top]) + speeds[index]
            outside = (corner < 0) | (corner > SIDE - placement.side)
            speeds[index][outside] *= -1
            left, top = np.clip(corner, 0, SIDE - placement.side).tolist()
            moved.append(replace(placement, left=left, top=top))
        scene = replace(scene, placements=tuple(moved))


def judged(follow: Follow, found: list[Detections], truths: list[Boxes]) -> np.ndarray:
    """(4,) objects, missed ones, false boxes and switches of numbers, over the frames of a video."""
    known: dict[int, int] = {}
    counts = np.zeros(4, np.int64)
    for detections, sought in zip(found, truths, strict=True):
        shown = follow(detections)
        assert shown.tracks is not None
        objects = pair(shown, sought)
        hit = {int(row): int(track) for row, track in zip(objects, shown.tracks, strict=True) if row != NOTHING}
        switches = sum(known.get(row, track) != track for row, track in hit.items())
        counts += np.array([len(sought), len(sought) - len(hit), int((objects == NOTHING).sum()), switches])
        known |= hit
    return counts


def joined_by_overlap() -> Follow:
    """Number detections like the one of the frame before that they overlap most, or anew."""
    before: list[tuple[np.ndarray, int, int]] = []
    count = 0

    def follow(found: Detections) -> Detections:
        nonlocal before, count
        shown = found.above(_SCORE)
        numbers, free = [], list(before)
        for box, category in zip(shown.boxes, shown.classes.tolist(), strict=True):
            near = [(_iou(box, other), place) for place, (other, of, _) in enumerate(free) if of == category]
            overlap, place = max(near, default=(0.0, -1))
            if overlap >= _OVERLAP:
                numbers.append(free.pop(place)[2])
            else:
                count += 1
                numbers.append(count)
        before = list(zip(shown.boxes, shown.classes.tolist(), numbers, strict=True))
        return shown.numbered(np.array(numbers, np.int64))

    return follow


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    shared = np.maximum(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0.0).prod()
    return float(shared / ((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod() - shared))


if __name__ == "__main__":
    with errors_reported():
        main()
