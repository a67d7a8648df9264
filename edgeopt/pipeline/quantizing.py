"""The one way from a float graph to a Q/DQ graph: for builds, for `edgeopt quantize` and for the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgeopt.bundle.records import IntegerCoverage, RepairTrial
from edgeopt.calibrate import CalibrationTable, calibrate
from edgeopt.config import CalibrateConfig, CandidateName, QuantizeConfig, SchemeName
from edgeopt.metrics import Discrepancy, OutputReading
from edgeopt.passes.quantize.coverage import coverage
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import scheme as scheme_named
from edgeopt.passes.quantize.scheme import varied
from edgeopt.passes.repair.activations import Images
from edgeopt.passes.repair.allowance import Allowance
from edgeopt.passes.repair.observed import observed_tensors
from edgeopt.passes.repair.trials import repair
from edgeopt.pipeline.slowdown import slowdown_for
from edgeopt.progress import Update
from edgeopt.spec import PROCESSORS, Processor

_EXEMPT = "it was measured to be worth its time in float (the repair `exemption` or `floats`)"


@dataclass(frozen=True)
class Quantized:
    """A quantized graph, and what it rests on.

    Attributes:
        model: with Q/DQ.
        table: the float graph's calibration.
        trials: the repairs that were tried.
        discrepancy: typical one of its outputs from the float network's, on images that no repair was fitted on.
        coverage: the share of the work that is on integers, and the layers that are not.
    """

    model: ir.Model
    table: CalibrationTable
    trials: tuple[RepairTrial, ...]
    discrepancy: float
    coverage: IntegerCoverage

    @property
    def helped(self) -> tuple[str, ...]:
        """Names of the repairs that were kept."""
        return tuple(trial.name for trial in self.trials if trial.is_kept)


def quantize_graph(
    model: ir.Model,
    images: Images,
    calibration: CalibrateConfig,
    quantization: QuantizeConfig,
    scheme: SchemeName,
    readings: Sequence[OutputReading],
    *,
    processors: Sequence[Processor] = PROCESSORS,
    table: CalibrationTable | None = None,
    progress: Update | None = None,
    begun: float | None = None,
    variation: CandidateName | None = None,
) -> Quantized:
    """Calibrate a graph, quantize it, and keep the repairs that measurably help.

    Args:
        model: the optimized float graph; not modified.
        images: name and network inputs of each, batch 1; those beyond what `calibration` wants are not used.
        calibration: settings of calibration.
        quantization: what stays float and which repairs are tried; its own scheme does not count.
        scheme: whose kernels the Q/DQ is for.
        readings: meaning of the outputs, by which repairs are judged.
        processors: those that integers must be right on, of what the scheme serves.
        table: the graph's calibration on these images, where it was made before.
        progress: told how far it is.
        begun: of `time.monotonic`, from when on the time of `quantization.minutes` counts. Default: now.
        variation: what a candidate does otherwise than the scheme (`scheme.VARIATIONS`).

    Raises:
        ModelError: no layer can be quantized, or an operator cannot be run.
        DataError: too few images, or an activation that is not finite.
        ConfigError: a pattern of `exclude`, or a layer of `ranges`, that is not in the graph.
        MissingExtraError: fine-tuning is asked for and torch is not installed.
    """
    begun = time.monotonic() if begun is None else begun
    used, kernels = images[: calibration.images], varied(scheme_named(scheme, processors), variation)
    if table is None:
        table = calibrate(model, used, calibration, tensors=observed_tensors(model, kernels.also))
    repaired = repair(
        model,
        table,
        kernels,
        used,
        Discrepancy(readings),
        quantization.repairs,
        quantization.exclude,
        allowance=Allowance(quantization.minutes, progress, begun),
        methods=quantization.ranges,
        slowdown=slowdown_for(scheme, used[0][1]),
    )
    reasons = place(model, kernels, quantization.exclude).reasons
    covered = coverage(repaired.model, reasons, _EXEMPT)
    return Quantized(repaired.model, table, repaired.trials, repaired.discrepancy, covered)
