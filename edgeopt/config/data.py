"""``[data]``: images with their labels, in a recipe or on a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from edgeopt.config.toml import read_toml, toml_value
from edgeopt.doors import DATA_FORMATS
from edgeopt.errors import ConfigError, SettingError
from edgeopt.references import check, is_code, named
from edgeopt.spec import Fraction, PositiveInt, Struct

DataFormat: TypeAlias = Annotated[str, named(DATA_FORMATS)]


class DataSource(Struct):
    """One set of images with its labels."""

    format: DataFormat
    """A built-in format, or ``package.module:callable``: a `dataset.listing.Reader`."""
    path: str | None = None
    """Folder of images; for ``csv`` the file, for ``idx`` the image file, for ``images`` and ``yolo`` also a text file
    with a path a line. Built-in sets take none. ``~`` is the user's folder."""
    annotations: str | None = None
    """Label file of COCO, CVAT, Create ML, WIDER FACE or IDX; for VOC, YOLO, KITTI and labelme the folder of label
    files. Default, but for COCO, WIDER FACE and IDX: found beside or among the images."""
    split: str | None = None
    """Part of a built-in set: train, validation, test or calibration."""
    image_column: str = "file"
    """Column of a ``csv`` with the images' paths. Default: ``file``, else one of a usual name."""
    label_column: str | None = None
    """Label column of a ``csv``. Default: ``class_index``, ``label`` or another usual name, whichever exists first."""
    labels: tuple[str, ...] | None = None
    """Class names in index order, for formats that have none of their own."""
    other_classes: Literal["refuse", "leave_out"] = "refuse"
    """Objects and images of classes that the network does not have: an error, or left out, as for a network for persons
    on data with labels of everything."""
    limit: PositiveInt | None = None
    """Use only this many images, drawn with `seed`, evenly over the classes."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of file names to leave out."""
    seed: int = 0
    """Seed of the draw of `limit`."""
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    """Settings for a format of your own, which finds them in the source that it is given."""

    def __post_init__(self) -> None:
        check(self.format, DATA_FORMATS, "data format")
        if self.arguments and not is_code(self.format):
            raise SettingError(f"data of format '{self.format}' takes no arguments. Remove them")


class DataConfig(Struct):
    """``[data]``: up to four sets. A missing set is held out from ``train``. No two sets may share an image."""

    train: DataSource | None = None
    validation: DataSource | None = None
    test: DataSource | None = None
    calibration: DataSource | None = None
    holdout: Fraction = 0.1
    """Share of ``train`` that is held out for each of validation and test if they are missing."""
    seed: int = 0
    """Seed of what is held out from ``train``. A set that is given is drawn by its own ``seed``."""
    calibration_classes: Literal["proportional", "even"] = "proportional"
    """Classes of calibration images that are held out from ``train``: in their shares, or as many of each, so that
    ranges hold for the rare ones too. A given set is always drawn evenly."""
    record_splits: Literal["names", "hashes", "none"] = "names"
    """Record of each set's images in the bundle: their names below the data's folder and the sha256 of their pixels,
    the hashes alone, or nothing. With hashes, a set that was held out is found again even if images were added."""


def data_source(reference: str) -> DataSource:
    """Return the data that a user means on a command line.

    Args:
        reference: a folder with a subfolder a class, a ``.csv``, a COCO ``.json`` (images beside it or in ``images/``),
            a ``.toml`` that holds the keys of a data table, or ``digits`` or ``digit_scenes`` (their test set).

    Raises:
        ConfigError: none of these.
    """
    if reference in ("digits", "digit_scenes"):
        return DataSource(format="digits" if reference == "digits" else "digit_scenes", split="test")
    path = Path(reference).resolve()
    if path.is_dir():
        return DataSource(format="image_folder", path=str(path))
    if path.suffix == ".csv":
        return DataSource(format="csv", path=str(path))
    if path.suffix == ".json":
        images = path.parent / "images"
        return DataSource(format="coco", path=str(images if images.is_dir() else path.parent), annotations=str(path))
    if path.suffix == ".toml":
        return read_toml(path, DataSource)
    raise ConfigError(
        f"'{reference}' is not a data set: give a folder of class folders, a .csv, a COCO .json, a .toml with the keys "
        "of a data table, digits or digit_scenes"
    )


def data_table(source: DataSource, name: str = "") -> str:
    """Write a source as a table of a recipe, ``[data.NAME]``, or without a name as a file for ``--data``."""
    written = msgspec.to_builtins(source)
    default = msgspec.to_builtins(DataSource(format=source.format))
    lines = [
        f"{key} = {toml_value(value)}" for key, value in written.items() if key == "format" or value != default[key]
    ]
    return "\n".join([f"[data.{name}]", *lines] if name else lines)
