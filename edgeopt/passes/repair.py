"""Repair: quantize, then keep each accuracy repair that measurably helps on calibration images.

Every repair is a pass of its own; this module only tries them in order and measures. Judged are images that no repair
was fitted on, by the divergence of the network's outputs from the float network's: no labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgeopt.calibrate import CalibrationTable, calibrate
from edgeopt.calibrate.tap import Feeds
from edgeopt.errors import requires_extra
from edgeopt.passes.divergence import Floats, divergence, outputs
from edgeopt.passes.equalize import equalize
from edgeopt.passes.quantize import quantize
from edgeopt.passes.reconstruct import HELD_OUT, Steps, reconstruct
from edgeopt.passes.scheme import QuantScheme

Images = Sequence[tuple[str, Feeds]]
Progress = Callable[[str], None]

REPAIRS = ("equalization", "bias_correction", "weight_clipping", "adaround")
"""The repairs that take seconds, in the order in which they are tried."""
DISTILLATION = "distillation"
"""The one that takes minutes: asked for by name, tried last."""
FITTED_IMAGES = 128
"""Most images that reconstruction is fitted on and judged by, spread evenly over the calibration set."""


@dataclass(frozen=True)
class RepairTrial:
    """One repair that was tried."""

    name: str
    before: float
    """Divergence of the outputs from the float network's on held-out calibration images (see `divergence`)."""
    after: float
    declined: str = ""
    """Why it could not be tried; empty where it was."""

    @property
    def is_kept(self) -> bool:
        """Whether it helped."""
        return self.after < self.before


@dataclass(frozen=True)
class Repaired:
    """A quantized network and what was tried on it."""

    model: ir.Model
    divergence: float
    trials: tuple[RepairTrial, ...]


def repair(
    model: ir.Model,
    table: CalibrationTable,
    scheme: QuantScheme,
    images: Images,
    repairs: Sequence[str] = REPAIRS,
    exclude: tuple[str, ...] = (),
    progress: Progress | None = None,
    distillation_epochs: int = 12,
) -> Repaired:
    """Quantize `model` and repair it.

    Args:
        model: the optimized float network; not modified.
        table: its calibration.
        scheme: number formats and placement.
        images: calibration images, readable more than once: name and network inputs, batch 1.
        repairs: which to try, of `REPAIRS` and `DISTILLATION`. The last three of `REPAIRS` refit layers one after
            another and are tried as one, since each layer takes of them what helps it.
        exclude: glob patterns of names of layers that stay float.
        progress: told what is being done.
        distillation_epochs: passes of the fine-tune over the images that are not held out.

    Returns:
        The best network found, never worse on the held-out images than plain `quantize`.

    Raises:
        MissingExtraError: distillation is asked for and torch is not installed.
    """
    tell = progress or _ignore
    judge = _Judge(model, images)
    best = quantize(model, table, scheme, exclude)
    lowest = judge.measure(best)
    trials: list[RepairTrial] = []
    base = model
    if "equalization" in repairs:
        tell("equalization")
        equal = equalize(model, table, insert=scheme.fuses_scales)
        candidate = quantize(equal, calibrate(equal, images, table.config), scheme, exclude)
        trials.append(RepairTrial("equalization", lowest, judge.measure(candidate)))
        if trials[-1].is_kept:
            base, best, lowest = equal, candidate, trials[-1].after
    steps = Steps(bias="bias_correction" in repairs, clip="weight_clipping" in repairs, rounding="adaround" in repairs)
    if steps.any:
        candidate, _ = reconstruct(base, best, judge.fitted, steps, progress)
        trials.append(RepairTrial(steps.name, lowest, judge.measure(candidate)))
        if trials[-1].is_kept:
            best, lowest = candidate, trials[-1].after
    if DISTILLATION in repairs:
        best, trial = _distilled(base, best, lowest, judge, distillation_epochs, tell)
        trials.append(trial)
        lowest = trial.after
    return Repaired(best, lowest, tuple(trials))


class _Judge:
    """The float network's outputs on the images that are held out: the last of every four."""

    def __init__(self, model: ir.Model, images: Images) -> None:
        feeds = [each for _, each in images]
        self._feeds = feeds[HELD_OUT - 1 :: HELD_OUT] or feeds
        self.others: list[Feeds] = [each for index, each in enumerate(feeds) if index % HELD_OUT != HELD_OUT - 1]
        self.fitted: list[Feeds] = [feeds[index] for index in _spread(len(feeds))]
        self._reference: list[list[Floats]] = outputs(model, self._feeds)

    def measure(self, model: ir.Model) -> float:
        """Divergence of `model` from the float network."""
        return divergence(self._reference, outputs(model, self._feeds))


def _spread(count: int) -> list[int]:
    """At most `FITTED_IMAGES` indices: whole runs of `HELD_OUT`, the last of each held out, evenly over `count`."""
    runs = max(1, count // HELD_OUT)
    chosen = range(0, runs, max(1, -(-runs * HELD_OUT // FITTED_IMAGES)))
    return [index for run in chosen for index in range(run * HELD_OUT, min(run * HELD_OUT + HELD_OUT, count))]


def _distilled(
    base: ir.Model, quantized: ir.Model, before: float, judge: _Judge, epochs: int, tell: Progress
) -> tuple[ir.Model, RepairTrial]:
    """The fine-tuned network where that helped; unchanged, with the reason, where an operator does not let it be."""
    requires_extra("torch", "build")
    from edgeopt.passes.distill import UnsupportedOperatorError, distill

    try:
        best, after = distill(base, quantized, judge.others, judge.measure, epochs, progress=tell)
    except UnsupportedOperatorError as error:
        return quantized, RepairTrial(DISTILLATION, before, before, f"cannot be fine-tuned through {error}")
    return best, RepairTrial(DISTILLATION, before, after)


def _ignore(_: str) -> None:
    """Progress that nobody wants."""
