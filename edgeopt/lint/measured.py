"""Rules on the measurements of a bundle's variants."""

from __future__ import annotations

from collections.abc import Iterator

from edgeopt.bundle import Manifest, Variant
from edgeopt.bundle.figures import measured_on_one_machine
from edgeopt.bundle.records import LatencyResult
from edgeopt.lint.findings import Finding

SLOWER, NOT_QUANTIZED = "slower-than-float", "not-quantized"
RULES = (SLOWER, NOT_QUANTIZED)
_NOTICEABLE = 1.02


def findings(manifest: Manifest) -> Iterator[Finding]:
    """Find what is wrong with a bundle's INT8 variants, by their measurements and nodes."""
    latencies = {name: found.latency for name, found in measured_on_one_machine(manifest).items()}
    for variant in manifest.variants:
        if variant.precision != "int8":
            continue
        if variant.nodes and not variant.nodes.get("QuantizeLinear"):
            yield Finding(
                rule=NOT_QUANTIZED,
                severity="warning",
                node="",
                reason="it is called INT8, and its graph has no quantizer",
                fix="build it again; see [quantize] exclude and the repairs in the report",
                variant=variant.name,
            )
        if (same := _float_of(manifest, variant)) is not None:
            yield from _slower(variant.name, same.name, latencies.get(variant.name), latencies.get(same.name))


def _float_of(manifest: Manifest, variant: Variant) -> Variant | None:
    """Return the FP32 variant of the same target."""
    return next((each for each in manifest.variants if (each.target, each.precision) == (variant.target, "fp32")), None)


def _slower(name: str, same: str, latency: LatencyResult | None, reference: LatencyResult | None) -> Iterator[Finding]:
    if latency is None or reference is None:
        return
    own, other = latency.end_to_end.p50_ms, reference.end_to_end.p50_ms
    if own <= _NOTICEABLE * other:
        return
    invalid = latency.invalid or reference.invalid
    doubt = f"; that run was not valid: {invalid[0]}" if invalid else ""
    yield Finding(
        rule=SLOWER,
        severity="warning",
        node="",
        reason=f"runs at {other / own:.2f}× the speed of '{same}'",
        fix="leave it out ([compile] targets), or see the findings on its graph",
        cost=f"{own:.3g} ms where FP32 takes {other:.3g} ms, on {latency.environment.machine.cpu.model}{doubt}",
        variant=name,
    )
