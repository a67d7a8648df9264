"""Repair: quantize, then keep each accuracy repair that measurably helps on calibration images.

Every repair is a pass of its own; this module only tries them in order and measures by how far the network's outputs
are from the float network's: no labels are needed. The images that judge are none that a repair was fitted on (see
`Split`); where trials compare other ranges, these do not come from them either (see `ActivationTrials`). When all is
decided, what was kept is made again from all images, for the images that judged are worth as much as the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import onnx_ir as ir

from edgeopt.bundle.records import RepairTrial
from edgeopt.calibrate import CalibrationTable
from edgeopt.calibrate.spool import feeds_of
from edgeopt.calibrate.tap import Feeds
from edgeopt.doors import REPAIRS as PLACES
from edgeopt.errors import ModelError, requires_extra
from edgeopt.graph.operators import QUANTIZE
from edgeopt.metrics import Discrepancy
from edgeopt.passes.quantize.insert import Methods, quantize
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.activations import (
    EXEMPTION,
    FITTED_IMAGES,
    FLOATS,
    METHOD,
    SMOOTHING,
    ActivationTrials,
    Images,
    Slowdown,
)
from edgeopt.passes.repair.allowance import Allowance, multiplications_per_second
from edgeopt.passes.repair.fine_tune import BATCH, STEPS
from edgeopt.passes.repair.judge import JUDGES, Judge, typical
from edgeopt.passes.repair.layers.refit import Steps
from edgeopt.passes.repair.ranges import METHODS, expected_runs
from edgeopt.passes.repair.reconstruct import expected_multiplications, reconstruct
from edgeopt.passes.repair.smooth import STRENGTHS, smoothable
from edgeopt.passes.repair.split import Split, spread
from edgeopt.passes.repair.standing import Standing, compared
from edgeopt.references import resolve

REPAIRS = (
    METHOD,
    "equalization",
    SMOOTHING,
    "ranges",
    EXEMPTION,
    FLOATS,
    "bias_correction",
    "weight_clipping",
    "gptq",
)
"""The repairs that are tried by default, in this order."""
FINE_TUNING = "fine_tuning"
"""The one that takes longest: asked for by name, tried last."""
Repair: TypeAlias = Callable[[ir.Model, ir.Model, QuantScheme, Sequence[Feeds]], ir.Model]
"""Any other: (float network, its best quantized form so far, scheme, network inputs that it may fit on) to a better
quantized one. The graphs are its own to change."""
_OBSERVING = 4.0
"""Time of calibrating on an image, about, in that of running the network on it."""
_FLOATING = 200.0
"""Time of trying what may stay float, the same: it is run some fifty times for each of two trials, and timed."""
_LEARNING = 8.0
"""The same of fine-tuning on it."""


@dataclass(frozen=True)
class Repaired:
    """A quantized network and what was tried on it."""

    model: ir.Model
    discrepancy: float
    """The typical distance of its outputs on held-out images (see `typical`), before layers were refitted on all."""
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
        repairs: which to try, of `REPAIRS`, `FINE_TUNING` and others, each a `Repair`. The last three of `REPAIRS`
            refit layers one after another and are tried as one, since each layer takes of them what helps it.
        exclude: glob patterns of names of layers that stay float.
        allowance: the time that they may take, and what is told how far they are. A repair that would take longer is
            not begun, and one that takes longer than was expected ends with what it has.
        methods: how the ranges of some layers' inputs are found, as in `quantize`; no repair changes them.
        slowdown: how many times as long the second of two Q/DQ graphs takes in the engine. With it, equalization may
            insert what the scheme does not call free, where it turns out to be.

    Returns:
        The best network found, never worse on the held-out images than plain `quantize`.

    Raises:
        MissingExtraError: fine-tuning is asked for and torch is not installed.
        ModelError: a repair of the user's cannot be imported, or makes no network that can be run.
    """
    if FINE_TUNING in repairs:
        requires_extra("torch", "build")  # before the others have taken their time
    allowance = allowance or Allowance()
    split = Split.of(images, JUDGES)
    judge = Judge(model, feeds_of(split.judge), discrepancy)
    plain = quantize(model, table, scheme, exclude, methods=methods)
    begun = time.perf_counter()
    now = Standing(model, table, exclude, plain, judge.measure(plain))
    run_s = (time.perf_counter() - begun) / len(split.judge)
    repairs = [name for name in repairs if name != FLOATS or slowdown is not None]  # which is timed or nothing
    allowance.plan(_expected(repairs, now, images, run_s))
    first, trials = now.distances, list[RepairTrial]()
    fit = feeds_of(split.fit)
    if not {METHOD, "equalization", SMOOTHING, "ranges", EXEMPTION, FLOATS}.isdisjoint(repairs):
        trying, whole = ActivationTrials(scheme, split.fit, judge, methods, allowance, slowdown), now
        now, trials = trying.tried(whole, repairs)
        now = trying.completed(now, whole, images)
        if FLOATS in repairs and not now.declines(FLOATS, allowance, trials):
            trials += trying.floated(now)
    steps = _steps(repairs)
    if steps.any and not now.declines(steps.name, allowance, trials):
        every = feeds_of(images) if _refits(repairs, images) else None
        trials.append(_reconstructed(now, scheme, fit, every, judge, steps, allowance))
    for name in (each for each in repairs if each not in PLACES):
        if not now.declines(name, allowance, trials):
            allowance.step(name)
            trials.append(now.try_instead(name, now.requantized(_repaired_by(name, now, scheme, fit), judge)))
    if FINE_TUNING in repairs and not now.declines(FINE_TUNING, allowance, trials):
        trials.append(_fine_tuned(now, scheme, fit, judge, allowance))
    if typical(now.distances) > typical(first):
        undone = "the repairs that helped one by one did not together"
        declined = [msgspec.structs.replace(trial, declined=trial.declined or undone) for trial in trials]
        return Repaired(plain, typical(first), tuple(declined))
    return Repaired(now.quantized, typical(now.distances), tuple(trials))


def _expected(repairs: Sequence[str], now: Standing, images: Images, run_s: float) -> dict[str, float]:
    """Estimate the seconds that each repair takes, in the order in which they are tried.

    Args:
        repairs: as in `repair`.
        now: the network as it is quantized first.
        images: for calibration.
        run_s: time of one image.
    """
    fitted = min(FITTED_IMAGES, len(images))
    quantizers = sum(node.op_type == QUANTIZE for node in now.quantized.graph)
    steps = _steps(repairs)
    known = {METHOD: len(METHODS) * len(now.distances) * run_s}
    known |= {"equalization": _OBSERVING * len(images) * run_s}
    known |= {SMOOTHING: len(STRENGTHS) * known["equalization"]} if smoothable(now.base.graph) else {}
    known["ranges" if "ranges" in repairs else EXEMPTION] = expected_runs(now.base, quantizers, len(images)) * run_s
    known[FLOATS] = _FLOATING * run_s
    refitting = 0.0
    if steps.any:
        work = expected_multiplications(now.quantized, fitted)
        refitting = 3.0 * fitted * run_s + work / multiplications_per_second()
        refitting *= 2.0 if _refits(repairs, images) else 1.0
    expected = {name: known[name] for name in REPAIRS if name in known and name in repairs}
    expected |= {steps.name: refitting} if steps.any else {}
    expected |= {name: len(images) * run_s for name in repairs if name not in PLACES}
    expected |= {FINE_TUNING: STEPS * BATCH * _LEARNING * run_s} if FINE_TUNING in repairs else {}
    return expected


def _steps(repairs: Sequence[str]) -> Steps:
    return Steps(bias="bias_correction" in repairs, clip="weight_clipping" in repairs, rounding="gptq" in repairs)


def _refits(repairs: Sequence[str], images: Images) -> bool:
    """Return True if layers can be fitted on more images once nothing is left to be judged."""
    return set(repairs) <= set(REPAIRS) and len(Split.of(images, JUDGES).fit) < FITTED_IMAGES


def _reconstructed(
    now: Standing,
    scheme: QuantScheme,
    fit: Sequence[Feeds],
    every: Sequence[Feeds] | None,
    judge: Judge,
    steps: Steps,
    allowance: Allowance,
) -> RepairTrial:
    """Refit the layers, and where that helps once more on `every` image, for nothing is left to judge then.

    Of 16 images half judge. MobileNetV2 refitted on all of them was a quarter nearer on others than on half of them.
    """
    update, before, rounds = allowance.step(steps.name), now.quantized, 1 if every is None else 2

    def made(images: Sequence[Feeds], round_: int) -> ir.Model:
        def tell(done: float, of: float = 1.0, text: str = "", /) -> None:
            update(round_ * of + done, rounds * of, text)

        few = spread(images, FITTED_IMAGES)
        return reconstruct(now.base, before, scheme, few, steps, tell, lambda: allowance.is_over)[0]

    trial = now.try_instead(steps.name, now.requantized(made(fit, 0), judge))
    if trial.is_kept and every is not None and not allowance.is_over:
        again = made(every, 1)
        now.quantized = now.quantized if allowance.is_over else again  # half of its layers would be no repair at all
    return trial


def _repaired_by(name: str, now: Standing, scheme: QuantScheme, fit: Sequence[Feeds]) -> ir.Model:
    """Apply a repair that needs no special treatment to the best network so far."""
    apply: Repair = resolve(name, PLACES, "repair", error=ModelError)
    made = apply(now.base.clone(), now.quantized.clone(), scheme, fit)
    if not isinstance(made, ir.Model):
        raise ModelError(f"the repair '{name}' must give an onnx_ir.Model, and gave {made!r:.100}")
    return made


def _fine_tuned(
    now: Standing, scheme: QuantScheme, fit: Sequence[Feeds], judge: Judge, allowance: Allowance
) -> RepairTrial:
    """Fine-tune the network, or say which operator does not let it."""
    from edgeopt.passes.gradients.attributes import UnsupportedOperatorError
    from edgeopt.passes.repair.fine_tune.run import fine_tune

    update = allowance.step(FINE_TUNING)
    try:
        made = fine_tune(now.base, now.quantized, scheme, fit, progress=update, is_over=lambda: allowance.is_over)
    except UnsupportedOperatorError as error:
        reason = f"no gradient flows through its operator {error}"
        return compared(FINE_TUNING, now.distances, now.distances, reason)
    return now.try_instead(FINE_TUNING, now.requantized(made, judge))
