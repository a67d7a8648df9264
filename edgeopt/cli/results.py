"""Write the results of `edgeopt run`: lines for people, lines of JSON, rows of a table."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import click
import msgspec

from edgeopt.cli.output import echo, printable
from edgeopt.cli.views.tables import result_line
from edgeopt.errors import did_you_mean, storage_errors
from edgeopt.postprocess import Classification
from edgeopt.runtime import Result

Writer = Callable[[str, int, Result], None]
"""Takes an image's name, its number in its source, and what was seen in it."""

_COLUMNS = ("image", "frame", "label", "class", "score", "left", "top", "right", "bottom", "track")


@dataclass(frozen=True)
class Wanted:
    """Filter of the results."""

    score: float | None = None
    """Lowest score; None: the bundle's threshold."""
    labels: frozenset[str] | None = None
    """Names of labels; None: all."""

    @classmethod
    def of(cls, score: float | None, labels: Collection[str], known: Collection[str]) -> Wanted:
        """Read ``--score`` and ``--labels``, each of which names one label, or several with commas between.

        Raises:
            BadParameter: the model has no such label.
        """
        names = [name for text in labels for name in ([text] if text in known else text.split(","))]
        for name in names:
            if name.strip() not in known:
                raise click.BadParameter(
                    f"the model has no label '{name.strip()}'.{did_you_mean(name.strip(), known)}",
                    param_hint="--labels",
                )
        return cls(score, frozenset(name.strip() for name in names) or None)

    def among(self, result: Result) -> Result:
        """Return the part of a result that is asked for; a detector has applied the score."""
        if self.score is not None and isinstance(result, Classification):
            result = result.above(self.score)
        return result if self.labels is None else result.only(self.labels)


def print_line(name: str, number: int, result: Result) -> None:  # noqa: ARG001 - a Writer
    """A line for people; `number` is part of the name."""
    echo(printable(f"{name}: {result_line(result)}"))


def print_json_line(name: str, number: int, result: Result) -> None:
    """A line for machines."""
    echo(_json(name, number, result))


@contextmanager
def json_lines(path: Path) -> Iterator[Writer]:
    """A file of one JSON object an image, as `print_json_line` prints them.

    Raises:
        StorageError: it cannot be written.
    """
    with _text_file(path) as file:

        def write(name: str, number: int, result: Result) -> None:
            file.write(_json(name, number, result) + "\n")
            file.flush()  # a camera's file is read while it grows

        yield write


@contextmanager
def csv_rows(path: Path) -> Iterator[Writer]:
    """A table with a row for each class or object, and one with empty cells for an image without any.

    Raises:
        StorageError: it cannot be written.
    """
    with _text_file(path) as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)

        def write(name: str, number: int, result: Result) -> None:
            table.writerows([_encodable(name), number, *cells] for cells in _cells(result) or [[""] * 8])
            file.flush()

        yield write


@contextmanager
def _text_file(path: Path) -> Iterator[TextIO]:
    with storage_errors(path), path.open("w", encoding="utf-8", newline="") as file:
        yield file


def _cells(result: Result) -> list[list[object]]:
    """Return label, class, score and, for a detector, the corners in pixels and the track, of each result."""
    found = zip(result.labels, result.classes.tolist(), result.scores.tolist(), strict=True)
    if isinstance(result, Classification):
        return [[label, index, f"{score:.6g}", "", "", "", "", ""] for label, index, score in found]
    numbers = [""] * len(result) if result.tracks is None else result.tracks.tolist()
    return [
        [label, index, f"{score:.6g}", *(f"{side:.2f}" for side in box), number]
        for (label, index, score), box, number in zip(found, result.boxes.tolist(), numbers, strict=True)
    ]


def _json(name: str, number: int, result: Result) -> str:
    return msgspec.json.encode({"image": _encodable(name), "frame": number, **result.to_dict()}).decode()


def _encodable(name: str) -> str:
    """Return the name of a file, with escapes for bytes that are not UTF-8."""
    return name.encode(errors="backslashreplace").decode()
