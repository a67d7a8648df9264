"""Read a bundle's figures for one machine."""

from __future__ import annotations

from edgeopt.bundle.manifest import Manifest, Variant
from edgeopt.bundle.records import Acceptance, Measured


def measured_on_one_machine(manifest: Manifest, machine: str | None = None) -> dict[str, Measured]:
    """Latencies of one machine, with what else it found, by variant.

    Args:
        manifest: the bundle's manifest.
        machine: its `hardware.machine_fingerprint`. Default, and where that one measured nothing: the machine that
            measured last.
    """
    found: dict[str, dict[str, Measured]] = {}
    for variant in manifest.variants:
        for each in sorted(variant.measured.values(), key=lambda each: each.recorded):
            if each.latency is not None:
                found.setdefault(each.latency.environment.fingerprint, {})[variant.name] = each
    if machine in found:
        return found[machine]
    return max(found.values(), key=lambda each: max(one.recorded for one in each.values()), default={})


def acceptance(variant: Variant, here: Measured | None) -> Acceptance:
    """Decide if a variant may be chosen on a machine.

    What was evaluated there decides. Where the build refused INT8 because it is not faster, or because its engine does
    not compute in INT8, it stays refused until it was measured there to be faster than the baseline.

    Args:
        variant: a variant of the bundle.
        here: what the machine found of it.
    """
    found = Acceptance(accepted=variant.accepted, verdict=variant.verdict, certain=variant.certain)
    if here is None or here.acceptance is None:
        return found
    search, ratio = variant.stages.search, here.latency.ratio if here.latency is not None else None
    arithmetic = variant.stages.arithmetic
    refused = (search is not None and search.status == "refused") or (arithmetic is not None and arithmetic.refusal())
    if refused and (ratio is None or ratio.high >= 1.0):
        return found
    return here.acceptance
