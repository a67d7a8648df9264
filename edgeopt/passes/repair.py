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
from edgeopt.passes.divergence import Floats, divergence, outputs
from edgeopt.passes.equalize import equalize
from edgeopt.passes.quantize import quantize
from edgeopt.passes.reconstruct import HELD_OUT, Steps, reconstruct
from edgeopt.passes.scheme import QuantScheme

Images = Sequence[tuple[str, Feeds]]
Progress = Callable[[str], None]

REPAIRS = ("equalization", "bias_correction", "weight_clipping", "adaround")
"""All repairs, in the order in which they are tried."""
FITTED_IMAGES = 64
"""Most images that reconstruction is fitted on and judged by, spread evenly over the calibration set."""


@dataclass(frozen=True)
class RepairTrial:
    """One repair that was tried."""

    name: str
    before: float
    """Divergence of the outputs from the float network's on held-out calibration images (see `divergence`)."""
    after: float

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
) -> Repaired:
    """Quantize `model` and repair it.

    Args:
        model: the optimized float network; not modified.
        table: its calibration.
        scheme: number formats and placement.
        images: calibration images, readable more than once: name and network inputs, batch 1.
        repairs: which to try, of `REPAIRS`. The last three refit layers one after another and are tried as one, since
            each layer takes of them what helps it.
        exclude: glob patterns of names of layers that stay float.
        progress: told what is being done.

    Returns:
        The best network found, never worse on the held-out images than plain `quantize`.
    """
    tell = progress or _ignore
    judge = _Judge(model, images)
    best = quantize(model, table, scheme, exclude)
    lowest = judge.measure(best)
    trials: list[RepairTrial] = []
    base = model
    if "equalization" in repairs:
        tell("equalization")
        equal = equalize(model, table)
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
    return Repaired(best, lowest, tuple(trials))


class _Judge:
    """The float network's outputs on the images that are held out."""

    def __init__(self, model: ir.Model, images: Images) -> None:
        step = max(1, len(images) // FITTED_IMAGES)
        self.fitted: list[Feeds] = [feeds for _, feeds in images[::step]]
        self._feeds = self.fitted[HELD_OUT - 1 :: HELD_OUT] or self.fitted
        self._reference: list[list[Floats]] = outputs(model, self._feeds)

    def measure(self, model: ir.Model) -> float:
        """Divergence of `model` from the float network."""
        return divergence(self._reference, outputs(model, self._feeds))


def _ignore(_: str) -> None:
    """Progress that nobody wants."""
