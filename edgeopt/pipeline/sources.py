"""The recipe's network before any stage ran: opened for training or for export, or refused with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.config import Config, ModelConfig
from edgeopt.errors import ModelError
from edgeopt.files import named_path, sha256
from edgeopt.spec import replace
from edgeopt.typed import from_json

if TYPE_CHECKING:
    from edgeopt.pipeline.workspace import Artifact
    from edgeopt.source import Source

WEIGHTS = "weights.safetensors"
STRUCTURE = "structure.json"
"""Form that pruning gave a network."""


def source_to_train(config: Config, root: Path, labels: tuple[str, ...]) -> Source:
    """Return the network as training starts with it.

    Args:
        config: the recipe.
        root: the folder that its relative paths start from.
        labels: class names of the recipe or of its data.

    Raises:
        ModelError: as `source.resolve`; or it is a graph, which cannot be trained.
        MissingExtraError: a library that the reference needs is not installed.
    """
    from edgeopt.source import resolve

    source = resolve(config.model, root, labels)
    if source.module is None:
        raise ModelError(f"'{config.model.source}' cannot be trained: it is a graph. Remove [train]")
    return source


def source_to_export(config: Config, root: Path, labels: tuple[str, ...], weights: Path | None = None) -> Source:
    """Return the network with its weights.

    Args:
        config: the recipe.
        root: the folder that its relative paths start from.
        labels: class names of the recipe or of its data.
        weights: those that training made; None: the recipe has no ``[train]``.

    Raises:
        ModelError: as `source.resolve`; or there are no weights, or only some for other classes.
        MissingExtraError: a library that the reference needs is not installed.
    """
    from edgeopt.source import resolve

    if config.fit is not None:
        return _backbone(config, root)
    model = config.model if weights is None else replace(config.model, weights=str(weights))
    is_file = model.source.endswith(".pt2") or is_self_telling(named_path(root, model.source))
    source = resolve(model, root, () if is_published(config, root) and not is_file else labels)
    if not source.has_weights:
        raise ModelError(f"'{model.source}' has no weights: give [model] weights, or add a [train] table to train it")
    if source.untrained and weights is None:
        raise ModelError(
            f"the weights of '{model.source}' are for other classes than {len(labels)} of this recipe: "
            "add a [train] table to fine-tune them, or give weights for these classes"
        )
    return source


def _backbone(config: Config, root: Path) -> Source:
    """Return the network whose features are classified; layers of its own classes may be untrained."""
    from edgeopt.source import resolve

    source = resolve(config.model.frozen, root)
    if not source.has_weights:
        raise ModelError(
            f"the backbone '{config.model.backbone}' has no weights, so that its features mean nothing: give [model] "
            "weights"
        )
    return source


def compressed_source(source: Source, artifact: Artifact) -> Source:
    """Return the unpruned source with the form and the weights of `compressed`."""
    from edgeopt.compress import restructure
    from edgeopt.source.weights import read_weights

    assert source.module is not None
    structure = from_json(artifact.file(STRUCTURE).read_bytes(), dict[str, dict[str, int | tuple[int, ...]]])
    restructure(source.module, structure, read_weights(artifact.file(WEIGHTS)))
    return source


def class_names(config: Config, root: Path) -> tuple[str, ...] | None:
    """The class names that the recipe or, where nothing is trained, the published network fixes; None: the data's.

    Raises:
        ModelError: a label file that cannot be used, or no such network.
    """
    if config.model.labels is not None:
        from edgeopt.source.specification import read_labels

        return read_labels(config.model, root)
    if is_published(config, root) and config.model.source.startswith("edgeopt:"):
        from edgeopt.models import network

        return network(config.model.source.removeprefix("edgeopt:")).labels
    if is_self_telling(named_path(root, config.model.source)):
        from edgeopt.source.identified import labels_in_file

        return labels_in_file(named_path(root, config.model.source))
    return None


def is_published(config: Config, root: Path) -> bool:
    """Return True if the network keeps the classes it was published with.

    So it does where nothing is trained, the recipe names no classes, and the weights are not for another number.

    Raises:
        ModelError: no such network, or weights that cannot be read.
    """
    model = config.model
    if config.trains or config.fit is not None or model.labels is not None or "num_classes" in model.arguments:
        return False
    if model.weights is None or not model.source.startswith("edgeopt:"):
        return True
    from edgeopt.models import network
    from edgeopt.source import classes_in_weights

    return classes_in_weights(model, root) in (None, len(network(model.source.removeprefix("edgeopt:")).labels))


def is_self_telling(path: Path) -> bool:
    """Return True of a model file that tells about itself: ``.onnx`` or one of TensorFlow's."""
    from edgeopt.source.tensorflow_models import is_tensorflow

    return path.suffix.lower() == ".onnx" or is_tensorflow(path)


def source_hashes(model: ModelConfig, root: Path) -> list[str]:
    """Sha256 of the files that the model comes from, so that a changed file is another model."""
    return [sha256(path) for path in _files(model, root)]


def named_hashes(model: ModelConfig, root: Path) -> dict[str, str]:
    """Sha256 of the files that the model comes from by their names, without the folders that they lie in."""
    found: dict[str, str] = {}
    for path in _files(model, root):
        same = sum(name == path.name or name.startswith(f"{path.name} (") for name in found)
        found[f"{path.name} ({same + 1})" if same else path.name] = sha256(path)
    return found


def _files(model: ModelConfig, root: Path) -> list[Path]:
    from edgeopt.source import source_files

    return source_files(model if model.backbone is None else model.frozen, root)
