"""Prototypes of classes: read from a decoding, compared with embeddings, and written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import ModelError
from edgeopt.postprocess.remembering import Remembered
from edgeopt.postprocess.results import Floats
from edgeopt.spec import ModelSpec, NeighborsDecoding, replace

Rows: TypeAlias = NDArray[Any]
"""(n, F) embeddings."""
_LARGEST = 127
"""Largest int8 that has a counterpart."""


class Prototypes:
    """The prototypes of a model's classes, in float."""

    def __init__(self, spec: ModelSpec) -> None:
        decoding = spec.decoding
        assert isinstance(decoding, NeighborsDecoding)
        if len(decoding.counts) != len(spec.labels) or not decoding.prototypes:
            raise ModelError(
                f"'{spec.name}' has prototypes of {len(decoding.counts)} classes for {len(spec.labels)} labels. Fit "
                'them with [fit] classifier = "knn"'
            )
        self._decoding = decoding
        self._rows = read_prototypes(decoding)
        self.classes = np.repeat(np.arange(len(decoding.counts)), decoding.counts)
        """(P,) class of each."""
        most = max(decoding.counts)
        places = np.full((len(decoding.counts), most), len(self._rows))
        for index, members in enumerate(np.split(np.arange(len(self._rows)), np.cumsum(decoding.counts)[:-1])):
            places[index, : len(members)] = members
        self._places = places
        """(classes, most) rows of each class; beyond its last the number of rows, which none has."""
        self._used = np.minimum(np.array(decoding.counts), decoding.neighbors)

    def logits(self, embeddings: Rows) -> Floats:
        """Return (N, classes) float32 logits of (N, F) embeddings.

        Raises:
            ModelError: embeddings of another length than the prototypes.
        """
        if embeddings.shape[1] != self._rows.shape[1]:
            raise ModelError(
                f"an embedding has {embeddings.shape[1]} numbers, and a prototype {self._rows.shape[1]}. Build the "
                "bundle again"
            )
        return self.logits_of(unit(embeddings) @ self._rows.T)

    def logits_of(self, cosines: Rows) -> Floats:
        """Return (N, classes) float32 logits from (N, P) cosines; one of -inf is that of a prototype left out."""
        padded = np.concatenate([cosines, np.full((len(cosines), 1), -np.inf, cosines.dtype)], axis=1)
        nearest = -np.sort(-padded[:, self._places], axis=2)[:, :, : self._decoding.neighbors]
        present = np.isfinite(nearest)
        counts = present.sum(axis=2)
        sums = np.where(present, nearest, 0.0).sum(axis=2)
        means = np.divide(sums, counts, out=np.full(sums.shape, -1.0, sums.dtype), where=counts > 0)
        return np.asarray(means / self._decoding.temperature, np.float32)

    def cosines_among(self) -> Floats:
        """Return (P, P) cosines of the prototypes with each other, and -inf with themselves."""
        found = np.asarray(self._rows @ self._rows.T, np.float32)
        np.fill_diagonal(found, -np.inf)
        return found


prototypes_of = Remembered(Prototypes)
"""The prototypes of a specification."""


def read_prototypes(decoding: NeighborsDecoding) -> Floats:
    """Return (P, F) float32 prototypes of length 1."""
    integers = np.frombuffer(decoding.prototypes, np.int8).reshape(max(1, sum(decoding.counts)), -1)
    return unit(integers.astype(np.float32))


def with_prototypes(decoding: NeighborsDecoding, classes: Sequence[Rows]) -> NeighborsDecoding:
    """Return the decoding with the prototypes of more classes, each (n, F), behind those that it has."""
    packed = b"".join(pack_prototypes(rows) for rows in classes)
    counts = tuple(len(rows) for rows in classes)
    return replace(decoding, prototypes=decoding.prototypes + packed, counts=(*decoding.counts, *counts))


def without_last(spec: ModelSpec, classes: int) -> ModelSpec:
    """Return a specification without its last classes, as it was before they were enrolled."""
    decoding = spec.decoding
    if not classes or not isinstance(decoding, NeighborsDecoding):
        return spec
    counts = decoding.counts[:-classes]
    length = len(decoding.prototypes) // sum(decoding.counts) * sum(counts)
    earlier = replace(decoding, prototypes=decoding.prototypes[:length], counts=counts)
    return replace(spec, decoding=earlier, labels=spec.labels[:-classes])


def pack_prototypes(rows: Rows) -> bytes:
    """Return embeddings as int8, each scaled by its largest number: its direction is all that counts."""
    largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    packed: NDArray[np.int8] = np.rint(rows / largest * _LARGEST).astype(np.int8)
    return packed.tobytes()


def unit(rows: Rows) -> Floats:
    """Return rows of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
