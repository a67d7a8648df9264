"""Pascal VOC: one XML file an image (Everingham et al., the VOC2012 development kit)."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.files import ImageFinder, read_text
from edgeopt.dataset.layout import folder_with
from edgeopt.dataset.listing import (
    Draft,
    Entries,
    Labels,
    Listing,
    annotations_of,
    bounds,
    class_index,
    draft_of_file,
    path_of,
)
from edgeopt.dataset.xml import number_of, parse_xml, text_of
from edgeopt.errors import DataError
from edgeopt.files import is_file

_FOLDERS = ("annotations", "labels", "xml", "xmls")


def read_voc(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read images of `path` (``JPEGImages``) with the XML files of `annotations`.

    By default these are in a folder ``Annotations``, in any letter case, beside or in `path`, or among the images.
    An image belongs to the XML file of its name, else to the one that names it. `split` names a list in
    ``ImageSets/Main``. Without `labels` the classes are the names that occur, sorted. Objects marked difficult become
    crowds: VOC, too, counts them neither as found nor as missed. Objects and files that cannot be used are left out.

    Raises:
        DataError: no XML files, too few that can be used, or a class that is not among `labels`.
    """
    folder = path_of(source, root)
    annotations = annotations_of(source, root, xml_folder(folder))
    stems = _stems(annotations, source.split)
    finder = ImageFinder(folder)
    if not finder.files:
        raise DataError(f"there are no images in {folder}; {annotations} describes {len(stems)}")
    entries, objects = Entries(), Entries()
    trees: dict[str, ET.Element] = {}
    for stem in stems:
        with entries.entry():
            trees[stem] = parse_xml(annotations / f"{stem}.xml")
    found = {stem: _objects(tree, annotations / f"{stem}.xml", objects) for stem, tree in trees.items()}
    labels = labels or tuple(sorted({name for each in found.values() for name, _, _ in each}))
    where = str(annotations)
    drafts = tuple(
        _draft(_image(finder, stem, tree, folder), folder, annotations / f"{stem}.xml", tree, found[stem], labels)
        for stem, tree in trees.items()
    )
    return Listing("detection", labels, drafts, where, (*entries.lines(where), *objects.lines(where)))


def xml_folder(folder: Path) -> Path:
    """Return the folder of XML files that belongs to a folder of images."""
    found = folder_with("*.xml", (folder.parent, folder), _FOLDERS)
    if found is None and any(folder.rglob("*.xml")):
        return folder
    return found or folder.parent / "Annotations"


def _stems(annotations: Path, split: str | None) -> list[str]:
    """Return the names of the images to read, without suffix."""
    if split is None:
        files = sorted(annotations.rglob("*.xml"))
        if not files:
            raise DataError(f"there are no .xml files in {annotations}")
        return [path.relative_to(annotations).with_suffix("").as_posix() for path in files]
    listed = annotations.parent / "ImageSets" / "Main" / f"{split}.txt"
    if not is_file(listed):
        raise DataError(f"there is no list {listed} for split '{split}'. Remove `split` to read every annotation")
    return [line.split()[0] for line in read_text(listed).splitlines() if line.strip()]


def _image(finder: ImageFinder, stem: str, tree: ET.Element, folder: Path) -> Path:
    """Find the image by the name of its XML file, else by the name that stands in it."""
    found = finder.find(stem)
    named = (tree.findtext("filename") or "").strip()
    if not is_file(found) and named:
        found = finder.find(named)
    return found if is_file(found) else folder / f"{stem}.jpg"


_Object = tuple[str, tuple[float, float, float, float], bool]


def _objects(tree: ET.Element, file: Path, entries: Entries) -> list[_Object]:
    """Return name, corners and difficulty of each object."""
    found = []
    for node in tree.iter("object"):
        with entries.entry():
            difficult = (node.findtext("difficult") or "0").strip().lower() in ("1", "true")
            found.append((text_of(node, "name", str(file)), _corners(node, file), difficult))
    return found


def _draft(image: Path, folder: Path, file: Path, tree: ET.Element, objects: list[_Object], labels: Labels) -> Draft:
    boxes = Boxes.of(
        (corners for _, corners, _ in objects),
        (class_index(name, labels, str(file)) for name, _, _ in objects),
        (difficult for _, _, difficult in objects),
    )
    return draft_of_file(image, folder, boxes, _size(tree))


def _size(tree: ET.Element) -> tuple[int, int] | None:
    """Return (height, width) where the file says it; tools also write nothing or zeros."""
    node = tree.find("size")
    if node is None:
        return None
    try:
        height, width = (round(number_of(text_of(node, name, ""), name, "")) for name in ("height", "width"))
    except DataError:
        return None
    return (height, width) if min(height, width) > 0 else None


def _corners(node: ET.Element, file: Path) -> tuple[float, float, float, float]:
    """Convert corners: VOC counts pixels from 1 and includes the last one."""
    box, turned, polygon = (node.find(name) for name in ("bndbox", "robndbox", "polygon"))
    if box is not None:
        first, second, third, fourth = _numbers(box, ("xmin", "ymin", "xmax", "ymax"), file)
        left, top, right, bottom = bounds([(first, second), (third, fourth)], str(file))
    elif turned is not None:
        left, top, right, bottom = _around(*_numbers(turned, ("cx", "cy", "w", "h", "angle"), file))
    elif polygon is not None:
        numbers = {each.tag: number_of(each.text or "", each.tag, str(file)) for each in polygon}
        points = [
            (x, numbers[f"y{name[1:]}"]) for name, x in numbers.items() if name[0] == "x" and f"y{name[1:]}" in numbers
        ]
        left, top, right, bottom = bounds(points, str(file))
    else:
        raise DataError(f"{file}: an object has no <bndbox>")
    return left - 1, top - 1, right, bottom


def _numbers(node: ET.Element, names: Sequence[str], file: Path) -> tuple[float, ...]:
    return tuple(number_of(text_of(node, name, str(file)), name, str(file)) for name in names)


def _around(x: float, y: float, width: float, height: float, angle: float) -> tuple[float, float, float, float]:
    """Return the box around one that is turned by an angle in radians, as roLabelImg writes it."""
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    half_width, half_height = (width * cosine + height * sine) / 2, (width * sine + height * cosine) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height
