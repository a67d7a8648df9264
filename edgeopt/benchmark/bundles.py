"""Benchmark a bundle's variants on this machine, in alternation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from edgeopt.benchmark.run import benchmark_scenario
from edgeopt.bundle import Bundle, Manifest, Mode, Variant
from edgeopt.bundle.accuracy import accuracy_beside
from edgeopt.bundle.records import LatencyResult, Measured, ScenarioName, now
from edgeopt.config import BenchmarkConfig
from edgeopt.errors import TargetError
from edgeopt.hardware import ThisMachine
from edgeopt.progress import Update
from edgeopt.runtime import availability, open_variant
from edgeopt.runtime.choice import identity_of_target, measured_here
from edgeopt.runtime.session import Array
from edgeopt.spec import replace


def benchmark_bundle(
    bundle: Bundle,
    images: Sequence[Array],
    config: BenchmarkConfig,
    *,
    variant: str | None = None,
    scenario: ScenarioName = "singlestream",
    quick: bool = True,
    progress: Update | None = None,
) -> dict[str, LatencyResult]:
    """Measure every variant that runs here, or one, beside the bundle's FP32 baseline.

    Args:
        bundle: opened.
        images: decoded (H, W, 3) uint8 BGR images, used around and around.
        config: warm-up, duration and threads.
        variant: only this one (and the baseline, where it runs).
        scenario: MLPerf's, see `SCENARIOS`; in ``offline`` engines run as is best for throughput.
        quick: as long as `config` says; otherwise as long as MLPerf asks.
        progress: told how far it is.

    Raises:
        BundleError: no such variant.
        TargetError: nothing of the bundle runs here.
        MeasurementError: see `benchmark_variants`.
    """
    wanted = runnable(bundle, None if variant is None else bundle.variant(variant))
    mode: Mode = "throughput" if scenario == "offline" else "latency"
    with ExitStack() as stack:
        predictors = {
            each.name: stack.enter_context(open_variant(bundle, each, threads=config.threads, mode=mode))
            for each in wanted
        }
        results = benchmark_scenario(predictors, images, scenario, config, quick=quick, progress=progress)
    here = measured_here(bundle.manifest)
    return {
        name: replace(
            result,
            engine=predictors[name].variant.engine,
            accuracy=accuracy_beside(bundle.manifest, name, here),
        )
        for name, result in results.items()
    }


def found_here(
    results: Mapping[str, LatencyResult], manifest: Manifest, machine: ThisMachine | None = None
) -> dict[str, Measured]:
    """Return the latencies that a bundle keeps: whole runs of single images, with its own threads.

    One of a disturbed run is kept, marked, where there is no better one: its ratios still say more than nothing does.

    Args:
        results: results of `benchmark_bundle`.
        manifest: the same bundle's manifest.
        machine: that measured. Default: this one.
    """
    machine = machine or ThisMachine()
    found = {}
    for name, result in results.items():
        variant = manifest.variant(name)
        identity = identity_of_target(variant.target, machine)
        before = variant.measured.get(identity.fingerprint)
        better = before is not None and before.latency is not None and not before.latency.invalid
        comparable = result.scenario == "singlestream" and result.environment.threads == 0 and not result.partial
        if comparable and not (result.invalid and better):
            found[name] = Measured(machine=identity, recorded=now(), latency=result)
    return found


def runnable(bundle: Bundle, only: Variant | None) -> list[Variant]:
    """Return the variants to measure, the baseline first."""
    manifest = bundle.manifest
    baseline = manifest.variant(manifest.baseline)
    others = manifest.variants if only is None else (only,)
    states = {each.name: availability(each.target) for each in (baseline, *others)}
    if only is not None and not states[only.name].ok:
        raise TargetError(f"variant '{only.name}' does not run here: {states[only.name].reason}")
    found = {each.name: each for each in (baseline, *others) if states[each.name].ok}
    if not found:
        reasons = "; ".join(f"{name}: {state.reason}" for name, state in states.items())
        raise TargetError(f"no variant of {bundle.path} runs here ({reasons})")
    return list(found.values())
