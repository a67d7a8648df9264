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

from edgeopt.attack.network import Aim, aim_of
from edgeopt.attack.square import square
from edgeopt.bundle import Bundle, Variant
from edgeopt.bundle.records import Beside, UnderAttack
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import DataError, MissingExtraError, ModelError, TargetError
from edgeopt.evaluate.recorders import recorder
from edgeopt.evaluate.run import chosen_images
from edgeopt.perturb import pixels as levels
from edgeopt.perturb.ascent import Loss, apgd, fgsm, pgd
from edgeopt.postprocess.decoding import class_scores
from edgeopt.postprocess.merging import decode_pictures
from edgeopt.preprocess import Geometry
from edgeopt.progress import Progress, Silent
from edgeopt.runtime import Inferred, Predictor, Prepared, open_variant
from edgeopt.spec import ModelSpec, image_size, replace

_LOG = logging.getLogger(__name__)
RADII: Final = (2, 4, 8)
"""Largest changes of a pixel, of 255."""
_PGD_STEPS, _APGD_STEPS, _PATCH_STEPS = 10, 20, 40
_SEED = 0
_FAINT = 0.05
"""Detections down to this score count for what an attack without gradients wants to lower."""
_GREY = 0.5
Floats = NDArray[Any]
Ascent = Callable[[Loss, Tensor, float, torch.Generator], Tensor]


@dataclass
class Patched:
    """Main metric behind a square at the picture's top left corner: grey, and filled by an attacker.

    Attributes:
        share: of the network's shorter side that a side of the square has.
        grey: by variant; what covering the corner costs by itself.
        made: by variant, of squares made on the float baseline.
        adaptive: by INT8 variant, of squares made on itself.
    """

    share: float
    grey: dict[str, float] = field(default_factory=dict)
    made: dict[str, float] = field(default_factory=dict)
    adaptive: dict[str, float] = field(default_factory=dict)


@dataclass
class Attacked:
    """Main metric of each variant, named as in `Accuracy.metric`: clean, and under each attack by radius."""

    metric: str
    images: int
    baseline: str
    radii: tuple[int, ...]
    clean: dict[str, float]
    attacks: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    """By attack, variant and radius. ``fgsm``, ``pgd`` and ``apgd`` follow the float baseline's gradient: on other
    variants they show what transfers. ``adaptive`` follows that of the variant's own graph; ``square`` sees its answers
    alone."""
    patch: Patched | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    """Reason why a variant was not attacked by its own gradient, or not at all."""

    def worst(self, variant: str, radius: int) -> float:
        """Metric under the attack of this radius that lowers it most."""
        return min(found[variant][radius] for found in self.attacks.values() if variant in found)

    def behind_patch(self, variant: str) -> float | None:
        """Metric behind the square that lowers it most; None where none was made."""
        if self.patch is None:
            return None
        return min(each[variant] for each in (self.patch.made, self.patch.adaptive) if variant in each)

    def beside_baseline(self, variant: str) -> UnderAttack:
        """Return what a bundle keeps of a variant."""
        first, second = self.behind_patch(self.baseline), self.behind_patch(variant)
        return UnderAttack(
            metric=self.metric,
            images=self.images,
            baseline=self.baseline,
            clean=Beside(baseline=self.clean[self.baseline], variant=self.clean[variant]),
            worst={
                str(radius): Beside(baseline=self.worst(self.baseline, radius), variant=self.worst(variant, radius))
                for radius in self.radii
            },
            patch=None if first is None or second is None else Beside(baseline=first, variant=second),
            patch_share=0.0 if self.patch is None else self.patch.share,
        )


def measure_attacks(
    bundle: Bundle,
    dataset: Dataset,
    *,
    radii: Sequence[int] = RADII,
    limit: int = 64,
    queries: int = 200,
    patch: float = 0.0,
    variant: str | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Attacked:
    """Attack the variants that run here, at the network's input.

    A classifier is attacked by FGSM, PGD and APGD, a detector, whose gradients take longer, by PGD alone: what it finds
    is to vanish.

    Args:
        bundle: an opened bundle.
        dataset: labelled images with the model's class names.
        radii: largest changes of a pixel, of 255.
        limit: number of images, spread over the set.
        queries: of the Square attack, for an image and radius; 0 leaves it out.
        patch: side of a square of the picture that may be anything, as a share of the network's shorter side; 0 leaves
            it out.
        variant: only this one and the baseline. Default: all that run here.
        threads: threads of the engines; 0 keeps the bundle's setting.
        progress: told which attack it is at.

    Raises:
        DataError: images without labels or with other ones.
        ModelError: the baseline has no graph that gradients flow through.
        TargetError: the baseline does not run here.
    """
    display, baseline = progress or Silent(), bundle.variant(bundle.manifest.baseline)
    _check(bundle, dataset)
    with ExitStack() as stack:
        models, skipped = _opened(bundle, baseline, variant, threads, stack)
        first = models[baseline.name]
        scenes = _Scenes.of(first, dataset, chosen_images(len(dataset), limit))
        clean = {name: model.metric(scenes, scenes.pixels) for name, model in models.items()}
        metric = "top1" if bundle.manifest.spec.task == "classification" else "ap"
        result = Attacked(metric, len(scenes.pixels), baseline.name, tuple(radii), clean, skipped=skipped)
        aims = _aims(result, bundle, baseline, models)
        _transferred(result, aims[baseline.name], models, scenes, display)
        for name, model in models.items():
            if name in aims and name != baseline.name:
                _adaptive(result, aims[name], model, scenes, display)
            if queries:
                _black_box(result, model, scenes, queries, display)
        if patch:
            result.patch = _patched(aims, models, baseline.name, scenes, patch, display)
    return result


@dataclass(frozen=True)
class _Scenes:
    """Images that are attacked: pixels from 0 to 1 at the network's size, and their labels."""

    pixels: Floats
    geometries: tuple[Geometry, ...]
    targets: list[Any]

    @classmethod
    def of(cls, model: _Model, dataset: Dataset, chosen: Sequence[int]) -> _Scenes:
        prepared = [model.predictor.prepare_batch([dataset.image(index)]) for index in chosen]
        tensors = np.concatenate([each.tensor[:1] for each in prepared])
        pixels = to_pixels(tensors, model.spec)
        return cls(pixels, tuple(each.geometries[0] for each in prepared), [dataset[index].target for index in chosen])

    @property
    def classes(self) -> NDArray[np.int64]:
        """(N,) true classes; 0 for images with boxes, which no attack looks at."""
        return np.asarray([each if isinstance(each, int) else 0 for each in self.targets], np.int64)


@dataclass
class _Model:
    """An open variant."""

    variant: Variant
    predictor: Predictor
    spec: ModelSpec

    @property
    def is_classifier(self) -> bool:
        return self.spec.task == "classification"

    def answers(self, pixels: Floats, geometries: Sequence[Geometry]) -> list[Inferred]:
        """Run the network on pixels from 0 to 1, batch by batch, each image on its own as a camera gives it."""
        size = len(self.predictor.buffer())
        found = []
        for start in range(0, len(pixels), size):
            part = from_pixels(pixels[start : start + size], self.spec)
            count = len(part)
            filled = np.resize(part, (size, *part.shape[1:]))
            there = tuple(geometries[start : start + count])
            inferred = self.predictor.infer(Prepared(filled, (there * size)[:size]))
            found.append(_copied(inferred, count, size))
        return found

    def metric(self, scenes: _Scenes, pixels: Floats) -> float:
        """Top-1 or AP, from 0 to 1."""
        record, done = recorder(self.spec, EvaluateConfig(), None), 0
        for inferred in self.answers(pixels, scenes.geometries):
            count = len(inferred.geometries)
            record.add(inferred.outputs, inferred.geometries, scenes.targets[done : done + count])
            done += count
        return record.result(len(pixels), 0, "").value

    def lead(self, scenes: _Scenes) -> Callable[[Floats], Floats]:
        """Return what an attack without gradients lowers, as a function of pixels.

        Of a classifier the lead of the true class, of a detector the sum of its detections' scores.
        """
        targets, height, width = scenes.classes, *image_size(self.spec.input, self.spec.preprocessing.layout)
        whole = (Geometry(1.0, 1.0, 0.0, 0.0, width, height),) * len(targets)

        def of_classes(pixels: Floats) -> Floats:
            found = self.answers(pixels, whole)
            scores = np.concatenate([class_scores(each.outputs, self.spec, each.geometries) for each in found])
            rows = np.arange(len(scores))
            true = scores[rows, targets]
            scores[rows, targets] = -np.inf
            return np.asarray(true - scores.max(axis=1))

        def of_objects(pixels: Floats) -> Floats:
            spec = _faint(self.spec)
            found = self.answers(pixels, whole)
            pictures = [one for each in found for one in decode_pictures(each.outputs, spec, each.geometries)]
            return np.asarray([float(one.scores.sum()) for one in pictures])

        return of_classes if self.is_classifier else of_objects


def _copied(inferred: Inferred, count: int, size: int) -> Inferred:
    """Return the first images' answers in memory of their own, which the next run does not overwrite."""
    outputs = {name: (each[:count] if len(each) == size else each).copy() for name, each in inferred.outputs.items()}
    return Inferred(outputs, inferred.geometries[:count])


def _faint(spec: ModelSpec) -> ModelSpec:
    """Return a detector's specification whose weak detections count, too."""
    score = min(getattr(spec.decoding, "score_threshold", _FAINT), _FAINT)
    return replace(spec, decoding=replace(spec.decoding, score_threshold=score))


def _check(bundle: Bundle, dataset: Dataset) -> None:
    spec = bundle.manifest.spec
    if dataset.task != spec.task or dataset.labels != spec.labels:
        what = "classes" if spec.task == "classification" else "boxes"
        raise DataError(f"{dataset.origin} has not the labels of '{spec.name}'. Attacks need images with true {what}")


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


def _aims(result: Attacked, bundle: Bundle, baseline: Variant, models: Mapping[str, _Model]) -> dict[str, Aim]:
    """Return what follows a gradient: the baseline's, and each INT8 variant's own."""
    aims = {baseline.name: aim_of(bundle, baseline)}
    for name, model in models.items():
        if model.variant.precision == "int8":
            try:
                aims[name] = aim_of(bundle, model.variant)
            except ModelError as error:
                result.skipped[name] = str(error)
    return aims


def _transferred(result: Attacked, aim: Aim, models: Mapping[str, _Model], scenes: _Scenes, display: Progress) -> None:
    """Attack the baseline, and show what was made to every variant."""
    kinds = _GRADIENT if models[result.baseline].is_classifier else {"pgd": _pgd}
    for name, make in kinds.items():
        for radius in result.radii:
            display.begin(f"{name} at {radius}/255")
            changed = _in_parts(make, aim, scenes, radius / 255.0)
            found = result.attacks.setdefault(name, {})
            for each, model in models.items():
                found.setdefault(each, {})[radius] = model.metric(scenes, changed)
            display.end(_summary({each: values[radius] for each, values in found.items()}), reused=False)


def _adaptive(result: Attacked, aim: Aim, model: _Model, scenes: _Scenes, display: Progress) -> None:
    name = model.variant.name
    for radius in result.radii:
        display.begin(f"adaptive on {name} at {radius}/255")
        changed = _in_parts(_apgd if model.is_classifier else _pgd, aim, scenes, radius / 255.0)
        value = model.metric(scenes, changed)
        result.attacks.setdefault("adaptive", {}).setdefault(name, {})[radius] = value
        display.end(_summary({name: value}), reused=False)


def _black_box(result: Attacked, model: _Model, scenes: _Scenes, queries: int, display: Progress) -> None:
    name, layout = model.variant.name, model.spec.preprocessing.layout
    for radius in result.radii:
        display.begin(f"square on {name} at {radius}/255")
        random = np.random.default_rng(_SEED)
        lead = model.lead(scenes)
        changed = square(lead, scenes.pixels, radius / 255.0, queries=queries, random=random, layout=layout)
        value = model.metric(scenes, changed)
        result.attacks.setdefault("square", {}).setdefault(name, {})[radius] = value
        display.end(_summary({name: value}), reused=False)


def _patched(
    aims: Mapping[str, Aim],
    models: Mapping[str, _Model],
    baseline: str,
    scenes: _Scenes,
    share: float,
    display: Progress,
) -> Patched:
    """Fill a corner of each picture so that what else is in it is not found."""
    result = Patched(share)
    inside = _corners(scenes, models[baseline].spec, share)
    covered = np.where(inside, np.float32(_GREY), scenes.pixels)
    result.grey = {name: model.metric(scenes, covered) for name, model in models.items()}
    for name, aim in aims.items():
        display.begin(f"patch on {name}")
        changed = _in_parts(_fill, aim, scenes, 1.0, inside)
        if name == baseline:
            found = result.made = {each: model.metric(scenes, changed) for each, model in models.items()}
        else:
            found = {name: models[name].metric(scenes, changed)}
            result.adaptive |= found
        display.end(_summary(found), reused=False)
    return result


def _corners(scenes: _Scenes, spec: ModelSpec, share: float) -> NDArray[np.bool_]:
    """Return True, (N, ...), where an attacker's square lies: at the top left of what the picture covers."""
    height, width = image_size(spec.input, spec.preprocessing.layout)
    side = max(1, round(share * min(height, width)))
    inside = np.zeros((len(scenes.pixels), height, width), np.bool_)
    for picture, geometry in zip(inside, scenes.geometries, strict=True):
        left, top = np.clip(geometry.to_network(np.zeros((1, 4), np.float32))[0, :2].round(), 0, None).astype(int)
        picture[top : top + side, left : left + side] = True
    axis = 1 if spec.preprocessing.layout == "NCHW" else 3
    return np.broadcast_to(np.expand_dims(inside, axis), scenes.pixels.shape)


def _fgsm(loss: Loss, pixels: Tensor, radius: float, random: torch.Generator) -> Tensor:
    del random
    return fgsm(loss, pixels, radius)


def _pgd(loss: Loss, pixels: Tensor, radius: float, random: torch.Generator) -> Tensor:
    return pgd(loss, pixels, radius, steps=_PGD_STEPS, random=random)


def _apgd(loss: Loss, pixels: Tensor, radius: float, random: torch.Generator) -> Tensor:
    return apgd(loss, pixels, radius, steps=_APGD_STEPS, random=random)


def _fill(loss: Loss, pixels: Tensor, radius: float, random: torch.Generator) -> Tensor:
    return pgd(loss, pixels, radius, steps=_PATCH_STEPS, random=random)


_GRADIENT: Mapping[str, Ascent] = {"fgsm": _fgsm, "pgd": _pgd, "apgd": _apgd}
_AT_ONCE = 16
"""Images of one gradient: activations of all layers are kept for it."""


def _in_parts(
    make: Ascent, aim: Aim, scenes: _Scenes, radius: float, inside: NDArray[np.bool_] | None = None
) -> Floats:
    """Attack a few images at a time; levels of 255 are whole, as a picture's are. `inside`: where pixels may change."""
    parts, targets = [], torch.from_numpy(scenes.classes)
    for start in range(0, len(scenes.pixels), _AT_ONCE):
        portion = slice(start, start + _AT_ONCE)
        pixels = torch.from_numpy(scenes.pixels[portion])
        random = torch.Generator().manual_seed(_SEED + start)
        loss = aim(pixels, targets[portion])
        if inside is None:
            changed = make(loss, pixels, radius, random)
        else:
            free = torch.from_numpy(inside[portion].copy())
            changed = torch.where(free, make(_within(loss, pixels, free), pixels, radius, random), pixels)
        parts.append(levels.as_levels(changed).numpy())
    return np.concatenate(parts)


def _within(loss: Loss, pixels: Tensor, free: Tensor) -> Loss:
    """Return the loss of pixels that are the picture's but where they are free."""
    return lambda filled: loss(torch.where(free, filled, pixels))


def to_pixels(tensor: Floats, spec: ModelSpec) -> Floats:
    """Return a network's input as pixels from 0 to 1 in whole levels, whose axes and channels keep their order."""
    found: Floats = levels.as_levels(levels.to_pixels(torch.from_numpy(np.array(tensor)), spec.preprocessing)).numpy()
    return found


def from_pixels(pixels: Floats, spec: ModelSpec) -> Floats:
    """Return the network's input for pixels from 0 to 1, rounded to levels of 255 as a picture's are."""
    whole = levels.as_levels(torch.from_numpy(pixels))
    tensor: Floats = levels.to_network(whole, spec.preprocessing).numpy()
    return tensor if spec.preprocessing.normalization is not None else np.rint(tensor).astype(np.uint8)


def _summary(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in found.items())
