"""Open a ``torch.export`` program (``.pt2``)."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import ExportedProgram

from edgeopt.config import ModelConfig
from edgeopt.errors import ModelError
from edgeopt.models.outputs import named_tensors
from edgeopt.source.specification import read_labels, specify
from edgeopt.source.weights import check_file
from edgeopt.spec import ModelSpec, TensorSpec

# File names, inside the archive, of pickled objects other than tensors: reading them could run any code.
_PICKLED = ("custom_obj_", "opaque_obj_")


def open_program(
    path: Path, model: ModelConfig, root: Path, labels: tuple[str, ...]
) -> tuple[ExportedProgram, ModelSpec]:
    """Read a ``.pt2`` and derive its ModelSpec.

    Raises:
        ModelError: no such file, holds more than a graph and tensors, or takes and gives something else than images
            of one size and one tensor.
    """
    check_file(path, "[model] source")
    program = _load(path)
    network_input, outputs = _tensors(program, path)
    if model.input_size not in (None, network_input.shape[2:]):
        raise ModelError(
            f"{path} was exported for {network_input.shape}. Leave [model] input_size out, or export again"
        )
    names = read_labels(model, root) or labels
    return program, specify(model, path.stem, names, network_input, outputs)


def _load(path: Path) -> ExportedProgram:
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [name for name in archive.namelist() if name.rpartition("/")[2].startswith(_PICKLED)]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:  # of a damaged directory, too
        raise ModelError(f"{path} is not a torch.export program: {error}. Write one with torch.export.save") from error
    if pickled:
        raise ModelError(f"{path} holds a pickled object ({pickled[0]}) that could run any code; it is not opened")
    try:
        with _tensors_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path)
    except Exception as error:  # an archive of another version or a damaged one can raise anything
        raise ModelError(
            f"{path} cannot be read as a torch.export program: {type(error).__name__}: {error}. "
            f"Export it again with torch {torch.__version__}"
        ) from error


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Keep torch.load, which torch.export.load calls, from falling back to plain unpickling."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _tensors(program: ExportedProgram, path: Path) -> tuple[TensorSpec, list[TensorSpec]]:
    """Return the image input and the outputs of `program`."""
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    found = []
    for kind, names in (("input", signature.user_inputs), ("output", signature.user_outputs)):
        tensors = [values.get(str(name)) for name in names]
        if not tensors or not all(isinstance(each, torch.Tensor) for each in tensors):
            raise ModelError(f"{path} has the {kind}s {list(names)}; they must be tensors")
        found.append([each for each in tensors if isinstance(each, torch.Tensor)])
    if len(found[0]) != 1:
        raise ModelError(
            f"{path} has the inputs {list(signature.user_inputs)}; a program must take one tensor of images"
        )
    image = _shape(found[0][0])
    if len(image) != 4 or not all(isinstance(side, int) for side in image[1:]):
        raise ModelError(
            f"{path} takes {image}; it must take images of one size (N, C, H, W). "
            "Export it again with only the batch dimension dynamic"
        )
    return (
        TensorSpec(name="images", shape=image),
        [
            TensorSpec(name=name, shape=_shape(tensor), dtype=str(tensor.dtype).removeprefix("torch."))
            for name, tensor in named_tensors(found[1]).items()
        ],
    )


def _shape(tensor: torch.Tensor) -> tuple[int | str, ...]:
    """Return the shape, with a dynamic batch named N."""
    batch, *rest = (side if isinstance(side, int) else str(side) for side in tensor.shape)
    return (batch if isinstance(batch, int) else "N", *rest)
