"""Results of a sweep's trials, read from their bundles, and which of them no other beats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from edgeopt.bundle import Manifest, Precision, Variant
from edgeopt.bundle.accuracy import accuracy_here
from edgeopt.bundle.figures import acceptance
from edgeopt.errors import storage_errors
from edgeopt.files import write_atomically
from edgeopt.pipeline.workspace import content_key
from edgeopt.runtime.choice import measured_here
from edgeopt.spec import Struct
from edgeopt.sweep.plan import Trial
from edgeopt.typed import from_json

RESULT = "result.json"
"""Name of a trial's result in its folder, written last."""


class StageTime(Struct):
    """One stage of a trial's build."""

    stage: str
    seconds: float
    """Time that it took, or that finding its result took."""
    made: bool
    """False if its result was there, or another trial made it meanwhile."""


class VariantResult(Struct):
    """Figures of one variant of a trial's bundle, on the machine that built it."""

    name: str
    is_baseline: bool
    precision: Precision
    engine: str
    """Hash of its file, settings and specification: what has the same one is the same program."""
    size_bytes: int
    is_candidate: bool = False
    """True of one that only `edgeopt tune` may choose."""
    metric: str = ""
    """Main metric, as in `Accuracy.metric`."""
    accuracy: float | None = None
    """Main metric, 0 to 1; None where it was not evaluated."""
    drop: float | None = None
    """The baseline's less this one's."""
    drop_low: float | None = None
    """Ends of its 95 % interval."""
    drop_high: float | None = None
    data: str = ""
    """Identity of the test images: accuracies compare where it is equal."""
    p50_ms: float | None = None
    """Median latency end to end; None where it was not measured."""
    invalid: tuple[str, ...] = ()
    """Problems of the latency's measurement."""
    accepted: bool = False
    verdict: str = ""


class TrialResult(Struct):
    """One trial's row."""

    key: str
    model: str
    target: str
    settings: dict[str, str]
    error: str = ""
    """Reason why there is no bundle."""
    trace: str = ""
    """Traceback of an error that nobody expected: a bug, or another program's."""
    variants: tuple[VariantResult, ...] = ()
    """The baseline first."""
    machine: str = ""
    """Title of the machine that built and measured it."""
    seconds: float = 0.0
    stages: tuple[StageTime, ...] = ()
    bundle: str = ""
    """Its folder, from the sweep's."""
    build_key: str = ""
    """Its content key, under which the sweep's store has it."""

    @property
    def title(self) -> str:
        """One line for people."""
        short = [key.rpartition(".")[2] for key in self.settings]
        named = [
            f"{last if short.count(last) == 1 else key} {value}"
            for last, (key, value) in zip(short, self.settings.items(), strict=True)
        ]
        return ", ".join((self.model, *named, *([self.target] if self.target else [])))

    @property
    def best(self) -> VariantResult | None:
        """The variant that the trial is judged by: the last in another precision than the baseline's, or that.

        Candidates do not count.
        """
        for each in reversed(self.variants):
            if not each.is_candidate and each.precision != self.variants[0].precision:
                return each
        return self.variants[0] if self.variants else None


def failed(trial: Trial, error: str, trace: str = "", *, seconds: float = 0.0, machine: str = "") -> TrialResult:
    """Return the row of a trial without a bundle."""
    return TrialResult(
        key=trial.key,
        model=trial.model,
        target=trial.target,
        settings=trial.settings,
        error=error,
        trace=trace,
        seconds=seconds,
        machine=machine,
    )


def variant_results(manifest: Manifest) -> tuple[VariantResult, ...]:
    """Return the figures of a bundle's variants on this machine, the baseline first."""
    here = measured_here(manifest)
    found = []
    for variant in sorted(manifest.variants, key=lambda each: each.name != manifest.baseline):
        accuracy = accuracy_here(variant, here)
        comparison = None if accuracy is None else accuracy.comparison
        drop = None if comparison is None else comparison.drop
        latency = here[variant.name].latency if variant.name in here else None
        judged = acceptance(variant, here.get(variant.name))
        found.append(
            VariantResult(
                name=variant.name,
                is_baseline=variant.name == manifest.baseline,
                precision=variant.precision,
                engine=_engine(manifest, variant),
                is_candidate=variant.candidate is not None,
                size_bytes=manifest.size_bytes(variant),
                metric="" if accuracy is None else accuracy.metric,
                accuracy=None if accuracy is None else accuracy.value,
                drop=None if comparison is None else comparison.metric_drop,
                drop_low=None if drop is None else drop.low,
                drop_high=None if drop is None else drop.high,
                data="" if accuracy is None else accuracy.data,
                p50_ms=None if latency is None else latency.end_to_end.p50_ms,
                invalid=() if latency is None else latency.invalid,
                accepted=judged.accepted,
                verdict=judged.verdict,
            )
        )
    return tuple(found)


def _engine(manifest: Manifest, variant: Variant) -> str:
    file, spec = manifest.files[variant.file], manifest.spec_of(variant)
    return content_key("engine", {"file": file, "settings": variant.engine, "spec": spec})


def write_result(folder: Path, result: TrialResult) -> None:
    """Commit a trial's row.

    Raises:
        StorageError: it cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RESULT, msgspec.json.format(msgspec.json.encode(result), indent=1))


def read_result(folder: Path, key: str) -> TrialResult | None:
    """Return a trial's row, or None where it has none, or its bundle is gone."""
    try:
        result = from_json((folder / RESULT).read_bytes(), TrialResult)
    except (OSError, msgspec.DecodeError):
        return None
    there = not result.bundle or (folder / Path(result.bundle).name).is_dir()
    return result if result.key == key and there else None


class Front(Struct):
    """Variants whose figures compare: of the same test images, on one kind of machine."""

    machine: str
    metric: str
    points: tuple[tuple[TrialResult, VariantResult], ...]
    """Variants with accuracy and latency, each with its trial; without `repeats`."""
    best: frozenset[tuple[str, str]]
    """Key of the trial and name of the variant of each that no other beats in accuracy and latency together."""


def fronts(results: Sequence[TrialResult]) -> tuple[Front, ...]:
    """Group the variants that compare, and find in each group those that no other beats."""
    groups: dict[tuple[str, str, str], list[tuple[TrialResult, VariantResult]]] = {}
    left_out = repeats(results)
    for result in results:
        for variant in result.variants:
            if variant.accuracy is None or variant.p50_ms is None or (result.key, variant.name) in left_out:
                continue
            groups.setdefault((result.machine, variant.metric, variant.data), []).append((result, variant))
    return tuple(
        Front(machine=machine, metric=metric, points=tuple(points), best=frozenset(_unbeaten(points)))
        for (machine, metric, _), points in groups.items()
    )


def repeats(results: Iterable[TrialResult]) -> set[tuple[str, str]]:
    """Return key of the trial and name of each baseline that an earlier trial of the model measured already.

    It is the same program, evaluated on the same images, and timed on the same machine in the same way.
    """
    seen, found = set[object](), set[tuple[str, str]]()
    for result in results:
        timed = tuple(setting for setting in result.settings.items() if f"{setting[0]}.".startswith("benchmark."))
        for each in result.variants:
            same = (
                *(result.model, result.target, result.machine, timed),
                *(each.name, each.engine, each.metric, each.data, each.accuracy, each.p50_ms is None),
            )
            if each.is_baseline and same in seen:
                found.add((result.key, each.name))
            seen.add(same)
    return found


def _unbeaten(points: list[tuple[TrialResult, VariantResult]]) -> list[tuple[str, str]]:
    best, highest = [], -1.0
    for result, variant in sorted(points, key=lambda each: (each[1].p50_ms or 0.0, -(each[1].accuracy or 0.0))):
        if (variant.accuracy or 0.0) > highest:
            highest = variant.accuracy or 0.0
            best.append((result.key, variant.name))
    return best
