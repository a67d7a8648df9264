"""Build torch modules by reference: edgeopt's networks, any callable, torchvision and timm."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from edgeopt import models
from edgeopt.config import ModelConfig
from edgeopt.errors import EdgeoptError, MissingExtraError, ModelError, SettingError, did_you_mean
from edgeopt.models.catalog import Adapt, imagenet_preprocessing
from edgeopt.models.outputs import named_tensors
from edgeopt.presets import expand
from edgeopt.references import code_files, importable, is_code, resolve
from edgeopt.source.specification import PREPROCESSING_FORM, override, read_labels, specify
from edgeopt.spec import (
    CenterCrop,
    Interpolation,
    Letterbox,
    ModelSpec,
    Normalization,
    Preprocessing,
    Resize,
    ResizeShorterSide,
    Size,
    Step,
    TensorSpec,
    replace,
)
from edgeopt.typed import convert

_OWN = "edgeopt:"
_TORCHVISION = "torchvision:"
_TIMM = "timm:"
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class BuiltNetwork:
    """A built module, and what is known about it."""

    module: nn.Module
    spec: ModelSpec
    brings_weights: bool
    class_layers: tuple[str, ...]
    """Key prefixes of the layers whose shape may depend on the number of classes."""
    known_weights: Adapt | None = None
    """Function from other files' weights to the network's own keys."""


def build(model: ModelConfig, root: Path, labels: tuple[str, ...]) -> BuiltNetwork:
    """Build the module that ``[model] source`` names. Its random initial weights are the same every time.

    Args:
        model: the recipe's ``[model]``.
        root: folder that Python modules may be imported from, beside the usual places.
        labels: class names of the data, used where the recipe has none.

    Raises:
        ModelError: an unknown reference, a constructor that fails, or a network that takes or gives something else
            than images and one tensor.
        MissingExtraError: torchvision or timm is not there.
    """
    names = read_labels(model, root) or labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        if model.source.startswith(_OWN):
            return _own(model, names)
        if model.source.startswith(_TORCHVISION):
            return _torchvision(model, names)
        if model.source.startswith(_TIMM):
            return _timm(model, names)
        return _callable(model, root, names)


def _own(model: ModelConfig, labels: tuple[str, ...]) -> BuiltNetwork:
    name = model.source.removeprefix(_OWN)
    row = models.network(name)
    classes = model.arguments.get("num_classes")
    if not labels:
        labels = row.labels
        if classes not in (None, len(labels)):
            raise ModelError(f"{model.source} with num_classes = {classes} needs as many [model] labels")
    if classes not in (None, len(labels)):
        raise ModelError(f"[model] arguments has num_classes = {classes}, but there are {len(labels)} labels")
    return BuiltNetwork(
        module=models.create(name, **{**model.arguments, "num_classes": len(labels)}),
        spec=override(models.default_spec(name, labels, model.input_size), model),
        brings_weights=False,
        class_layers=row.class_layers,
        known_weights=row.known_weights,
    )


def _torchvision(model: ModelConfig, labels: tuple[str, ...]) -> BuiltNetwork:
    library = _optional("torchvision.models", "torchvision", model.source)
    name = model.source.removeprefix(_TORCHVISION)
    known = library.list_models()
    if name not in known:
        raise ModelError(f"torchvision has no model '{name}'.{did_you_mean(name, known)}")
    module = _call(library.get_model, (name,), _with_classes(model, labels), model.source)
    size = model.input_size or (224, 224)
    return BuiltNetwork(
        module=module,
        spec=_observe(module, model, name, labels, size, imagenet_preprocessing(size)),
        brings_weights=model.arguments.get("weights") is not None,
        class_layers=("fc.", "classifier.", "heads.head.", "head."),
    )


def _timm(model: ModelConfig, labels: tuple[str, ...]) -> BuiltNetwork:
    library = _optional("timm", "timm", model.source)
    name = model.source.removeprefix(_TIMM)
    if not library.is_model(name):
        raise ModelError(f"timm has no model '{name}'.{did_you_mean(name, library.list_models())}")
    module = _call(library.create_model, (name,), _with_classes(model, labels), model.source)
    data = library.data.resolve_model_data_config(module)
    size = model.input_size or (int(data["input_size"][1]), int(data["input_size"][2]))
    mean, crop = tuple(data["mean"]), data["crop_mode"]
    if model.preprocessing is None and crop == "center" and size[0] != size[1]:
        raise ModelError(
            f"timm scales images for an input of {size[0]} x {size[1]} until they cover it, which no step here does. "
            "Give a square [model] input_size, or say [model.preprocessing] yourself"
        )
    preprocessing = Preprocessing(
        steps=timm_steps(size, float(data["crop_pct"]), data["interpolation"], crop, mean),
        normalization=Normalization(mean=mean, std=tuple(data["std"])),
    )
    layer: Any = getattr(module, "default_cfg")["classifier"]  # noqa: B009 - timm's own attribute
    return BuiltNetwork(
        module=module,
        spec=_observe(module, model, name, labels, size, preprocessing),
        brings_weights=bool(model.arguments.get("pretrained")),
        class_layers=(f"{layer}.",) if isinstance(layer, str) else tuple(f"{one}." for one in layer),
    )


def timm_steps(
    size: Size, crop_share: float, interpolation: str, crop: str, mean: tuple[float, ...]
) -> tuple[Step, ...]:
    """Return timm's evaluation: Pillow's antialiased resizing, of which a wrong filter costs points, and a crop.

    Args:
        size: (height, width) of the input; square where `crop` is ``center``.
        crop_share: share of the scaled image's sides that the crop has.
        interpolation: timm's name of it.
        crop: ``center``, ``squash`` or ``border``, which has the whole image on a ground of the mean colour.
        mean: of the channels, from 0 to 1.
    """
    filters: dict[str, Interpolation] = {"bilinear": "linear", "bicubic": "cubic", "lanczos": "lanczos"}
    chosen = filters.get(interpolation, "auto")
    scaled = tuple(math.floor(side / crop_share) for side in size)
    if crop == "squash":
        stretch = Resize(size=(scaled[0], scaled[1]), interpolation=chosen, antialias=chosen != "auto")
        return stretch, CenterCrop(size=size)
    if crop == "border":
        red, green, blue = (round(255 * each) for each in mean)
        whole = Letterbox(
            size=(scaled[0], scaled[1]), fill=(red, green, blue), interpolation=chosen,
            antialias=chosen != "auto", rounding="nearest",
        )  # fmt: skip
        return (whole,) if scaled == size else (whole, CenterCrop(size=size))
    shorter = ResizeShorterSide(pixels=max(scaled), interpolation=chosen, antialias=chosen != "auto")
    return shorter, CenterCrop(size=size)


def _callable(model: ModelConfig, root: Path, labels: tuple[str, ...]) -> BuiltNetwork:
    """Build ``package.module:callable``. Its author answers for the weights, which it may well load itself."""
    if not is_code(model.source):
        raise ModelError(
            f"[model] source = '{model.source}' is neither edgeopt:NAME, package.module:callable, torchvision:NAME, "
            f"timm:NAME, FILE.onnx nor FILE.pt2.{did_you_mean(model.source, [_OWN + key for key in models.NETWORKS])}"
        )
    with importable(root, model.source):
        factory = resolve(model.source, {}, "network", error=ModelError)
        built = _built(factory, (), model.arguments, model.source)
    module, brought = built if isinstance(built, tuple) and len(built) == 2 else (built, {})
    module = _module(module, model.source)
    if isinstance(brought, ModelSpec):
        spec = override(brought, model, read_labels(model, root))
    else:
        known = _known(model, brought)
        labels = read_labels(known, root) or labels
        spec = _observe(module, known, model.source.rpartition(":")[2], labels, _size(known), None)
    return BuiltNetwork(module=module, spec=spec, brings_weights=True, class_layers=())


def _known(model: ModelConfig, brought: Any) -> ModelConfig:
    """Return the recipe's ``[model]``, completed with the keys that a network's author returns beside the module."""
    try:
        if "decoding" in brought:
            brought = {**brought, "decoding": expand(brought["decoding"])}
        said = convert({"source": model.source, **brought}, ModelConfig)
    except (msgspec.ValidationError, SettingError, TypeError) as error:
        raise ModelError(
            f"{model.source} returns {brought!r} beside its network, where a ModelSpec or keys of [model] such as "
            f"input_size, preprocessing, labels and decoding are taken: {error}"
        ) from error
    return replace(model, **{key: getattr(said, key) for key in brought if not getattr(model, key)})


def _size(model: ModelConfig) -> Size:
    if model.input_size is None:
        also = f" Nor how they become its input. {PREPROCESSING_FORM}" if model.preprocessing is None else ""
        raise ModelError(
            f"{model.source} does not say the size of its images. Give [model] input_size = [height, width].{also}"
        )
    return model.input_size


def _observe(
    module: nn.Module,
    model: ModelConfig,
    name: str,
    labels: tuple[str, ...],
    size: Size,
    preprocessing: Preprocessing | None,
) -> ModelSpec:
    """Derive the specification of a module of another package by running it once."""
    wanted = model.preprocessing or preprocessing or Preprocessing()
    channels = 1 if wanted.channels == "GRAY" else 3
    shape = (channels, *size) if wanted.layout == "NCHW" else (*size, channels)
    training = module.training
    try:
        with torch.inference_mode():
            output = module.eval()(torch.zeros(2, *shape))
    except Exception as error:  # a foreign network can raise anything
        raise ModelError(
            f"{model.source} cannot be run on float32 images of shape (2, {', '.join(map(str, shape))}): "
            f"{type(error).__name__}: {error}. Check [model] input_size and preprocessing"
        ) from error
    finally:
        module.train(training)
    outputs = named_tensors(output)
    if not outputs or any(tensor.shape[:1] != (2,) for tensor in outputs.values()):
        raise ModelError(
            f"{model.source} gives {_kind(output)} for 2 images; a network must give tensors (N, ...). "
            "Wrap it in a module that returns those to be decoded"
        )
    return specify(
        model,
        name,
        labels,
        TensorSpec(name="images", shape=("N", *shape)),
        [
            TensorSpec(name=key, shape=("N", *tensor.shape[1:]), dtype=str(tensor.dtype).removeprefix("torch."))
            for key, tensor in outputs.items()
        ],
        preprocessing=preprocessing,
    )


def _kind(output: Any) -> str:
    return str(tuple(output.shape)) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"


def _with_classes(model: ModelConfig, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments, with as many classes as there are labels unless they say otherwise."""
    return {"num_classes": len(labels), **model.arguments} if labels else dict(model.arguments)


def _optional(module: str, package: str, source: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a torchvision of another torch build fails with RuntimeError
        raise MissingExtraError(
            f"{source} needs the Python package '{package}', which cannot be imported "
            f"({type(error).__name__}: {error}). Install one that fits torch {torch.__version__}: pip install {package}"
        ) from error


def _call(
    factory: Callable[..., Any], positional: tuple[Any, ...], arguments: dict[str, Any], source: str
) -> nn.Module:
    return _module(_built(factory, positional, arguments, source), source)


def _built(factory: Callable[..., Any], positional: tuple[Any, ...], arguments: dict[str, Any], source: str) -> Any:
    try:
        return factory(*positional, **arguments)
    except EdgeoptError:
        raise
    except Exception as error:  # the user's code can raise anything
        raise ModelError(
            f"{source} cannot be built with {arguments}: {type(error).__name__}: {error}. Check [model] arguments"
        ) from error


def _module(built: Any, source: str) -> nn.Module:
    if not isinstance(built, nn.Module):
        raise ModelError(f"{source} returns a {type(built).__name__}, not a torch.nn.Module")
    return built


def module_files(source: str, root: Path) -> list[Path]:
    """List the user's files behind ``package.module:callable``."""
    if source.startswith((_OWN, _TORCHVISION, _TIMM)):
        return []
    with importable(root):
        return code_files(source)
