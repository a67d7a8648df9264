"""The two models that a bundle is served as: pictures to results, and the network's own tensors.

`NAME` takes files of pictures (BYTES) and gives what `Predictor.predict` gives; `NAME_network` takes and gives tensors
as the network has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from edgeopt.boxes import Geometry
from edgeopt.errors import DataError
from edgeopt.postprocess import Classification, Detections, require_numbers
from edgeopt.preprocess import to_bgr
from edgeopt.preprocess.header import image_size as picture_size
from edgeopt.preprocess.header import largest_pixels
from edgeopt.runtime import Inferred, Predictor
from edgeopt.serve.batcher import Row
from edgeopt.serve.limits import Refused
from edgeopt.serve.protocol import Array, Request, datatype_of
from edgeopt.spec import ClassDecoding, ModelSpec, TensorSpec, has_batch, image_size

PICTURE = "image"
"""Name of the input that takes pictures."""
RESULTS = {
    "classification": (("labels", "BYTES", [-1, -1]), ("classes", "INT64", [-1, -1]), ("scores", "FP32", [-1, -1])),
    "detection": (
        ("count", "INT64", [-1, 1]),
        ("labels", "BYTES", [-1, -1]),
        ("classes", "INT64", [-1, -1]),
        ("scores", "FP32", [-1, -1]),
        ("boxes", "FP32", [-1, -1, 4]),
    ),
}
"""Outputs of a model of pictures by task: name, datatype, shape."""


class Served(Protocol):
    """A model of the server."""

    @property
    def name(self) -> str:
        """Its name in the address."""

    def metadata(self) -> dict[str, Any]:
        """Return its inputs and outputs as the protocol describes them."""

    def rows(self, request: Request, deadline: float) -> list[Row]:
        """Turn a request into rows of the network's input; raises `Refused` where it cannot be."""

    def outputs(self, request: Request, answers: Sequence[Inferred]) -> Mapping[str, Array]:
        """Turn the network's answers, one a row, into the model's outputs."""


def models(predictor: Predictor) -> list[Served]:
    """Return what a predictor can be asked for.

    A network with inputs beside the picture is asked with pictures only: edgeopt fills the others.
    """
    pictures = Pictures(predictor)
    return [pictures] if predictor.spec.auxiliary else [pictures, Network(predictor)]


def _described(name: str, datatype: str, shape: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


class Pictures:
    """Files of pictures in, results out, by edgeopt's own preprocessing and decoding.

    A request holds any number of pictures: BYTES of shape (N). Its parameter ``score`` is a detector's threshold.
    Results of a detector are filled up to the longest of the request with class -1.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.name = predictor.spec.name

    def metadata(self) -> dict[str, Any]:
        """Return its inputs and outputs as the protocol describes them."""
        spec = self._predictor.spec
        outputs = [_described(*each) for each in RESULTS[spec.task]]
        found = {"platform": "edgeopt", "inputs": [_described(PICTURE, "BYTES", [-1])], "outputs": outputs}
        if isinstance(spec.decoding, ClassDecoding):
            return found
        return {**found, "parameters": {"score": spec.decoding.score_threshold}}

    def rows(self, request: Request, deadline: float) -> list[Row]:
        """Decode and prepare the pictures of a request.

        Raises:
            Refused: no picture, one that cannot be read, or a `score` that is not a threshold.
        """
        self._score(request)
        pictures = request.inputs.get(PICTURE)
        if pictures is None or len(request.inputs) != 1 or pictures.dtype != object or not pictures.size:
            raise Refused(
                400, f"'{self.name}' takes one input, '{PICTURE}', of BYTES: the file of a picture, or several"
            )
        return [self._prepared(content, deadline) for content in pictures.reshape(-1).tolist()]

    def _prepared(self, content: bytes, deadline: float) -> Row:
        size = picture_size(content)
        if size is not None and size[0] * size[1] > (most := largest_pixels()):
            raise Refused(400, f"a picture has {size[1]} x {size[0]} pixels; {most} are the most")
        try:
            pixels = to_bgr(content)
            prepared = self._predictor.prepare(pixels, self._predictor.buffer())
        except DataError as error:
            raise Refused(
                400, f"a picture of {len(content)} bytes cannot be read: it is damaged or not a picture"
            ) from error
        return Row(prepared.tensor[:1], prepared.geometries[0], deadline)

    def outputs(self, request: Request, answers: Sequence[Inferred]) -> Mapping[str, Array]:
        """Decode the network's answers."""
        score = self._score(request)
        return results([self._predictor.decode(each, score=score) for each in answers])

    def _score(self, request: Request) -> float | None:
        score = request.parameters.get("score")
        if score is None:
            return None
        number = isinstance(score, (int, float)) and not isinstance(score, bool)
        if not number or not 0 <= score <= 1 or self._predictor.spec.task == "classification":
            raise Refused(400, "the parameter score is a detector's, a number from 0 to 1")
        return float(score)


def results(found: Sequence[Classification | Detections]) -> dict[str, Array]:
    """Return results as arrays of equal rows.

    Args:
        found: one an image.

    Returns:
        ``labels`` (N, K) of bytes, ``classes`` (N, K) int64, ``scores`` (N, K) float32; of a detector also ``boxes``
        (N, K, 4) float32 (left, top, right, bottom in pixels of the picture) and ``count`` (N, 1) int64. What is
        missing of K has class -1, no label and score 0.
    """
    longest = max(len(each.scores) for each in found)
    shape = (len(found), longest)
    arrays: dict[str, Array] = {
        "labels": np.full(shape, b"", object),
        "classes": np.full(shape, -1, np.int64),
        "scores": np.zeros(shape, np.float32),
    }
    detector = isinstance(found[0], Detections)
    if detector:
        arrays = {"count": np.array([[len(each.scores)] for each in found], np.int64), **arrays}
        arrays["boxes"] = np.zeros((*shape, 4), np.float32)
    for row, each in enumerate(found):
        count = len(each.scores)
        arrays["labels"][row, :count] = [label.encode() for label in each.labels]
        arrays["classes"][row, :count] = each.classes
        arrays["scores"][row, :count] = each.scores
        if isinstance(each, Detections):
            arrays["boxes"][row, :count] = each.boxes
    return arrays


class Network:
    """The network's tensors, neither prepared nor decoded here."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.name = f"{predictor.spec.name}_network"
        spec = predictor.spec
        height, width = image_size(spec.input, spec.preprocessing.layout)
        self._whole = Geometry(1.0, 1.0, 0.0, 0.0, width, height)

    def metadata(self) -> dict[str, Any]:
        """Return its inputs and outputs as the protocol describes them."""
        spec = self._predictor.spec
        return {
            "platform": self._predictor.variant.target,
            "inputs": [_tensor(spec.input, spec)],
            "outputs": [_tensor(each, spec) for each in spec.outputs],
        }

    def rows(self, request: Request, deadline: float) -> list[Row]:
        """Split an input into rows.

        Raises:
            Refused: it is not the network's.
        """
        one = self._predictor.buffer()[:1]
        given = request.inputs.get(self._predictor.spec.input.name)
        fits = given is not None and given.dtype == one.dtype and given.ndim == one.ndim
        if not fits or len(request.inputs) != 1 or given is None or given.shape[1:] != one.shape[1:] or not len(given):
            shape = ", ".join(["N", *map(str, one.shape[1:])])
            raise Refused(
                400,
                f"'{self.name}' takes one input, '{self._predictor.spec.input.name}', of {datatype_of(one.dtype.name)} "
                f"and shape [{shape}]",
            )
        if given.dtype.kind == "f" and not math.isfinite(float(np.sum(given, dtype=np.float64))):
            raise Refused(400, f"the input of '{self.name}' holds values that are not finite")
        return [Row(np.ascontiguousarray(given[row : row + 1]), self._whole, deadline) for row in range(len(given))]

    def outputs(self, request: Request, answers: Sequence[Inferred]) -> Mapping[str, Array]:  # noqa: ARG002 - as all do
        """Put the network's answers together again."""
        for each in answers:
            require_numbers(each.outputs, self._predictor.spec)
        found: dict[str, Array] = {}
        for name in answers[0].outputs:
            rows = [each.outputs[name] for each in answers]
            if len({row.shape for row in rows}) != 1:
                raise Refused(400, "the network gives another number of rows for each picture: send one in a request")
            found[name] = rows[0] if len(rows) == 1 else np.concatenate(rows)
        return found


def _tensor(tensor: TensorSpec, spec: ModelSpec) -> dict[str, Any]:
    """Describe a tensor; the batch is variable, as requests may hold any number of pictures."""
    shape = [-1 if isinstance(size, str) else size for size in tensor.shape]
    if has_batch(spec, tensor):
        shape[0] = -1
    return _described(tensor.name, datatype_of(tensor.dtype), shape)
