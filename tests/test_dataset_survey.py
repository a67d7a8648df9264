"""What is found by looking at somebody's data, and the recipe that is written for it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeopt.cli import main
from edgeopt.config import find_recipe
from edgeopt.dataset import load, load_splits
from edgeopt.dataset.survey import source_of, survey
from edgeopt.errors import ConfigError, DataError

HEIGHT, WIDTH = 48, 64
VOC = (
    "<annotation><object><name>cat</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>24</xmax><ymax>14</ymax></bndbox>"
    "</object></annotation>"
)


def pictures(folder: Path, count: int = 30) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{index:02d}.png" for index in range(count)]
    for index, path in enumerate(paths):
        seed = [index, *str(folder).encode()]
        cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    return paths


def coco(root: Path) -> None:
    for role in ("train", "val"):
        paths = pictures(root / f"{role}2017")
        content = {
            "images": [{"id": index, "file_name": path.name} for index, path in enumerate(paths)],
            "annotations": [{"image_id": 0, "category_id": 1, "bbox": [4, 4, 20, 10]}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{role}2017.json").write_text(json.dumps(content))


def voc(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for path in pictures(root / "images"):
        (root / f"annotations/{path.stem}.xml").write_text(VOC)


def yolo(root: Path) -> None:
    for role in ("train", "valid", "test"):
        (root / role / "labels").mkdir(parents=True)
        for path in pictures(root / role / "images"):
            (root / role / "labels" / f"{path.stem}.txt").write_text("0 .5 .5 .2 .2\n")
    (root / "data.yaml").write_text("nc: 1\nnames: ['cat']\n")


def folders(root: Path) -> None:
    for role in ("train", "test"):
        pictures(root / "set" / role / "cat")
        pictures(root / "set" / role / "dog")


def table(root: Path) -> None:
    paths = pictures(root / "photos")
    rows = [f"photos/{path.name};{'cat' if index % 2 else 'dog'}\n" for index, path in enumerate(paths)]
    (root / "photos.csv").write_text("Filename;class\n" + "".join(rows))


def labelme(root: Path) -> None:
    for path in pictures(root / "photos"):
        shape = {"label": "cat", "points": [[4, 4], [24, 14]], "shape_type": "rectangle"}
        content = {"version": "5", "flags": {}, "shapes": [shape], "imagePath": path.name}
        path.with_suffix(".json").write_text(json.dumps(content))


def cvat(root: Path) -> None:
    box = '<box label="cat" xtl="4" ytl="4" xbr="24" ybr="14"/>'
    images = [f'<image name="{path.name}" width="64" height="48">{box}</image>' for path in pictures(root / "images")]
    (root / "annotations.xml").write_text(f"<annotations>{''.join(images)}</annotations>")


MADE = {
    "coco": (coco, {"train", "validation"}),
    "voc": (voc, {"train"}),
    "yolo": (yolo, {"train", "validation", "test"}),
    "image_folder": (folders, {"train", "test"}),
    "csv": (table, {"train"}),
    "labelme": (labelme, {"train"}),
    "cvat": (cvat, {"train"}),
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", MADE)
def test_a_recipe_is_written_that_reads_the_data(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, roles = MADE[name]
    make(tmp_path / "mine")
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    result = run("init", "--data", "mine", "-o", "recipes/edgeopt.toml")
    assert result.exit_code == 0, result.output
    assert f"format {name}: " in result.output
    config, root = find_recipe("recipes")
    given = {role for role in ("train", "validation", "test") if getattr(config.data, role) is not None}
    assert given == roles
    assert str(tmp_path) not in (tmp_path / "recipes/edgeopt.toml").read_text()
    detection = name not in ("image_folder", "csv")
    assert config.model.source == ("edgeopt:yolox_nano" if detection else "edgeopt:mobilenet_v2")
    assert config.model.input_size == (64, 64)
    splits = load_splits(config.data, root, calibration_images=10, minimum_images=4)
    assert len(splits.test or ()) > 0
    assert set(splits.test.labels if splits.test else ()) == ({"cat"} if detection else {"cat", "dog"})


@pytest.mark.parametrize("path", ["mine", "mine/images"])
def test_voc_is_found_from_its_root_and_from_its_images(tmp_path: Path, path: str) -> None:
    voc(tmp_path / "mine")
    found = run("init", "--format", "voc", "--data", tmp_path / path, "-o", tmp_path / "x.toml")
    assert found.exit_code == 0, found.output
    assert "30 images" in found.output


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    folders(tmp_path)
    with pytest.raises(DataError, match="no images with data of format 'voc' in"):
        survey(tmp_path, "voc")
    with pytest.raises(DataError, match="does not exist"):
        survey(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="Known formats: coco"):
        survey(tmp_path / "empty")


def test_images_without_labels_make_no_recipe(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 3)
    result = run("init", "--data", tmp_path / "photos", "-o", tmp_path / "x.toml")
    assert result.exit_code == DataError.exit_code
    assert "images without labels" in result.output
    assert not (tmp_path / "x.toml").exists()


def test_a_check_shows_what_was_read_and_left_out(tmp_path: Path) -> None:
    yolo(tmp_path / "mine")
    (tmp_path / "mine/train/labels/00.txt").write_text("0 .5 .5 .2 .2\n9 .5 .5 .2 .2\n")
    (tmp_path / "mine/train/images/01.png").write_bytes(b"no image")
    result = run("data", "check", tmp_path / "mine", "--sheet", tmp_path / "sheet.jpg", "--images", 4)
    assert result.exit_code == 0, result.output
    lines = " ".join(result.output.split())
    assert "format yolo: test/images/00.png has labels in test/labels/00.txt" in lines
    assert "29 boxes, 1, 1, 1 an image, 0 images without" in lines
    assert "1 images left out:" in lines
    assert "1 entries of labels left out:" in lines
    assert "line 2: class index 9 is outside 0..0" in lines
    sheet = cv2.imread(str(tmp_path / "sheet.jpg"))
    assert sheet is not None
    assert sheet.shape[0] > 2 * 260, "12 pictures are three rows of five"
    facts = json.loads(run("data", "check", tmp_path / "mine", "--json").stdout)
    assert facts["test"]["classes"] == [{"label": "cat", "images": 30, "boxes": 30}]
    assert facts["test"]["width"] == {"smallest": 64.0, "median": 64.0, "largest": 64.0}
    assert facts["test"]["box_side"]["median"] == pytest.approx(11.1)


def test_a_check_reads_the_sets_of_a_recipe(tmp_path: Path) -> None:
    folders(tmp_path / "mine")
    assert run("init", "--data", tmp_path / "mine", "-o", tmp_path / "edgeopt.toml").exit_code == 0
    facts = json.loads(run("data", "check", tmp_path, "--json").stdout)
    assert {role: each["images"] for role, each in facts.items()} == {"train": 60, "test": 60}


@pytest.mark.parametrize("name", MADE)
def test_labels_of_every_format_can_be_named_on_the_command_line(tmp_path: Path, name: str) -> None:
    make, roles = MADE[name]
    make(tmp_path / "mine")
    if roles == {"train", "validation"}:
        with pytest.raises(ConfigError, match="holds the sets train, validation and none for tests"):
            source_of(str(tmp_path / "mine"))
        return
    dataset = load(source_of(str(tmp_path / "mine")), tmp_path, labels=("cat", "dog"))
    assert len(dataset) == (60 if name == "image_folder" else 30)
    assert dataset.class_counts()[0] > 0


def test_a_folder_without_pictures_is_told_as_that_where_no_labels_are_needed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no image\. Give a folder with pictures"):
        source_of(str(tmp_path / "empty"), labelled=False)
