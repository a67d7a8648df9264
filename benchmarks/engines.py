"""Engines' libraries called directly, with nothing of edgeopt between: what the runtime is compared with.

Imports nothing but numpy before a library is asked for, so that its memory can be told from edgeopt's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np


def open_library(
    path: str, target: str, tensor: np.ndarray, *, threads: int = 0, precision: str = "f32", hint: str = "latency"
) -> Callable[[], object]:
    """One inference a call, in place on `tensor`, under a variant's settings; ``ov`` and ``ort``."""
    if target == "ov":
        return _openvino(path, tensor, threads, precision, hint)
    if target == "ort":
        return _onnxruntime(path, tensor, threads)
    raise SystemExit(f"engines of target '{target}' are not called directly here, only those of ov and ort")


def _openvino(path: str, tensor: np.ndarray, threads: int, precision: str, hint: str) -> Callable[[], object]:
    import openvino

    core = openvino.Core()
    graph = core.read_model(path)
    graph.reshape(list(tensor.shape))
    settings: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": hint.upper()}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(graph, "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(tensor, shared_memory=True))
    return functools.partial(_infer, request, compiled, tensor)


def _infer(request: Any, *_: object) -> object:
    """Run a request; what it was made of and reads from has to live as long as it does."""
    return request.infer(share_outputs=True)


def _onnxruntime(path: str, tensor: np.ndarray, threads: int) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    binding = session.io_binding()
    binding.bind_cpu_input(name, tensor)
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {name: tensor})
    for output, array in zip(names, outputs, strict=True):
        binding.bind_output(output, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    return functools.partial(_run, session, binding, tensor, outputs)


def _run(session: Any, binding: Any, *_: object) -> None:
    """Run a binding; the arrays that it knows by their address have to live as long as it does."""
    session.run_with_iobinding(binding)
