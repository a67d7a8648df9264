"""Accuracy of a bundle's variants under attack."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeopt.attack.gradient import apgd, fgsm, pgd
from edgeopt.attack.network import loss_of
from edgeopt.attack.square import square
from edgeopt.bundle import Bundle, Variant
from edgeopt.dataset import Dataset
from edgeopt.errors import DataError, MissingExtraError, ModelError, TargetError
from edgeopt.evaluate.run import chosen_images
from edgeopt.postprocess.decoding import class_scores
from edgeopt.preprocess import Geometry
from edgeopt.progress import Progress, Silent
from edgeopt.runtime import Predictor, Prepared, open_variant
from edgeopt.spec import ModelSpec, image_size

_LOG = logging.getLogger(__name__)
RADII: Final = (2, 4, 8)
"""Largest changes of a pixel, of 255."""
_PGD_STEPS, _APGD_STEPS = 10, 20
_SEED = 0
Floats = NDArray[Any]


@dataclass
class Attacked:
    """Top-1 accuracy of each variant: clean, and under each attack by radius."""

    images: int
    radii: tuple[int, ...]
    clean: dict[str, float]
    attacks: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    """By attack, variant and radius. ``fgsm``, ``pgd`` and ``apgd`` follow the float baseline's gradient: on other
    variants they show what transfers. ``adaptive`` is APGD through the variant's own graph; ``square`` sees its scores
    alone."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Reason why a variant was not attacked by its own gradient, or not at all."""

    def worst(self, variant: str, radius: int) -> float:
        """Accuracy on the images that no attack of this radius turned, estimated by the best attack."""
        return min(found[variant][radius] for found in self.attacks.values() if variant in found)


def measure_attacks(
    bundle: Bundle,
    dataset: Dataset,
    *,
    radii: Sequence[int] = RADII,
    limit: int = 64,
    queries: int = 200,
    variant: str | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Attacked:
    """Attack a classifier's variants that run here, at the network's input.

    Args:
        bundle: an opened bundle.
        dataset: labelled images with the model's class names.
        radii: largest changes of a pixel, of 255.
        limit: number of images, spread over the set.
        queries: of the Square attack, for an image and radius; 0 leaves it out.
        variant: only this one and the baseline. Default: all that run here.
        threads: threads of the engines; 0 keeps the bundle's setting.
        progress: told which attack it is at.

    Raises:
        DataError: a detector, or images without labels or with other ones.
        ModelError: the baseline has no graph that gradients flow through.
        TargetError: the baseline does not run here.
    """
    display, baseline = progress or Silent(), bundle.variant(bundle.manifest.baseline)
    _check(bundle, dataset)
    chosen = chosen_images(len(dataset), limit)
    images = [dataset.image(index) for index in chosen]
    targets = np.asarray([dataset[index].target for index in chosen], np.int64)
    with ExitStack() as stack:
        models, skipped = _opened(bundle, baseline, variant, threads, stack)
        first = models[baseline.name]
        pixels = np.concatenate(
            [to_pixels(first.predictor.prepare_batch([image]).tensor, first.spec) for image in images]
        )
        clean = {name: model.accuracy(pixels, targets) for name, model in models.items()}
        result = Attacked(len(images), tuple(radii), clean, skipped=skipped)
        _transferred(result, bundle, baseline, models, pixels, targets, display)
        for name, model in models.items():
            if model.variant.precision == "int8":
                _adaptive(result, bundle, model, pixels, targets, display)
            if queries:
                _black_box(result, name, model, pixels, targets, queries, display)
    return result


@dataclass
class _Model:
    """An open variant."""

    variant: Variant
    predictor: Predictor
    spec: ModelSpec

    def scores(self, pixels: Floats) -> Floats:
        """(N, classes) for pixels from 0 to 1, each on its own as a camera gives them."""
        size = len(self.predictor.buffer())
        height, width = image_size(self.spec.input, self.spec.preprocessing.layout)
        whole, rows = Geometry(1.0, 1.0, 0.0, 0.0, width, height), []
        for start in range(0, len(pixels), size):
            part = from_pixels(pixels[start : start + size], self.spec)
            filled = np.resize(part, (size, *part.shape[1:]))
            found = self.predictor.infer(Prepared(filled, (whole,) * size))
            rows.append(class_scores(found.outputs, self.spec, found.geometries)[: len(part)].copy())
        return np.concatenate(rows)

    def accuracy(self, pixels: Floats, targets: Floats) -> float:
        """Top-1, from 0 to 1."""
        return float(np.mean(self.scores(pixels).argmax(axis=1) == targets))

    def margin(self, targets: Floats) -> Callable[[Floats], Floats]:
        """Return the lead of the true class as a function of pixels."""

        def lead(pixels: Floats) -> Floats:
            scores = self.scores(pixels)
            rows = np.arange(len(scores))
            true = scores[rows, targets]
            scores[rows, targets] = -np.inf
            return np.asarray(true - scores.max(axis=1))

        return lead


def _check(bundle: Bundle, dataset: Dataset) -> None:
    spec = bundle.manifest.spec
    if spec.task != "classification":
        raise DataError(f"'{spec.name}' is a detector: attacks are made on classifiers. edgeopt robustness takes both")
    if dataset.task != "classification" or dataset.labels != spec.labels:
        raise DataError(f"{dataset.origin} has not the labels of '{spec.name}'. Attacks need images with true classes")


def _opened(
    bundle: Bundle, baseline: Variant, name: str | None, threads: int, stack: ExitStack
) -> tuple[dict[str, _Model], dict[str, str]]:
    """Open the variants that run here, the baseline first."""
    wanted = bundle.manifest.variants if name is None else (bundle.variant(name),)
    models: dict[str, _Model] = {}
    skipped: dict[str, str] = {}
    for each in (baseline, *(other for other in wanted if other.name != baseline.name)):
        try:
            predictor = stack.enter_context(open_variant(bundle, each, threads=threads))
        except (TargetError, MissingExtraError) as error:
            if each.name in (baseline.name, name):
                raise
            skipped[each.name] = str(error)
            continue
        models[each.name] = _Model(each, predictor, bundle.spec(each.name))
    return models, skipped


def _transferred(
    result: Attacked,
    bundle: Bundle,
    baseline: Variant,
    models: Mapping[str, _Model],
    pixels: Floats,
    targets: Floats,
    display: Progress,
) -> None:
    """Attack the baseline, and show what was made to every variant."""
    loss = loss_of(bundle, baseline)
    for name, make in _GRADIENT.items():
        for radius in result.radii:
            display.begin(f"{name} at {radius}/255")
            changed = _in_parts(make, loss, pixels, targets, radius)
            found = result.attacks.setdefault(name, {})
            for each, model in models.items():
                found.setdefault(each, {})[radius] = model.accuracy(changed, targets)
            display.end(_summary(found, radius), reused=False)


def _adaptive(
    result: Attacked, bundle: Bundle, model: _Model, pixels: Floats, targets: Floats, display: Progress
) -> None:
    name = model.variant.name
    try:
        loss = loss_of(bundle, model.variant)
    except ModelError as error:
        result.skipped[name] = str(error)
        return
    for radius in result.radii:
        display.begin(f"adaptive on {name} at {radius}/255")
        changed = _in_parts(_GRADIENT["apgd"], loss, pixels, targets, radius)
        found = result.attacks.setdefault("adaptive", {})
        found.setdefault(name, {})[radius] = model.accuracy(changed, targets)
        display.end(_summary({name: found[name]}, radius), reused=False)


def _black_box(
    result: Attacked, name: str, model: _Model, pixels: Floats, targets: Floats, queries: int, display: Progress
) -> None:
    for radius in result.radii:
        display.begin(f"square on {name} at {radius}/255")
        random = np.random.default_rng(_SEED)
        layout = model.spec.preprocessing.layout
        changed = square(model.margin(targets), pixels, radius / 255.0, queries=queries, random=random, layout=layout)
        found = result.attacks.setdefault("square", {})
        found.setdefault(name, {})[radius] = model.accuracy(changed, targets)
        display.end(_summary({name: found[name]}, radius), reused=False)


def _fgsm(loss: Any, pixels: Tensor, radius: float, random: torch.Generator) -> Tensor:
    del random
    return fgsm(loss, pixels, radius)


def _pgd(loss: Any, pixels: Tensor, radius: float, random: torch.Generator) -> Tensor:
    return pgd(loss, pixels, radius, steps=_PGD_STEPS, random=random)


def _apgd(loss: Any, pixels: Tensor, radius: float, random: torch.Generator) -> Tensor:
    return apgd(loss, pixels, radius, steps=_APGD_STEPS, random=random)


_GRADIENT: Mapping[str, Callable[[Any, Tensor, float, torch.Generator], Tensor]] = {
    "fgsm": _fgsm,
    "pgd": _pgd,
    "apgd": _apgd,
}
_AT_ONCE = 16
"""Images of one gradient: activations of all layers are kept for it."""


def _in_parts(make: Any, loss: Any, pixels: Floats, targets: Floats, radius: int) -> Floats:
    """Attack a few images at a time; levels of 255 are whole, as a picture's are."""
    parts = []
    for start in range(0, len(pixels), _AT_ONCE):
        part = torch.from_numpy(pixels[start : start + _AT_ONCE])
        truth = torch.from_numpy(targets[start : start + _AT_ONCE])
        random = torch.Generator().manual_seed(_SEED + start)
        parts.append(make(loss(truth), part, radius / 255.0, random).numpy())
    return np.concatenate(parts)


def to_pixels(tensor: Floats, spec: ModelSpec) -> Floats:
    """Return a network's input as pixels from 0 to 1, whose axes and channels keep their order."""
    normalization = spec.preprocessing.normalization
    if normalization is None:
        return tensor.astype(np.float32) / np.float32(255.0)
    shape = (1, -1, 1, 1) if spec.preprocessing.layout == "NCHW" else (1, 1, 1, -1)
    mean, std = (np.asarray(each, np.float32).reshape(shape) for each in (normalization.mean, normalization.std))
    pixels = (tensor * std + mean) / np.float32(255.0 * normalization.scale)
    return np.asarray(np.clip(np.rint(pixels * 255.0) / 255.0, 0.0, 1.0), np.float32)


def from_pixels(pixels: Floats, spec: ModelSpec) -> Floats:
    """Return the network's input for pixels from 0 to 1, rounded to levels of 255 as a picture's are."""
    levels: Floats = np.clip(np.rint(pixels * 255.0), 0, 255).astype(np.uint8)
    normalization = spec.preprocessing.normalization
    if normalization is None:
        return levels
    shape = (1, -1, 1, 1) if spec.preprocessing.layout == "NCHW" else (1, 1, 1, -1)
    mean, std = (np.asarray(each, np.float32).reshape(shape) for each in (normalization.mean, normalization.std))
    return np.asarray((levels * np.float32(normalization.scale) - mean) / std, np.float32)


def _summary(found: Mapping[str, Mapping[int, float]], radius: int) -> str:
    return ", ".join(f"{name} {100 * values[radius]:.1f} %" for name, values in found.items())
