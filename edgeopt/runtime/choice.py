"""Choice: which variant of a bundle runs on this machine, and why not each other one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edgeopt.bundle import Manifest, Variant
from edgeopt.errors import TargetError
from edgeopt.runtime.session import Availability, known_target

_PRECISIONS = ("int8", "fp16", "bf16", "fp32")
"""The order of what was not measured."""


@dataclass
class Candidates:
    """The variants of a bundle, best first, each tried at most once; `rejected` says what was wrong with the others."""

    manifest: Manifest
    available: Callable[[str], Availability]
    """Whether a target can run here; asked only for variants that come up, because it imports the engine's library."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Reason by variant name."""

    def __iter__(self) -> Iterator[Variant]:
        """Every variant that may be chosen and whose target is there."""
        for variant in sorted(self.manifest.variants, key=_rank):
            if not variant.accepted:
                self.rejected[variant.name] = f"it was not accepted: {variant.verdict or 'no reason recorded'}"
                continue
            available = self.available(variant.target)
            if available.ok:
                yield variant
            else:
                self.rejected[variant.name] = f"target '{variant.target}' cannot run here: {available.reason}"

    def reject_rest(self, chosen: Variant) -> None:
        """Give every variant that was not tried the reason that `chosen` is better."""
        for variant in self.manifest.variants:
            if variant is not chosen and variant.name not in self.rejected:
                self.rejected[variant.name] = _worse(variant, chosen) if variant.accepted else _not_accepted(variant)

    def none_left(self) -> TargetError:
        """The error when nothing can run."""
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.rejected.items())
        return TargetError(
            f"no variant of bundle '{self.manifest.name}' runs on this machine ({reasons}). "
            "Install an engine, or build the bundle for a target that is here"
        )


def choose(manifest: Manifest, available: Callable[[str], Availability]) -> tuple[str | None, dict[str, str]]:
    """The variant that `load` would try first, and why none of the others; nothing is loaded."""
    candidates = Candidates(manifest, available)
    chosen = next(iter(candidates), None)
    if chosen is not None:
        candidates.reject_rest(chosen)
    return (None if chosen is None else chosen.name), candidates.rejected


def _rank(variant: Variant) -> tuple[bool, bool, float, int]:
    """Sort key: accelerators first, then what was measured by its latency, then by precision."""
    measured = variant.p50_ms is not None
    return (
        not _accelerated(variant),
        not measured,
        variant.p50_ms or 0.0,
        _PRECISIONS.index(variant.precision),
    )


def _accelerated(variant: Variant) -> bool:
    """Whether its target comes before those on the CPU: a bundle built elsewhere has no latency for it."""
    target = known_target(variant.target)
    return target is not None and target.accelerated


def _not_accepted(variant: Variant) -> str:
    return f"it was not accepted: {variant.verdict or 'no reason recorded'}"


def _worse(variant: Variant, chosen: Variant) -> str:
    if variant.p50_ms is None:
        return f"not measured, and '{chosen.name}' comes before it"
    if chosen.p50_ms is None or _accelerated(chosen) != _accelerated(variant):
        return f"'{chosen.name}' runs on this machine's accelerator"
    return f"slower: {variant.p50_ms:.3g} ms where '{chosen.name}' takes {chosen.p50_ms:.3g} ms"
