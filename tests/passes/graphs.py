"""Small models for tests: ONNX text with random weights, and a way to run them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort


def model_of(text: str, seed: int = 0, opset: int = 18, **values: np.ndarray) -> ir.Model:
    """The model whose graph is the ONNX text, its weights filled in.

    Text has no short way to write a weight, so they are declared as inputs whose names begin with ``w``. They become
    initializers: `values` by name, else normal numbers scaled by the fan-in.
    """
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
    random = np.random.default_rng(seed)
    for value in [value for value in model.graph.inputs if (value.name or "").startswith("w")]:
        shape = value.shape.numpy()
        array = values.get(value.name)
        if array is None:
            array = random.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(np.asarray(array, np.float32), name=value.name)
        model.graph.register_initializer(value)
    return model


def run(model: ir.Model, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs of `model`, by onnxruntime without graph optimization."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
