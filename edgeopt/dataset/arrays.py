"""Read network inputs from an ``.npz``, which replaces images where a model does not take one image."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], int]:
    """Return network inputs by name, first dimension = sample, and the number of samples.

    Raises:
        DataError: not an ``.npz`` of plain arrays, none in it, arrays without samples, or of different numbers of them.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DataError(f"{path} is one array, not an .npz of arrays by name. Write it with numpy.savez")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not an .npz of plain arrays: {error}") from error
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise DataError(f"{path}: the arrays must share a first dimension (samples), theirs are {sorted(lengths)}")
    return arrays, lengths.pop()
