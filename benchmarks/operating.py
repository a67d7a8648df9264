"""The operating point: F1 of INT8 beside FP32's at some score thresholds, with scores as they are and aligned.

Run as ``python -m benchmarks.operating BUNDLE… [--scenes N | --split SEED]`` with bundles of detectors whose images can
be found. The alignment is fitted anew, on the images that a build takes: validation, and then calibration. F1 is that
of the test set, which no fit saw, or with ``--scenes`` of that many new scenes of `digit_scenes`, which nobody ever
looked at. With ``--split`` the test set is drawn apart at random: one half is fitted on in place of those images, the
other judged. INT8 with its scores as they are, and aligned, differs in nothing else. Writes
``results/operating.json``: a row for each variant and threshold.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recorded import processor, record
from edgeopt.bundle import Bundle
from edgeopt.bundle.images import images_of
from edgeopt.cli.boundary import errors_reported
from edgeopt.dataset import Dataset, Sample
from edgeopt.dataset.digits import DIGIT_LABELS
from edgeopt.dataset.scenes import SCENES, compose, truth
from edgeopt.errors import ConfigError, DataError
from edgeopt.evaluate import Accuracy, evaluate
from edgeopt.evaluate.align import Answers, answers, fit_alignment
from edgeopt.evaluate.run import chosen_images
from edgeopt.runtime import Predictor, load
from edgeopt.spec import Alignment, replace

RESULTS = Path(__file__).resolve().parent / "results" / "operating.json"
SCORES = (0.3, 0.5, 0.7)
IMAGES = 300
"""Images to fit on, as `[align] images` says by default."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--scenes", type=int, help="test on so many new scenes, for a bundle of digit_scenes")
    parser.add_argument(
        "--split", type=int, metavar="SEED", help="fit on a random half of the test set, judge the other"
    )
    arguments = parser.parse_args()
    for path in arguments.bundles:
        bundle = Bundle.open(path)
        title, sets, test = images(bundle, arguments.scenes, arguments.split)
        for row in measured(bundle, title, sets, test):
            record(RESULTS, row, ("bundle", "variant", "score", "test"))


def new_scenes(count: int) -> Dataset:
    """Scenes that go on where the test set ends."""
    numbers = range(SCENES["test"], SCENES["test"] + count)
    pictures = [compose("test", number) for number in numbers]
    samples = tuple(Sample(f"scene-{each.number}", truth(each), each) for each in pictures)
    return Dataset("detection", DIGIT_LABELS, samples, origin="new scenes")


def images(bundle: Bundle, scenes: int | None, seed: int | None) -> tuple[str, list[Dataset], Dataset]:
    """Return what the test images are called, the sets to fit on and the test images."""
    if scenes is not None:
        return "new scenes", list(fitting_sets(bundle)), new_scenes(scenes)
    test = images_of(bundle, "test", Path.cwd())
    if seed is None:
        return "test set", list(fitting_sets(bundle)), test
    order = np.random.default_rng(seed).permutation(len(test)).tolist()
    fitted, judged_on = sorted(order[: len(test) // 2]), sorted(order[len(test) // 2 :])
    return f"half {seed}", [test.subset(fitted)], test.subset(judged_on)


def measured(bundle: Bundle, title: str, sets: list[Dataset], test: Dataset) -> Iterator[dict[str, Any]]:
    """Yield a row for each INT8 variant and threshold."""
    manifest = bundle.manifest
    with load(bundle.path, variant=manifest.baseline) as predictor:
        expected = answered(predictor, sets, None)
        before = judged(predictor, test, None)
    for variant in manifest.variants:
        if variant.precision != "int8":
            continue
        with load(bundle.path, variant=variant.name) as predictor:
            alignment = fit_alignment(predictor.spec, expected, answered(predictor, sets, None))
            plain, aligned = (judged(predictor, test, each) for each in (None, alignment))
        for score in SCORES:
            row = {
                "bundle": manifest.name,
                "test": title,
                "variant": variant.name,
                "score": score,
                "fp32": f1_at(before, score),
                "plain": f1_at(plain, score),
                "aligned": f1_at(aligned, score),
                "ap_fp32": round(before.value, 4),
                "ap": round(aligned.value, 4),
                "fitted_on": sum(map(len, sets)),
                "images": len(test),
                "machine": processor(),
            }
            yield row


def fitting_sets(bundle: Bundle) -> Iterator[Dataset]:
    """Yield the images to fit on."""
    wanted = IMAGES
    for role in ("validation", "calibration"):
        try:
            found = images_of(bundle, role, Path.cwd())  # type: ignore[arg-type]
        except (ConfigError, DataError):
            continue
        if wanted > 0:
            yield found.subset(chosen_images(len(found), wanted))
            wanted -= len(found)


def answered(predictor: Predictor, sets: list[Dataset], alignment: Alignment | None) -> Answers:
    return Answers.joined([answers(with_alignment(predictor, alignment), each) for each in sets])


def judged(predictor: Predictor, test: Dataset, alignment: Alignment | None) -> Accuracy:
    return evaluate(with_alignment(predictor, alignment), test)


def with_alignment(predictor: Predictor, alignment: Alignment | None) -> Predictor:
    predictor.spec = replace(predictor.spec, alignment=alignment)
    return predictor


def f1_at(accuracy: Accuracy, score: float) -> float:
    assert accuracy.curve is not None
    return round(accuracy.curve.f1[accuracy.curve.thresholds.index(score)], 4)


if __name__ == "__main__":
    with errors_reported():
        main()
