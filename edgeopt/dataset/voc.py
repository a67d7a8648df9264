"""Pascal VOC: one XML file an image (Everingham et al., the VOC2012 development kit)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.files import image_files
from edgeopt.dataset.listing import Draft, Labels, Listing, annotations_of, class_index, draft_of_file, path_of
from edgeopt.errors import DataError


def read_voc(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read images of `path` (``JPEGImages``) with the XML files of `annotations` (default: ``Annotations`` beside it).

    `split` names a list in ``ImageSets/Main``. Without `labels` the classes are the names that occur, sorted. Objects
    marked difficult become crowds: VOC, too, counts them neither as found nor as missed.

    Raises:
        DataError: no XML files, one that is not VOC's, or a class that is not among `labels`.
    """
    folder = path_of(source, root)
    annotations = annotations_of(source, root, folder.parent / "Annotations")
    stems = _stems(annotations, source.split)
    images = {path.stem: path for path in image_files(folder)}
    if not images:
        raise DataError(f"there are no images in {folder}; {annotations} describes {len(stems)}")
    trees = {stem: parse_xml(annotations / f"{stem}.xml") for stem in stems}
    labels = labels or tuple(sorted({_text(o, "name", s) for s, tree in trees.items() for o in tree.iter("object")}))
    drafts = (
        _draft(images.get(stem, folder / f"{stem}.jpg"), folder, annotations / f"{stem}.xml", tree, labels)
        for stem, tree in trees.items()
    )
    return Listing("detection", labels, tuple(drafts), str(annotations))


def parse_xml(path: Path) -> ET.Element:
    """Parse XML that may come from anywhere: a document type, and with it every entity attack, is refused.

    Raises:
        DataError: unreadable, not XML, or with a document type.
    """

    def refuse(*_: object) -> NoReturn:
        raise DataError(f"{path} has a document type, which label files do not need: not read. Remove <!DOCTYPE …>")

    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)  # noqa: FBT003 - expat takes no keywords
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except expat.ExpatError as error:
        raise DataError(f"{path} is not well-formed XML: {error}") from error
    return builder.close()


def _stems(annotations: Path, split: str | None) -> list[str]:
    """Return the names of the images to read, without suffix."""
    if split is None:
        stems = sorted(path.stem for path in annotations.glob("*.xml"))
        if not stems:
            raise DataError(f"there are no .xml files in {annotations}")
        return stems
    listed = annotations.parent / "ImageSets" / "Main" / f"{split}.txt"
    if not listed.is_file():
        raise DataError(f"there is no list {listed} for split '{split}'. Remove `split` to read every annotation")
    return [line.split()[0] for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]


def _draft(image: Path, folder: Path, file: Path, tree: ET.Element, labels: Labels) -> Draft:
    objects = list(tree.iter("object"))
    boxes = Boxes.of(
        (_corners(each, file) for each in objects),
        (class_index(_text(each, "name", str(file)), labels, str(file)) for each in objects),
        (each.findtext("difficult", "0").strip() == "1" for each in objects),
    )
    size = tree.find("size")
    claimed = None if size is None else (round(_number(size, "height", file)), round(_number(size, "width", file)))
    return draft_of_file(image, folder, boxes, None if claimed == (0, 0) else claimed)


def _corners(node: ET.Element, file: Path) -> tuple[float, float, float, float]:
    """Convert corners: VOC counts pixels from 1 and includes the last one."""
    box = node.find("bndbox")
    if box is None:
        raise DataError(f"{file}: an object has no <bndbox>")
    left, top, right, bottom = (_number(box, name, file) for name in ("xmin", "ymin", "xmax", "ymax"))
    return left - 1, top - 1, right, bottom


def _text(node: ET.Element, name: str, where: str) -> str:
    text = (node.findtext(name) or "").strip()
    if not text:
        raise DataError(f"{where}: <{node.tag}> has no <{name}>")
    return text


def _number(node: ET.Element, name: str, file: Path) -> float:
    text = _text(node, name, str(file))
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{file}: <{name}> is '{text}', not a number") from None
