"""Subject: something that is timed query by query, in stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import MeasurementError

Array: TypeAlias = NDArray[Any]
Nanoseconds: TypeAlias = NDArray[np.int64]

PREDICTOR_STAGES = ("preprocess", "network", "postprocess")


class Subject(Protocol):
    """Something that is timed. Query number n does the same work in every subject of a comparison."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages of each query, in order. Their sum is the query end to end."""

    def run(self, first: int, queries: int) -> Nanoseconds:
        """Run queries ``first … first + queries - 1`` back to back; return (queries, stages) durations in ns."""


class Stages(Protocol):
    """The three steps of `Predictor.predict`, callable one by one."""

    def prepare(self, image: Array) -> Any:
        """Turn a (H, W, 3) uint8 BGR image into what `infer` takes."""

    def infer(self, prepared: Any) -> Any:
        """Run the network."""

    def decode(self, outputs: Any) -> Any:
        """Turn the network's outputs into a result."""


class Timed:
    """A subject of one stage: a callable that does one query."""

    stages = ("total",)

    def __init__(self, query: Callable[[], object]) -> None:
        self._query = query

    def run(self, first: int, queries: int) -> Nanoseconds:  # noqa: ARG002 - every query is the same
        """Call it `queries` times; return (queries, 1) ns."""
        query, clock = self._query, time.perf_counter_ns
        marks = np.empty((queries, 2), dtype=np.int64)
        for row in marks:
            row[0] = clock()
            query()
            row[1] = clock()
        return np.diff(marks, axis=1)


class Staged:
    """A predictor on decoded images, one image a query, with its three stages timed apart.

    Reading and decoding image files is not part of a query; everything from a decoded image to a result is.
    """

    stages = PREDICTOR_STAGES

    def __init__(self, predictor: Stages, images: Sequence[Array]) -> None:
        if not images:
            raise MeasurementError("there are no images to measure with: give at least one")
        self._predictor = predictor
        self._images = images

    def run(self, first: int, queries: int) -> Nanoseconds:
        """Predict `queries` images, from number ``first`` on and around again; return (queries, 3) ns."""
        prepare, infer, decode = self._predictor.prepare, self._predictor.infer, self._predictor.decode
        images, clock = self._images, time.perf_counter_ns
        marks = np.empty((queries, 4), dtype=np.int64)
        for number, row in enumerate(marks, first):
            image = images[number % len(images)]
            row[0] = clock()
            prepared = prepare(image)
            row[1] = clock()
            outputs = infer(prepared)
            row[2] = clock()
            decode(outputs)
            row[3] = clock()
        return np.diff(marks, axis=1)
