"""COCO's instances json: boxes with categories (Lin et al. 2014, cocodataset.org/#format-data)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import msgspec

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.files import image_files
from edgeopt.dataset.listing import Labels, Listing, annotations_of, class_index, draft_of_file, path_of, refuse_split
from edgeopt.errors import DataError
from edgeopt.typed import from_json


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(msgspec.Struct):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    """Left, top, width, height in pixels."""
    iscrowd: int = 0


class _Category(msgspec.Struct):
    id: int
    name: str


class _Instances(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def read_coco(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read the images listed in the json, found under `path`. Images without annotations are backgrounds and stay.

    Without `labels` the classes are the file's categories in the file's order; with them, categories are matched by
    name, and one that is not among them is an error only where a box uses it.

    Raises:
        DataError: not such a json, an unknown image or category id, or a class that is not among `labels`.
    """
    refuse_split(source)
    folder, file = path_of(source, root), annotations_of(source, root)
    instances = _parse(file)
    if not instances.images:
        raise DataError(f"{file} lists no images")
    if not image_files(folder):
        raise DataError(f"there are no images in {folder}; {file} lists {len(instances.images)}")
    labels = labels or tuple(category.name for category in instances.categories)
    found = _boxes_by_image(instances, labels, file)
    drafts = (
        draft_of_file(folder / image.file_name, folder, found.get(image.id, Boxes.of([], [])), _size(image))
        for image in instances.images
    )
    return Listing("detection", labels, tuple(drafts), str(file))


def _parse(file: Path) -> _Instances:
    try:
        return from_json(file.read_bytes(), _Instances)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise DataError(f"{file} is not COCO's instances json: {error}") from error


def _boxes_by_image(instances: _Instances, labels: Labels, file: Path) -> dict[int | str, Boxes]:
    images = {image.id for image in instances.images}
    names = {category.id: category.name for category in instances.categories}
    grouped: dict[int | str, list[_Annotation]] = defaultdict(list)
    for annotation in instances.annotations:
        if annotation.image_id not in images:
            raise DataError(f"{file}: an annotation belongs to image id {annotation.image_id}, which is not listed")
        if annotation.category_id not in names:
            raise DataError(f"{file}: an annotation has category id {annotation.category_id}, which is not listed")
        grouped[annotation.image_id].append(annotation)
    used = sorted({annotation.category_id for annotation in instances.annotations})
    index = {category: class_index(names[category], labels, str(file)) for category in used}
    return {image: _boxes(annotations, index) for image, annotations in grouped.items()}


def _boxes(annotations: list[_Annotation], index: dict[int, int]) -> Boxes:
    corners = ((x, y, x + width, y + height) for x, y, width, height in (each.bbox for each in annotations))
    classes = (index[each.category_id] for each in annotations)
    return Boxes.of(corners, classes, (bool(each.iscrowd) for each in annotations))


def _size(image: _Image) -> tuple[int, int] | None:
    return None if image.width is None or image.height is None else (image.height, image.width)
