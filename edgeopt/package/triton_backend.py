"""Models of Triton's Python backend, which the model.py of a packaged repository names.

Pictures that Triton gathered from several requests run as one batch. A geometry travels through an ensemble as (N, 6)
float64: scale x and y, offset x and y, width and height.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Geometry
from edgeopt.bundle import Bundle
from edgeopt.errors import DataError, EdgeoptError
from edgeopt.postprocess import Classification, Detections, decode, require_numbers
from edgeopt.preprocess import preprocess, to_bgr
from edgeopt.runtime import Predictor, load
from edgeopt.runtime.verify import verify_running
from edgeopt.serve.models import PICTURE, results
from edgeopt.spec import ModelSpec
from edgeopt.typed import from_json

GEOMETRY = "geometry"
Array = NDArray[Any]


def _backend() -> Any:
    """Return the module that Triton itself provides inside of a model."""
    import triton_python_backend_utils as backend

    return backend


def _input(request: Any, name: str) -> Array:
    found: Array = _backend().get_input_tensor_by_name(request, name).as_numpy()
    return found


def _response(outputs: dict[str, Array]) -> Any:
    backend = _backend()
    return backend.InferenceResponse(output_tensors=[backend.Tensor(name, array) for name, array in outputs.items()])


def _refusal(message: str) -> Any:
    backend = _backend()
    return backend.InferenceResponse(output_tensors=[], error=backend.TritonError(message))


def _folder(arguments: dict[str, str]) -> Path:
    """Return the folder of a model's version."""
    return Path(arguments["model_repository"]) / arguments["model_version"]


def _unreadable(content: bytes) -> str:
    return f"a picture of {len(content)} bytes is damaged, or not a picture"


class Predict:
    """Pictures in, results out, by `edgeopt.runtime`."""

    _predictor: Predictor

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that lies beside the model, and run its golden inputs.

        Raises:
            BundleError: they are not answered as recorded.
            TargetError: nothing of it runs here.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        folder = _folder(args) / parameters["bundle"]["string_value"]
        self._predictor = load(folder, variant=parameters["variant"]["string_value"] or None)
        bundle = Bundle.open(folder, check_hashes=False)
        if bundle.variant(self._predictor.variant.name).golden is not None:
            verify_running(bundle, self._predictor).require()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, their pictures in one batch."""
        responses: list[Any] = [None] * len(requests)
        pictures: list[Any] = []
        places: list[int] = []
        for number, request in enumerate(requests):
            contents = _input(request, PICTURE).reshape(-1).tolist()
            try:
                decoded = [to_bgr(content) for content in contents]
            except DataError:
                responses[number] = _refusal(_unreadable(b"".join(contents)))
                continue
            pictures += decoded
            places += [number] * len(decoded)
        try:
            found = self._predictor.predict_batch(pictures) if pictures else []
        except EdgeoptError:
            return [each or _refusal("the network did not answer; the server's log says why") for each in responses]
        for number in dict.fromkeys(places):
            own = [each for each, place in zip(found, places, strict=True) if place == number]
            responses[number] = _response(results(own))
        return responses

    def finalize(self) -> None:
        """Close the engine."""
        self._predictor.close()


class _Stage:
    """A model of an ensemble, which knows the network's specification."""

    _spec: ModelSpec

    def initialize(self, args: dict[str, str]) -> None:
        """Read the specification that lies beside the model."""
        self._spec = from_json((_folder(args) / "spec.json").read_bytes(), ModelSpec)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests one by one."""
        return [self._answered(request, self._answer) for request in requests]

    def _answered(self, request: Any, answer: Callable[[Any], dict[str, Array]]) -> Any:
        try:
            return _response(answer(request))
        except DataError:
            return _refusal("a picture is damaged, or not a picture")
        except EdgeoptError:
            return _refusal("the network did not answer as its specification says")

    def _answer(self, request: Any) -> dict[str, Array]:
        raise NotImplementedError


class Prepare(_Stage):
    """Pictures to the network's input."""

    def _answer(self, request: Any) -> dict[str, Array]:
        prepared = [
            preprocess(to_bgr(content), self._spec.preprocessing)
            for content in _input(request, PICTURE).reshape(-1).tolist()
        ]
        geometries = [
            (each.scale_x, each.scale_y, each.offset_x, each.offset_y, each.width, each.height) for _, each in prepared
        ]
        tensors = np.stack([tensor for tensor, _ in prepared])
        return {self._spec.input.name: tensors, GEOMETRY: np.array(geometries, np.float64)}


class Decode(_Stage):
    """The network's outputs to results."""

    def _answer(self, request: Any) -> dict[str, Array]:
        outputs = {each.name: _input(request, each.name) for each in self._spec.outputs}
        require_numbers(outputs, self._spec)
        geometries = [
            Geometry(x, y, left, top, int(width), int(height))
            for x, y, left, top, width, height in _input(request, GEOMETRY).tolist()
        ]
        found: list[Classification] | list[Detections] = decode(outputs, self._spec, geometries)
        return results(found)
