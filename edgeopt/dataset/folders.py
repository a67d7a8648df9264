"""Read folders of images: one subfolder a class, or no labels at all."""

from __future__ import annotations

from pathlib import Path

from edgeopt.config import DataSource
from edgeopt.dataset.files import image_files, is_data_folder, read_text
from edgeopt.dataset.listing import Labels, Listing, class_index, draft_of_file, path_of, refuse_split
from edgeopt.errors import DataError

_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "calibration"})


def read_image_folder(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read a folder with one subfolder a class; `split` names a folder between the two.

    Without `labels` the classes are the subfolders in the order of their names, as torchvision's ImageFolder has them.

    Raises:
        DataError: no subfolders, no images, subfolders that are splits, or one that is not among `labels`.
    """
    folder = path_of(source, root) / (source.split or "")
    files = image_files(folder)
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and is_data_folder(entry.name))
    if not names:
        raise DataError(
            f"{folder} has no subfolders, one a class. Unlabelled images have format 'images', tables 'csv'"
        )
    if labels is None and _SPLIT_NAMES.issuperset(names):
        raise DataError(
            f"the subfolders of {folder} are splits, not classes: {', '.join(names)}. Choose one with `split`"
        )
    inside = [path for path in files if path.parent != folder]
    filled = {path.relative_to(folder).parts[0] for path in inside}
    labels = labels or tuple(name for name in names if name in filled)
    index = {name: class_index(name, labels, str(folder)) for name in sorted(filled)}
    empty = tuple(f"{folder / name} holds no image: no class" for name in names if name not in filled | set(labels))
    if not inside:
        raise DataError(f"there are no images in the class folders of {folder}: {', '.join(names[:5])}")
    drafts = (draft_of_file(path, folder, index[path.relative_to(folder).parts[0]]) for path in inside)
    return Listing("classification", labels, tuple(drafts), str(folder), empty)


def read_images(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read a folder of images without labels, or a text file that lists some, one path a line from its own folder.

    Raises:
        DataError: there is no image.
    """
    refuse_split(source)
    folder = path_of(source, root)
    if folder.suffix.lower() == ".txt" and folder.is_file():
        return _listed_images(folder, labels)
    files = image_files(folder)
    if not files:
        raise DataError(f"there are no images in {folder}. Image files end in .jpg, .png, .bmp, .webp, .tif or .ppm")
    return Listing(None, labels or (), tuple(draft_of_file(path, folder, None) for path in files), str(folder))


def _listed_images(file: Path, labels: Labels | None) -> Listing:
    names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not names:
        raise DataError(f"the list {file} names no images")
    drafts = tuple(draft_of_file(file.parent / name, file.parent, None) for name in names)
    return Listing(None, labels or (), drafts, str(file))
