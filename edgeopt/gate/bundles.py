"""Gate variants of bundles, each side in a process of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeopt.bundle import Bundle, Variant
from edgeopt.bundle.accuracy import accuracy_here
from edgeopt.bundle.classes import class_changes
from edgeopt.bundle.records import Accuracy
from edgeopt.errors import MeasurementError
from edgeopt.gate.decide import with_attribution, with_robustness
from edgeopt.gate.run import Opened, gate
from edgeopt.gate.stored import gate_stored
from edgeopt.gate.verdict import (
    AccuracyFinding,
    AttributionFinding,
    GateConfig,
    OperatingFinding,
    RobustnessFinding,
    Verdict,
)
from edgeopt.measure.sensors import Sensors
from edgeopt.measure.subject import Array, Staged, Subject
from edgeopt.measure.worker import Worker
from edgeopt.progress import Update
from edgeopt.runtime import availability, load
from edgeopt.runtime.choice import choose, measured_here
from edgeopt.typed import from_json

_UNLABELLED = "agreement with its own FP32 model, on images without labels,"
"""The main metric of bundles that were measured without labels, in sentences."""
_NAMED = 3
"""Shifted pictures that are named."""


@dataclass(frozen=True)
class Side:
    """One side of the comparison: a bundle and one of its variants."""

    path: Path
    variant: str | None = None
    """None selects the variant that this machine would run."""

    @classmethod
    def parse(cls, reference: str) -> Side:
        """Parse ``BUNDLE`` or ``BUNDLE@VARIANT``.

        >>> Side.parse("out/x.edgeopt@ov-int8").variant
        'ov-int8'
        """
        path, _, variant = reference.partition("@")
        return cls(Path(path), variant or None)

    def __str__(self) -> str:
        return self.path.stem if self.variant is None else f"{self.path.stem} {self.variant}"


@dataclass(frozen=True)
class Stored:
    """A variant's results in a file that ``edgeopt benchmark --json`` wrote."""

    name: str
    fingerprint: str
    median_ms: tuple[float, ...]


class _Environment(msgspec.Struct):
    fingerprint: str


class _Series(msgspec.Struct):
    median_ms: tuple[float, ...]


class _Result(msgspec.Struct):
    """The part of a benchmark result that the gate reads."""

    scenario: str
    environment: _Environment
    series: _Series
    partial: bool
    invalid: tuple[str, ...]


def gate_bundles(
    baseline: Side,
    candidate: Side,
    images: Sequence[Array],
    config: GateConfig,
    *,
    threads: int = 0,
    accuracy: bool = True,
    progress: Update | None = None,
) -> Verdict:
    """Gate one variant against another, of two bundles or of one.

    Args:
        baseline: the shipped side.
        candidate: the side that would replace it.
        images: decoded (H, W, 3) uint8 BGR images that both are measured on.
        config: floors, tolerance and time.
        threads: threads of the engines; 0 keeps the bundle's setting.
        accuracy: also compare the accuracies stored in the bundles.
        progress: told how far it is.

    Raises:
        BundleError: not a whole bundle, or no such variant.
        TargetError: one of the sides does not run here.
        MeasurementError: the accuracies are of different images, a largest shift of maps or loss on bad pictures is
            given and the candidate was never explained or measured there, or a measured process ended.
    """
    finding = _accuracies(baseline, candidate, config) if accuracy else None
    shift, robustness = _attribution(candidate, config), _robustness(candidate, config)
    sides = {"baseline": baseline, "twin": baseline, "candidate": candidate}
    makes = {name: _opening(side, images, threads) for name, side in sides.items()}
    verdict = gate(
        functools.partial(launch_workers, makes),
        config,
        names=(str(baseline), str(candidate)),
        accuracy=finding,
        progress=progress,
    )
    return with_robustness(with_attribution(verdict, shift), robustness)


@contextmanager
def launch_workers(makes: Mapping[str, Callable[[], Subject]], number: int) -> Iterator[Opened]:
    """Open every subject in a new process. Each launch starts with another subject, because the order affects latency.

    In the first launch one waits for the other: an engine that has to be built is built with the whole memory of the
    device to itself, and alone on its GPU.

    Args:
        makes: opens each subject, in its process.
        number: number of the launch.
    """
    names = list(makes)
    workers = {name: Worker(makes[name]) for name in names}
    with ExitStack() as stack:
        for place in range(len(names)):
            worker = workers[names[(place + number) % len(names)]]
            worker.start()
            stack.callback(worker.stop)
            if number == 0:
                worker.opened()
        if number:
            for worker in workers.values():
                worker.opened()
        yield Opened(workers, _sensors(workers.values()))


def gate_file(
    stored: Stored,
    candidate: Side,
    images: Sequence[Array],
    config: GateConfig,
    *,
    threads: int = 0,
    progress: Update | None = None,
) -> Verdict:
    """Gate a variant against stored results of this machine; `gate_stored` documents the limits of that."""
    shift, robustness = _attribution(candidate, config), _robustness(candidate, config)
    with Worker(_opening(candidate, images, threads)) as worker:
        verdict = gate_stored(
            stored.median_ms,
            stored.fingerprint,
            worker,
            config,
            names=(f"stored {stored.name}", str(candidate)),
            sensors=_sensors([worker]),
            progress=progress,
        )
    return with_robustness(with_attribution(verdict, shift), robustness)


def read_stored(path: Path, name: str | None = None) -> Stored:
    """Read one variant from a file of benchmark results.

    Args:
        path: what ``edgeopt benchmark --json`` wrote.
        name: name of the variant. Default: the only one there is.

    Raises:
        MeasurementError: no such file or variant, or results that are partial, invalid or of another scenario.
    """
    try:
        results = from_json(path.read_bytes(), dict[str, _Result])
    except (OSError, msgspec.DecodeError) as error:
        raise MeasurementError(
            f"{path} holds no benchmark results: {error}. Write them with: edgeopt benchmark BUNDLE --json"
        ) from error
    if name is None and len(results) == 1:
        name = next(iter(results))
    if name not in results:
        raise MeasurementError(f"{path} has no results of '{name}'. It has: {', '.join(results)}")
    found = results[name]
    faults = [*(("interrupted half-way",) if found.partial else ()), *found.invalid]
    if found.scenario != "singlestream":
        faults.append(f"measured in scenario {found.scenario}, not singlestream")
    if faults:
        raise MeasurementError(
            f"the stored results of '{name}' cannot be a baseline: {'; '.join(faults)}. Measure again"
        )
    return Stored(name, found.environment.fingerprint, found.series.median_ms)


def open_subject(path: Path, variant: str | None, images: Sequence[Array], threads: int) -> Subject:
    """Load one side. This runs in the side's own process, which closes it by ending."""
    return Staged(load(path, variant=variant, threads=threads), images)


def _opening(side: Side, images: Sequence[Array], threads: int) -> Callable[[], Subject]:
    return functools.partial(open_subject, side.path, side.variant, list(images), threads)


def _sensors(workers: Iterable[Worker]) -> Sensors:
    return Sensors(pids=("self", *(worker.pid for worker in workers)))


def _accuracies(baseline: Side, candidate: Side, config: GateConfig) -> AccuracyFinding | None:
    """Return the main metric of both sides, or None where one was never evaluated."""
    before, after = _accuracy(baseline), _accuracy(candidate)
    if before is None or after is None:
        return None
    if (before.metric, before.data) != (after.metric, after.data):
        raise MeasurementError(
            f"{baseline} and {candidate} were evaluated on different images, so their accuracies cannot be compared. "
            "Evaluate both on the same data, or gate on latency alone"
        )
    changes = class_changes(before, after, _labels(baseline))
    return AccuracyFinding(
        metric=before.metric if before.is_labelled else _UNLABELLED,
        baseline=before.value,
        candidate=after.value,
        allowed_drop=config.accuracy_drop,
        operating=_operating(before, after, config),
        classes=tuple(each for each in changes if each.change < 0.0),
        allowed_class_drop=config.class_drop,
    )


def _operating(before: Accuracy, after: Accuracy, config: GateConfig) -> OperatingFinding | None:
    """Compare F1 at the score threshold, where both have the same."""
    first, second, score = before.at_threshold, after.at_threshold, before.score_threshold
    if first is None or second is None or score is None or score != after.score_threshold:
        return None
    return OperatingFinding(score=score, baseline=first.f1, candidate=second.f1, allowed_drop=config.f1_drop)


def _attribution(side: Side, config: GateConfig) -> AttributionFinding | None:
    """Return the stored shift of the candidate's maps; None if none is asked for, or it is FP32 itself."""
    variant = None if config.attribution_shift is None else _quantized(side)
    if config.attribution_shift is None or variant is None:
        return None
    found = variant.attribution
    if found is None:
        raise MeasurementError(
            f"'{variant.name}' of {side.path} was never explained, so that the shift of its maps is not known. Run: "
            f"edgeopt explain {side.path} --variant {variant.name}"
        )
    return AttributionFinding(
        method=found.method,
        shift=found.shift,
        allowed=config.attribution_shift,
        images=found.images,
        worst=tuple(each.name for each in found.pictures[:_NAMED]),
    )


def _robustness(side: Side, config: GateConfig) -> list[RobustnessFinding]:
    """Return what the bundle keeps of the candidate on bad and hostile pictures; nothing if not asked for, or FP32."""
    allowed, variant = config.robustness_drop, None if config.robustness_drop is None else _quantized(side)
    if allowed is None or variant is None:
        return []
    kept = {"bad pictures": variant.on_bad_pictures, "pictures under attack": variant.under_attack}
    findings = [
        RobustnessFinding(pictures=name, metric=found.metric, drop=found.drop, allowed=allowed, images=found.images)
        for name, found in kept.items()
        if found is not None
    ]
    if not findings:
        raise MeasurementError(
            f"'{variant.name}' of {side.path} was never measured on bad or hostile pictures. Run: edgeopt robustness "
            f"{side.path}, edgeopt attack {side.path}, or both"
        )
    return findings


def _quantized(side: Side) -> Variant | None:
    """Return the side's variant, or None if it is FP32 or none runs here."""
    manifest = Bundle.open(side.path).manifest
    name = side.variant or choose(manifest, availability).name
    variant = None if name is None else manifest.variant(name)
    return None if variant is None or variant.precision == "fp32" else variant


def _labels(side: Side) -> tuple[str, ...]:
    return Bundle.open(side.path).manifest.spec.labels


def _accuracy(side: Side) -> Accuracy | None:
    manifest = Bundle.open(side.path).manifest
    name = side.variant or choose(manifest, availability).name
    return None if name is None else accuracy_here(manifest.variant(name), measured_here(manifest))
