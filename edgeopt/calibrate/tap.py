"""Read any tensor inside a network, with onnxruntime sessions whose outputs are the tensors asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.errors import ModelError, requires_extra

CHUNK_BYTES = 256 << 20
"""Most memory of tapped tensors in one run. A network with more is run several times an image."""

Feeds = Mapping[str, NDArray[Any]]
"""Inputs of the network for one image, by name."""
Outputs = Sequence[list[NDArray[Any]]]
"""All outputs, image by image."""


class Tap:
    """A network that returns the tensors `names`, in chunks of bounded memory."""

    def __init__(self, model: ir.Model, names: Sequence[str], *, fused: bool = True, threads: int = 0) -> None:
        values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
        missing = [name for name in names if name not in values]
        if missing:
            raise ModelError(f"the model has no tensor {missing[:5]}. Optimize and calibrate the same graph")
        chunks = _chunks([values[name] for name in names])
        self._parts = [
            (onnx_session(_with_outputs(model, chunk), fused=fused, threads=threads), chunk) for chunk in chunks
        ]

    def run(self, feeds: Feeds) -> Iterator[tuple[list[str], list[NDArray[Any]]]]:
        """Yield names and arrays of each chunk."""
        for session, names in self._parts:
            yield names, _run(session, names, feeds)


def onnx_session(model: ir.Model, *, fused: bool = True, threads: int = 0) -> Any:
    """Open an onnxruntime session: on a GPU where the installed onnxruntime has CUDA, else on the CPU.

    Args:
        model: the model to run.
        fused: let onnxruntime replace Q/DQ patterns by integer kernels. Without, they run as written.
        threads: of one operator; 0 leaves the choice to onnxruntime.

    Raises:
        ModelError: onnxruntime cannot run it.
    """
    ort = requires_extra("onnxruntime", "ort")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what fails is raised, and initializers that a part does not use are no news
    if not fused:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, _providers(ort))
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise ModelError(f"onnxruntime cannot run the model: {error}") from error


def _providers(ort: Any) -> list[Any]:
    """Return CUDA before the CPU where onnxruntime-gpu is installed, without TF32, whose 10 bits would blur errors."""
    cuda = [("CUDAExecutionProvider", {"use_tf32": "0"})]
    found = set(ort.get_available_providers())
    return [each for each in cuda if each[0] in found] + ["CPUExecutionProvider"]


def outputs_as_written(model: ir.Model, feeds: Iterable[Feeds]) -> Outputs:
    """Return every output of `model` on every image, with Q/DQ computed as written, not by kernels that may saturate.

    Raises:
        ModelError: onnxruntime cannot run it.
    """
    return list(each_as_written(model, feeds))


def each_as_written(model: ir.Model, feeds: Iterable[Feeds]) -> Iterator[list[NDArray[Any]]]:
    """Yield the outputs of `outputs_as_written` image by image, for callers that do not keep them all.

    Raises:
        ModelError: onnxruntime cannot run the model.
    """
    session = onnx_session(model, fused=False)
    for image in feeds:
        yield _run(session, None, image)


def _run(session: Any, names: Sequence[str] | None, feeds: Feeds) -> list[NDArray[Any]]:
    try:
        found: list[NDArray[Any]] = session.run(names, dict(feeds))
    except Exception as error:  # see `onnx_session`
        shapes = ", ".join(f"'{name}' {array.dtype} {array.shape}" for name, array in feeds.items())
        raise ModelError(
            f"onnxruntime opens the model and cannot run it on {shapes}: {' '.join(str(error).split())}. Give inputs "
            "of the size that it was exported for, or export it again"
        ) from error
    return found


def _with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    part = model.clone()
    values = ir.convenience.create_value_mapping(part.graph, include_subgraphs=False)
    part.graph.outputs[:] = [values[name] for name in names]
    return part


def _chunks(values: Sequence[ir.Value]) -> list[list[str]]:
    """Split tensors so that each chunk of one image stays under `CHUNK_BYTES`."""
    chunks: list[list[str]] = []
    room = 0
    for value in values:
        size = 4 * math.prod(dim if isinstance(dim, int) else 1 for dim in value.shape or ())
        if size > room or not chunks:
            chunks.append([])
            room = CHUNK_BYTES
        chunks[-1].append(value.name or "")
        room -= size
    return chunks
