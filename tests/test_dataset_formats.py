"""Every data format, well-formed and not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeopt.config import DataSource
from edgeopt.dataset import Boxes, Dataset, load
from edgeopt.errors import ConfigError, DataError

HEIGHT, WIDTH = 20, 40


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The folder `images` with a.png, b.png and sub/c.png, 40x20 pixels."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.png", "sub/c.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / name), pixels)
    return tmp_path


def boxes_of(dataset: Dataset, name: str) -> Boxes:
    target = next(sample.target for sample in dataset if sample.name == name)
    assert isinstance(target, Boxes)
    return target


# images and image folders


def test_unlabelled_images_have_no_task(images: Path) -> None:
    dataset = load(DataSource(format="images", path="images"), images)
    assert dataset.task is None
    assert [sample.name for sample in dataset] == ["a.png", "b.png", "sub/c.png"]
    assert all(sample.target is None for sample in dataset)


def test_hidden_files_are_not_images(images: Path) -> None:
    (images / "images" / "._a.png").write_bytes(b"resource fork")
    assert len(load(DataSource(format="images", path="images"), images)) == 3


def test_a_folder_without_images_says_what_images_are(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(DataError, match=r"no images in .*\.jpg"):
        load(DataSource(format="images", path="."), tmp_path)


def test_a_missing_folder_says_where_paths_start(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist. Relative paths start from"):
        load(DataSource(format="images", path="nowhere"), tmp_path)


def test_a_folder_whose_letters_have_another_case_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "Photos").mkdir()
    for format_ in ("images", "voc", "image_folder"):
        with pytest.raises(DataError, match=r"photos does not exist. Did you mean 'Photos'\?"):
            load(DataSource(format=format_, path="photos"), tmp_path)


def test_images_without_class_folders_point_to_the_other_formats(images: Path) -> None:
    with pytest.raises(DataError, match="no subfolders, one a class"):
        load(DataSource(format="image_folder", path="images/sub"), images)


def test_split_folders_above_the_classes_are_chosen_by_name(images: Path) -> None:
    (images / "images").rename(images / "cat")
    (images / "data" / "train").mkdir(parents=True)
    (images / "data" / "test").mkdir()
    (images / "cat").rename(images / "data" / "train" / "cat")
    dataset = load(DataSource(format="image_folder", path="data", split="train"), images)
    assert dataset.labels == ("cat",)
    assert [sample.name for sample in dataset] == ["cat/a.png", "cat/b.png", "cat/sub/c.png"]
    with pytest.raises(DataError, match="are splits, not classes: test, train"):
        load(DataSource(format="image_folder", path="data"), images)


def test_class_folders_without_images_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="no images in the class folders"):
        load(DataSource(format="image_folder", path="."), tmp_path)


# csv


def table(folder: Path, text: str, **options: object) -> Dataset:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    labels = options.pop("model_labels", None)
    return load(DataSource(format="csv", path="labels.csv", **options), folder, labels=labels)


def test_csv_class_names_are_sorted(images: Path) -> None:
    dataset = table(images, "file,label\nimages/a.png,zebra\nimages/b.png,ant\n")
    assert dataset.labels == ("ant", "zebra")
    assert [sample.target for sample in dataset] == [1, 0]
    assert dataset[0].name == "images/a.png"


def test_csv_indices_mean_the_models_classes(images: Path) -> None:
    text = "file,class_index\nimages/a.png,2\nimages/b.png,0\n"
    assert [sample.target for sample in table(images, text, model_labels=("x", "y", "z"))] == [2, 0]
    assert table(images, text).labels == ("0", "1", "2")
    with pytest.raises(DataError, match=r"line 2: class index 2 is outside 0..1"):
        table(images, text, model_labels=("x", "y"))


def test_csv_numbers_that_are_class_names_are_names(images: Path) -> None:
    dataset = table(images, "file,label\nimages/a.png,1\nimages/b.png,2\n", labels=("2", "1"))
    assert [sample.target for sample in dataset] == [1, 0]


def test_csv_columns_can_be_named(images: Path) -> None:
    dataset = table(images, "path,kind\nimages/a.png,x\n", image_column="path", label_column="kind")
    assert dataset.labels == ("x",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,colour\nimages/a.png,x\n", "no column 'class_index'"),
        ("filed,label\nimages/a.png,x\n", r"no column 'file'. Did you mean 'filed'\?"),
        ("file,label\n", "no rows"),
        ("file,label\n,x\n", "line 2 names no image file"),
        ("file,label\nimages/a.png,x\nimages/a.png,y\n", "1 images more than once, first images/a.png"),
        ("file,label\nnowhere.png,x\n", "0 of 1 images can be used.*No such file"),
    ],
)
def test_csv_that_does_not_fit_is_an_error(images: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(images, text)


def test_csv_that_is_not_text_is_an_error(images: Path) -> None:
    (images / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"cannot read .*labels.csv: it begins as UTF-16"):
        load(DataSource(format="csv", path="labels.csv"), images)


# coco


def coco(folder: Path, labels: tuple[str, ...] | None = None, **changes: object) -> Dataset:
    content: dict[str, object] = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 9, "file_name": "sub/c.png"},
        ],
        "annotations": [
            {"image_id": 7, "category_id": 90, "bbox": [1.5, 2, 10, 5], "iscrowd": 0},
            {"image_id": 7, "category_id": 3, "bbox": [30, 10, 100, 100], "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "cup"}, {"id": 3, "name": "bus"}, {"id": 4, "name": "kite"}],
    }
    (folder / "instances.json").write_text(json.dumps(content | changes))
    return load(DataSource(format="coco", path="images", annotations="instances.json"), folder, labels=labels)


def test_coco_boxes_become_corners_cut_to_the_image(images: Path) -> None:
    dataset = coco(images)
    assert dataset.task == "detection"
    assert dataset.labels == ("cup", "bus", "kite")
    boxes = boxes_of(dataset, "a.png")
    np.testing.assert_array_equal(boxes.boxes, [[1.5, 2, 11.5, 7], [30, 10, WIDTH, HEIGHT]])
    assert boxes.boxes.dtype == np.float32
    assert boxes.classes.tolist() == [0, 1]
    assert boxes.crowd.tolist() == [False, True]


def test_coco_images_without_annotations_stay_as_backgrounds(images: Path) -> None:
    assert len(boxes_of(coco(images), "sub/c.png")) == 0


def test_coco_categories_are_matched_by_name(images: Path) -> None:
    assert boxes_of(coco(images, ("bus", "person", "cup")), "a.png").classes.tolist() == [2, 0]
    with pytest.raises(DataError, match="class 'bus' is not among the 1 labels"):
        coco(images, ("cup",))


def test_coco_boxes_without_size_are_dropped(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [[1, 1, 5, 5], [2, 2, 0, 5], [3, 3, 4, 4], [300, 3, 4, 4]]
    listed = [{"image_id": 7, "category_id": 3, "bbox": row} for row in rows]
    assert len(boxes_of(coco(images, annotations=listed), "a.png")) == 2
    assert "2 of 4 boxes without size inside their image left out" in caplog.text


def test_labels_of_other_images_are_recognised_by_their_boxes(images: Path) -> None:
    listed = [{"image_id": 7, "category_id": 3, "bbox": [400, 300, 20, 20]}]
    with pytest.raises(DataError, match=r"1 of 1 boxes .* The labels belong to other images"):
        coco(images, annotations=listed)


def test_labels_of_an_image_of_another_size_are_not_used(images: Path) -> None:
    listed = [{"id": 7, "file_name": "a.png", "width": 80, "height": 40}, {"id": 9, "file_name": "sub/c.png"}]
    dataset = coco(images, images=listed)
    assert [sample.name for sample in dataset] == ["sub/c.png"]
    assert dataset.skipped == ("a.png: its labels are for 80x40 pixels, the image has 40x20",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "lists no images"),
        ({"annotations": [{"image_id": 8, "category_id": 3, "bbox": [0, 0, 1, 1]}]}, "image id 8, which is not listed"),
        ({"annotations": [{"image_id": 7, "category_id": 5, "bbox": [0, 0, 1, 1]}]}, "category id 5, which is not"),
        (
            {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1]}]},
            r"annotation 0: bbox is \[0, 0, 1\], not four numbers",
        ),
        ({"categories": "none"}, "not COCO's instances json"),
    ],
)
def test_coco_that_does_not_fit_is_an_error(images: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        coco(images, **changes)


def test_coco_without_annotations_names_the_key(images: Path) -> None:
    with pytest.raises(ConfigError, match="'coco' needs `annotations`"):
        load(DataSource(format="coco", path="images"), images)
    with pytest.raises(DataError, match=r"`annotations` .*none.json does not exist"):
        load(DataSource(format="coco", path="images", annotations="none.json"), images)


# voc

VOC = """<annotation><filename>a.png</filename><size><width>40</width><height>20</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>20</ymax></bndbox>
</object><object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>5.5</xmin><ymin>6</ymin><xmax>10</xmax><ymax>12</ymax></bndbox></object></annotation>"""


def voc(folder: Path, text: str = VOC, **options: object) -> Dataset:
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "Annotations" / "a.xml").write_text(text)
    return load(DataSource(format="voc", path="images", **options), folder)


def test_voc_boxes_count_from_one_and_include_the_last_pixel(images: Path) -> None:
    dataset = voc(images)
    boxes = boxes_of(dataset, "a.png")
    assert dataset.labels == ("cat", "dog")
    np.testing.assert_array_equal(boxes.boxes, [[0, 0, 40, 20], [4.5, 5, 10, 12]])
    assert boxes.classes.tolist() == [1, 0]
    assert boxes.crowd.tolist() == [False, True]


def test_voc_splits_are_lists_of_names(images: Path) -> None:
    (images / "Annotations").mkdir()
    (images / "Annotations" / "b.xml").write_text("<annotation/>")
    listed = images / "ImageSets" / "Main" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("a  1\n\n")
    assert [sample.name for sample in voc(images, split="val")] == ["a.png"]
    assert len(voc(images)) == 2
    with pytest.raises(DataError, match=r"no list .*train.txt for split 'train'"):
        voc(images, split="train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "has a document type"),
        ('<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY b "&lol;&lol;">]><annotation>&b;</annotation>', "document type"),
        ("<annotation><object>", "not well-formed XML"),
        ("<annotation><object><name>x</name></object></annotation>", "no <bndbox>"),
        (VOC.replace("5.5", "five").replace(">1<", ">one<"), "2 of 2 .*<xmin> is 'one', not a number"),
        (VOC.replace("cat", " ").replace("dog", " "), "<object> has no <name>"),
    ],
)
def test_voc_that_does_not_fit_is_an_error(images: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        voc(images, text)


def test_voc_without_annotations_is_an_error(images: Path) -> None:
    (images / "Annotations").mkdir()
    with pytest.raises(DataError, match=r"no .xml files"):
        load(DataSource(format="voc", path="images"), images)


# yolo


def yolo(folder: Path, text: str, labels: tuple[str, ...] | None = ("x", "y")) -> Dataset:
    (folder / "labels" / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "labels" / "sub" / "c.txt").write_text(text)
    return load(DataSource(format="yolo", path="images", labels=labels), folder)


def test_yolo_shares_become_pixels(images: Path) -> None:
    dataset = yolo(images, "1 0.5 0.5 0.5 1\n\n0 0.1 0.1 0.4 0.4\n")
    boxes = boxes_of(dataset, "sub/c.png")
    np.testing.assert_allclose(boxes.boxes, [[10, 0, 30, 20], [0, 0, 12, 6]], atol=1e-5)
    assert boxes.classes.tolist() == [1, 0]
    assert len(boxes_of(dataset, "a.png")) == 0


def test_yolo_names_can_stand_in_classes_txt(images: Path) -> None:
    (images / "classes.txt").write_text("cat\ndog\n\n")
    assert yolo(images, "1 .5 .5 .5 .5\n", labels=None).labels == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 .5 .5 .5 .5", r"c.txt, line 1: class index 2 is outside 0..1"),
        ("0 .5 .5 .5", "line 1: 4 numbers, but a box has 5"),
        ("0 .1 .1 .2 .1 .2 .2 .3 .3 .4", "line 1: 10 numbers"),
        ("0 nan .1 .2 .2", "a value that is not finite"),
        ("0.5 .1 .1 .2 .2", "a class that is not a whole number"),
        ("\n0 .5 x .5 .5", r"line 2: '0 .5 x .5 .5' holds something that is not a number"),
    ],
)
def test_yolo_lines_that_do_not_fit_are_errors(images: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        yolo(images, text)


def test_yolo_without_names_or_labels_is_an_error(images: Path) -> None:
    with pytest.raises(DataError, match=r"give class names in `labels` or a classes.txt"):
        yolo(images, "0 .5 .5 .5 .5", labels=None)
    (images / "labels" / "sub" / "c.txt").unlink()
    with pytest.raises(DataError, match=r"no image of .* has a label file"):
        load(DataSource(format="yolo", path="images", labels=("x",)), images)


# idx


def idx(folder: Path, *, count: int = 3, labels: bytes = b"\x00\x02\x01", zipped: bool = False) -> Dataset:
    pixels = np.arange(count * 20, dtype=np.uint8)
    image_bytes = b"\0\0\x08\x03" + np.array([count, 4, 5], ">u4").tobytes() + pixels.tobytes()
    label_bytes = b"\0\0\x08\x01" + np.array([len(labels)], ">u4").tobytes() + labels
    for name, content in (("images.idx", image_bytes), ("labels.idx", label_bytes)):
        (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    return load(DataSource(format="idx", path="images.idx", annotations="labels.idx"), folder)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_images_are_grey(tmp_path: Path, zipped: bool) -> None:
    dataset = idx(tmp_path, zipped=zipped)
    assert dataset.labels == ("0", "1", "2")
    assert [sample.target for sample in dataset] == [0, 2, 1]
    assert dataset.image(1).shape == (4, 5, 3)
    assert dataset.image(1)[0, 1].tolist() == [21, 21, 21]


def test_idx_files_that_do_not_fit_together_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds 3 images, but .* 2 labels"):
        idx(tmp_path, labels=b"\0\1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x08\x03\0\0\0\x09", "is cut off"),
        (b"\x89PNG\r\n", "is not an IDX file of bytes in 3 dimensions"),
        (b"\x1f\x8bbroken", "cannot read"),
        (b"", "is not an IDX file"),
    ],
)
def test_idx_that_does_not_fit_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    idx(tmp_path)
    (tmp_path / "images.idx").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(DataSource(format="idx", path="images.idx", annotations="labels.idx"), tmp_path)


def test_a_split_that_would_mean_nothing_is_refused(images: Path) -> None:
    with pytest.raises(ConfigError, match="format 'images' has no splits of its own"):
        load(DataSource(format="images", path="images", split="train"), images)
