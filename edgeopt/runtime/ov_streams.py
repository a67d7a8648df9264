"""OpenVINO's throughput mode: the images of a batch in requests of their own, several at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeopt.runtime.session import Array


class Streams:
    """A network that was compiled for one image and for throughput.

    Several small inferences side by side use the cores better than one whose layers are each split among them: nothing
    waits at the end of every layer.
    """

    def __init__(self, openvino: Any, compiled: Any) -> None:
        self._openvino = openvino
        count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = [compiled.create_infer_request() for _ in range(count)]

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Fill `outputs` from `inputs`.

        Args:
            inputs: in the network's order; first dimension N, C-contiguous.
            outputs: likewise, to write to.

        Raises:
            RuntimeError: OpenVINO's, after all requests have ended.
        """
        images = range(len(inputs[0]))
        started: list[Any] = []
        try:
            for image in images:
                request = self._requests[image % len(self._requests)]
                if image >= len(self._requests):
                    request.wait()
                self._bind(request, image, inputs, outputs)
                request.start_async()
                started.append(request)
        finally:
            for request in started[-len(self._requests) :]:
                request.wait()

    def _bind(self, request: Any, image: int, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        for position, array in enumerate(inputs):
            request.set_input_tensor(position, self._shared(array[image : image + 1]))
        for position, array in enumerate(outputs):
            request.set_output_tensor(position, self._shared(array[image : image + 1]))

    def _shared(self, array: Array) -> Any:
        return self._openvino.Tensor(array, shared_memory=True)
