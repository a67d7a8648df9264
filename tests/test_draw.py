"""draw: what must be true of a picture that nobody looks at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeopt.draw import draw, write_image
from edgeopt.errors import DataError, StorageError
from edgeopt.postprocess import Classification, Detections
from edgeopt.preprocess import read_image


def detections(*boxes: tuple[float, float, float, float]) -> Detections:
    count = len(boxes)
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(
        rows, np.full(count, 0.5, np.float32), np.arange(count), tuple(f"class {i}" for i in range(count))
    )


def classification(*labels: str) -> Classification:
    scores = np.linspace(0.9, 0.1, len(labels)).astype(np.float32)
    return Classification(np.arange(len(labels)), scores, labels)


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_the_image_stays_as_it_is():
    image = grey(400, 500)
    for result in (detections((10, 10, 100, 100)), classification("cat")):
        draw(image, result)
        assert (image == 128).all()


def test_nothing_found_gives_an_equal_picture():
    np.testing.assert_array_equal(draw(grey(400, 500), detections()), grey(400, 500))


def test_a_box_is_drawn_where_it_is():
    changed = (draw(grey(400, 500), detections((50, 100, 300, 350))) != 128).any(axis=2)
    assert changed[340:360, 50:300].any(axis=0).all(), "its lower edge"
    assert changed[100:350, 45:55].any(axis=1).all(), "its left edge"
    assert not changed[360:].any()
    assert not changed[150:300, 80:280].any(), "its inside is left free"


@pytest.mark.parametrize("box", [(0, 0, 20, 20), (480, 0, 500, 20), (-30, -30, 600, 600), (0, 390, 500, 400)])
def test_labels_stay_in_the_picture(box):
    picture = draw(grey(400, 500), detections(box))
    assert picture.shape == (400, 500, 3)
    assert (picture != 128).any()


def test_a_small_image_is_enlarged_until_text_is_legible():
    picture = draw(grey(28, 28), detections((4, 4, 20, 20)))
    assert min(picture.shape[:2]) >= 320
    assert picture.shape[0] % 28 == 0


def test_the_caption_is_below_the_image():
    image = grey(400, 500)
    picture = draw(
        image, classification("cat", "dog", "an animal with a name too long for the width of this picture" * 2)
    )
    np.testing.assert_array_equal(picture[:400], image)
    assert picture.shape[0] > 400
    assert (picture[400:] > 180).any(), "there is text in it"


def test_classes_differ_in_color():
    first = draw(grey(400, 500), detections((50, 100, 300, 350)))
    second = draw(grey(400, 500), detections((0, 0, 0, 0), (50, 100, 300, 350)))
    assert (first[349, 200] != second[349, 200]).any()


def test_a_picture_is_written_where_there_was_no_folder(tmp_path: Path):
    picture = draw(grey(400, 500), detections((50, 100, 300, 350)))
    write_image(tmp_path / "new" / "picture.png", picture)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "picture.png"), picture)


def test_an_unknown_format_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"\.nonsense"):
        write_image(tmp_path / "picture.nonsense", grey(8, 8))


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        write_image(tmp_path / "file" / "picture.png", grey(8, 8))
