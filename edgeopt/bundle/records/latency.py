"""Results of a benchmark: latencies of one model on one machine, and everything that they depend on."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from edgeopt.bundle.settings import EngineSettings
from edgeopt.hardware import Machine
from edgeopt.spec import Struct

SCHEMA_VERSION = 1
"""Schema version of a file of results."""

ScenarioName: TypeAlias = Literal["singlestream", "multistream", "offline", "server"]


class Distribution(Struct):
    """Latencies in milliseconds."""

    queries: int
    minimum_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    maximum_ms: float
    bound_p90_ms: float | None
    """MLPerf's early-stopping bound at confidence .99; None: too few queries (`intervals.tail_bound`)."""
    bound_p99_ms: float | None
    variation: float
    """Coefficient of variation: standard deviation over mean."""


class Histogram(Struct):
    """Counts of queries between consecutive edges; the last bin also counts all slower ones."""

    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse bins without two edges each."""
        if len(self.edges_ms) != len(self.counts) + 1 or not self.counts:
            raise ValueError(f"{len(self.counts)} counts need one edge more, not {len(self.edges_ms)}")


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The machine during one block or run."""

    seconds: float
    other_load: float | None = None
    """Share of all processors' time that went to other processes."""
    steal: float | None = None
    """Share of all processors' time that the hypervisor gave to other guests."""
    cpu_mhz: float | None = None
    """Clock of the fastest core, the lower of before and after."""
    gpu_mhz: float | None = None
    throttled: tuple[str, ...] = ()
    """Throttle counters that rose, and reasons that a GPU gave before or after."""
    temperature_c: float | None = None
    """Temperature of the hottest zone."""
    power_w: float | None = None
    power_mode: str | None = None


class Series(Struct):
    """Results of each block, in the order they ran."""

    at_s: tuple[float, ...]
    median_ms: tuple[float, ...]
    conditions: tuple[Conditions, ...]
    variation: tuple[float, ...] = ()
    """Coefficient of variation of each block's queries."""


class Ratio(Struct):
    """Latency of this one over the baseline's, measured in alternation; below 1 is faster."""

    baseline: str
    estimate: float
    low: float
    high: float
    """Ends of the 95 % interval."""

    @property
    def speedup(self) -> float:
        """Speedup over the baseline."""
        return 1.0 / self.estimate


class Environment(Struct):
    """The machine, the software and what this process was allowed of them."""

    machine: Machine
    fingerprint: str
    """Equal on machines whose latencies may be compared: processor, cores allowed, GPUs, module, driver."""
    threads: int
    """Asked of the engine; 0: its own choice."""
    affinity: tuple[int, ...]
    """Logical processors that this process may use."""
    versions: dict[str, str]
    """Versions of edgeopt and the installed packages that take part."""


class AccuracyBeside(Struct):
    """Main metric of the variant that was timed."""

    metric: str
    value: float
    kept: float | None
    """Share of the FP32 baseline's, on the same images; None where the two were not evaluated alike."""


class LatencyResult(Struct):
    """One model's latency on one machine."""

    name: str
    scenario: ScenarioName
    end_to_end: Distribution
    """Latency of one query."""
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
    """Peak memory of the whole process, with all models of the run."""
    conditions: Conditions
    """Conditions of the machine while this one ran."""
    quick: bool
    """Shorter than MLPerf's rules ask: 600 s, and for ``offline`` 24,576 samples."""
    engine: EngineSettings | None = None
    """Settings of the engine, if it is from a bundle."""
    accuracy: AccuracyBeside | None = None
    """Accuracy of the same variant, from its bundle."""
    target_per_s: float | None = None
    """Rate of arrivals, in ``server``."""
    invalid: tuple[str, ...] = ()
    """Reasons this run is invalid; empty if valid."""
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
