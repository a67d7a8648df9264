"""Evaluate the variants of a bundle that run here, beside its baseline."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from edgeopt.bundle import Bundle, Manifest
from edgeopt.bundle.records import Accuracy, Measured, now
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import MissingExtraError, TargetError
from edgeopt.evaluate.acceptance import accept
from edgeopt.evaluate.corruptions import Corruption
from edgeopt.evaluate.run import evaluate, refuse_calibrated
from edgeopt.hardware import ThisMachine
from edgeopt.progress import Progress, Silent
from edgeopt.runtime import open_variant
from edgeopt.runtime.choice import identity_of_target

_LOG = logging.getLogger(__name__)


def evaluate_bundle(
    bundle: Bundle,
    dataset: Dataset,
    config: EvaluateConfig | None = None,
    *,
    variant: str | None = None,
    threads: int = 0,
    corruption: Corruption | None = None,
    progress: Progress | None = None,
) -> dict[str, Accuracy]:
    """Evaluate the variants of a bundle, its baseline first.

    Args:
        bundle: an opened bundle.
        dataset: images; if they are labelled, with the model's class names. Otherwise variants are compared with the
            baseline's answers.
        config: number of images, and filtering of detections. Default: as the bundle's recipe says.
        variant: only this one and the baseline. Default: all that run here.
        threads: threads of the engines; 0 keeps the bundle's setting.
        corruption: done to each image before it is preprocessed.
        progress: told which variant it is at.

    Returns:
        By name of the variant. One that does not run here is left out with a warning, unless it was asked for; without
        the baseline there is nothing to compare with, and comparisons are None, or without labels an error.

    Raises:
        BundleError: there is no such variant.
        DataError: as `evaluate`; or the ranges were calibrated on one of the images.
        TargetError: the variant that was asked for does not run here, or none does.
        MissingExtraError: the library of the variant that was asked for is not installed.
    """
    refuse_calibrated(bundle, dataset)
    config = config or (bundle.manifest.recipe.evaluate if bundle.manifest.recipe is not None else None)
    display = progress or Silent()
    wanted = bundle.manifest.variants if variant is None else (bundle.variant(variant),)
    baseline = bundle.variant(bundle.manifest.baseline)
    results: dict[str, Accuracy] = {}
    for each in (baseline, *(other for other in wanted if other is not baseline)):
        try:
            predictor = open_variant(bundle, each, threads=threads)
        except (TargetError, MissingExtraError) as error:
            if each.name == variant or (each is baseline and dataset.task is None):
                raise
            _LOG.warning("variant '%s' is not evaluated: %s", each.name, error)
            continue
        display.begin(each.name)
        with predictor:
            reference = results.get(baseline.name)
            accuracy = evaluate(
                predictor, dataset, config, baseline=reference, corruption=corruption, progress=display.update
            )
        display.end(accuracy.summary(), reused=False)
        results[each.name] = accuracy
    if not results:
        names = ", ".join(each.name for each in bundle.manifest.variants)
        raise TargetError(f"no variant of {bundle.path} runs here ({names}). See: edgeopt inspect {bundle.path}")
    return results


def found_here(
    results: Mapping[str, Accuracy], manifest: Manifest, machine: ThisMachine | None = None
) -> dict[str, Measured]:
    """Return the accuracies that a bundle keeps, by variant: on its own test images, by these kernels.

    Args:
        results: results of `evaluate_bundle`.
        manifest: the same bundle's manifest.
        machine: that evaluated. Default: this one.
    """
    machine = machine or ThisMachine()
    baseline = manifest.variant(manifest.baseline).accuracy
    limits = EvaluateConfig() if manifest.recipe is None else manifest.recipe.evaluate

    def found(name: str, accuracy: Accuracy) -> Measured:
        variant = manifest.variant(name)
        judged = accept(accuracy, limits, variant.precision)
        compared = accuracy.comparison is not None or name == manifest.baseline
        return Measured(
            machine=identity_of_target(variant.target, machine),
            recorded=now(),
            accuracy=None if accuracy == variant.accuracy else accuracy,  # it may take megabytes
            acceptance=judged if compared else None,
        )

    same = {name: each for name, each in results.items() if baseline is None or baseline.data == each.data}
    return {name: found(name, each) for name, each in same.items()}
