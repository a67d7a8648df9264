"""Write a recipe for data that are there: their tables, a network and a size that suit them."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from edgeopt.config import DataSource, data_table, write_recipe
from edgeopt.dataset.listing import Listing
from edgeopt.dataset.loading import listed
from edgeopt.dataset.samples import FilePicture
from edgeopt.dataset.survey import Role, Survey
from edgeopt.errors import DataError
from edgeopt.files import is_file
from edgeopt.preprocess.header import image_size
from edgeopt.spec import Size, replace

_STRIDE = 32  # networks halve their input five times
_DETECTOR_SIDE, _CLASSIFIER_SIDE = 416, 224  # of YOLOX-nano's and ImageNet's published networks
_LEAST_SIDE = 64
_LOOKED_AT = 50  # images whose size is read
_HEADER_BYTES = 1 << 16
_NAMELESS = frozenset(
    {
        "images",
        "jpegimages",
        "train",
        "training",
        "validation",
        "val",
        "valid",
        "test",
        "data",
        "dataset",
        "labels",
        "/",
    }
)
"""Folders and tables whose name says nothing about their content."""
_NETWORKS = {"classification": "edgeopt:mobilenet_v2", "detection": "edgeopt:yolox_nano"}


def write_starter_for(
    found: Survey, out: Path, *, model: str | None = None, replace_file: bool = False
) -> dict[Role, Listing]:
    """Write a recipe that builds from the data as it is.

    Args:
        found: from `survey`.
        out: file to write; its folder is what the recipe's paths start from.
        model: ``[model] source``. Default: a network of ours for the task.
        replace_file: replace a file that is there.

    Returns:
        What each set lists.

    Raises:
        DataError: data that cannot be read, or that have no labels.
        ConfigError: `out` is there already.
        StorageError: it cannot be written.
    """
    root = out.resolve().parent
    sets = {role: relative_source(source, root) for role, source in found.sets.items()}
    listings: dict[Role, Listing] = {}
    for role, source in found.sets.items():
        labels = next((listing.labels for listing in listings.values()), None)
        listings[role] = listed(source, root, labels)
    first = next(iter(listings.values()))
    if first.task is None:
        raise DataError(
            f"{first.origin} holds images without labels, with which nothing can be trained. A model that is trained "
            "already is built with them by: edgeopt build MODEL --data FOLDER"
        )
    if found.format == "yolo":  # a set of its own may have no file of names near
        sets = {role: replace(source, labels=first.labels) for role, source in sets.items()}
    text = (resources.files("edgeopt") / "templates" / f"{first.task}.toml").read_text(encoding="utf-8")
    network = model or _NETWORKS[first.task]
    size = list(_input_size(first)) if network.startswith("edgeopt:") else None
    text = _with_model(text, _name(next(iter(found.sets.values()))), network, size)
    text = _with_data(text, sets, listings)
    images = len(first.drafts)
    batch = re.search(r"^batch_size = (\d+)", text, re.MULTILINE)
    if batch is not None and images < 8 * int(batch[1]):
        text = text.replace(batch[0], f"batch_size = {max(2, min(int(batch[1]), images // 8))}")
    write_recipe(out, text, replace=replace_file)
    return listings


def relative_source(source: DataSource, root: Path) -> DataSource:
    """Let a source's paths start from the recipe's folder."""

    def relative(path: str | None) -> str | None:
        return None if path is None else Path(os.path.relpath(path, root)).as_posix()

    return replace(source, path=relative(source.path), annotations=relative(source.annotations))


def _name(source: DataSource) -> str:
    """Name the recipe after the folder of the data."""
    path = Path(source.path or "")
    telling = [part for part in path.with_suffix("").parts if part.lower() not in _NAMELESS]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", telling[-1] if telling else "").strip("-._") or "model"


def _with_model(text: str, name: str, source: str, size: list[int] | None) -> str:
    for key, value in (("name", f'"{name}"'), ("source", f'"{source}"'), ("input_size", str(size))):
        found = re.search(rf"^{key} = (\"[^\"]*\"|\[[^]]*\])", text, re.MULTILINE)
        text = text if found is None else text.replace(found[0], f"{key} = {value}", 1)
    return text if size is not None else re.sub(r"^input_size = .*\n", "", text, flags=re.MULTILINE)


def _with_data(text: str, sets: Mapping[Role, DataSource], listings: Mapping[Role, Listing]) -> str:
    """Put the data's tables in the place of the template's."""
    labels = next(iter(listings.values())).labels
    shown = ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
    lines = [f"# {len(labels)} classes: {shown}".replace("\n", " ")]
    for role, source in sets.items():
        table = data_table(source, role)
        lines.append(table.replace("]", f"]  # {len(listings[role].drafts)} images", 1))
    missing = [role for role in ("validation", "test", "calibration") if role not in sets]
    if missing and "train" in sets:
        lines[-1] += f"\n# held out from train, unless they are given: {', '.join(missing)}"
    start, end = text.index("[data."), text.index("\n[train]") + 1
    return text[:start] + "\n\n".join(lines) + "\n\n" + text[end:]


def _input_size(listing: Listing) -> Size:
    """Return height and width for a network of ours: the data's shape, no larger than such networks are made for."""
    sizes = _sizes(listing)
    side = _DETECTOR_SIDE if listing.task == "detection" else _CLASSIFIER_SIDE
    if not sizes:
        return side, side
    height = statistics.median(size[0] for size in sizes)
    width = statistics.median(size[1] for size in sizes)
    if listing.task == "classification":
        side = min(side, max(_LEAST_SIDE, _strides(min(height, width))))
        return side, side
    shrink = min(1.0, side / max(height, width))
    return min(side, max(_LEAST_SIDE, _strides(height * shrink))), min(side, max(_LEAST_SIDE, _strides(width * shrink)))


def _strides(pixels: float) -> int:
    return -(-round(pixels) // _STRIDE) * _STRIDE


def _sizes(listing: Listing) -> list[Size]:
    """Read (height, width) of some images from their headers."""
    step = max(1, len(listing.drafts) // _LOOKED_AT)
    sizes = []
    for draft in listing.drafts[::step]:
        if isinstance(draft.picture, FilePicture) and is_file(draft.picture.path):
            with draft.picture.path.open("rb") as file:
                size = image_size(file.read(_HEADER_BYTES))
            sizes += [] if size is None else [size]
    return sizes
