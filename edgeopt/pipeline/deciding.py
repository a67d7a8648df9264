"""Let images with labels decide between readings of a model: each is measured, and one must win clearly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from edgeopt.bundle import Variant
from edgeopt.config import EvaluateConfig, ModelConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import EdgeoptError, ModelError
from edgeopt.evaluate import evaluate
from edgeopt.identify import Identification
from edgeopt.runtime import Predictor
from edgeopt.runtime.ort import OrtSession
from edgeopt.source import resolve
from edgeopt.spec import CenterCrop, ModelSpec, Resize, ResizeShorterSide, replace

IMAGES = {"classification": 200, "detection": 48}
"""Images that readings are compared on: right and wrong readings are far apart."""
_CHANCE = 2.0
"""A classifier that is prepared rightly is right at least so many times as often as one that draws."""
_LEAST_AP = 0.02
_LOOKED_AT = 8
_CLEAR = 2.0
"""Standard errors by which the best must lead, for it to be called clear."""


@dataclass(frozen=True)
class Trial:
    """One reading, measured.

    Attributes:
        reading: name of the head.
        name: the same, or that of the preprocessing where that is open.
        model: the recipe's ``[model]`` with it.
        value: top-1 accuracy or AP from 0 to 1; None where the outputs cannot be read so.
        why_not: the reason for None.
    """

    reading: str
    name: str
    model: ModelConfig
    value: float | None
    why_not: str = ""


@dataclass(frozen=True)
class Decision:
    """The reading that images with labels chose.

    Attributes:
        trials: all that were measured, the best first.
        metric: the measure that decided.
        images: how many it was measured on.
        is_clear: the second best is further behind than chance would put it.
        geometry: what was found about cropping or stretching a classifier's images.
    """

    trials: tuple[Trial, ...]
    metric: str
    images: int
    is_clear: bool
    geometry: str = ""

    @property
    def best(self) -> Trial:
        """The winner."""
        return self.trials[0]

    def sentence(self) -> str:
        """Say what was chosen, and how far the others were."""
        listed = ", ".join(
            f"{trial.name} {'–' if trial.value is None else f'{100 * trial.value:.1f} %'}" for trial in self.trials[:5]
        )
        doubt = "" if self.is_clear else "; the best is not clearly better than the next"
        return f"{self.metric} on {self.images} images decided for {self.best.name}: {listed}{doubt}{self.geometry}"


def decide(model: ModelConfig, root: Path, found: Identification, dataset: Dataset) -> Decision:
    """Measure every reading of a model on labelled images.

    Args:
        model: the recipe's ``[model]``, with what is known; an ``.onnx`` file.
        root: the folder that its relative paths start from.
        found: the readings.
        dataset: images with the model's labels.

    Raises:
        ModelError: no reading does better than chance: the model is for other classes, or needs what is not known.
    """
    images = min(len(dataset), IMAGES[dataset.task or "classification"])
    config = EvaluateConfig(limit=images)
    readings = list(_readings(model, found))
    if _have_its_size(dataset, model):
        readings = [(reading, name, _stretching(each)) for reading, name, each in readings]
    trials = sorted((_tried(*reading, root, dataset, config) for reading in readings), key=_by_value, reverse=True)
    is_detection = dataset.task == "detection"
    least = _LEAST_AP if is_detection else min(_CHANCE / len(dataset.labels), 0.75)
    best = trials[0].value
    metric = "AP" if is_detection else "top-1"
    if best is None or best < least:
        listed = "; ".join(
            f"{trial.name}: {trial.why_not or f'{100 * (trial.value or 0):.1f} %'}" for trial in trials[:6]
        )
        raise ModelError(
            f"no way of reading {model.source} finds what is labelled in {dataset.origin} ({metric} on {images} "
            f"images: {listed}). Its classes may be others, or in another order: give [model] labels in the network's "
            "order; or say [model.preprocessing] and [model.decoding] yourself"
        )
    is_clear = _is_clear(trials[0], trials[1:], images)
    first, geometry = _with_geometry(trials[0], root, dataset, config)
    return Decision((first, *trials[1:]), metric, images, is_clear, geometry)


def _by_value(trial: Trial) -> float:
    return -1.0 if trial.value is None else trial.value


def _is_clear(best: Trial, others: Sequence[Trial], images: int) -> bool:
    """Return True if the best leads by more than two standard errors of a difference of shares."""
    first = _by_value(best)
    second = max((_by_value(other) for other in others), default=-1.0)
    error = ((first * (1 - first) + max(second, 0.0) * (1 - max(second, 0.0))) / images) ** 0.5
    return bool(first - second > _CLEAR * error)


def _readings(model: ModelConfig, found: Identification) -> Iterator[tuple[str, str, ModelConfig]]:
    """Yield the readings that the recipe leaves open."""
    for candidate in found.candidates:
        decoding = candidate.decoder if model.decoding is None else model.decoding
        if model.preprocessing is not None or candidate.preprocessing is not None:
            preparing = model.preprocessing or candidate.preprocessing.value  # type: ignore[union-attr]
            yield candidate.name, candidate.name, replace(model, decoding=decoding, preprocessing=preparing)
            continue
        for name, possible in found.possible.items():
            yield candidate.name, name, replace(model, decoding=decoding, preprocessing=possible)


def _have_its_size(dataset: Dataset, model: ModelConfig) -> bool:
    """Return True if images have the network's size already: then nothing is cropped."""
    shown = (dataset.image(index).shape[:2] for index in range(min(len(dataset), _LOOKED_AT)))
    return all(size == model.input_size for size in shown)


def _with_geometry(best: Trial, root: Path, dataset: Dataset, config: EvaluateConfig) -> tuple[Trial, str]:
    """Return a classifier with stretched instead of cropped images where that is clearly better, and what was found."""
    stretching = _stretching(best.model)
    if stretching is best.model:
        return best, ""
    other = _tried(best.reading, f"{best.name}, stretched", stretching, root, dataset, config)
    found = f"; {100 * _by_value(best):.1f} % with images cropped, {100 * _by_value(other):.1f} % stretched"
    return (other if _is_clear(other, [best], len(dataset)) else best), found


def _stretching(model: ModelConfig) -> ModelConfig:
    """Return `model` with images stretched to its size instead of cropped; the same where they are not cropped."""
    preprocessing = model.preprocessing
    match preprocessing.steps if preprocessing is not None else ():
        case (ResizeShorterSide(), CenterCrop(size=size)):
            assert preprocessing is not None
            return replace(model, preprocessing=replace(preprocessing, steps=(Resize(size=size),)))
        case _:
            return model


def _tried(reading: str, name: str, model: ModelConfig, root: Path, dataset: Dataset, config: EvaluateConfig) -> Trial:
    try:
        source = resolve(model, root, dataset.labels)
        assert source.onnx is not None
        with _open(source.onnx, source.spec) as predictor:
            return Trial(reading, name, model, evaluate(predictor, dataset, config).value)
    except EdgeoptError as error:
        return Trial(reading, name, model, None, str(error))


def _open(graph: ir.Model, spec: ModelSpec) -> Predictor:
    session = OrtSession(ir.to_proto(graph).SerializeToString())
    return Predictor(session, spec, Variant(name="reading", target="ort", precision="fp32", file="model.onnx"))
