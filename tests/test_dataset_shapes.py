"""labelme's and CVAT's files: shapes become boxes, flags and tags become classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeopt.config import DataSource
from edgeopt.dataset import Boxes, load
from edgeopt.errors import DataError

HEIGHT, WIDTH = 20, 40


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate(("a", "b")):
        pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        assert cv2.imwrite(str(tmp_path / f"photos/{name}.png"), pixels)
    return tmp_path


def labelme(root: Path, name: str, shapes: list[dict[str, Any]], **fields: Any) -> None:
    content = {
        "version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.png", "imageData": "aGk=",
        "imageHeight": HEIGHT, "imageWidth": WIDTH,
    } | fields  # fmt: skip
    (root / f"photos/{name}.json").write_text(json.dumps(content))


def shape(label: str, kind: str, *points: tuple[float, float]) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}}


def boxes(target: object) -> tuple[list[list[float]], list[int]]:
    assert isinstance(target, Boxes)
    return np.round(target.boxes, 3).tolist(), target.classes.tolist()


def test_labelme_shapes_become_boxes(photos: Path) -> None:
    rectangle = shape("pear", "rectangle", (30, 15), (10, 5))
    labelme(photos, "a", [rectangle, shape("apple", "circle", (20, 10), (20, 14))])
    labelme(photos, "b", [shape("pear", "polygon", (1, 2), (7, 3), (4, 9))], imagePath="..\\other\\b.png")
    dataset = load(DataSource(format="labelme", path="photos"), photos)
    assert dataset.task == "detection"
    assert dataset.labels == ("apple", "pear")
    assert boxes(dataset[0].target) == ([[10, 5, 30, 15], [16, 6, 24, 14]], [1, 0])
    assert boxes(dataset[1].target) == ([[1, 2, 7, 9]], [1])


def test_labelme_flags_are_classes(photos: Path) -> None:
    labelme(photos, "a", [], flags={"ripe": True, "unripe": False})
    labelme(photos, "b", [], flags={"ripe": False, "unripe": True})
    dataset = load(DataSource(format="labelme", path="photos"), photos)
    assert (dataset.task, dataset.labels) == ("classification", ("ripe", "unripe"))
    assert [sample.target for sample in dataset] == [0, 1]


def test_labelme_shapes_that_are_no_boxes_are_left_out(photos: Path) -> None:
    labelme(photos, "a", [shape("pear", "point", (3, 3)), shape("pear", "rectangle", (1, 1), (9, 9))])
    labelme(photos, "b", [shape("pear", "rectangle", (1, 1), (9, 9))])
    dataset = load(DataSource(format="labelme", path="photos"), photos)
    assert [len(boxes(sample.target)[0]) for sample in dataset] == [1, 1]
    assert dataset.left_out == (f"{photos}/photos/a.json, shape 0: a box needs two points or more, of finite numbers",)


def test_json_that_is_not_labelmes_is_refused(photos: Path) -> None:
    (photos / "photos/a.json").write_text('{"images": []}')
    with pytest.raises(DataError, match=r"1 of 1 entries cannot be used: .*a.json is not labelme's json"):
        load(DataSource(format="labelme", path="photos"), photos)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels><label><name>pear</name></label><label><name>apple</name></label>
</labels></task></meta>{}</annotations>"""


def cvat(root: Path, text: str) -> None:
    (root / "annotations.xml").write_text(CVAT.format(text))


def test_cvat_shapes_become_boxes(photos: Path) -> None:
    cvat(
        photos,
        '<image id="0" name="a.png" width="40" height="20"><box label="apple" xtl="1" ytl="2" xbr="11" ybr="8"/>'
        '<box label="pear" xtl="10" ytl="5" xbr="30" ybr="15" rotation="90"/></image>'
        '<image id="1" name="sub/b.png" width="40" height="20"><polygon label="pear" points="3,4;9,4;6,8"/></image>',
    )
    dataset = load(DataSource(format="cvat", path="photos"), photos)
    assert dataset.labels == ("pear", "apple"), "the order of the task"
    assert boxes(dataset[0].target) == ([[1, 2, 11, 8], [15, 0, 25, 20]], [1, 0])
    assert boxes(dataset[1].target) == ([[3, 4, 9, 8]], [0])


def test_cvat_tags_are_classes(photos: Path) -> None:
    cvat(photos, '<image name="a.png"><tag label="apple"/></image><image name="b.png"><tag label="pear"/></image>')
    dataset = load(DataSource(format="cvat", path="photos", annotations="annotations.xml"), photos)
    assert (dataset.task, dataset.labels) == ("classification", ("pear", "apple"))
    assert [sample.target for sample in dataset] == [1, 0]


def test_cvat_tracks_of_a_video_say_what_to_export(photos: Path) -> None:
    cvat(photos, '<track id="0" label="pear"><box frame="0"/></track>')
    with pytest.raises(DataError, match="export the task as 'CVAT for images'"):
        load(DataSource(format="cvat", path="photos"), photos)
