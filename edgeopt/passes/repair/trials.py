"""Repair: quantize, then keep each accuracy repair that measurably helps on calibration images.

Every repair is a pass of its own; this module only tries them in order and measures by how far the network's outputs
are from the float network's: no labels are needed. The images that judge are none that a repair was fitted on (see
`Split`); only the statistics of the calibration table are those of all images, for every trial alike.
"""

from __future__ import annotations

import dataclasses
import glob
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import onnx_ir as ir

from edgeopt.bundle.records import RepairTrial
from edgeopt.calibrate import CalibrationTable, Range, calibrate
from edgeopt.calibrate.spool import feeds_of, spooled
from edgeopt.calibrate.tap import Feeds, each_as_written
from edgeopt.doors import REPAIRS as PLACES
from edgeopt.errors import ModelError, requires_extra
from edgeopt.graph.operators import QUANTIZE
from edgeopt.metrics import Discrepancy
from edgeopt.passes.quantize.insert import Methods, quantize
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.allowance import Allowance, multiplications_per_second
from edgeopt.passes.repair.equalize import equalize
from edgeopt.passes.repair.exempt import dominated_layers
from edgeopt.passes.repair.layers.refit import Steps
from edgeopt.passes.repair.observed import observed_tensors
from edgeopt.passes.repair.ranges import expected_runs, measure_ranges, quantize_activations
from edgeopt.passes.repair.reconstruct import expected_multiplications, reconstruct
from edgeopt.passes.repair.smooth import STRENGTHS, magnitudes, smooth, smoothable
from edgeopt.passes.repair.split import Split, spread
from edgeopt.references import resolve

Images = Sequence[tuple[str, Feeds]]

SMOOTHING = "smoothing"
EXEMPTION = "exemption"
SCALING = "equalization with a Mul per channel"
"""Equalization that inserts operators besides, where the engine is measured to run them as fast."""
REPAIRS = ("equalization", SMOOTHING, "ranges", EXEMPTION, "bias_correction", "weight_clipping", "gptq")
"""The repairs that are tried by default, in this order."""
DISTILLATION = "distillation"
"""The one that takes longest: asked for by name, tried last."""
Slowdown: TypeAlias = Callable[[ir.Model, ir.Model], float]
"""Latency of the second of two Q/DQ graphs over that of the first, in the engine that they are for."""
Repair: TypeAlias = Callable[[ir.Model, ir.Model, QuantScheme, Sequence[Feeds]], ir.Model]
"""Any other: (float network, its best quantized form so far, scheme, network inputs that it may fit on) to a better
quantized one. The graphs are its own to change."""
_WORTH_FLOAT = 0.75
"""A float layer costs time: it must lower the harm of quantized activations to this share."""
_OBSERVING = 4.0
"""Time of calibrating on an image, about, in that of running the network on it."""
_LEARNING = 8.0
"""The same of fine-tuning on it."""
_AS_FAST = 1.05
"""A graph with more operators may take so many times as long: less cannot be told from chance beside other work."""
FITTED_IMAGES = 128
"""Most images that reconstruction looks at, spread evenly over those that may be fitted on."""


@dataclass(frozen=True)
class Repaired:
    """A quantized network and what was tried on it."""

    model: ir.Model
    discrepancy: float
    trials: tuple[RepairTrial, ...]


def repair(
    model: ir.Model,
    table: CalibrationTable,
    scheme: QuantScheme,
    images: Images,
    discrepancy: Discrepancy,
    repairs: Sequence[str] = REPAIRS,
    exclude: tuple[str, ...] = (),
    allowance: Allowance | None = None,
    distillation_epochs: int = 12,
    methods: Methods | None = None,
    slowdown: Slowdown | None = None,
) -> Repaired:
    """Quantize `model` and repair it.

    Args:
        model: the optimized float network; not modified.
        table: its calibration.
        scheme: number formats and placement.
        images: calibration images, readable more than once: name and network inputs, batch 1.
        discrepancy: cost of an error of the outputs.
        repairs: which to try, of `REPAIRS`, `DISTILLATION` and others, each a `Repair`. The last three of `REPAIRS`
            refit layers one after another and are tried as one, since each layer takes of them what helps it.
        exclude: glob patterns of names of layers that stay float.
        allowance: the time that they may take, and what is told how far they are. A repair that would take longer is
            not begun, and one that takes longer than was expected ends with what it has.
        distillation_epochs: passes of the fine-tune over the images that are not held out.
        methods: how the ranges of some layers' inputs are found, as in `quantize`; no repair changes them.
        slowdown: how many times as long the second of two Q/DQ graphs takes in the engine. With it, equalization may
            insert what the scheme does not call free, where it turns out to be.

    Returns:
        The best network found, never worse on the held-out images than plain `quantize`.

    Raises:
        MissingExtraError: distillation is asked for and torch is not installed.
        ModelError: a repair of the user's cannot be imported, or makes no network that can be run.
    """
    allowance = allowance or Allowance()
    split = Split.of(feeds_of(images))
    judge = _Judge(model, split.judge, discrepancy)
    plain = quantize(model, table, scheme, exclude, methods=methods)
    begun = time.perf_counter()
    now = _Standing(model, table, exclude, plain, judge.measure(plain))
    run_s = (time.perf_counter() - begun) / len(split.judge)
    allowance.plan(_expected(repairs, now, images, run_s, distillation_epochs))
    first = now.discrepancy
    trials: list[RepairTrial] = []
    if "equalization" in repairs and not now.declines("equalization", allowance, trials):
        equal = equalize(model, table, insert=scheme.fuses_scales)
        calibrated = calibrate(equal, images, table.config, allowance.step("equalization"), observed_tensors(equal))
        candidate = quantize(equal, calibrated, scheme, exclude, methods=methods)
        trials.append(RepairTrial("equalization", now.discrepancy, judge.measure(candidate)))
        if trials[-1].is_kept:
            now = _Standing(equal, calibrated, exclude, candidate, trials[-1].after)
        if slowdown is not None and not scheme.fuses_scales and not allowance.is_over:
            trials += _insert_scales(now, model, table, scheme, images, judge, methods, slowdown)
    if SMOOTHING in repairs and smoothable(model.graph) and not now.declines(SMOOTHING, allowance, trials):
        smoothed = _smoothed(now, scheme, images, split.fit, judge, methods, allowance)
        trials.append(RepairTrial(SMOOTHING, now.discrepancy, smoothed.discrepancy))
        now = smoothed if trials[-1].is_kept else now
    searching = "ranges" if "ranges" in repairs else EXEMPTION
    if searching in repairs and not now.declines(searching, allowance, trials):
        trials += _settle_activations(now, scheme, split, judge, repairs, methods, allowance)
    steps = _steps(repairs)
    if steps.any and not now.declines(steps.name, allowance, trials):
        update, fit = allowance.step(steps.name), spread(split.fit, FITTED_IMAGES)
        candidate, _ = reconstruct(now.base, now.quantized, scheme, fit, steps, update, lambda: allowance.is_over)
        trials.append(now.try_instead(steps.name, candidate, judge))
    for name in (each for each in repairs if each not in (*REPAIRS, DISTILLATION)):
        if not now.declines(name, allowance, trials):
            allowance.step(name)
            trials.append(now.try_instead(name, _repaired_by(name, now, scheme, split.fit), judge))
    if DISTILLATION in repairs and not now.declines(DISTILLATION, allowance, trials):
        trials.append(_distill(now, scheme, split.fit, judge, distillation_epochs, allowance))
    if now.discrepancy > first:
        undone = "the repairs that helped one by one did not together"
        declined = [msgspec.structs.replace(trial, declined=trial.declined or undone) for trial in trials]
        return Repaired(plain, first, tuple(declined))
    return Repaired(now.quantized, now.discrepancy, tuple(trials))


@dataclass
class _Standing:
    """The best network so far, and what it was made of."""

    base: ir.Model
    """The float network, equalized where that helped."""
    table: CalibrationTable
    """Calibration of `base`."""
    exclude: tuple[str, ...]
    quantized: ir.Model
    discrepancy: float

    def declines(self, name: str, allowance: Allowance, trials: list[RepairTrial]) -> bool:
        """Return True, with a trial that says why, where there is no time for a repair."""
        if reason := allowance.refuses(name):
            trials.append(RepairTrial(name, self.discrepancy, self.discrepancy, reason))
        return bool(reason)

    def try_instead(self, name: str, candidate: ir.Model, judge: _Judge) -> RepairTrial:
        """Measure `candidate`, and keep it if it is better."""
        trial = RepairTrial(name, self.discrepancy, judge.measure(candidate))
        if trial.is_kept:
            self.quantized, self.discrepancy = candidate, trial.after
        return trial


def _insert_scales(
    now: _Standing,
    model: ir.Model,
    table: CalibrationTable,
    scheme: QuantScheme,
    images: Images,
    judge: _Judge,
    methods: Methods | None,
    slowdown: Slowdown,
) -> list[RepairTrial]:
    """Equalize with a Mul per channel where no layer takes the scale, if the engine runs it as fast.

    Where there is none to insert, there is no trial.
    """
    equal = equalize(model, table, insert=True)
    if len(equal.graph) == len(model.graph):
        return []
    calibrated = calibrate(equal, images, table.config, tensors=observed_tensors(equal))
    candidate = quantize(equal, calibrated, scheme, now.exclude, methods=methods)
    after = judge.measure(candidate)
    times = slowdown(now.quantized, candidate) if after < now.discrepancy else 1.0
    declined = "" if times <= _AS_FAST else f"the engine takes {times:.2f} times as long"
    trial = RepairTrial(SCALING, now.discrepancy, after, declined)
    if trial.is_kept:
        now.base, now.table, now.quantized, now.discrepancy = equal, calibrated, candidate, after
    return [trial]


def _expected(
    repairs: Sequence[str], now: _Standing, images: Images, run_s: float, distillation_epochs: int
) -> dict[str, float]:
    """Estimate the seconds that each repair takes, in the order in which they are tried.

    Args:
        repairs: as in `repair`.
        now: the network as it is quantized first.
        images: for calibration.
        run_s: time of one image.
        distillation_epochs: as in `repair`.
    """
    fitted = min(FITTED_IMAGES, len(images))
    quantizers = sum(node.op_type == QUANTIZE for node in now.quantized.graph)
    steps = _steps(repairs)
    known = {"equalization": _OBSERVING * len(images) * run_s}
    known |= {SMOOTHING: len(STRENGTHS) * known["equalization"]} if smoothable(now.base.graph) else {}
    known["ranges" if "ranges" in repairs else EXEMPTION] = expected_runs(now.base, quantizers, len(images)) * run_s
    refitting = 0.0
    if steps.any:
        work = expected_multiplications(now.quantized, fitted)
        refitting = 3.0 * fitted * run_s + work / multiplications_per_second()
    learning = distillation_epochs * len(images) * run_s * _LEARNING
    expected = {name: known[name] for name in REPAIRS if name in known and name in repairs}
    expected |= {steps.name: refitting} if steps.any else {}
    expected |= {name: len(images) * run_s for name in repairs if name not in (*REPAIRS, DISTILLATION)}
    expected |= {DISTILLATION: learning} if DISTILLATION in repairs else {}
    return expected


def _steps(repairs: Sequence[str]) -> Steps:
    return Steps(bias="bias_correction" in repairs, clip="weight_clipping" in repairs, rounding="gptq" in repairs)


def _smoothed(
    now: _Standing,
    scheme: QuantScheme,
    images: Images,
    fit: Sequence[Feeds],
    judge: _Judge,
    methods: Methods | None,
    allowance: Allowance,
) -> _Standing:
    """Smooth what stands by each strength, and return the best."""
    update = allowance.step(SMOOTHING)
    largest = magnitudes(now.base, spread(fit, FITTED_IMAGES))
    tried = []
    for strength in STRENGTHS:
        base, changed = smooth(now.base, largest, strength)
        observed = calibrate(base, images, now.table.config, update, changed & now.table.tensors.keys())
        table = dataclasses.replace(now.table, tensors={**now.table.tensors, **observed.tensors})
        candidate = quantize(base, table, scheme, now.exclude, methods=methods)
        tried.append(_Standing(base, table, now.exclude, candidate, judge.measure(candidate)))
    return min(tried, key=lambda standing: standing.discrepancy)


class _Judge:
    """The float network's outputs on the images that are held out."""

    def __init__(self, model: ir.Model, feeds: Sequence[Feeds], discrepancy: Discrepancy) -> None:
        self._feeds = feeds
        self.discrepancy = discrepancy
        self._reference = spooled(each_as_written(model, feeds))

    def measure(self, model: ir.Model) -> float:
        """Discrepancy of `model` from the float network."""
        return self.discrepancy.mean(self._reference, each_as_written(model, self._feeds))


def _settle_activations(
    now: _Standing,
    scheme: QuantScheme,
    split: Split[Feeds],
    judge: _Judge,
    repairs: Sequence[str],
    methods: Methods | None,
    allowance: Allowance,
) -> list[RepairTrial]:
    """Choose ranges by their effect, and leave layers float whose input does most of the harm whatever its range."""

    def cost(ranges: Mapping[str, Range], exclude: tuple[str, ...]) -> float:
        return judge.measure(quantize_activations(now.base, scheme, ranges, exclude))

    update = allowance.step("ranges" if "ranges" in repairs else EXEMPTION)
    measured = measure_ranges(
        now.base,
        now.table,
        scheme,
        split.fit,
        judge.discrepancy,
        now.exclude,
        update,
        methods,
        lambda: allowance.is_over,
    )
    ranges, harm, before = measured.known, measured.known_harm, cost(measured.known, now.exclude)
    trials = []
    if "ranges" in repairs:
        declined = "" if measured.harm else "the time was up before it was known which ranges matter"
        trials.append(RepairTrial("ranges", before, cost(measured.ranges, now.exclude), declined))
        if trials[-1].is_kept:
            ranges, harm, before = measured.ranges, measured.harm, trials[-1].after
    if EXEMPTION in repairs:
        layers = dominated_layers(now.base, scheme, harm, now.exclude)
        exclude = (*now.exclude, *map(glob.escape, layers))
        after = cost(ranges, exclude) if layers else before
        declined = "" if after <= _WORTH_FLOAT * before or not layers else "it gains too little for layers in float"
        name = f"{EXEMPTION} of {', '.join(layers)}" if layers else EXEMPTION
        trials.append(RepairTrial(name, before, after, declined))
        if trials[-1].is_kept:
            now.exclude = exclude
    now.quantized = quantize(now.base, now.table, scheme, now.exclude, ranges)
    now.discrepancy = judge.measure(now.quantized)
    return trials


def _repaired_by(name: str, now: _Standing, scheme: QuantScheme, fit: Sequence[Feeds]) -> ir.Model:
    """Apply a repair that needs no special treatment to the best network so far."""
    apply: Repair = resolve(name, PLACES, "repair", error=ModelError)
    made = apply(now.base.clone(), now.quantized.clone(), scheme, fit)
    if not isinstance(made, ir.Model):
        raise ModelError(f"the repair '{name}' must give an onnx_ir.Model, and gave {made!r:.100}")
    return made


def _distill(
    now: _Standing, scheme: QuantScheme, fit: Sequence[Feeds], judge: _Judge, epochs: int, allowance: Allowance
) -> RepairTrial:
    """Fine-tune where that helps; say why not where an operator does not let it."""
    requires_extra("torch", "build")
    from edgeopt.passes.repair.distill import UnsupportedOperatorError, distill

    before = now.discrepancy
    try:
        now.quantized, now.discrepancy = distill(
            now.base,
            now.quantized,
            scheme,
            fit,
            judge.discrepancy.readings,
            judge.measure,
            epochs,
            progress=allowance.step(DISTILLATION),
            is_over=lambda: allowance.is_over,
        )
    except UnsupportedOperatorError as error:
        return RepairTrial(DISTILLATION, before, before, f"the network cannot be fine-tuned through {error}")
    return RepairTrial(DISTILLATION, before, now.discrepancy)
