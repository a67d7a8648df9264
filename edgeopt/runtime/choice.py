"""Choice: which variant of a bundle runs on this machine, and why not each other one.

It is decided by what was measured on this kind of machine, and by nothing that another one measured. Where variants
were measured in alternation with the same baseline, their ratios decide; medians of different runs only where there is
no such ratio. INT8 counts with the upper end of its interval: it has to be faster beyond doubt, since it costs
accuracy.

Where nothing was measured:

* engines on a GPU go before those on the processor;
* on a GPU FP16 goes before INT8, and that before FP32, until `load` has measured them itself (`runtime.first_load`);
* on a processor INT8 goes first where the target runs Q/DQ graphs whole (OpenVINO) and the processor multiplies bytes
  in one instruction, or has AVX2, whose kernels took less time than FP32's on nearly all of the zoo's networks
  (``python -m benchmarks.zoo``); then BF16 where the processor has it, then FP32, then other INT8, which was seen to be
  slower than FP32 with ONNX Runtime. Among equals the bundle's order decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from edgeopt.bundle import Manifest, Variant
from edgeopt.bundle.figures import acceptance
from edgeopt.bundle.records import Measured
from edgeopt.errors import EdgeoptError, MissingExtraError, TargetError
from edgeopt.hardware import Cpu, Identity, ThisMachine
from edgeopt.runtime.saturation import may_saturate
from edgeopt.runtime.session import Availability, availability, known_target
from edgeopt.runtime.speeds import Speed, read_speeds, speeds_file

_LOG = logging.getLogger(__name__)
_ON_GPU = ("fp16", "bf16", "int8", "fp32")
"""The order of what was not measured there."""


@dataclass(frozen=True)
class Choice:
    """Variant that this machine would run, with reasons."""

    name: str | None
    """Name of the variant; None if nothing of the bundle runs here."""
    reason: str
    """Reason for this one, as it follows "because"."""
    rejected: dict[str, str]
    """Reason against each other one."""
    hint: str = ""
    """Advice that would make the choice a better one; empty if there is none."""

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def identity_of_target(reference: str, machine: ThisMachine) -> Identity:
    """Return what results of a target's engines depend on here."""
    target = known_target(reference)
    if target is None:
        return machine.identity((), accelerated=False)
    return machine.identity(target.distributions, accelerated=target.accelerated)


def measured_here(manifest: Manifest, machine: ThisMachine | None = None) -> dict[str, Measured]:
    """Return this kind of machine's measurements, by variant."""
    machine = machine or ThisMachine()
    keys = {target: identity_of_target(target, machine).fingerprint for target in {v.target for v in manifest.variants}}
    return {v.name: v.measured[keys[v.target]] for v in manifest.variants if keys[v.target] in v.measured}


@dataclass
class Candidates:
    """The variants of a bundle, best first, each tried at most once; `rejected` says what was wrong with the others."""

    manifest: Manifest
    available: Callable[[str], Availability] = availability
    """Tells if a target can run here. It is asked only for variants that come up, because it imports the engine's
    library."""
    machine: ThisMachine = field(default_factory=ThisMachine)
    speeds: Mapping[str, Speed] = field(default_factory=dict)
    """Speeds by variant, from the first load."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Reason by variant name."""

    does_not_load: ClassVar = (TargetError, MissingExtraError)
    """Exceptions of loading a variant, after which the next one is tried."""

    def __iter__(self) -> Iterator[Variant]:
        """Yield every variant that may be chosen and whose target is there."""
        for variant in sorted(self.manifest.variants, key=self._rank):
            if variant.name in self.rejected:
                continue
            if reason := self.refusal(variant):
                self.rejected[variant.name] = reason
            elif self.runs(variant):
                yield variant

    def runs(self, variant: Variant) -> bool:
        """Return True if its target can run here; the reason is kept if not."""
        available = self.available(variant.target)
        if not available.ok:
            self.rejected[variant.name] = f"target '{variant.target}' cannot run here: {available.reason}"
        return available.ok

    def reject(self, variant: Variant, error: EdgeoptError) -> None:
        """Leave out a variant that does not load here."""
        _LOG.warning("variant '%s' does not load here: %s", variant.name, error)
        self.rejected[variant.name] = f"does not load here: {error}"

    def unsettled(self) -> list[Variant]:
        """Variants between which only a measurement on this GPU can decide: empty where there was one, or one variant.

        They come in the order in which they run until then.
        """
        found = [
            each
            for each in sorted(self.manifest.variants, key=self._default_order)
            if self.is_accelerated(each) and not self.refusal(each) and self.runs(each)
        ]
        return found if len(found) > 1 and any(self._recorded(each) is None for each in found) else []

    def speeds_file(self, variants: list[Variant]) -> Path:
        """Return the file of the first load's speeds of these engines, with their settings, on this machine."""
        files = self.manifest.files
        return speeds_file(
            [(each.name, each.engine, files.get(each.file), self.fingerprint(each.target)) for each in variants]
        )

    def here(self, variant: Variant) -> Measured | None:
        """Return what was recorded of it on this kind of machine."""
        return variant.measured.get(self.fingerprint(variant.target)) if variant.measured else None

    def fingerprint(self, target: str) -> str:
        """Return the fingerprint of this machine, as a target's engines depend on it."""
        if target not in self._fingerprints:
            self._fingerprints[target] = identity_of_target(target, self.machine).fingerprint
        return self._fingerprints[target]

    def refusal(self, variant: Variant) -> str:
        """Return why it must not be chosen; empty if it may be."""
        if other := self._preferred(variant):
            return other
        measured = self.here(variant)
        found = acceptance(variant, measured)
        is_here = measured is not None and found is measured.acceptance
        if not found.accepted:
            where = " here" if is_here else ""
            return f"it was not accepted{where}: {found.verdict or 'no reason recorded'}"
        return "" if is_here else may_saturate(variant, self._cpu)

    def _preferred(self, variant: Variant) -> str:
        """Return why another of a variant and its candidates runs here; empty if this one does."""
        default = variant if variant.candidate is None else self.manifest.variant(variant.candidate.of)
        choice = default.choices.get(self.fingerprint(default.target)) if default.choices else None
        if choice is None:
            if variant is default:
                return ""
            return f"it is a candidate beside '{default.name}'. Measure if it is faster here: edgeopt tune BUNDLE"
        chosen = next((each for each in self.manifest.variants if each.name == choice.chosen), default)
        if not acceptance(chosen, self.here(chosen)).accepted:
            chosen = default
        if variant.name == chosen.name:
            return ""
        ratio = choice.ratios.get(chosen.name)
        faster = f", at {ratio.estimate:.2f}× the latency of '{ratio.baseline}'" if ratio is not None else ""
        return f"'{chosen.name}' was chosen among the candidates here{faster}"

    def speed(self, variant: Variant) -> Speed | None:
        """Return how fast it is here; None if that was not measured."""
        return self.speeds.get(variant.name) or self._recorded(variant)

    def _recorded(self, variant: Variant) -> Speed | None:
        """Return the bundle's record of it on this kind of machine."""
        found = self.here(variant)
        if found is None or found.latency is None:
            return None
        latency, ratio = found.latency, found.latency.ratio
        p50_ms, disturbed = latency.end_to_end.p50_ms, bool(latency.invalid)
        if ratio is None:
            return Speed(p50_ms, variant.name, disturbed=disturbed)
        return Speed(p50_ms, ratio.baseline, ratio.estimate, ratio.high, disturbed)

    def is_accelerated(self, variant: Variant) -> bool:
        """Return True if it runs on a GPU."""
        target = known_target(variant.target)
        return target is not None and target.accelerated

    def reject_rest(self, chosen: Variant) -> None:
        """Give every variant that was not tried the reason that `chosen` is better."""
        for variant in self.manifest.variants:
            if variant is chosen or variant.name in self.rejected:
                continue
            if known_target(variant.target) is not None or self.runs(variant):
                self.rejected[variant.name] = self.refusal(variant) or self._worse(variant, chosen)

    def none_left(self) -> TargetError:
        """Return the error when nothing can run."""
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.rejected.items())
        return TargetError(
            f"no variant of bundle '{self.manifest.name}' runs on this machine ({reasons}). "
            "Install an engine, or build the bundle for a target that is here"
        )

    def chosen(self, variant: Variant) -> Choice:
        """`variant` as the choice, with its reason and the others'."""
        self.reject_rest(variant)
        return Choice(variant.name, self._why(variant), self.rejected, self._hint(variant))

    # Order

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        return {}

    def _comparable(self, variants: Iterable[Variant]) -> bool:
        """Return True if all that were measured here have ratios to one and the same reference."""
        return len({speed.reference for each in variants if (speed := self.speed(each))}) == 1

    @cached_property
    def _gpu_first(self) -> bool:
        """Return True if engines on a GPU go first: unless all of them were measured, and so may be slower."""
        return not self._comparable(self.manifest.variants) or any(
            self.speed(each) is None
            for each in self.manifest.variants
            if self.is_accelerated(each) and not self.refusal(each)
        )

    def _rank(self, variant: Variant) -> tuple[bool, bool, float, int]:
        """Sort key: GPUs first, then what was measured by its speed, then the rest by the default order."""
        speed = self.speed(variant)
        return (
            self._gpu_first and not self.is_accelerated(variant),
            speed is None,
            0.0 if speed is None else round(self._cost(variant, speed), 3),  # closer than that is a tie
            self._default_order(variant),
        )

    def _cost(self, variant: Variant, speed: Speed) -> float:
        """Return the cost by which measured variants are ranked, among those on a GPU and those on the processor."""
        if not self._comparable(self._peers(variant)):
            return speed.p50_ms
        return speed.high if variant.precision == "int8" else speed.relative

    def _default_order(self, variant: Variant) -> int:
        if self.is_accelerated(variant):
            return _ON_GPU.index(variant.precision)
        if variant.precision != "int8":
            return 1 if variant.precision == "bf16" and self._cpu.bf16_instruction else 2
        target = known_target(variant.target)
        has_kernels = self._cpu.int8_instruction is not None or "avx2" in self._cpu.features
        return 0 if has_kernels and target is not None and target.scheme == "openvino" else 3

    def _peers(self, variant: Variant) -> list[Variant]:
        """Return the variants that it is ranked among."""
        if not self._gpu_first:
            return list(self.manifest.variants)
        accelerated = self.is_accelerated(variant)
        return [each for each in self.manifest.variants if self.is_accelerated(each) == accelerated]

    @property
    def _cpu(self) -> Cpu:
        return self.machine.processor.cpu

    # Words

    def _why(self, variant: Variant) -> str:
        speed = self.speed(variant)
        others = [each for each in self.manifest.variants if each is not variant and self.speed(each) is not None]
        if speed is None:
            device = "GPU" if self.is_accelerated(variant) else "processor"
            return f"nothing was measured here, and the default order for this {device} begins with it"
        doubt = ", while other processes ran" if speed.disturbed else ""
        if speed.reference == variant.name or not others:
            return f"it is the fastest that was measured here{speed.how}, at {_ms(speed.p50_ms)}{doubt}"
        at = f"{speed.relative:.2f}× the latency of '{speed.reference}'"
        return f"it is the fastest that was measured here{speed.how}, at {at}{doubt}"

    def _worse(self, variant: Variant, chosen: Variant) -> str:
        own, best = self.speed(variant), self.speed(chosen)
        if own is None and (absent := self._absent(variant)):
            return f"it was not measured on this machine, where '{absent}' is not installed"
        if own is None:
            return f"it was not measured on this machine, and '{chosen.name}' goes before it until it is"
        if best is None or chosen not in (peers := self._peers(variant)):
            return f"'{chosen.name}' runs on this machine's GPU"
        if not self._comparable(peers):
            return f"slower here: {_ms(own.p50_ms)} where '{chosen.name}' takes {_ms(best.p50_ms)}"
        ratio, bound = own.relative / best.relative, own.high / best.relative
        if ratio < 1.0:
            return (
                f"not faster beyond doubt here: {ratio:.2f}× the latency of '{chosen.name}', up to {bound:.2f}×; INT8 "
                "has to be, since it costs accuracy"
            )
        return f"slower here: {ratio:.2f}× the latency of '{chosen.name}'"

    def _absent(self, variant: Variant) -> str:
        """Return the engine's package that is not installed; empty if none is missing. Nothing is imported.

        TensorRT may be there without pip knowing it, as on a Jetson.
        """
        target = known_target(variant.target)
        needed = () if target is None or target.accelerated else target.distributions
        installed = identity_of_target(variant.target, self.machine).libraries
        return next((name for name in needed if name not in installed), "")

    def _hint(self, chosen: Variant) -> str:
        """Advise what to measure, if the choice rests on no measurement."""
        if self.speed(chosen) is not None:
            return ""
        others = (chosen, *self.manifest.variants)
        known = next((each.measured for each in others if each.measured), {})
        timed = {found.machine.title for found in known.values() if found.latency is not None}
        elsewhere = "; ".join(sorted(timed))
        here = identity_of_target(chosen.target, self.machine).title
        only = elsewhere and f", only on {elsewhere}"
        return (
            f"'{self.manifest.name}' was not measured on this machine ({here}){only}. "
            "Measure and record it here with: edgeopt benchmark BUNDLE"
        )


def choose(
    manifest: Manifest,
    available: Callable[[str], Availability] = availability,
    machine: ThisMachine | None = None,
) -> Choice:
    """The variant that `load` would try first, and why none of the others; nothing is loaded and nothing measured.

    Args:
        manifest: the bundle's manifest.
        available: tells if a target can run here. It is asked for every variant that may be chosen, so that an absent
            library is said as such.
        machine: this one.
    """
    candidates = Candidates(manifest, available, machine or ThisMachine())
    if variants := candidates.unsettled():
        candidates.speeds = read_speeds(candidates.speeds_file(variants))
    found = list(candidates)
    if not found:
        return Choice(None, "no variant of the bundle can run here", candidates.rejected)
    return candidates.chosen(found[0])


def _ms(value: float) -> str:
    return f"{value:.3g} ms"
