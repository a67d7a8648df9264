"""Numbers of classes as a head gives them, and places in the labels."""

from __future__ import annotations

import numpy as np

from edgeopt.errors import ModelError
from edgeopt.postprocess.results import Integers
from edgeopt.spec import DetectionDecoding

_ABSENT = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Numbers from 0 to 90 that no category of COCO 2017 has (Lin et al. 2014)."""
_LARGEST = 90
COCO91 = tuple(
    -1 if number in _ABSENT else number - sum(absent <= number for absent in _ABSENT) for number in range(_LARGEST + 1)
)
"""Place among COCO's 80 classes of each category identifier."""


def table_of(decoding: DetectionDecoding) -> tuple[int, ...] | None:
    """Return the place in the labels for each number; None where places are numbers less a constant."""
    numbering = decoding.numbering
    return COCO91 if numbering == "coco91" else numbering if isinstance(numbering, tuple) else None


def class_count(decoding: DetectionDecoding, columns: int) -> int:
    """Return the number of labels that go with so many columns of scores."""
    if (table := table_of(decoding)) is not None:
        return max(table, default=-1) + 1
    assert isinstance(decoding.numbering, int)
    return columns - (decoding.background != "none") - decoding.numbering


class Numbering:
    """From a head's numbers to places in the labels."""

    def __init__(self, decoding: DetectionDecoding, labels: int) -> None:
        self._labels = labels
        table = table_of(decoding)
        self._table = None if table is None else np.array(table, np.int64)
        shift = decoding.numbering if isinstance(decoding.numbering, int) else 0
        if decoding.classes is None and decoding.background == "first":
            shift = -1 if table is not None else shift  # columns are counted without the background
        self._shift = shift

    @property
    def is_plain(self) -> bool:
        """True where each number is the place in the labels."""
        return self._table is None and self._shift == 0

    def places(self, numbers: Integers) -> Integers:
        """Return the place in the labels of each number, negative where it stands for none.

        Raises:
            ModelError: a number is beyond the labels.
        """
        places = numbers - self._shift
        if self._table is not None:
            inside = (places >= 0) & (places < len(self._table))
            places = np.where(inside, self._table[np.where(inside, places, 0)], -1)
        if places.size and places.max() >= self._labels:
            raise ModelError(
                f"the network gives class number {numbers[places.argmax()]}, and there are {self._labels} labels. "
                "Correct the labels, or numbering in [model.decoding]"
            )
        return places
