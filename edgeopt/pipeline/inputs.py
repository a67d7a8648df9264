"""Compare calibration samples with a graph's inputs before anything runs: names, types, ranks and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.errors import DataError, ModelError, did_you_mean

Sample: TypeAlias = tuple[str, dict[str, NDArray[Any]]]
"""Name of an image or sample, and the network's inputs for it, by name."""
_RANK = 4
"""Dimensions of a batch of images."""


def graph_inputs(model: ir.Model) -> list[ir.Value]:
    """Return the inputs that a caller must feed: those that no initializer fills in."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def fitted(model: ir.Model, samples: Iterable[Sample], source: str, note: Callable[[str], None]) -> Iterator[Sample]:
    """Yield samples as the network takes them; what needed changing in all of them is said once.

    Repaired are what can mean one thing only: the one array under another name for the one input, arrays beyond the
    inputs, numbers of another width (float64 for float32), and the dimension that counts samples before an input that
    has none for images.

    Args:
        model: the network.
        samples: inputs by name, each of batch 1.
        source: what they come from, for messages.
        note: told about each repair.

    Raises:
        DataError: a sample that is not what the network takes; the message has both shapes and the likely cause.
        ModelError: the network takes several images at a time.
    """
    inputs, said = graph_inputs(model), set[str]()

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            note(text)

    for name, arrays in samples:
        named = _named(inputs, arrays, source, say)
        yield name, {key: _fitted(value, named[key], name, say) for key, value in _by_name(inputs).items()}


def _by_name(inputs: Iterable[ir.Value]) -> dict[str, ir.Value]:
    return {value.name or "": value for value in inputs}


def _named(
    inputs: list[ir.Value], arrays: Mapping[str, NDArray[Any]], source: str, say: Callable[[str], None]
) -> Mapping[str, NDArray[Any]]:
    """Return the arrays under the names of the inputs."""
    wanted = list(_by_name(inputs))
    missing = [name for name in wanted if name not in arrays]
    if len(wanted) == len(missing) == len(arrays) == 1:
        (found,) = arrays
        say(f"{source} has no array '{wanted[0]}': its only one, '{found}', was taken for it")
        return {wanted[0]: arrays[found]}
    if missing:
        listed = ", ".join(_described(value) for value in inputs)
        hint = did_you_mean(missing[0], arrays, "Write them with numpy.savez(path, name=array)")
        raise DataError(f"{source} has no array '{missing[0]}'; the network takes {listed}.{hint}")
    if more := [name for name in arrays if name not in wanted]:
        say(f"{source} has arrays that the network does not take, which were left out: {', '.join(more)}")
    return arrays


def _fitted(value: ir.Value, array: NDArray[Any], sample: str, say: Callable[[str], None]) -> NDArray[Any]:
    if _counts_nothing(value, array):
        say(f"input '{value.name}' has no dimension for images: it was given what each sample holds, without one")
        array = array.reshape(array.shape[1:])
    _check_shape(value, array, sample)
    if value.dtype is None or value.dtype.numpy() == array.dtype:
        return array
    wanted = np.dtype(value.dtype.numpy())
    same = np.issubdtype(array.dtype, np.floating) and np.issubdtype(wanted, np.floating)
    if not same and not (array.dtype.kind in "iub" and wanted.kind in "iub" and _is_lossless(array, wanted)):
        raise DataError(
            f"sample '{sample}' gives input '{value.name}' {array.dtype} {array.shape}, but the network takes "
            f"{_described(value)}.{_type_cause(array, wanted)}"
        )
    say(f"input '{value.name}' was given as {array.dtype} and converted to the {wanted} that the network takes")
    with np.errstate(over="ignore"):
        made = array.astype(wanted)
    if same and not np.isfinite(made[np.isfinite(array)]).all():
        raise DataError(
            f"sample '{sample}' gives input '{value.name}' numbers that {wanted} cannot hold: up to "
            f"{np.abs(array[np.isfinite(array)]).max():.3g}. Scale them as the network was trained"
        )
    return made


def _counts_nothing(value: ir.Value, array: NDArray[Any]) -> bool:
    """Return True if an input is a number, or begins with another side than one for images."""
    if value.shape is None or array.shape[:1] != (1,):
        return False
    wanted = [side if isinstance(side, int) else None for side in value.shape]
    return wanted[:1] not in ([1], [None]) and _fits(wanted, array.shape[1:])


def _is_lossless(array: NDArray[Any], wanted: np.dtype[Any]) -> bool:
    return bool((array.astype(wanted).astype(array.dtype) == array).all())


def _type_cause(array: NDArray[Any], wanted: np.dtype[Any]) -> str:
    if array.dtype == np.uint8 and wanted.kind == "f":
        return (
            " These look like pixels before normalization: scale and normalize them as in training (often / 255), "
            "or give the images with --spec"
        )
    if array.dtype.kind == "f" and wanted == np.uint8:
        return (
            " These look like normalized pixels, and the network normalizes them itself: give them as uint8, 0 to 255"
        )
    return f" Convert them with .astype('{wanted}') if that is what the network was trained on"


def _check_shape(value: ir.Value, array: NDArray[Any], sample: str) -> None:
    if value.shape is None:
        return
    wanted = [side if isinstance(side, int) else None for side in value.shape]
    if _fits(wanted, array.shape):
        return
    if len(wanted) == array.ndim and (wanted[0] or 1) != 1 and _fits([1, *wanted[1:]], array.shape):
        raise ModelError(
            f"the network takes {wanted[0]} images at a time ({_described(value)}), and ranges are found image by "
            "image. Export it with a batch of 1, or with a dynamic one"
        )
    raise DataError(
        f"sample '{sample}' gives input '{value.name}' the shape {array.shape}, but the network takes "
        f"{_described(value)}. {_shape_cause(wanted, array.shape)}"
    )


def _fits(wanted: list[int | None], found: tuple[int, ...]) -> bool:
    return len(wanted) == len(found) and all(side in (None, given) for side, given in zip(wanted, found, strict=True))


def _shape_cause(wanted: list[int | None], found: tuple[int, ...]) -> str:
    """Say what is likely wrong, and what to do."""
    rank, first = len(wanted), "The first dimension of an array counts samples"
    if len(found) != rank:
        if _fits(wanted[1:], found[1:]) or len(found) < rank:
            return f"{first}: give (samples, {', '.join(_side(side) for side in wanted[1:])}), one batch of 1 for each"
        return f"{first}, and every sample has a batch of 1: leave out what is too much, such as a second batch axis"
    if rank == _RANK:
        if _fits(wanted, _moved(found, (0, 3, 1, 2))):
            return 'Channels are last in it and second in the network: array.transpose(0, 3, 1, 2), or layout = "NCHW"'
        if _fits(wanted, _moved(found, (0, 2, 3, 1))):
            return 'Channels are second in it and last in the network: array.transpose(0, 2, 3, 1), or layout = "NHWC"'
        if _fits(wanted, _moved(found, (0, 1, 3, 2))):
            return "Height and width are swapped: sizes are (height, width)"
        different = [axis for axis in range(1, rank) if wanted[axis] not in (None, found[axis])]
        if all(found[axis] in (1, 3) and wanted[axis] in (1, 3, 4) for axis in different):
            return 'The number of channels differs: grey ("GRAY") has 1, colour ("BGR", "RGB") has 3'
    return "The size differs: resize them to what the network takes, or export it for this size"


def _moved(found: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(found[axis] for axis in order)


def _side(side: int | None) -> str:
    return "any" if side is None else str(side)


def _described(value: ir.Value) -> str:
    shape = "" if value.shape is None else f" ({', '.join(str(side) for side in value.shape)})"
    dtype = "" if value.dtype is None else f" {str(value.dtype).lower()}"
    return f"'{value.name}'{dtype}{shape}"
