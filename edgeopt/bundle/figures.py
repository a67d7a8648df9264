"""Which of a bundle's figures may stand side by side: those of one machine."""

from __future__ import annotations

from edgeopt.bundle.manifest import Manifest
from edgeopt.bundle.records import Measured


def measured_on_one_machine(manifest: Manifest, machine: str | None = None) -> dict[str, Measured]:
    """Latencies of one machine, with what else it found, by variant.

    Args:
        manifest: of the bundle.
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
