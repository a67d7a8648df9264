"""Results of a benchmark, in memory and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeopt.bundle.records import LatencyResult
from edgeopt.bundle.records.latency import SCHEMA_VERSION
from edgeopt.errors import AccuracyError, MeasurementError, StorageError
from edgeopt.typed import from_json


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
    """Refuse figures of variants that are faster at the cost of more accuracy than their class allows.

    Args:
        results: results of a bundle's variants.
        percent: MLPerf's accuracy class: 99 or 99.9 % of FP32.

    Raises:
        AccuracyError: naming every variant that keeps less, or of which it is not known.
    """
    faults = []
    for name, result in results.items():
        accuracy = result.accuracy
        if accuracy is None or accuracy.kept is None:
            faults.append(f"{name}: not known, because it was not evaluated beside FP32 on the same images")
        elif accuracy.metric == "agreement":
            faults.append(f"{name}: not known, because it was compared with FP32's answers on images without labels")
        elif 100.0 * accuracy.kept < percent:
            faults.append(f"{name}: keeps {accuracy.kept:.2%} of FP32's {accuracy.metric}")
    if faults:
        raise AccuracyError(
            f"not of accuracy class {percent:g}:\n  " + "\n  ".join(faults) + "\n"
            "Ask for one variant with --variant, or evaluate the bundle again with: edgeopt evaluate"
        )


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of what `write_results` writes and ``edgeopt benchmark --json`` prints."""
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
    """Read a file that `write_results` wrote.

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
