"""Listing: the result of every format reader, samples as the label files describe them, before any image is opened."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from edgeopt.config import DataSource
from edgeopt.dataset.samples import FilePicture, Picture, Target
from edgeopt.errors import ConfigError, DataError, did_you_mean
from edgeopt.files import named_path
from edgeopt.spec import Task

Labels: TypeAlias = tuple[str, ...]
_SHOWN = 3  # examples in a message
_MOST_BAD_ENTRIES = 0.5  # share of entries that cannot be used above which the files are something else


@dataclass(frozen=True)
class Draft:
    """One sample as listed.

    Attributes:
        name: unique in its data set; the image's path below the data set's folder.
        picture: how the image is had.
        target: class index, boxes or nothing.
        size: (height, width) that the label file claims for the image.
        fractional: boxes are shares of the image's width and height, not pixels.
    """

    name: str
    picture: Picture
    target: Target
    size: tuple[int, int] | None = None
    fractional: bool = False


@dataclass(frozen=True)
class Listing:
    """All samples that a source lists.

    Attributes:
        task: what the targets are for; None where there are none.
        labels: class names in index order.
        drafts: the samples.
        origin: where they came from, for messages.
        left_out: a line for each entry of the label files that cannot be used, with its place and the reason.
    """

    task: Task | None
    labels: Labels
    drafts: tuple[Draft, ...]
    origin: str
    left_out: tuple[str, ...] = ()


class UnknownClassError(DataError):
    """A class that the network does not have: labels of another network, rather than one bad entry."""


@dataclass
class Entries:
    """Count the entries of label files, and keep a line for each that cannot be used."""

    read: int = 0
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Lines about what is no entry: label files without images, classes without any."""

    @contextmanager
    def entry(self) -> Iterator[None]:
        """Read one entry; a `DataError` inside leaves it out, except `UnknownClassError`."""
        self.read += 1
        try:
            yield
        except UnknownClassError:
            raise
        except DataError as error:
            self.left_out.append(str(error))

    def lines(self, origin: str) -> tuple[str, ...]:
        """Return what was left out, and the notes.

        Raises:
            DataError: more than half of the entries cannot be used.
        """
        if len(self.left_out) > _MOST_BAD_ENTRIES * self.read:
            raise DataError(
                f"{origin}: {len(self.left_out)} of {self.read} entries cannot be used{examples(self.left_out)}"
            )
        return (*self.left_out, *self.notes)


def examples(lines: Sequence[str]) -> str:
    """Return the first few lines, for the end of a message."""
    if not lines:
        return ""
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return ": " + "; ".join(lines[:_SHOWN]) + more


def bounds(points: Iterable[Sequence[float]], where: str) -> tuple[float, float, float, float]:
    """Return the box around points: left, top, right, bottom.

    Args:
        points: x and y of each.
        where: names the shape in errors.

    Raises:
        DataError: fewer than two points, or one that is not two finite numbers.
    """
    try:
        rows = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError):
        raise DataError(f"{where}: its points are not pairs of numbers") from None
    if len(rows) < 2 or not all(map(math.isfinite, chain.from_iterable(rows))):
        raise DataError(f"{where}: a box needs two points or more, of finite numbers")
    xs, ys = zip(*rows, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


Reader: TypeAlias = Callable[[DataSource, Path, Labels | None], Listing]
"""Function (source, the folder that relative paths start from, class names of the model or the recipe) → listing."""


def path_of(source: DataSource, root: Path) -> Path:
    """Return the source's `path`.

    Raises:
        ConfigError: it has none.
        DataError: there is nothing.
    """
    if source.path is None:
        raise ConfigError(f"data of format '{source.format}' needs `path`. Set it in the recipe's [data] table")
    return _existing(named_path(root, source.path), "path")


def annotations_of(source: DataSource, root: Path, default: Path | None = None) -> Path:
    """Return the source's `annotations`, or `default` where the format has a customary place that exists.

    Raises:
        ConfigError: it has none.
        DataError: there is nothing.
    """
    if source.annotations is None and (default is None or not default.exists()):
        where = "" if default is None else f" (there is no {default})"
        raise ConfigError(f"data of format '{source.format}' needs `annotations`{where}. Set it in the [data] table")
    path = default if source.annotations is None else named_path(root, source.annotations)
    assert path is not None
    return _existing(path, "annotations")


def _existing(path: Path, key: str) -> Path:
    """Return a path that a recipe's key gives.

    Raises:
        DataError: it does not exist. A name beside it that differs in the letters' case is suggested.
    """
    if path.exists():
        return path
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    meant = next((each.name for each in beside if each.name.casefold() == path.name.casefold()), None)
    hint = "Relative paths start from the recipe's folder" if meant is None else f"Did you mean '{meant}'?"
    raise DataError(f"`{key}` {path} does not exist. {hint}")


def refuse_split(source: DataSource) -> None:
    """Refuse a `split` that would silently mean nothing.

    Raises:
        ConfigError: `split` is set.
    """
    if source.split is not None:
        raise ConfigError(
            f"format '{source.format}' has no splits of its own: remove `split` and set `path` to the part"
        )


def draft_of_file(path: Path, folder: Path, target: Target, size: tuple[int, int] | None = None) -> Draft:
    """Return a draft named by the file's path below `folder`."""
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
    return Draft(name, FilePicture(path), target, size)


def class_index(name: str, labels: Labels, where: str) -> int:
    """Return the index of a class name.

    Raises:
        UnknownClassError: the name is not among `labels`.
    """
    try:
        return labels.index(name)
    except ValueError:
        example = f"[model] labels = [{json.dumps(name)}, ...]"
        advice = (
            f"If the network is for other classes, name all of them in its order: {example}; if it does not know this "
            'one, leave it out of the data: other_classes = "leave_out"'
        )
        raise UnknownClassError(
            f"{where}: class '{name}' is not among the {len(labels)} labels.{did_you_mean(name, labels, advice)}"
        ) from None


def check_index(index: int, labels: Labels, where: str) -> int:
    """Return `index` if there is such a class.

    Raises:
        DataError: there is not.
    """
    if not 0 <= index < len(labels):
        raise DataError(
            f"{where}: class index {index} is outside 0..{len(labels) - 1}. Give all class names in `labels`"
        )
    return index
