"""Identify model files, once each."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from edgeopt.identify import Facts, Identification
from edgeopt.identify.identifying import identify
from edgeopt.identify.reading import facts_of
from edgeopt.source.onnx_file import read_onnx
from edgeopt.source.weights import check_file
from edgeopt.spec import Size

_KEPT = 8
"""Files whose facts are remembered: each stage of a build asks again."""


def identify_file(path: Path, size: Size | None = None, data_labels: tuple[str, ...] = ()) -> Identification:
    """Identify an ``.onnx`` file.

    Args:
        path: the file.
        size: (height, width), for one that takes any.
        data_labels: class names of the images that it is for.

    Raises:
        ModelError: as `read_onnx`.
    """
    stat = check_file(path, "the model").stat()
    return identify(_facts(path.resolve(), stat.st_mtime_ns, stat.st_size, size), data_labels)


@lru_cache(maxsize=_KEPT)
def _facts(path: Path, _changed_ns: int, _bytes: int, size: Size | None) -> Facts:
    """Read a file's facts once, until it changes."""
    return facts_of(read_onnx(path), size)
