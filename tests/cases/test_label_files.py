"""Label files as tools write them: what pycocotools, Ultralytics, torchvision and labelImg read is read."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeopt.config import DataSource
from edgeopt.dataset import Boxes, Dataset, load
from edgeopt.errors import DataError, EdgeoptError
from edgeopt.preprocess import read_image

HEIGHT, WIDTH = 48, 64
HOSTILE = Path(__file__).resolve().parents[3] / "shared" / "cases" / "hostile"


def picture(path: Path, seed: int = 0, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    pixels = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, (*shape, 3), np.uint8)
    ok, content = cv2.imencode(".jpg", pixels)
    assert ok
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.tobytes())


def turn(path: Path, orientation: int) -> None:
    """Give a JPEG an EXIF orientation."""
    content = path.read_bytes()
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0]) + b"\0\0\0\0"
    block = b"Exif\0\0" + tiff
    path.write_bytes(content[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + content[2:])


def boxes(dataset: Dataset, index: int = 0) -> list[list[float]]:
    target = dataset[index].target
    assert isinstance(target, Boxes)
    return np.round(target.boxes, 3).tolist()


# YOLO


def yolo(root: Path, line: str, encoding: str = "utf-8", names: str | None = "cat\ndog\n") -> Dataset:
    for name in ("0", "1"):
        picture(root / f"images/{name}.jpg")
        (root / "labels").mkdir(exist_ok=True)
        (root / f"labels/{name}.txt").write_bytes(line.encode(encoding))
    if names is not None:
        (root / "classes.txt").write_text(names)
    return load(DataSource(format="yolo", path="images"), root)


@pytest.mark.parametrize(
    "line",
    [
        "1.000000000000000000e+00 5.0e-01 5.0e-01 2.5e-01 2.5e-01\n",
        "1,0.5,0.5,0.25,0.25\n",
        "1 .5 .5 .25 .25 .93\n",
        "1 .375 .375 .625 .375 .625 .625 .375 .625\n",
        "1 .5 .5 .25 .25 .4 .4 2 .6 .6 2\n",
        "\ufeff1 .5 .5 .25 .25\r\n",
    ],
    ids=["numpy.savetxt", "commas", "confidence", "polygon", "keypoints", "byte order mark"],
)
def test_yolo_lines_in_every_form(tmp_path: Path, line: str) -> None:
    dataset = yolo(tmp_path, line)
    assert boxes(dataset) == [[24, 18, 40, 30]]
    assert dataset[0].target.classes.tolist() == [1]  # type: ignore[union-attr]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_yolo_lines_in_utf_16(tmp_path: Path, encoding: str) -> None:
    assert boxes(yolo(tmp_path, "1 .5 .5 .25 .25\n", encoding)) == [[24, 18, 40, 30]]


@pytest.mark.parametrize(
    "names",
    [
        "names: ['cat', 'dog']",
        "names:\n- cat\n- 'dog'\n",
        "names:\n  0: cat\n  1: dog # two\nnc: 2\n",
        "names: {0: cat, 1: dog}",
    ],
)
def test_yolo_names_in_data_yaml(tmp_path: Path, names: str) -> None:
    (tmp_path / "data.yaml").write_text(f"train: images\n{names}\n")
    assert yolo(tmp_path, "0 .5 .5 .2 .2\n", names=None).labels == ("cat", "dog")


def test_one_bad_line_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = yolo(tmp_path, "0 .5 .5 .2 .2\n7 .5 .5 .2 .2\n1 .5 .5 .2 .2\n")
    assert [len(boxes(dataset, index)) for index in (0, 1)] == [2, 2]
    assert dataset.left_out[0] == (
        f"{tmp_path}/labels/0.txt, line 2: class index 7 is outside 0..1. Give all class names in `labels`"
    )
    assert "2 entries of labels left out" in caplog.text


def test_a_set_of_bad_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 2 entries cannot be used: .*0.txt, line 1: class index 7"):
        yolo(tmp_path, "7 .5 .5 .2 .2\n")


def test_label_files_without_an_image_are_said(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/7.txt").write_text("0 .5 .5 .2 .2\n")
    assert yolo(tmp_path, "0 .5 .5 .2 .2\n").left_out == (
        f"1 label files without an image, first {tmp_path}/labels/7.txt",
    )


# COCO


def coco(root: Path, change: Callable[[dict[str, Any]], Any], encoding: str = "utf-8") -> Dataset:
    content: dict[str, Any] = {
        "images": [{"id": index, "file_name": f"{index}.jpg", "width": WIDTH, "height": HEIGHT} for index in (0, 1)],
        "annotations": [{"id": index, "image_id": index, "category_id": 1, "bbox": [4, 4, 20, 10]} for index in (0, 1)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    for index in (0, 1):
        if not (root / f"images/{index}.jpg").exists():
            picture(root / f"images/{index}.jpg")
    change(content)
    (root / "a.json").write_bytes(json.dumps(content).encode(encoding))
    return load(DataSource(format="coco", path="images", annotations="a.json"), root)


_POLYGON = [[4, 4, 24, 4, 24, 14, 4, 14]]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["images"][0].update(width=64.0, height=48.0),
        lambda d: (d["annotations"][0].pop("bbox"), d["annotations"][0].update(segmentation=_POLYGON)),
        lambda d: d["annotations"][0].update(bbox=[], segmentation=_POLYGON),
        lambda d: d["annotations"][0].update(iscrowd=False),
        lambda d: d["annotations"][0].update(iscrowd=None),
        lambda d: d["annotations"][0].update(category_id=1.0),
        lambda d: d["annotations"][0].update(category_id="1"),
        lambda d: d["annotations"][0].update(area=float("nan")),
        lambda d: d["images"][0].update(id="0"),
        lambda d: d["images"][0].update(width=None),
        lambda d: d["images"][0].update(file_name="images/0.jpg"),
        lambda d: d["images"][0].update(file_name="images\\0.jpg"),
        lambda d: d["images"][0].update(file_name="..\\..\\media\\upload\\4\\0.jpg"),
        lambda d: d["images"][0].update(file_name="/home/other/0.JPG"),
        lambda d: d["images"][0].update(file_name="0.png"),
        lambda d: d["images"][0].update(file_name="https://example.org/data/0.jpg?token=1"),
    ],
)
def test_coco_fields_in_every_form(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    dataset = coco(tmp_path, change)
    assert [sample.name for sample in dataset] == ["0.jpg", "1.jpg"]
    assert boxes(dataset, 0) == boxes(dataset, 1) == [[4, 4, 24, 14]]
    assert not dataset.left_out


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_coco_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    assert len(coco(tmp_path, lambda _: None, encoding)) == 2


def test_a_file_name_that_two_files_have_is_not_guessed(tmp_path: Path) -> None:
    picture(tmp_path / "images/a/x.jpg")
    picture(tmp_path / "images/b/x.jpg", seed=1)
    dataset = coco(tmp_path, lambda d: d["images"][0].update(file_name="elsewhere/x.jpg"))
    assert [sample.name for sample in dataset] == ["1.jpg"]
    assert dataset.skipped == (f"{tmp_path}/images/elsewhere/x.jpg: No such file or directory",)


def test_a_coco_annotation_without_a_box_is_left_out(tmp_path: Path) -> None:
    dataset = coco(tmp_path, lambda d: d["annotations"][0].update(bbox=[]))
    assert [boxes(dataset, index) for index in (0, 1)] == [[], [[4, 4, 24, 14]]]
    assert dataset.left_out == (f"{tmp_path}/a.json, annotation 0: it has neither a bbox nor polygons",)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_on_the_stored_picture_turn_with_it(
    tmp_path: Path, orientation: int, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[8:16, 8:32] = 255
    for index in (0, 1):
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"images/{index}.jpg"), pixels + np.uint8(index))
        turn(tmp_path / f"images/{index}.jpg", orientation)
    dataset = coco(tmp_path, lambda d: [each.update(bbox=[8, 8, 24, 8]) for each in d["annotations"]])
    bright = np.argwhere(dataset.image(0)[..., 0] > 128)
    (top, left), (bottom, right) = bright.min(axis=0), bright.max(axis=0) + 1
    assert boxes(dataset) == [[left, top, right, bottom]]
    assert "EXIF turns 2 pictures" in caplog.text


def test_boxes_on_a_picture_upside_down_are_taken_as_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(tmp_path / "images/0.jpg")
    turn(tmp_path / "images/0.jpg", 3)
    assert boxes(coco(tmp_path, lambda _: None)) == [[4, 4, 24, 14]]
    assert "EXIF turns 1 pictures with boxes, which are taken as drawn on the turned picture" in caplog.text


# VOC

OBJECT = "<object><name>{}</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>24</xmax><ymax>14</ymax></bndbox></object>"


@pytest.mark.parametrize("path", [".", "images"])
@pytest.mark.parametrize("folder", ["Annotations", "annotations", "images"])
def test_voc_layouts_off_by_a_case_or_a_folder(tmp_path: Path, path: str, folder: str) -> None:
    picture(tmp_path / "images/1.JPG")
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "1.xml").write_text(f"<annotation>{OBJECT.format('cat')}</annotation>")
    dataset = load(DataSource(format="voc", path=path), tmp_path)
    assert boxes(dataset) == [[4, 4, 24, 14]]


def test_voc_that_names_its_image_only_inside(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages/photo.jpg")
    (tmp_path / "Annotations").mkdir()
    text = f"<annotation><filename>photo.jpg</filename><size><width/></size>{OBJECT.format('cat')}</annotation>"
    (tmp_path / "Annotations/0001.xml").write_text(text)
    assert load(DataSource(format="voc", path="JPEGImages"), tmp_path)[0].name == "photo.jpg"


@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "cp1251", "utf-16", "utf-8-sig", "iso-8859-1"])
def test_voc_in_its_declared_encoding(tmp_path: Path, encoding: str) -> None:
    name = {"gbk": "猫", "shift_jis": "猫", "cp1251": "кот", "iso-8859-1": "mönch"}.get(encoding, "猫")
    picture(tmp_path / "JPEGImages/1.jpg")
    (tmp_path / "Annotations").mkdir()
    declared = encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?><annotation>{OBJECT.format(name)}</annotation>'
    (tmp_path / "Annotations/1.xml").write_bytes(text.encode(encoding))
    assert load(DataSource(format="voc", path="JPEGImages"), tmp_path).labels == (name,)


def test_one_bad_voc_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    for name in ("1", "2", "3"):
        picture(tmp_path / f"JPEGImages/{name}.jpg")
        text = f"<annotation>{OBJECT.format('cat')}</annotation>" if name != "2" else "<annotation><obj"
        (tmp_path / f"Annotations/{name}.xml").write_text(text)
    dataset = load(DataSource(format="voc", path="JPEGImages"), tmp_path)
    assert [sample.name for sample in dataset] == ["1.jpg", "3.jpg"]
    assert "2.xml is not well-formed XML" in dataset.left_out[0]


# Pictures


@pytest.mark.parametrize(("bits", "suffix"), [(10, "png"), (12, "png"), (14, "tiff"), (16, "tiff"), (8, "png")])
def test_pictures_of_16_bits_are_scaled_by_the_depth_that_they_use(tmp_path: Path, bits: int, suffix: str) -> None:
    ramp = np.tile(np.linspace(0, 2**bits - 1, 256).astype(np.uint16), (HEIGHT, 1))
    assert cv2.imwrite(str(tmp_path / f"g.{suffix}"), ramp)
    image = load(DataSource(format="images", path="."), tmp_path).image(0)
    assert image.shape == (HEIGHT, 256, 3)
    np.testing.assert_array_equal(image[0, :, 0], (ramp[0] >> (bits - 8)).astype(np.uint8))
    assert (image[0, 0, 0], image[0, -1, 0]) == (0, 255)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC.*onvert it to JPEG"),
        ("a.jpg", b"\0\0\0\x18ftypmif1\0\0\0\0heicmif1", "HEIC.*onvert it to JPEG"),
        ("a.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "git lfs pull"),
        ("a.png", b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        ("a.jpg", b"%PDF-1.4", "a PDF document"),
        ("a.jpg", b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", "a video"),
        ("a.jxl", b"\xff\x0a\0\0", "JPEG XL"),
        ("a.jpg", b"\xff\xd8\xff\xe0 cut", "corrupt or of a format OpenCV cannot read"),
        ("a.jpg", b"", "0 bytes"),
    ],
)
def test_a_file_that_is_no_picture_is_named_with_the_way_out(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    picture(tmp_path / "good.jpg")
    (tmp_path / name).write_bytes(content)
    dataset = load(DataSource(format="images", path="."), tmp_path)
    assert [sample.name for sample in dataset] == ["good.jpg"]
    (left_out,) = dataset.skipped
    assert re.search(said, left_out), left_out


def test_a_picture_of_floating_point_numbers_is_refused_as_such(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.tiff"), np.zeros((HEIGHT, WIDTH, 3), np.float32))
    with pytest.raises(DataError, match="of float32 pixels, whose range no file says: scale them to 0-255"):
        read_image(tmp_path / "a.tiff")


# Tables and folders


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_spreadsheets(tmp_path: Path, encoding: str, delimiter: str) -> None:
    picture(tmp_path / "photos/a.jpg")
    text = "file,label,note\nphotos/a.jpg,Mönch,\n".replace(",", delimiter)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert load(DataSource(format="csv", path="t.csv"), tmp_path).labels == ("Mönch",)


def test_a_table_finds_images_by_name_and_leaves_out_bad_rows(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / f"photos/{name}.jpg")
    rows = ["file,class_index", "C:\\data\\a.jpg,1.0", "photos/b.jpg,0", ",1", "c.jpg,1", "c.jpg,x"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    dataset = load(DataSource(format="csv", path="t.csv"), tmp_path)
    assert [(sample.name, sample.target) for sample in dataset] == [
        ("photos/a.jpg", 1), ("photos/b.jpg", 0), ("photos/c.jpg", 1),
    ]  # fmt: skip
    assert [line.partition("line ")[2] for line in dataset.left_out] == [
        "4 names no image file", "6: class index 'x' is not a number",
    ]  # fmt: skip


def test_one_large_class_index_makes_no_million_labels(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "t.csv").write_text("file,class_index\na.jpg,20000000\n")
    with pytest.raises(DataError, match="class index 20000000 in 1 rows"):
        load(DataSource(format="csv", path="t.csv"), tmp_path)


def test_folders_that_tools_leave_behind_are_no_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog", "__MACOSX", "@eaDir", ".thumbnails"):
        picture(tmp_path / f"set/{name}/1.jpg")
    picture(tmp_path / "set/cat/@eaDir/thumb.jpg")
    picture(tmp_path / "set/dog/2.jfif")
    (tmp_path / "set/empty").mkdir()
    dataset = load(DataSource(format="image_folder", path="set"), tmp_path)
    assert dataset.labels == ("cat", "dog")
    assert [sample.name for sample in dataset] == ["cat/1.jpg", "dog/1.jpg", "dog/2.jfif"]
    assert dataset.left_out == (f"{tmp_path}/set/empty holds no image: no class",)


def test_a_small_gzip_does_not_unpack_into_all_memory(tmp_path: Path) -> None:
    header = b"\0\0\x08\x03" + np.array([2, 4, 5], ">u4").tobytes()
    (tmp_path / "images").write_bytes(gzip.compress(header + bytes(1 << 24)))
    (tmp_path / "labels").write_bytes(b"\0\0\x08\x01\0\0\0\x02\0\1")
    with pytest.raises(DataError, match="longer than it says"):
        load(DataSource(format="idx", path="images", annotations="labels"), tmp_path)
    (tmp_path / "images").write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12))
    with pytest.raises(DataError, match="more than 1073741824 are not read"):
        load(DataSource(format="idx", path="images", annotations="labels"), tmp_path)


# Whatever it is, no traceback

SHARED_FORMATS = {"coco": "coco", "csv": "csv", "voc": "voc", "vocsplit": "voc", "yolo": "yolo"}


def hostile_files() -> list[Path]:
    return sorted(path for path in HOSTILE.glob("*") if path.name.partition("-")[0] in SHARED_FORMATS)


@pytest.mark.skipif(not hostile_files(), reason="the hostile files are not here")
@pytest.mark.parametrize("file", hostile_files(), ids=lambda path: path.name)
def test_hostile_label_files_end_in_a_message(tmp_path: Path, file: Path) -> None:
    content = file.read_bytes()
    kind = file.name.partition("-")[0]
    picture(tmp_path / "images/a.jpg")
    places = {"coco": "a.json", "csv": "t.csv", "voc": "Annotations/a.xml", "yolo": "labels/a.txt"}
    place = tmp_path / places.get(kind, "ImageSets/Main/val.txt")
    (tmp_path / "Annotations").mkdir()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    source = {
        "coco": DataSource(format="coco", path="images", annotations="a.json"),
        "csv": DataSource(format="csv", path="t.csv"),
        "voc": DataSource(format="voc", path="images"),
        "vocsplit": DataSource(format="voc", path="images", annotations="Annotations", split="val"),
        "yolo": DataSource(format="yolo", path="images", labels=("x",)),
    }[kind]
    with contextlib.suppress(EdgeoptError):
        assert load(source, tmp_path).samples


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("coco", "a.json", b"[" * 200_000),
        ("coco", "a.json", b'{"images": [{"id": 1, "file_name": "\\u0000"}], "annotations": [], "categories": []}'),
        ("coco", "a.json", b'{"images": [{"id": ' + b"9" * 5000 + b"}]}"),
        ("labelme", "a.json", b"\xff\xfe"),
        ("cvat", "annotations.xml", b"<annotations>" * 10_000),
        ("voc", "a.xml", b'<?xml version="1.0" encoding="nonsense"?><a/>'),
        ("voc", "a.xml", b"\0<annotation/>"),
        ("csv", "t.csv", b'file,class_index\na.jpg,"' + b"9" * 200_000),
        ("csv", "t.csv", b"file,class_index\na.jpg,1e400\n"),
    ],
)
def test_malformed_label_files_end_in_a_message(tmp_path: Path, kind: str, name: str, content: bytes) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / name).write_bytes(content)
    annotations = name if kind in ("coco", "cvat") else None
    path = name if kind == "csv" else "."
    with pytest.raises(DataError):
        load(DataSource(format=kind, path=path, annotations=annotations), tmp_path)
