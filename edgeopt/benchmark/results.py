"""What a benchmark says, in memory and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from edgeopt.bundle import EngineSettings
from edgeopt.bundle.accuracy import AccuracyBeside
from edgeopt.errors import AccuracyError, MeasurementError, StorageError
from edgeopt.measure.environment import Environment
from edgeopt.measure.latency import Distribution, Histogram, Ratio, Series
from edgeopt.measure.sensors import Conditions
from edgeopt.spec import Struct
from edgeopt.typed import from_json

SCHEMA_VERSION = 1

ScenarioName: TypeAlias = Literal["singlestream", "multistream", "offline", "server"]


class LatencyResult(Struct):
    """One model's latency on one machine."""

    name: str
    scenario: ScenarioName
    end_to_end: Distribution
    """Of one query."""
    stages: dict[str, Distribution]
    """Empty where only the whole was timed."""
    samples_per_query: int
    throughput_per_s: float
    """Samples (images) a second: while queries ran, or with the pauses between arrivals in ``server``."""
    histogram: Histogram
    series: Series
    ratio: Ratio | None
    """Against the baseline of the same run; None for the baseline itself and for a model measured alone."""
    warmup_stable: bool
    environment: Environment
    peak_memory_mib: float
    """Of the whole process, with all models of the run."""
    conditions: Conditions
    """Of the machine while this one ran."""
    quick: bool
    """Shorter than MLPerf's rules ask: 600 s, and for ``offline`` 24,576 samples."""
    engine: EngineSettings | None = None
    """How it ran, where it is of a bundle."""
    accuracy: AccuracyBeside | None = None
    """Of the same artifact, as its bundle records it."""
    target_per_s: float | None = None
    """Rate of arrivals, in ``server``."""
    invalid: tuple[str, ...] = ()
    """Why the figures are not to be believed; empty where they are."""
    partial: bool = False
    """Interrupted before it had run as long as asked."""
    schema_version: int = SCHEMA_VERSION

    @property
    def figure(self) -> tuple[str, float | None]:
        """The scenario's own figure, with its name; None where the run was too short for it."""
        if self.scenario == "singlestream":
            return "p90 bound, ms", self.end_to_end.bound_p90_ms
        if self.scenario == "offline":
            return "samples a second", self.throughput_per_s
        return "p99 bound, ms", self.end_to_end.bound_p99_ms


def require_valid(results: Mapping[str, LatencyResult]) -> None:
    """Refuse results of a run that was disturbed.

    Raises:
        MeasurementError: with every reason, by name.
    """
    reasons = [f"{name}: {reason}" for name, result in results.items() for reason in result.invalid]
    if reasons:
        raise MeasurementError(
            "the measurement is not valid, so no figure is given:\n  "
            + "\n  ".join(reasons)
            + "\nStop what else runs, fix the clocks and measure again, or take the figures marked with --allow-invalid"
        )


def require_accuracy(results: Mapping[str, LatencyResult], percent: float) -> None:
    """Refuse figures of artifacts that are faster at the cost of more accuracy than their class allows.

    Args:
        results: of a bundle's variants.
        percent: MLPerf's accuracy class: 99 or 99.9 % of FP32.

    Raises:
        AccuracyError: naming every variant that keeps less, or of which it is not known.
    """
    faults = []
    for name, result in results.items():
        accuracy = result.accuracy
        if accuracy is None or accuracy.kept is None:
            faults.append(f"{name}: not known, because it was not evaluated beside FP32 on the same images")
        elif 100.0 * accuracy.kept < percent:
            faults.append(f"{name}: keeps {accuracy.kept:.2%} of FP32's {accuracy.metric}")
    if faults:
        raise AccuracyError(
            f"not of accuracy class {percent:g}:\n  " + "\n  ".join(faults) + "\n"
            "Ask for one variant with --variant, or evaluate the bundle again with: edgeopt evaluate"
        )


def json_schema() -> dict[str, Any]:
    """The JSON schema of what `write_results` writes and ``edgeopt benchmark --json`` prints."""
    return msgspec.json.schema(dict[str, LatencyResult])


def write_results(path: Path, results: Mapping[str, LatencyResult]) -> None:
    """Write results as JSON.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2))
    except OSError as error:
        raise StorageError(f"cannot write the results to {path}: {error}. Choose another file") from error


def read_results(path: Path) -> dict[str, LatencyResult]:
    """Read what `write_results` wrote.

    Raises:
        MeasurementError: no such file, or not of this schema.
    """
    try:
        return from_json(path.read_bytes(), dict[str, LatencyResult])
    except (OSError, msgspec.DecodeError) as error:
        raise MeasurementError(
            f"{path} holds no benchmark results of schema {SCHEMA_VERSION}: {error}. "
            "Write them with: edgeopt benchmark BUNDLE --json"
        ) from error
