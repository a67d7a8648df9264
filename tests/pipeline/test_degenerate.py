"""A float network that is of no use is told of, because INT8 that agrees with it loses nothing and is accepted."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from tiny_recipe import RECIPE, Watch

from edgeopt.boxes import Boxes
from edgeopt.config import parse_config
from edgeopt.metrics import average_precision, classification_report, confusion_matrix
from edgeopt.pipeline import build
from edgeopt.pipeline.degenerate import degenerate
from edgeopt.postprocess import Detections

LABELS = ("cat", "dog", "owl")


def test_one_answer_for_every_image() -> None:
    told = degenerate(classification_report(confusion_matrix([0, 1, 1], [1, 1, 1], 3), LABELS))
    assert told is not None
    assert told.startswith("the float network answers 'dog' for all 3 test images, which are of 2 classes")


@pytest.mark.parametrize(("true", "predicted"), [([0, 1, 1], [1, 0, 0]), ([1, 1, 1], [1, 1, 1]), ([1, 1], [0, 0])])
def test_wrong_answers_that_differ_and_images_of_one_class(true: list[int], predicted: list[int]) -> None:
    assert degenerate(classification_report(confusion_matrix(true, predicted, 3), LABELS)) is None


def test_no_object_found() -> None:
    truth = Boxes.of([[0.0, 0.0, 9.0, 9.0]], [1])
    found = Detections(truth.boxes, np.ones(1, np.float32), truth.classes, LABELS)
    nothing = found.above(2.0)
    told = degenerate(average_precision([nothing], [truth], 3))
    assert told is not None
    assert told.startswith("the float network finds none of the 1 objects in the test images")
    assert degenerate(average_precision([found], [truth], 3)) is None


def test_a_build_tells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spoilt = parse_config(RECIPE, overrides=("train.learning_rate=1.0", "quantize.repairs=[]"))
    with caplog.at_level(logging.WARNING):
        build(spoilt, Path.cwd(), tmp_path, tmp_path / "work", Watch())
    assert "for all 60 test images, which are of 10 classes" in caplog.text
