"""Accuracy on corrupted pictures: does INT8 lose more than FP32 where they are bad?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from edgeopt.bundle import Bundle
from edgeopt.bundle.records import Accuracy, Beside, OnBadPictures
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import SettingError, did_you_mean
from edgeopt.evaluate.bundles import evaluate_bundle
from edgeopt.evaluate.corruptions import KINDS, SEVERITIES, Corruption
from edgeopt.progress import Progress, Silent


@dataclass(frozen=True)
class Robustness:
    """Main metric of every variant on clean and on corrupted images."""

    metric: str
    images: int
    baseline: str
    clean: dict[str, float]
    """By variant, from 0 to 1."""
    corrupted: dict[str, dict[str, dict[int, float]]]
    """By variant, kind and severity."""

    def of_kind(self, variant: str, kind: str) -> float:
        """Mean over the severities of a kind."""
        return fmean(self.corrupted[variant][kind].values())

    def mean(self, variant: str) -> float:
        """Mean over all kinds, each with the same weight."""
        return fmean(self.of_kind(variant, kind) for kind in self.corrupted[variant])

    def beside_baseline(self, variant: str) -> OnBadPictures:
        """Return what a bundle keeps of a variant."""
        severities = sorted({each for found in self.corrupted[variant].values() for each in found})
        clean = Beside(baseline=self.clean[self.baseline], variant=self.clean[variant])
        kinds = {
            kind: Beside(baseline=self.of_kind(self.baseline, kind), variant=self.of_kind(variant, kind))
            for kind in self.corrupted[variant]
        }
        return OnBadPictures(
            metric=self.metric,
            images=self.images,
            baseline=self.baseline,
            severities=tuple(severities),
            clean=clean,
            kinds=kinds,
        )

    def drops(self, variant: str) -> dict[str, float]:
        """Loss against the baseline on the same corrupted images, by kind; the largest first."""
        lost = {
            kind: self.of_kind(self.baseline, kind) - self.of_kind(variant, kind) for kind in self.corrupted[variant]
        }
        return dict(sorted(lost.items(), key=lambda item: -item[1]))


def corruptions(kinds: Sequence[str] = (), severities: Sequence[int] = (1, 3, 5)) -> list[Corruption]:
    """Return the corruptions of a measurement.

    Args:
        kinds: names of `KINDS`; none of them: all fifteen.
        severities: 1 to 5.

    Raises:
        SettingError: a kind or severity that there is not.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise SettingError(f"there is no corruption '{kind}'.{did_you_mean(kind, KINDS)}")
    if wrong := sorted(set(severities) - set(SEVERITIES)):
        raise SettingError(f"there is no severity {wrong[0]}; they go from {SEVERITIES[0]} to {SEVERITIES[-1]}")
    chosen = tuple(kinds) or tuple(KINDS)
    return [Corruption(kind, severity) for kind in chosen for severity in sorted(set(severities))]


def measure_robustness(
    bundle: Bundle,
    dataset: Dataset,
    config: EvaluateConfig,
    chosen: Sequence[Corruption],
    *,
    variant: str | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Robustness:
    """Evaluate the variants of a bundle on clean images, and again for each corruption.

    Args:
        bundle: an opened bundle.
        dataset: labelled images, or images without labels, on which variants are compared with the baseline's answers.
        config: number of images, and filtering of detections.
        chosen: corruptions to measure.
        variant: only this one and the baseline. Default: all that run here.
        threads: threads of the engines; 0 keeps the bundle's setting.
        progress: told which corruption it is at.

    Raises:
        As `evaluate_bundle`.
    """
    display = progress or Silent()
    display.begin("clean")
    clean = evaluate_bundle(bundle, dataset, config, variant=variant, threads=threads)
    first = next(iter(clean.values()))
    display.end(_summary(clean), reused=False)
    corrupted: dict[str, dict[str, dict[int, float]]] = {name: {} for name in clean}
    for number, corruption in enumerate(chosen):
        display.begin(f"{corruption.name} ({number + 1} of {len(chosen)})")
        found = evaluate_bundle(bundle, dataset, config, variant=variant, threads=threads, corruption=corruption)
        for name, accuracy in found.items():
            corrupted[name].setdefault(corruption.kind, {})[corruption.severity] = accuracy.value
        display.end(_summary(found), reused=False)
    values = {name: accuracy.value for name, accuracy in clean.items()}
    return Robustness(first.metric, first.images, bundle.manifest.baseline, values, corrupted)


def _summary(found: dict[str, Accuracy]) -> str:
    return ", ".join(f"{name} {100 * accuracy.value:.1f}" for name, accuracy in found.items())
