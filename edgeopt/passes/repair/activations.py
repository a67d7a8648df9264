"""Trials of what changes activations and their ranges: their method, equalization, smoothing, and layers left in float.

Ranges that calibration took from an image fit that image: judged by it, a repair that narrows them looks better than it
is on any other. MobileNetV2's equalization on 16 images halved the distance on those that had been calibrated on, and
doubled it on others. So these trials calibrate on the images that repairs may be fitted on alone; when all is decided,
what was found is quantized again with the statistics of all images (`ActivationTrials.completed`).
"""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from edgeopt.bundle.records import RepairTrial
from edgeopt.calibrate import CalibrationTable, Range, calibrate
from edgeopt.calibrate.spool import feeds_of
from edgeopt.calibrate.tap import Feeds
from edgeopt.config import CalibrateConfig
from edgeopt.graph.operators import is_depthwise
from edgeopt.passes.quantize.insert import Methods, choose_ranges, quantize
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.allowance import Allowance
from edgeopt.passes.repair.equalize import equalize
from edgeopt.passes.repair.exempt import harmed_layers
from edgeopt.passes.repair.judge import Distances, Judge, typical
from edgeopt.passes.repair.observed import observed_tensors
from edgeopt.passes.repair.ranges import METHODS, by, measure_ranges, quantize_activations
from edgeopt.passes.repair.smooth import STRENGTHS, magnitudes, smooth, smoothable
from edgeopt.passes.repair.split import spread
from edgeopt.passes.repair.standing import Standing, compared
from edgeopt.progress import Update
from edgeopt.spec import replace

Images = Sequence[tuple[str, Feeds]]

METHOD = "range_method"
"""Another method of choosing all ranges. On 16 images the mean of minima and maxima is three times as far as minima and
maxima from a MobileNetV3-small, and three times as near to a MobileNetV2: no statistic of values tells which."""
SMOOTHING = "smoothing"
EXEMPTION = "exemption"
FLOATS = "floats"
DEPTHWISE = "depthwise layers in float"
"""Layers of few multiplications, whose integers cost more than they save where floats surround them."""
SUMS = "sums in float"
"""Sums of residual branches, which some engines take longer to quantize than to move."""
SCALING = "equalization with a Mul per channel"
"""Equalization that inserts operators besides, where the engine is measured to run them as fast."""
Slowdown: TypeAlias = Callable[[ir.Model, ir.Model], float]
"""Latency of the second of two Q/DQ graphs over that of the first, in the engine that they are for."""
_WORTH_FLOAT = 0.75
"""A float layer costs time: it must lower the harm of quantized activations to this share."""
_AS_FAST = 1.05
"""A graph with more operators may take so many times as long: less cannot be told from chance beside other work."""
_CLEARLY_NEARER = 0.9
"""Another method must lower the typical distance to this share: less is chance, for several are tried."""
_FASTER = 0.95
"""A graph with float layers, which are larger, must take this share of the time at most where it is little nearer."""
FITTED_IMAGES = 128
"""Most images that a repair looks at, spread evenly over those that may be fitted on."""


@dataclass(frozen=True)
class ActivationTrials:
    """Trials of repairs that change activations, and what these have in common.

    Attributes:
        scheme: number formats and placement.
        fit: images that may be fitted on and calibrated by.
        judge: measures on the others.
        methods: how the ranges of some layers' inputs are found.
        allowance: the time.
        slowdown: latency of the second of two graphs over that of the first; None where nothing can be timed.
    """

    scheme: QuantScheme
    fit: Images
    judge: Judge
    methods: Methods | None
    allowance: Allowance
    slowdown: Slowdown | None

    def tried(self, plain: Standing, repairs: Sequence[str]) -> tuple[Standing, list[RepairTrial]]:
        """Try those of `repairs` that are of this kind, in order.

        Args:
            plain: the network as it is quantized with the statistics of all images.
            repairs: names.
        """
        model, trials = plain.base, list[RepairTrial]()
        table = self._observed(model, self.fit, plain.table.config)
        candidate = quantize(model, table, self.scheme, plain.exclude, methods=self.methods)
        now = Standing(model, table, plain.exclude, candidate, self.judge.measure(candidate))
        if METHOD in repairs and not now.declines(METHOD, self.allowance, trials):
            trials.append(self._by_another_method(now))
        if "equalization" in repairs and not now.declines("equalization", self.allowance, trials):
            trials += self._equalized(now)
        if SMOOTHING in repairs and smoothable(now.base.graph) and not now.declines(SMOOTHING, self.allowance, trials):
            trials.append(now.try_instead(SMOOTHING, self._smoothed(now)))
        if searches := [name for name in ("ranges", EXEMPTION) if name in repairs]:
            if reason := self.allowance.refuses(searches[0]):
                trials += [compared(name, now.distances, now.distances, reason) for name in searches]
            else:
                trials += self._settled(now, repairs)
        return now, trials

    def completed(self, now: Standing, plain: Standing, images: Images) -> Standing:
        """Quantize what was found with the statistics of all images.

        A chosen range that reached as far as the images that it was chosen on reaches as far as all of them.

        Args:
            now: what `tried` found.
            plain: what it was given.
            images: all of them.
        """
        table = by(plain.table, now.table.config.method)
        if now.changed:
            observed = self._observed(now.base, images, table.config, now.changed)
            table = dataclasses.replace(table, tensors={**table.tensors, **observed.tensors})
        before_exemption = place(now.base.clone(), self.scheme, plain.exclude)
        ranges = choose_ranges(before_exemption, table, self.scheme, self.methods)
        fitted, every = (
            choose_ranges(before_exemption, by(each, "minmax"), self.scheme) for each in (now.table, table)
        )
        for name, (low, high) in now.ranges.items():
            ranges[name] = (
                min(low, every[name][0]) if low <= fitted[name][0] else low,
                max(high, every[name][1]) if high >= fitted[name][1] else high,
            )
        return self._quantized(dataclasses.replace(now, table=table, ranges=ranges), now.exclude)

    def floated(self, now: Standing) -> list[RepairTrial]:
        """Leave more in float where the engine is faster for it and outputs come nearer, or much nearer for free.

        Args:
            now: what `completed` gave.
        """
        self.allowance.step(FLOATS)
        trials = list[RepairTrial]()
        for name, scheme, exclude in self._with_more_floats(now):
            candidate, declined = self._quantized(now, exclude, scheme), ""
            before, after = typical(now.distances), typical(candidate.distances)
            if after < before:
                most = _AS_FAST if after <= _WORTH_FLOAT * before else _FASTER
                declined = self._too_slow(now.quantized, candidate.quantized, most)
            trials.append(now.try_instead(name, candidate, declined))
        return trials

    def _with_more_floats(self, now: Standing) -> Iterator[tuple[str, QuantScheme, tuple[str, ...]]]:
        """Yield what may stay float as a scheme and what it excludes, each in view of what became of the one before."""
        placed = place(now.base.clone(), self.scheme, now.exclude)
        names = [glob.escape(node.name or "") for node in placed.layers if is_depthwise(node)]
        if 0 < len(names) < len(placed.layers) and not self.allowance.is_over:
            yield DEPTHWISE, self.scheme, (*now.exclude, *names)
        scheme = replace(self.scheme, residual="none")
        placed, without = (place(now.base.clone(), each, now.exclude) for each in (self.scheme, scheme))
        if len(without.edges) < len(placed.edges) and not self.allowance.is_over:
            yield SUMS, scheme, now.exclude

    def _too_slow(self, before: ir.Model, after: ir.Model, most: float) -> str:
        """Say so if the engine takes more than `most` times as long; empty where it does not or is not here."""
        times = 0.0 if self.slowdown is None else self.slowdown(before, after)
        return f"the engine takes {times:.3g} times as long, not {most} or less" if times > most else ""

    def _quantized(self, now: Standing, exclude: tuple[str, ...], scheme: QuantScheme | None = None) -> Standing:
        """Quantize with the ranges that stand and some layers in float, whose sums may be quantized elsewhere."""
        model = quantize(now.base, now.table, scheme or self.scheme, exclude, self._placed_ranges(now, exclude))
        return dataclasses.replace(now, exclude=exclude, quantized=model, distances=self.judge.measure(model))

    def _placed_ranges(self, now: Standing, exclude: tuple[str, ...]) -> dict[str, Range]:
        """Ranges that stand, and those of sums that are quantized elsewhere where some layers are in float."""
        placed = place(now.base.clone(), self.scheme, exclude)
        return {**choose_ranges(placed, now.table, self.scheme), **now.ranges}

    def _observed(
        self,
        model: ir.Model,
        images: Images,
        config: CalibrateConfig,
        tensors: frozenset[str] | None = None,
        update: Update | None = None,
    ) -> CalibrationTable:
        """Calibrate on some images, all tensors that can be quantized or those of `tensors` among them."""
        names = observed_tensors(model, self.scheme.also)
        config = replace(config, images=max(1, len(images)), minimum_images=1)
        return calibrate(model, images, config, update, names if tensors is None else names & tensors)

    def _by_another_method(self, now: Standing) -> RepairTrial:
        """Find all ranges by each other method, and try the best of these."""
        self.allowance.step(METHOD)
        tried = {}
        for method in METHODS:
            if method != now.table.config.method:
                table = by(now.table, method)
                model = quantize(now.base, table, self.scheme, now.exclude, methods=self.methods)
                distances = self.judge.measure(model)
                tried[method] = dataclasses.replace(now, table=table, quantized=model, distances=distances)
        best = min(tried, key=lambda method: typical(tried[method].distances))
        is_clear = typical(tried[best].distances) <= _CLEARLY_NEARER * typical(now.distances)
        declined = "" if is_clear else "no other method is clearly nearer"
        return now.try_instead(f"{METHOD} {best}" if is_clear else METHOD, tried[best], declined)

    def _equalized(self, now: Standing) -> list[RepairTrial]:
        """Equalize, and with `slowdown` also by a Mul per channel where no layer takes the scale.

        What changes nothing is no trial.
        """
        model, table, trials, known = now.base, now.table, list[RepairTrial](), frozenset[str]()
        update = self.allowance.step("equalization")
        ways = [("equalization", self.scheme.fuses_scales)]
        ways += [(SCALING, True)] if self.slowdown is not None and not self.scheme.fuses_scales else []
        for name, inserts in ways:
            base, scaled = equalize(model, table, insert=inserts)
            if scaled == known or self.allowance.is_over:
                continue
            known = frozenset(scaled)
            observed = self._observed(base, self.fit, table.config, known, update)
            candidate = now.rebased(base, observed, self.scheme, self.methods, self.judge, known)
            slower = ""
            if name == SCALING and typical(candidate.distances) < typical(now.distances):
                slower = self._too_slow(now.quantized, candidate.quantized, _AS_FAST)
            trials.append(now.try_instead(name, candidate, slower))
        return trials

    def _smoothed(self, now: Standing) -> Standing:
        """Smooth what stands by each strength, and return the best."""
        update = self.allowance.step(SMOOTHING)
        largest = magnitudes(now.base, spread(feeds_of(self.fit), FITTED_IMAGES))
        tried = []
        for strength in STRENGTHS:
            base, changed = smooth(now.base, largest, strength)
            observed = self._observed(base, self.fit, now.table.config, frozenset(changed), update)
            everything = now.changed | changed
            tried.append(now.rebased(base, observed, self.scheme, self.methods, self.judge, everything))
        return min(tried, key=lambda standing: typical(standing.distances))

    def _settled(self, now: Standing, repairs: Sequence[str]) -> list[RepairTrial]:
        """Choose ranges by their effect, and leave layers float whose input does most of the harm whatever its range.

        Measured with weights in float, whose rounding would blur what these do.
        """

        def cost(ranges: Mapping[str, Range], exclude: tuple[str, ...]) -> Distances:
            return self.judge.measure(quantize_activations(now.base, self.scheme, ranges, exclude))

        update = self.allowance.step("ranges" if "ranges" in repairs else EXEMPTION)
        measured = measure_ranges(
            now.base,
            now.table,
            self.scheme,
            feeds_of(self.fit),
            self.judge.discrepancy,
            now.exclude,
            update,
            self.methods,
            lambda: self.allowance.is_over,
        )
        ranges, harm, before = measured.known, measured.known_harm, cost(measured.known, now.exclude)
        trials = []
        if "ranges" in repairs:
            declined = "" if measured.harm else "the time was up before it was known which ranges matter"
            after = cost(measured.ranges, now.exclude)
            trials.append(compared("ranges", before, after, declined))
            if trials[-1].is_kept:
                ranges, harm, before = measured.ranges, measured.harm, after
                now.ranges = measured.moved
        if EXEMPTION in repairs:
            layers = harmed_layers(now.base, self.scheme, harm, now.exclude)
            exclude = (*now.exclude, *map(glob.escape, layers))
            after = cost(ranges, exclude) if layers else before
            worth, declined = typical(after) <= _WORTH_FLOAT * typical(before) or not layers, ""
            if not harm:
                declined = "the time was up before it was known which layers do the harm"
            elif not worth:
                declined = "it gains too little for layers in float"
            elif layers and self.slowdown is not None:
                integers, floats = (
                    quantize(now.base, now.table, self.scheme, each, self._placed_ranges(now, each))
                    for each in (now.exclude, exclude)
                )
                declined = self._too_slow(integers, floats, _AS_FAST)
            name = f"{EXEMPTION} of {', '.join(layers)}" if layers else EXEMPTION
            trials.append(compared(name, before, after, declined))
            if trials[-1].is_kept:
                now.exclude = exclude
        return trials
