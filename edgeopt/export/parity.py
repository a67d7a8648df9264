"""Compare an exported graph with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import cv2
import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from edgeopt.errors import ModelError, ParityError, TargetError
from edgeopt.models.outputs import tensors_in
from edgeopt.preprocess import batch as preprocess_batch
from edgeopt.preprocess import feed
from edgeopt.runtime.golden import answers_difference
from edgeopt.runtime.ort import OrtSession
from edgeopt.spec import DetectionDecoding, ModelSpec

Array: TypeAlias = NDArray[Any]
Feed: TypeAlias = Mapping[str, Array]
"""Inputs by name, of N images."""
Reference: TypeAlias = Callable[[Feed], list[Array]]
"""Function from the inputs to the outputs, in the specification's order."""

_SEED = 20
_ROUNDS = 2
_PICTURE = (360, 480)


def difference(
    reference: AbstractContextManager[Reference],
    model: ir.Model,
    spec: ModelSpec,
    tolerance: float,
    counts: Sequence[int] = (1, 3),
) -> float:
    """Return the largest difference between `reference` and `model` on synthetic images.

    Args:
        reference: function that computes the right outputs.
        model: the model to check, in ONNX Runtime.
        spec: specification of `model`.
        tolerance: largest allowed difference.
        counts: batch sizes to try. The default is one image, and a number that no network has built in.

    Returns:
        ``max |model - reference|``, divided by ``max |reference|`` where that exceeds 1.

    Raises:
        ParityError: the difference exceeds `tolerance`, or a result is not finite or has another shape.
        ModelError: ONNX Runtime cannot run `model`.
    """
    rng = np.random.default_rng(_SEED)
    worst = 0.0
    with reference as right, onnx_reference(model, spec) as checked:
        for images in [sample_inputs(spec, count, rng) for count in counts for _ in range(_ROUNDS)]:
            expected, actual = right(images), checked(images)
            if isinstance(spec.decoding, DetectionDecoding) and spec.decoding.ranked:
                worst = max(worst, _rows_distance(expected, actual, spec, tolerance))
                continue
            for tensor, before, after in zip(spec.outputs, expected, actual, strict=True):
                worst = max(worst, _distance(tensor.name, before, after, tolerance))
    return worst


def sample_inputs(spec: ModelSpec, count: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return the inputs of a batch made by `spec.preprocessing` from smooth, noisy colour images."""
    height, width = _PICTURE
    images = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        noisy = smooth + rng.normal(0.0, 12.0, smooth.shape)
        images.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return feed(spec, *preprocess_batch(images, spec.preprocessing))


@contextmanager
def torch_reference(module: nn.Module) -> Iterator[Reference]:
    """Wrap a torch network, which takes nothing but the images, as a function of arrays."""

    def run(inputs: Feed) -> list[Array]:
        (images,) = inputs.values()
        with torch.inference_mode():
            return [tensor.numpy() for tensor in tensors_in(module(torch.from_numpy(images)))]

    yield run


@contextmanager
def onnx_reference(model: ir.Model, spec: ModelSpec) -> Iterator[Reference]:
    """Wrap a graph in ONNX Runtime as a function of arrays. One with a fixed batch is run as often as needed.

    Raises:
        ModelError: ONNX Runtime refuses the graph, when opened or when called.
    """
    fixed = spec.input.shape[0]
    try:
        with OrtSession(ir.to_proto(model).SerializeToString()) as session:

            def run(inputs: Feed) -> list[Array]:
                count = len(inputs[spec.input.name])
                step = fixed if isinstance(fixed, int) else count
                parts = [
                    session.run({name: array[i : i + step] if array.ndim else array for name, array in inputs.items()})
                    for i in range(0, count, step)
                ]
                return [np.concatenate([part[output.name] for part in parts]) for output in spec.outputs]

            yield run
    except TargetError as error:
        raise ModelError(f"{spec.name} cannot be run: {error}") from error


def _rows_distance(expected: list[Array], actual: list[Array], spec: ModelSpec, tolerance: float) -> float:
    """Compare rows that the network ranks by what they say: equal scores change places by the last bits."""
    assert isinstance(spec.decoding, DetectionDecoding)
    names = [tensor.name for tensor in spec.outputs]
    for name, *pair in zip(names, expected, actual, strict=True):
        if not all(np.isfinite(array).all() for array in pair):
            raise ParityError(f"output '{name}' is not finite. Check the weights: they overflow on ordinary images")
    batched = spec.decoding.batched
    before, after = (
        {name if batched else f"{name}[0]": array for name, array in zip(names, arrays, strict=True)}
        for arrays in (expected, actual)
    )
    apart = answers_difference(before, after, spec, "fp32")
    if apart > tolerance:
        raise ParityError(
            f"the detections of {', '.join(names)} changed by {apart:.2e} of the largest value, or by that score: more "
            f"than [export] tolerance = {tolerance:.0e}. The exported graph computes something else; raise the "
            "tolerance only if the values are known to be that uncertain"
        )
    return apart


def _distance(name: str, expected: Array, actual: Array, tolerance: float) -> float:
    if expected.shape != actual.shape:
        raise ParityError(f"output '{name}' has the shape {actual.shape} after export, {expected.shape} before")
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        raise ParityError(f"output '{name}' is not finite. Check the weights: they overflow on ordinary images")
    largest = float(np.abs(expected).max(initial=0.0))
    absolute = float(np.abs(expected - actual).max(initial=0.0))
    relative = absolute / max(1.0, largest)
    if relative > tolerance:
        raise ParityError(
            f"output '{name}' changed by {absolute:.2e} in a batch of {len(actual)}, where the largest value is "
            f"{largest:.3g}: {relative:.2e} is more than [export] tolerance = {tolerance:.0e}. The exported graph "
            "computes something else; raise the tolerance only if the values are known to be that uncertain"
        )
    return relative
