"""Identify model files, once each."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from edgeopt.config import ModelConfig
from edgeopt.errors import ModelError
from edgeopt.identify import Facts, Identification
from edgeopt.identify.identifying import identify
from edgeopt.identify.reading import facts_of
from edgeopt.source.onnx_file import read_onnx
from edgeopt.source.specification import read_labels
from edgeopt.source.tensorflow_models import as_onnx
from edgeopt.source.weights import check_file
from edgeopt.spec import Size, replace

_KEPT = 8
"""Files whose facts are remembered: each stage of a build asks again."""


def identify_file(path: Path, size: Size | None = None, data_labels: tuple[str, ...] = ()) -> Identification:
    """Identify an ``.onnx`` file, or one of TensorFlow's models.

    Args:
        path: the file.
        size: (height, width), for one that takes any.
        data_labels: class names of the images that it is for.

    Raises:
        ModelError: as `read_onnx`.
    """
    path = as_onnx(path)
    stat = check_file(path, "the model").stat()
    return identify(_facts(path.resolve(), stat.st_mtime_ns, stat.st_size, size), data_labels)


def completed(
    path: Path, model: ModelConfig, root: Path, labels: tuple[str, ...]
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return a recipe's ``[model]`` with what its file tells where the recipe says nothing, and the class names.

    Args:
        path: the ``.onnx`` file.
        model: what the recipe says, which counts.
        root: the folder that its relative paths start from.
        labels: class names of the data.

    Raises:
        ModelError: as `read_onnx`; or the outputs can be read in several ways, and the recipe does not say which.
    """
    names = read_labels(model, root) or labels
    if None not in (model.preprocessing, model.decoding, model.input_size) and names:
        return model, names
    found = identify_file(path, model.input_size, names)
    names = names or (() if found.labels is None else found.labels.value)
    size = None if found.input_size is None else found.input_size.value
    chosen = found.settled
    if chosen is None:
        _refuse_to_guess(path, model, found)
        return replace(model, input_size=model.input_size or size), names
    preparing = None if chosen.preprocessing is None else chosen.preprocessing.value
    decoding = model.decoding
    if decoding is None and "preset" in chosen.decoding:  # a classifier's own is found where it is opened
        decoding = chosen.decoder
    return replace(
        model,
        preprocessing=model.preprocessing or preparing,
        decoding=decoding,
        input_size=model.input_size or size,
    ), names


def _refuse_to_guess(path: Path, model: ModelConfig, found: Identification) -> None:
    names = [each.name for each in found.candidates]
    if model.decoding is None and len(names) > 1:
        listed = " or ".join(f'"{each.name}" ({each.family})' for each in found.candidates)
        raise ModelError(
            f"the outputs of {path} can be read as {listed}, and nothing in the file decides. Say it with [model] "
            f"decoding, or let labelled images decide: edgeopt inspect {path.name} --data"
        )


def labels_in_file(path: Path) -> tuple[str, ...] | None:
    """Return the class names that an ``.onnx`` file's metadata hold for its outputs; None if there are none.

    Raises:
        ModelError: as `read_onnx`.
    """
    found = identify_file(path)
    return found.labels.value if found.labels is not None and found.names_itself else None


@lru_cache(maxsize=_KEPT)
def _facts(path: Path, _changed_ns: int, _bytes: int, size: Size | None) -> Facts:
    """Read a file's facts once, until it changes."""
    return facts_of(read_onnx(path, custom=True), size)
