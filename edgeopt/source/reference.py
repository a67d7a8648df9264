"""Resolve ``[model]``: find the source, its weights, and its ModelSpec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from torch import nn
from torch.export import ExportedProgram

from edgeopt.config import ModelConfig
from edgeopt.errors import ModelError
from edgeopt.files import named_path
from edgeopt.models import network
from edgeopt.source import graph, networks, onnx_file, program
from edgeopt.source.identified import completed
from edgeopt.source.specification import label_file
from edgeopt.source.tensorflow_models import as_onnx, is_tensorflow, tensorflow_files
from edgeopt.source.weights import check_file, find_weights, load_weights, read_weights
from edgeopt.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model before export: one of `module`, `program` and `onnx`, with what belongs to it."""

    spec: ModelSpec
    """Specification of inputs and outputs, with the normalisation still outside a torch model."""
    module: nn.Module | None = None
    """Torch module in evaluation mode. Only this kind can be trained."""
    program: ExportedProgram | None = None
    """Program from a ``.pt2`` file."""
    onnx: ir.Model | None = None
    """Graph from an ``.onnx`` file: operators of the standard domain only, one image input of known size."""
    has_weights: bool
    """False if nothing was loaded, so that the model must be trained."""
    untrained: tuple[str, ...] = ()
    """Keys that kept their random start because the weights are for other classes. They must be fine-tuned."""


def resolve(model: ModelConfig, root: Path, labels: tuple[str, ...] = ()) -> Source:
    """Find the model that a recipe names.

    Args:
        model: the recipe's ``[model]``.
        root: folder that relative paths start from, and that Python modules may be imported from.
        labels: class names of the data, for a model whose recipe names none. Give them only where the model is to
            learn them: empty leaves a published network its own classes.

    Returns:
        The model. One that takes its classes from `labels` and its weights from elsewhere keeps a random
        class-prediction layer where their numbers differ; `Source.untrained` names it.

    Raises:
        ModelError: the reference, the weights, the tail or the specification cannot be used; the message says what to
            change.
        MissingExtraError: a library that the reference needs is not installed.
    """
    suffix = Path(model.source).suffix.lower()
    if suffix in (".onnx", ".pt2") or is_tensorflow(named_path(root, model.source)):
        return _from_file(model, root, labels, suffix)
    _refuse_tail(model)
    network = networks.build(model, root, labels)
    untrained: tuple[str, ...] = ()
    if model.weights is not None:
        path = find_weights(model.weights, root)
        state = read_weights(path)
        fresh: tuple[str, ...] = ()
        if network.known_weights is not None:
            state, fresh = network.known_weights(state, network.module.state_dict())
        untrained = load_weights(
            network.module, state, class_layers=network.class_layers, fresh=fresh, origin=str(path)
        )
    return Source(
        spec=network.spec,
        module=network.module.eval(),
        has_weights=network.brings_weights or model.weights is not None,
        untrained=untrained,
    )


def classes_in_weights(model: ModelConfig, root: Path) -> int | None:
    """Return the number of classes of a built-in network's weights; None if they do not show it.

    Raises:
        ModelError: no such network, or weights that cannot be read.
    """
    row = network(model.source.removeprefix("edgeopt:"))
    assert model.weights is not None
    state = read_weights(find_weights(model.weights, root))
    layer = row.class_layers[0]
    found = {len(tensor) - row.background for key, tensor in state.items() if key.startswith(layer) and tensor.ndim}
    return found.pop() if len(found) == 1 else None


def source_files(model: ModelConfig, root: Path) -> list[Path]:
    """List the files that `resolve` reads, so that a change of one is noticed.

    Raises:
        ModelError: one is missing.
    """
    path = named_path(root, model.source)
    match path.suffix.lower():
        case _ if is_tensorflow(path):
            files = tensorflow_files(path)
        case ".onnx":
            files = [path, *onnx_file.external_files(path)]
        case ".pt2":
            files = [check_file(path, "[model] source")]
        case _:
            files = networks.module_files(model.source, root)
    if model.weights is not None:
        files.append(find_weights(model.weights, root))
    labels = label_file(model, root)
    return [*files, labels] if labels is not None else files


def _refuse_tail(model: ModelConfig) -> None:
    """Refuse to change the end of a network that is not a graph yet."""
    if model.tail != "keep":
        raise ModelError(
            f"[model] tail is '{model.tail}', and {model.source} is not an ONNX graph, whose end could be changed. "
            "Build it without, or export it with edgeopt export and build the .onnx with that tail"
        )


def _from_file(model: ModelConfig, root: Path, labels: tuple[str, ...], suffix: str) -> Source:
    """Open an ``.onnx``, a ``.pt2`` or one of TensorFlow's models, which contain their weights."""
    for key, value in (("weights", model.weights), ("arguments", model.arguments)):
        if value:
            raise ModelError(f"{model.source} contains its own weights. Remove [model] {key}")
    path = named_path(root, model.source)
    if suffix != ".pt2":
        path = as_onnx(path)
        model, labels = completed(path, model, root, labels)
        network, spec = graph.open_onnx(path, model, root, labels)
        return Source(spec=spec, onnx=network, has_weights=True)
    _refuse_tail(model)
    exported, spec = program.open_program(path, model, root, labels)
    return Source(spec=spec, program=exported, has_weights=True)
