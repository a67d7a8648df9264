"""Standing: the best network so far, and what may take its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import onnx_ir as ir

from edgeopt.bundle.records import RepairTrial
from edgeopt.calibrate import CalibrationTable, Range
from edgeopt.passes.quantize.insert import Methods, quantize
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.allowance import Allowance
from edgeopt.passes.repair.judge import Distances, Judge, ruins_some, typical


@dataclass
class Standing:
    """A quantized network, what it was made of, and how far it is from the float network on held-out images."""

    base: ir.Model
    """The float network, equalized where that helped."""
    table: CalibrationTable
    """Calibration of `base`."""
    exclude: tuple[str, ...]
    """Glob patterns of names of layers that stay float."""
    quantized: ir.Model
    distances: Distances
    changed: frozenset[str] = frozenset()
    """Names of the tensors of `base` that are scaled otherwise than in the network as it was."""
    ranges: Mapping[str, Range] = field(default_factory=dict)
    """Ranges that were chosen instead of those that the table's method finds; when all is decided, all of them."""

    def declines(self, name: str, allowance: Allowance, trials: list[RepairTrial]) -> bool:
        """Return True, with a trial that says why, where there is no time for a repair."""
        if reason := allowance.refuses(name):
            trials.append(compared(name, self.distances, self.distances, reason))
        return bool(reason)

    def rebased(
        self,
        base: ir.Model,
        observed: CalibrationTable,
        scheme: QuantScheme,
        methods: Methods | None,
        judge: Judge,
        changed: frozenset[str],
    ) -> Standing:
        """Quantize another float network that computes the same.

        Args:
            base: that network.
            observed: calibration of the tensors that differ.
            scheme: number formats and placement.
            methods: as in `quantize`.
            judge: measures it.
            changed: names of its tensors that are scaled otherwise than in the network as it was.
        """
        table = dataclasses.replace(self.table, tensors={**self.table.tensors, **observed.tensors})
        candidate = quantize(base, table, scheme, self.exclude, methods=methods)
        return Standing(base, table, self.exclude, candidate, judge.measure(candidate), changed)

    def requantized(self, candidate: ir.Model, judge: Judge) -> Standing:
        """Measure another quantized form of the same float network."""
        return dataclasses.replace(self, quantized=candidate, distances=judge.measure(candidate))

    def try_instead(self, name: str, candidate: Standing, declined: str = "") -> RepairTrial:
        """Take the candidate's place where it is better, unless it is declined for a reason."""
        trial = compared(name, self.distances, candidate.distances, declined)
        if trial.is_kept:
            for each in dataclasses.fields(candidate):
                setattr(self, each.name, getattr(candidate, each.name))
        return trial


def compared(name: str, before: Distances, after: Distances, declined: str = "") -> RepairTrial:
    """Return the trial of a repair from what the judge measured before and after it.

    It is declined where most images come nearer while some go so far away that the mean rises for certain.
    """
    trial = RepairTrial(name, typical(before), typical(after), declined)
    if trial.is_kept and ruins_some(before, after):
        rise = f"from {before.mean():.3g} to {after.mean():.3g}"
        return msgspec.structs.replace(trial, declined=f"a few images become so much worse that the mean rises {rise}")
    return trial
