"""Convert one TensorFlow model to ONNX: run as a process of its own, ``python -m edgeopt.source.tensorflow_child``.

TensorFlow shares neither memory, threads nor a protobuf pool with torch and onnxruntime that way, and what it does to a
process ends with it. Arguments: the model, the ``.onnx`` to write, and an ``.npz`` for what the model answers to random
inputs, by which its parent judges the conversion.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_OPSET = 17
_SAMPLES = 2
_SEED = 3
_DYNAMIC = 1
"""Size of a dimension that the model leaves open, in the comparison."""
Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def main(model: str, out: str, answers: str) -> None:
    """Convert `model` to `out`, and write inputs and the original's outputs to `answers`."""
    path = Path(model)
    convert = _from_tflite if path.suffix.lower() == ".tflite" else _from_keras_or_saved
    signature, answer = convert(path, Path(out))
    rng = np.random.default_rng(_SEED)
    found: dict[str, Any] = {}
    for sample in range(_SAMPLES):
        inputs = {name: _random(rng, shape, dtype) for name, (shape, dtype) in signature.items()}
        found |= {f"in/{sample}/{name}": value for name, value in inputs.items()}
        found |= {f"out/{sample}/{name}": np.asarray(value) for name, value in answer(inputs).items()}
    np.savez(answers, **found)


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Any:
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return rng.integers(max(limits.min, -128), min(limits.max, 255), shape, endpoint=True).astype(kind)
    return rng.uniform(0.0, 1.0, shape).astype(kind)


def _from_tflite(path: Path, out: Path) -> tuple[dict[str, tuple[tuple[int, ...], Any]], Answer]:
    import tensorflow as tf
    import tf2onnx

    interpreter = tf.lite.Interpreter(
        model_path=str(path), experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    tf2onnx.convert.from_tflite(str(path), opset=_OPSET, output_path=str(out))

    def answer(given: Mapping[str, Any]) -> Mapping[str, Any]:
        for each in inputs:
            interpreter.set_tensor(each["index"], given[each["name"]])
        interpreter.invoke()
        return {each["name"]: interpreter.get_tensor(each["index"]) for each in outputs}

    return {each["name"]: (tuple(each["shape"]), each["dtype"]) for each in inputs}, answer


def _from_keras_or_saved(path: Path, out: Path) -> tuple[dict[str, tuple[tuple[int, ...], Any]], Answer]:
    import tensorflow as tf
    import tf2onnx

    if path.is_dir():
        module = tf.saved_model.load(str(path))
        function = module.signatures["serving_default"]
        specs = list(function.structured_input_signature[1].values())
        names = [spec.name for spec in specs]

        def call(*tensors: Any) -> Any:
            return function(**dict(zip(names, tensors, strict=True)))
    else:
        module = _load_keras(path)
        specs = [
            tf.TensorSpec(tensor.shape, tensor.dtype, name=f"input_{number}")
            for number, tensor in enumerate(module.inputs)
        ]

        def call(*tensors: Any) -> Any:
            return module(tensors[0] if len(tensors) == 1 else list(tensors), training=False)

    traced = tf.function(call, input_signature=specs)
    tf2onnx.convert.from_function(traced, input_signature=specs, opset=_OPSET, output_path=str(out))
    shapes = {
        spec.name: (tuple(side or _DYNAMIC for side in spec.shape.as_list()), spec.dtype.as_numpy_dtype)
        for spec in specs
    }

    def answer(given: Mapping[str, Any]) -> Mapping[str, Any]:
        found = tf.nest.flatten(traced(*(tf.constant(given[spec.name]) for spec in specs)))
        return {str(number): value.numpy() for number, value in enumerate(found)}

    return shapes, answer


def _load_keras(path: Path) -> Any:
    """Open a Keras file without running code in it; older ones (.h5) need the Keras that wrote them."""
    if path.suffix.lower() == ".keras":
        import keras

        return keras.models.load_model(str(path), compile=False, safe_mode=True)
    import tf_keras

    return tf_keras.models.load_model(str(path), compile=False, safe_mode=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
