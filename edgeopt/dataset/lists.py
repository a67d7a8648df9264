"""Write sets of images as lists that a recipe reads: CSV of classes, COCO json of boxes, text of unlabelled images."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.samples import Dataset, FilePicture
from edgeopt.errors import storage_errors


def write_lists(sets: Mapping[str, Dataset], folder: Path, root: Path) -> dict[str, DataSource]:
    """Write one list a set into `folder`. Images stay where they are; those without a file are written as PNG.

    Args:
        sets: by role, which names the files.
        folder: to write into; it is made.
        root: the folder that relative paths of the returned sources start from.

    Returns:
        A source for each role that reads the same images with the same labels.

    Raises:
        StorageError: the disk refused.
        DataError: an image without a file cannot be made.
    """
    sources = {}
    for role, dataset in sets.items():
        files = _files(dataset, folder / role)
        if dataset.task == "detection":
            sources[role] = _write_coco(dataset, files, folder / f"{role}.json", root)
        elif dataset.task == "classification":
            sources[role] = _write_csv(dataset, files, folder / f"{role}.csv", root)
        else:
            lines = [_relative(file, folder) for file in files]
            _write(folder / f"{role}.txt", "".join(f"{line}\n" for line in lines))
            sources[role] = DataSource(format="images", path=_relative(folder / f"{role}.txt", root))
    return sources


def _files(dataset: Dataset, folder: Path) -> list[Path]:
    """Return the file of each image."""
    files = []
    for index, sample in enumerate(dataset):
        if isinstance(sample.picture, FilePicture):
            files.append(sample.picture.path)
            continue
        file = folder / f"{index:06d}.png"
        _, content = cv2.imencode(".png", dataset.image(index))
        with storage_errors(file):
            folder.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.tobytes())
        files.append(file)
    return files


def _write_csv(dataset: Dataset, files: list[Path], table: Path, root: Path) -> DataSource:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "label"))
    for file, sample in zip(files, dataset, strict=True):
        assert isinstance(sample.target, int)
        writer.writerow((_relative(file, table.parent), dataset.labels[sample.target]))
    _write(table, text.getvalue())
    return DataSource(format="csv", path=_relative(table, root), label_column="label", labels=dataset.labels)


def _write_coco(dataset: Dataset, files: list[Path], file: Path, root: Path) -> DataSource:
    common = Path(os.path.commonpath([path.resolve().parent for path in files]))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (path, sample) in enumerate(zip(files, dataset, strict=True), start=1):
        height, width = dataset.image(number - 1).shape[:2]
        name = path.resolve().relative_to(common).as_posix()
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        assert isinstance(sample.target, Boxes)
        annotations += _annotations(sample.target, number, len(annotations))
    categories = [{"id": index, "name": label} for index, label in enumerate(dataset.labels)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    _write(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return DataSource(format="coco", path=_relative(common, root), annotations=_relative(file, root))


def _annotations(target: Boxes, image: int, before: int) -> list[dict[str, Any]]:
    rows = zip(target.boxes.tolist(), target.classes.tolist(), target.crowd.tolist(), strict=True)
    return [
        {
            "id": before + number,
            "image_id": image,
            "category_id": category,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": int(crowd),
        }
        for number, ((left, top, right, bottom), category, crowd) in enumerate(rows, start=1)
    ]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _write(path: Path, text: str) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
