"""Training sees what the device will see, decoded once and within a bound."""

from __future__ import annotations

import numpy as np
import pytest

from edgeopt.dataset import Boxes, Dataset, Sample
from edgeopt.errors import DataError
from edgeopt.preprocess import preprocess
from edgeopt.spec import (
    Adjust,
    CenterCrop,
    Letterbox,
    Normalization,
    Preprocessing,
    Resize,
    ResizeShorterSide,
)
from edgeopt.train.pictures import Pictures

LETTERBOX = Preprocessing(
    steps=(Letterbox(size=(64, 64), fill=7, anchor="top_left"),), channels="BGR", normalization=Normalization(scale=1.0)
)


class CountingPicture:
    """Noise that counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> np.ndarray:
        self.reads += 1
        return np.random.default_rng(0).integers(0, 256, (60, 120, 3), np.uint8)

    def digest(self) -> str:
        return "noise"


def dataset(target: int | Boxes | None = 0) -> tuple[Dataset, CountingPicture]:
    picture = CountingPicture()
    return Dataset(None, ("thing",), (Sample("noise", target, picture),)), picture


@pytest.mark.parametrize(
    "preprocessing",
    [
        LETTERBOX,
        Preprocessing(
            steps=(ResizeShorterSide(pixels=40), CenterCrop(size=(32, 32)), Adjust(contrast=1.2)),
            channels="RGB",
            normalization=Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ),
        Preprocessing(steps=(Resize(size=(28, 28)),), channels="GRAY", normalization=Normalization(), layout="NHWC"),
    ],
)
def test_the_two_halves_of_the_preprocessing_make_the_whole(preprocessing: Preprocessing):
    data, _ = dataset()
    pictures = Pictures(data, preprocessing)
    pixels, geometry = pictures.pixels(0)
    whole, expected = preprocess(data.image(0), preprocessing)
    assert np.array_equal(preprocess(pixels, pictures.finish)[0], whole)
    assert geometry == expected


@pytest.mark.parametrize(("room", "reads"), [(64 * 64 * 3, 1), (64 * 64 * 3 - 1, 3)])
def test_images_are_kept_while_there_is_room(room: int, reads: int):
    data, picture = dataset()
    pictures = Pictures(data, LETTERBOX, limit_bytes=room)
    first, *_ = (pictures.pixels(0)[0] for _ in range(3))
    assert picture.reads == reads
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 0


def test_boxes_come_at_the_networks_size_without_crowds():
    data, _ = dataset(Boxes.of([[12, 6, 60, 30], [0, 0, 120, 60]], [0, 0], [False, True]))
    scene = Pictures(data, LETTERBOX).scene(0)
    assert scene.boxes.tolist() == pytest.approx(np.array([[12, 6, 60, 30]]) * 64 / 120)
    assert scene.classes.tolist() == [0]


def test_a_mosaic_gets_no_letterbox():
    data, _ = dataset(Boxes.of([[0, 0, 120, 60]], [0]))
    pictures = Pictures(data, LETTERBOX)
    assert pictures.fill == 7
    scene = pictures.scene_without_letterbox(0)
    assert scene.pixels.shape == (32, 64, 3)
    assert scene.boxes.tolist() == [[0.0, 0.0, 64.0, 32.0]]


def test_a_target_of_the_wrong_kind_is_named():
    with pytest.raises(DataError, match="noise has no boxes"):
        Pictures(dataset(3)[0], LETTERBOX).scene(0)
    with pytest.raises(DataError, match="noise has no class label"):
        Pictures(dataset(None)[0], LETTERBOX).label(0)
