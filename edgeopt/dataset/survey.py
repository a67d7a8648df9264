"""Look at a folder or file of somebody's data, and tell which format it has and which sets are in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from edgeopt.config import DataSource, data_source
from edgeopt.dataset.createml import is_createml
from edgeopt.dataset.files import ImageFinder, image_files, read_text
from edgeopt.dataset.kitti import kitti_folders
from edgeopt.dataset.layout import folder_with, subfolders
from edgeopt.dataset.rows import IMAGE_COLUMNS, LABEL_COLUMNS, column_named, columns_of
from edgeopt.dataset.unread import NO_CLASSES, unknown_files, unread_labels
from edgeopt.dataset.voc import xml_folder
from edgeopt.dataset.wider_face import listed_images
from edgeopt.dataset.xml import parse_xml
from edgeopt.dataset.yolo import darknet_lists, text_beside, yaml_lists
from edgeopt.errors import ConfigError, DataError
from edgeopt.files import is_file
from edgeopt.spec import replace
from edgeopt.typed import from_json

Role: TypeAlias = Literal["train", "validation", "test"]
_ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_LOOKED_AT = 50  # files that stand for the others


@dataclass(frozen=True)
class Survey:
    """Format and sets of some data.

    Attributes:
        format: of all sets.
        why: what tells so, as the end of a sentence.
        sets: a source for each role, with absolute paths. The only set is the one to train with.
    """

    format: str
    why: str
    sets: dict[Role, DataSource]


def survey(path: Path, chosen: str | None = None) -> Survey:
    """Find the format and the sets of a folder or a label file; no image is opened.

    Args:
        path: what the user points at: a label file, the folder of a set, or one that holds several.
        chosen: the format, where the user says it.

    Raises:
        DataError: nothing there, or nothing of the chosen format.
        ConfigError: a format that cannot be recognised.
    """
    path = path.resolve()
    if not path.exists():
        raise DataError(f"{path} does not exist. Give the folder of the images, or their label file")
    if chosen is not None and chosen not in _FINDERS:
        raise ConfigError(f"format '{chosen}' is not found by looking at data. Known: {', '.join(_FINDERS)}")
    for name in _FINDERS if chosen is None else (chosen,):
        why, sets = _FINDERS[name](path)
        if sets:
            if chosen is None and name == "images" and (unread := unread_labels(path)) is not None:
                raise DataError(unread)
            return Survey(name, why, _with_train(sets))
    wanted = "labels of any format that is known" if chosen is None else f"data of format '{chosen}'"
    raise DataError(f"there are no images with {wanted} in {path}. Known formats: {', '.join(_FINDERS)}")


def source_of(reference: str, *, labelled: bool = True) -> DataSource:
    """Return the data that a user means on a command line: `config.data_source`, or any that is recognised.

    Of several sets the one for tests is meant.

    Args:
        reference: on the command line.
        labelled: a folder of images without labels is not meant.

    Raises:
        ConfigError: nothing that is known, or several sets and none for tests.
        DataError: a folder without any image, where labels are not needed.
    """
    path = Path(reference)
    if path.exists() and path.suffix != ".toml":
        with suppress(DataError):
            found = survey(path)
            if not (labelled and found.format == "images"):
                return _one_set(found, reference)
        if not labelled and path.is_dir() and not image_files(path):
            raise DataError(f"{reference} holds no image. Give a folder with pictures, pictures, or a label file")
    return data_source(reference)


def _one_set(found: Survey, reference: str) -> DataSource:
    if len(found.sets) > 1 and "test" not in found.sets:
        raise ConfigError(
            f"{reference} holds the sets {', '.join(found.sets)} and none for tests. Give the folder or the label file "
            "of one of them"
        )
    return found.sets.get("test") or found.sets["train"]


_Found: TypeAlias = tuple[str, dict[Role, DataSource]]


def _with_train(sets: dict[Role, DataSource]) -> dict[Role, DataSource]:
    """Return the sets in order; a single one is for training."""
    order: tuple[Role, ...] = ("train", "validation", "test")
    return (
        {"train": next(iter(sets.values()))} if len(sets) == 1 else {each: sets[each] for each in order if each in sets}
    )


def _role(name: str) -> Role | None:
    """Return the role that a word of a name says, as ``instances_val2017`` does."""
    return next((_ROLES[word] for word in re.findall("[a-z]+", name.lower()) if word in _ROLES), None)


def _files(path: Path, *suffixes: str) -> list[Path]:
    """Return label files at `path`, or up to two folders below it."""
    if path.is_file():
        return [path] if path.suffix.lower() in suffixes else []
    places = [path, *subfolders(path), *(below for folder in subfolders(path) for below in subfolders(folder))]
    return sorted(file for place in places for file in place.iterdir() if file.suffix.lower() in suffixes)


def _by_role(files: Iterable[Path], source: Callable[[Path], DataSource]) -> dict[Role, DataSource]:
    """Return a source for each file; the first is for training where no name says a role."""
    files = list(files)
    sets: dict[Role, DataSource] = {}
    for file in files:
        role = _role(file.stem) or _role(file.parent.name)
        if role is not None and role not in sets:
            sets[role] = source(file)
    return sets or ({"train": source(files[0])} if files else {})


class _Json(msgspec.Struct):
    images: msgspec.Raw = msgspec.Raw()
    annotations: msgspec.Raw = msgspec.Raw()
    shapes: msgspec.Raw = msgspec.Raw()


class _CocoImage(msgspec.Struct):
    file_name: str


def _json(file: Path) -> _Json | None:
    try:
        return from_json(read_text(file), _Json)
    except (msgspec.DecodeError, DataError):
        return None


def _coco(path: Path) -> _Found:
    names: dict[Path, list[str]] = {}
    for file in _files(path, ".json")[:_LOOKED_AT]:
        content = _json(file)
        if content is not None and bytes(content.images) and bytes(content.annotations):
            try:
                images = from_json(bytes(content.images), list[_CocoImage])
            except msgspec.DecodeError:
                continue
            names[file] = [image.file_name for image in images[:_LOOKED_AT]]
    root = path if path.is_dir() else path.parent
    return f"{next(iter(names), path).name} lists images and annotations", _by_role(
        names,
        lambda file: DataSource(format="coco", path=str(_images_of(file, names[file], root)), annotations=str(file)),
    )


def _images_of(file: Path, names: list[str], root: Path) -> Path:
    """Return the nearest folder in which the listed images are found."""
    near = (file.parent / "images", file.parent, file.parent.parent / "images", root)
    inside = [folder for place in (file.parent, file.parent.parent) for folder in subfolders(place)]
    inside.sort(key=lambda folder: _role(folder.name) != _role(file.stem))  # train2017 for instances_train2017.json
    for folder in dict.fromkeys((*near, *inside)):
        if folder.is_dir():
            finder = ImageFinder(folder)
            if finder.files and all(is_file(finder.find(name)) for name in names):
                return folder
    return root


def _cvat(path: Path) -> _Found:
    found = []
    for file in _files(path, ".xml")[:_LOOKED_AT]:
        try:
            tree = parse_xml(file)
        except DataError:
            continue
        if tree.tag == "annotations":
            found.append(file)
    return f"{next(iter(found), path).name} is CVAT's XML", _by_role(
        found, lambda file: DataSource(format="cvat", path=str(_beside(file)), annotations=str(file))
    )


def _beside(file: Path) -> Path:
    images = folder_with("*.*", (file.parent,), ("images",))
    return images or file.parent


def _voc(path: Path) -> _Found:
    def is_voc(file: Path) -> bool:
        try:
            return parse_xml(file).tag == "annotation"
        except DataError:
            return False

    if path.is_file():
        return "", {}
    near = xml_folder(path)
    places = (path, *([near] if near.is_dir() else []))
    files = [file for file in (each for place in places for each in _files(place, ".xml")[:_LOOKED_AT]) if is_voc(file)]
    if not files:
        return "", {}
    why = f"{files[0].parent.name}/{files[0].name} describes one image"
    annotations = files[0].parent
    lists = annotations.parent / "ImageSets" / "Main"
    if lists.is_dir():
        images = folder_with("*.*", (annotations.parent,), ("jpegimages", "images")) or annotations.parent
        source = DataSource(format="voc", path=str(images), annotations=str(annotations))
        sets = {
            role: replace(source, split=split.stem)
            for split in sorted(lists.glob("*.txt"))
            if (role := _ROLES.get(split.stem))
        }
        if sets:
            return f"{why}, and {lists.relative_to(path)} lists sets", sets
    return why, _by_folder(path, "voc", lambda folder: any(folder.rglob("*.xml")))


def _createml(path: Path) -> _Found:
    files = [file for file in _files(path, ".json")[:_LOOKED_AT] if is_createml(file)]
    return f"{next(iter(files), path).name} lists images with labels and coordinates", _by_role(
        files, lambda file: DataSource(format="createml", path=str(_beside(file)), annotations=str(file))
    )


def _kitti(path: Path) -> _Found:
    if path.is_file():
        return "", {}
    for place in (path, *subfolders(path)):
        if (found := kitti_folders(place)) is not None:
            images, labels = found
            source = DataSource(format="kitti", path=str(images), annotations=str(labels))
            return f"{labels.name} holds KITTI's lines", {"train": source}
    return "", {}


def _wider_face(path: Path) -> _Found:
    names = {file: each for file in _files(path, ".txt")[:_LOOKED_AT] if (each := listed_images(file)[:_LOOKED_AT])}
    root = path if path.is_dir() else path.parent
    if path.is_dir() and names:  # the lists of all sets come together, their images apart
        finder = ImageFinder(root)
        names = {file: each for file, each in names.items() if any(is_file(finder.find(name)) for name in each)}
    return f"{next(iter(names), path).name} lists images, each with a line a face", _by_role(
        names,
        lambda file: DataSource(
            format="wider_face", path=str(_images_of(file, names[file], root)), annotations=str(file)
        ),
    )


def _labelme(path: Path) -> _Found:
    files = [file for file in _files(path, ".json")[:_LOOKED_AT] if (found := _json(file)) and bytes(found.shapes)]
    if not files or path.is_file():
        return "", {}
    return f"{files[0].relative_to(path)} holds shapes", _by_folder(
        path, "labelme", lambda folder: any(folder.rglob("*.json"))
    )


def _yolo(path: Path) -> _Found:
    if path.is_file():
        if path.suffix.lower() not in (".yaml", ".yml", ".data"):
            return "", {}
        path = path.parent

    def has_labels(folder: Path) -> bool:
        return any(text_beside(image).is_file() for image in image_files(folder)[:_LOOKED_AT])

    if not has_labels(path):
        return "", {}
    for file in (each for suffix in ("yaml", "yml", "data") for each in sorted(path.glob(f"*.{suffix}"))):
        lists = darknet_lists(file) if file.suffix == ".data" else yaml_lists(file)
        sets = {_ROLES[key]: DataSource(format="yolo", path=str(listed)) for key, listed in lists.items()}
        if sets:
            return f"{file.name} names {', '.join(listed.name for listed in lists.values())}", sets
    first = next(image for image in image_files(path) if text_beside(image).is_file())
    why = f"{first.relative_to(path)} has labels in {text_beside(first).relative_to(path)}"
    below = next((folder for folder in subfolders(path) if folder.name.lower() == "images"), path)
    return why, _by_folder(below, "yolo", has_labels)


def _by_folder(path: Path, format: str, holds: Callable[[Path], bool]) -> dict[Role, DataSource]:  # noqa: A002
    """Return a source for each folder that is named after a role and holds such data, else one for all."""
    sets: dict[Role, DataSource] = {}
    for folder in subfolders(path):
        role = _ROLES.get(folder.name.lower())
        if role is not None and role not in sets and holds(folder):
            sets[role] = DataSource(format=format, path=str(folder))
    return sets or {"train": DataSource(format=format, path=str(path))}


def _csv(path: Path) -> _Found:
    columns: dict[Path, tuple[str, str]] = {}
    for file in _files(path, ".csv", ".txt", ".tsv")[:_LOOKED_AT]:
        if (named := _columns(file)) is not None:
            columns[file] = named
    if not columns:
        return "", {}

    def source(file: Path) -> DataSource:
        image, label = columns[file]
        return DataSource(format="csv", path=str(file), image_column=image, label_column=label)

    first, (image, label) = next(iter(columns.items()))
    return f"{first.name} has the columns '{image}' and '{label}'", _by_role(columns, source)


def _columns(file: Path) -> tuple[str, str] | None:
    """Return the columns of images and labels of a table, by usual names, or of a list without a header."""
    try:
        columns = columns_of(read_text(file).splitlines()[:1]) or ()
    except DataError:
        return None
    image, label = column_named(columns, IMAGE_COLUMNS), column_named(columns, LABEL_COLUMNS)
    return None if image is None or label is None else (image, label)


def _image_folder(path: Path) -> _Found:
    if path.is_file():
        return "", {}

    def filled(folder: Path) -> list[Path]:
        return [below for below in subfolders(folder) if image_files(below)]

    classes = filled(path)
    while len(classes) == 1 and filled(classes[0]):  # one folder too high
        path, classes = classes[0], filled(classes[0])
    roles = [folder for folder in classes if folder.name.lower() in _ROLES]
    names = {folder.name.lower() for folder in classes}
    if len(classes) < 2 or names <= NO_CLASSES or (len(roles) == len(classes) and not all(map(filled, roles))):
        return "", {}  # a single folder is no class, nor are sets that hold no classes, nor pictures and masks
    if len(roles) == len(classes):
        sets = _by_folder(path, "image_folder", lambda folder: bool(filled(folder)))
        return f"{path.name} has a folder a set, and each a folder a class", sets
    return f"{path.name} has a folder a class", {"train": DataSource(format="image_folder", path=str(path))}


def _images(path: Path) -> _Found:
    if path.is_file() or not image_files(path):
        return "", {}
    unknown = unknown_files(path)
    listed = f" ({', '.join(file.name for file in unknown[:3])}: of no form that is known)" if unknown else ""
    return f"{path.name} holds images without labels{listed}", {"train": DataSource(format="images", path=str(path))}


_FINDERS: Mapping[str, Callable[[Path], _Found]] = {
    "coco": _coco,
    "cvat": _cvat,
    "voc": _voc,
    "labelme": _labelme,
    "createml": _createml,
    "kitti": _kitti,
    "wider_face": _wider_face,
    "yolo": _yolo,
    "csv": _csv,
    "image_folder": _image_folder,
    "images": _images,
}
"""From the format whose files tell most to the one that any folder has."""
