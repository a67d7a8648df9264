"""What labelling tools and training tools write besides COCO, VOC and YOLO: read, or named with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest

from edgeopt.config import DataSource
from edgeopt.dataset import Boxes, load
from edgeopt.dataset.survey import survey
from edgeopt.errors import DataError


def picture(path: Path) -> None:
    pixels = np.random.default_rng([*path.name.encode()]).integers(0, 256, (48, 64, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


BOXES_OF_A = [[3.0, 4.0, 30.0, 40.0], [5.0, 6.0, 20.0, 30.0]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "_annotations.csv",  # Roboflow's for TensorFlow
            ("filename,width,height,class,xmin,ymin,xmax,ymax\n"
            "a.png,64,48,cat,3,4,30,40\nb.png,64,48,dog,1,1,9,9\na.png,64,48,dog,5,6,20,30\n"),
        ),
        ("boxes.csv", "a.png,3,4,30,40,cat\nb.png,1,1,9,9,dog\nphotos/a.png,5,6,20,30,dog\n".replace("photos/", "")),
        ("boxes.tsv", ("image\tlabel\tx\ty\tw\th\na.png\tcat\t3\t4\t27\t36\nb.png\tdog\t1\t1\t8\t8\n"
                      "a.png\tdog\t5\t6\t15\t24\n")),
        (
            "oidv6.csv",  # Open Images
            ("ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n"
            "a,cat,0.046875,0.46875,0.08333333,0.83333333,0\nb,dog,0.1,0.2,0.1,0.2,1\na,dog,0.078125,0.3125,0.125,0.625,0\n"),
        ),
    ],
    ids=["roboflow", "keras-retinanet", "sizes", "open images"],
)  # fmt: skip
def test_tables_with_a_row_a_box(tmp_path: Path, name: str, text: str) -> None:
    for each in ("a", "b"):
        picture(tmp_path / f"photos/{each}.png")
    (tmp_path / name).write_text(text)
    found = survey(tmp_path)
    dataset = load(found.sets["train"], tmp_path)
    first, second = (cast("Boxes", sample.target) for sample in dataset)
    assert (found.format, dataset.task, dataset.labels) == ("csv", "detection", ("cat", "dog"))
    np.testing.assert_allclose(first.boxes, BOXES_OF_A, atol=1e-3)
    assert first.classes.tolist() == [0, 1]
    assert second.crowd.tolist() == [name == "oidv6.csv"]


def test_a_row_without_corners_is_a_picture_without_objects(tmp_path: Path) -> None:
    for each in ("a", "b", "c"):
        picture(tmp_path / f"{each}.png")
    (tmp_path / "boxes.csv").write_text("a.png,3,4,30,40,cat\nb.png,,,,,\nc.png,1,2,x,4,cat\n")
    dataset = load(DataSource(format="csv", path="boxes.csv"), tmp_path)
    assert [(sample.name, len(cast("Boxes", sample.target))) for sample in dataset] == [("a.png", 1), ("b.png", 0)]
    assert "line 3: a box needs four numbers" in dataset.left_out[0]


@pytest.mark.parametrize("delimiter", [" ", "\t", ","])
def test_a_list_of_images_and_classes_without_a_header(tmp_path: Path, delimiter: str) -> None:
    for each in ("a b", "c"):
        picture(tmp_path / f"photos/{each}.png")
    (tmp_path / "train_list.txt").write_text(f"photos/a b.png{delimiter}1\nphotos/c.png{delimiter}0\n")
    dataset = load(survey(tmp_path).sets["train"], tmp_path)
    assert [(sample.name, sample.target) for sample in dataset] == [("photos/a b.png", 1), ("photos/c.png", 0)]


def test_create_ml(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    box = {"label": "cat", "coordinates": {"x": 20, "y": 16.0, "width": 10, "height": 8}}
    images = [
        {"image": "a.png", "annotations": [box, {"label": "cat"}, box]},
        {"imagefilename": "b.png", "annotation": []},
    ]
    (tmp_path / "_annotations.createml.json").write_text(json.dumps(images))
    found = survey(tmp_path)
    dataset = load(found.sets["train"], tmp_path)
    assert (found.format, dataset.labels) == ("createml", ("cat",))
    first, second = (cast("Boxes", sample.target) for sample in dataset)
    np.testing.assert_array_equal(first.boxes, [[15, 12, 25, 20]] * 2)
    assert len(second) == 0
    assert "annotation 1 has no coordinates" in dataset.left_out[0]


def test_kitti(tmp_path: Path) -> None:
    for each in ("0", "1", "2"):
        picture(tmp_path / f"training/image_2/{each}.png")
    space = "1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"
    lines = [f"Car 0.00 0 -1.58 3.0 4.0 30.0 40.0 {space}", f"DontCare -1 -1 -10 5 1 9 2 {space}"]
    (tmp_path / "training/label_2").mkdir()
    (tmp_path / "training/label_2/0.txt").write_text("\n".join(lines))
    (tmp_path / "training/label_2/1.txt").write_text(f"{lines[0]}\nCar 1 2\n")
    found = survey(tmp_path)
    dataset = load(found.sets["train"], tmp_path)
    assert (found.format, dataset.labels, len(dataset)) == ("kitti", ("Car",), 2)
    np.testing.assert_array_equal(cast("Boxes", dataset[0].target).boxes, [[3, 4, 30, 40]])
    assert [line.partition("training/label_2")[2] for line in dataset.left_out] == [
        "/1.txt, line 2: 'Car 1 2' is not a class and 14 numbers", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("<bndbox><xmin>30</xmin><ymin>40</ymin><xmax>4</xmax><ymax>5</ymax></bndbox>", [3, 4, 30, 40]),
        ("<robndbox><cx>30</cx><cy>20</cy><w>20</w><h>10</h><angle>1.5707963</angle></robndbox>", [24, 9, 35, 30]),
    ],
    ids=["corners in the other order", "turned, of roLabelImg"],
)
def test_voc_boxes_of_other_tools(tmp_path: Path, place: str, wanted: list[float]) -> None:
    picture(tmp_path / "a.png")
    head = "<annotation><filename>a.png</filename><size><width>64</width><height>48</height></size>"
    (tmp_path / "a.xml").write_text(f"{head}<object><name>cat</name>{place}</object></annotation>")
    dataset = load(DataSource(format="voc", path="."), tmp_path)
    np.testing.assert_allclose(cast("Boxes", dataset[0].target).boxes, [wanted], atol=1e-4)


def test_lists_of_a_data_yaml_are_its_sets(tmp_path: Path) -> None:
    for each in "abcd":
        picture(tmp_path / f"images/{each}.png")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / f"labels/{each}.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "train.txt").write_text("./images/a.png\n./images/b.png\n./images/c.png\n")
    (tmp_path / "val.txt").write_text("data/images/d.png\n")
    (tmp_path / "data.yaml").write_text("path: elsewhere\ntrain: train.txt\nval: 'val.txt'  # 1\nnames:\n  0: cat\n")
    sets = survey(tmp_path).sets
    names = {role: [sample.name for sample in load(source, tmp_path)] for role, source in sets.items()}
    assert names == {"train": ["images/a.png", "images/b.png", "images/c.png"], "validation": ["images/d.png"]}


@pytest.mark.parametrize(
    ("name", "text", "tool"),
    [
        ("via.json", '{"a.png1": {"filename": "a.png", "regions": [], "size": 1}}', "VGG Image Annotator"),
        ("via.csv", "filename,region_count,region_shape_attributes\na.png,1,{}\n", "VGG Image Annotator"),
        ("p.json", '[{"id": 1, "data": {"image": "a.png"}, "annotations": []}]', "Label Studio"),
        ("p.json", '[{"image": "/data/upload/a.png", "label": []}]', "Label Studio"),
        ("ann/a.png.json", '{"size": {"height": 1, "width": 1}, "objects": []}', "Supervisely"),
        ("labelTxt/a.txt", "imagesource:GoogleEarth\ngsd:0.1\n3 4 30 4 30 40 3 40 plane 0\n", "DOTA"),
        ("_classes.csv", "filename, cat, dog\na.png, 0, 1\n", "a column a class"),
        ("metadata.jsonl", '{"file_name": "a.png", "objects": {}}\n', "Hugging Face"),
    ],
)
def test_labels_of_a_tool_whose_form_is_not_read_are_named_with_the_way_out(
    tmp_path: Path, name: str, text: str, tool: str
) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{tool}.* which is not read. .*(COCO|columns file and label)"):
        survey(tmp_path)


def test_masks_of_a_segmentation_are_no_class(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        picture(tmp_path / folder / "a.png")
    with pytest.raises(DataError, match="masks holds a segmentation's masks, which are not read"):
        survey(tmp_path)


def test_files_of_no_known_form_are_said_beside_pictures_without_labels(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / "det_train.json").write_text('[{"name": "a.png", "labels": []}]')
    found = survey(tmp_path)
    assert (found.format, found.why.partition(" (")[2]) == ("images", "det_train.json: of no form that is known)")


def test_a_single_folder_of_pictures_is_no_class(tmp_path: Path) -> None:
    picture(tmp_path / "photos/a.png")
    assert survey(tmp_path).format == "images"


OBJ_DATA = (
    "classes = 2\ntrain = data/train.txt  # from the folder of darknet\nvalid = data/test.txt\nnames = data/my.names\n"
)


@pytest.mark.parametrize("valid", ["data/test.txt", "data/train.txt", "/home/somebody/darknet/data/test.txt"])
def test_darknet_names_its_sets_in_a_file(tmp_path: Path, valid: str) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / f"obj_train_data/{name}.png")
        (tmp_path / f"obj_train_data/{name}.txt").write_text("1 .5 .5 .25 .5\n")
    (tmp_path / "obj.data").write_text(OBJ_DATA.replace("data/test.txt", valid))
    (tmp_path / "my.names").write_text("cat\ndog\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    (tmp_path / "test.txt").write_text("data/obj_train_data/c.png\n")
    wanted = {"train": ["a.png", "b.png"], "test": ["c.png"]} if "test" in valid else {"train": ["a.png", "b.png"]}
    for place in (tmp_path, tmp_path / "obj.data"):
        found = survey(place)
        sets = {"test" if role == "validation" else role: load(each, tmp_path) for role, each in found.sets.items()}
        assert (found.format, found.why.partition(" ")[0]) == ("yolo", "obj.data")
        assert {role: [Path(sample.name).name for sample in each] for role, each in sets.items()} == wanted
        assert sets["train"].labels == ("cat", "dog")
        np.testing.assert_allclose(cast("Boxes", sets["train"][0].target).boxes, [[24, 12, 40, 36]])


WIDER = (
    "0--Parade/a.png\n2\n3 4 27 36 1 0 0 0 0 0 \n5 6 15 24 0 0 0 1 2 0 \n"
    "0--Parade/b.png\n0\n0 0 0 0 0 0 0 0 0 0 \n1--Handshaking/c.png\n1\n1 2 x 4 0 0 0 0 0 0 \n"
)
RETINAFACE = (
    "# 0--Parade/a.png\n3 4 27 36 9.0 9.0 0.0 20.0 9.0 0.0 9.0 9.0 0.0 9.0 9.0 0.0 9.0 9.0 0.0 0.82\n"
    "5 6 15 24 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 0.2\n"
    "# 0--Parade/b.png\n# 1--Handshaking/c.png\n1 2 x 4\n"
)


@pytest.mark.parametrize(("name", "text"), [("wider_face_val_bbx_gt.txt", WIDER), ("label.txt", RETINAFACE)])
def test_wider_face(tmp_path: Path, name: str, text: str) -> None:
    for each in ("0--Parade/a", "0--Parade/b", "1--Handshaking/c"):
        picture(tmp_path / f"WIDER_val/images/{each}.png")
    (tmp_path / "wider_face_split").mkdir()
    (tmp_path / "wider_face_split" / name).write_text(text)
    (tmp_path / "wider_face_split/wider_face_train_bbx_gt.txt").write_text("9--Far/z.png\n1\n1 2 3 4 0 0 0 0 0 0\n")
    found = survey(tmp_path)
    dataset = load(found.sets["train"], tmp_path)
    assert (found.format, dataset.labels) == ("wider_face", ("face",))
    assert [Path(sample.name).name for sample in dataset] == ["a.png", "b.png", "c.png"]
    first, second, _ = (cast("Boxes", sample.target) for sample in dataset)
    np.testing.assert_allclose(first.boxes, BOXES_OF_A)
    assert first.crowd.tolist() == [False, name.startswith("wider")]
    assert len(second.boxes) == 0
    assert "'1 2 x 4" in dataset.left_out[0]


def test_a_list_of_images_alone_is_not_wider_face(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    assert survey(tmp_path).format == "images"
    with pytest.raises(DataError, match="not in WIDER FACE's form"):
        load(DataSource(format="wider_face", path=".", annotations="list.txt"), tmp_path)
