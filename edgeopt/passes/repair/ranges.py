"""Measure ranges: choose an activation's range by what it does to the network's outputs.

A histogram tells how many values are rounded and cut off, and not what that does to the result: the first feature map
of a detector can do more harm than all others together, and want a much narrower range than its own error asks for.
Here one tensor after another is quantized by itself, all else staying float, and how far that moves the outputs on
calibration images decides. Errors of different tensors nearly add up, so that tensors can be settled one by one, and
those that matter be found by quantizing a few at a time. Only these are searched, for a few images tell no more; those
whose rounding hardly matters get room for values that calibration seldom saw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.calibrate import CalibrationTable, Range
from edgeopt.calibrate.tap import Feeds, Outputs, onnx_session, outputs_as_written
from edgeopt.config import CalibrationMethod
from edgeopt.graph.operators import QUANTIZERS, macs
from edgeopt.metrics import Discrepancy
from edgeopt.passes.quantize.insert import Methods, choose_ranges, insert_quantizers, scale_and_zero_point, told_methods
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.judge import Distances, typical
from edgeopt.passes.repair.split import spread
from edgeopt.progress import Update
from edgeopt.spec import replace

METHODS: tuple[CalibrationMethod, ...] = ("minmax", "mean_minmax", "mse")
"""Methods that are compared: of one tensor here, and of all of them."""
_SHARES = (0.85, 0.7, 0.5)
"""Shares of the configured method's range that are tried besides the other methods' ranges."""
_IMAGES = 16
"""Images on which ranges are compared; the best is confirmed on as many others."""
_GLANCES = 6
"""Images that tell which tensors matter."""
_MATTERS = 0.05
"""Share of all harm from which on a tensor's range is worth a search. Ranges of lesser tensors that looked better on a
hundred calibration images were no better on three hundred others: what seems gained there is chance."""
_BLOCK = 4
"""Groups of tensors that are quantized at a time to find those that matter."""
_PROMISING = 0.9
"""Share of the harm on those images that a range must lower it to, to be tried on all."""
_FINALISTS = 2
"""Most ranges of a tensor that are."""
_WORTHWHILE = 0.8
"""Harm must fall to this share: 16 images say no more."""
_CONFIRMED = 0.9
"""And to this one on other images, for the best of several looks better than it is on those that it was chosen by."""
_EFFORT = 2e12
"""Multiply-accumulates after which no further tensor is searched, the most harmful being first: a minute or two on two
cores."""
_SEARCHED = 0.1
"""Share of the tensors that matter, about."""
_CHEAP = 0.01
"""Share of all harm that the rounding of one tensor may do for the sake of values that calibration hardly saw: where it
is no more, room for them costs next to nothing, and an unseen image may need it."""
_SAME = 0.02
"""Ranges that differ by less than this share of their width are one."""


@dataclass(frozen=True)
class MeasuredRanges:
    """Result of `measure_ranges`."""

    known: dict[str, Range]
    """Ranges of the table's or the given method, by tensor name."""
    ranges: dict[str, Range]
    """Chosen ranges, by tensor name."""
    known_harm: dict[tuple[str, ...], float]
    """Discrepancy of the outputs that quantizing each group of tensors alone causes, with the known ranges. Of those
    that do little harm even a few at a time it is an equal part of what these do."""
    harm: dict[tuple[str, ...], float]
    """The same with the chosen ranges, but for those that were only given room."""

    @property
    def moved(self) -> dict[str, Range]:
        """Ranges that are not the known ones, by tensor name."""
        return {name: limits for name, limits in self.ranges.items() if limits != self.known[name]}


def measure_ranges(
    model: ir.Model,
    table: CalibrationTable,
    scheme: QuantScheme,
    feeds: Sequence[Feeds],
    discrepancy: Discrepancy,
    exclude: tuple[str, ...] = (),
    progress: Update | None = None,
    methods: Methods | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> MeasuredRanges:
    """Choose the range of every tensor that `scheme` quantizes.

    Args:
        model: the optimized float network; not modified.
        table: its calibration. Its method's ranges stay where no other is clearly better.
        scheme: number formats and placement.
        feeds: inputs of calibration images that nothing is judged by, batch 1; a few spread evenly over them are used.
        discrepancy: cost of an error of the outputs.
        exclude: as in `quantize`.
        progress: told the name of each tensor that is tried, and how many runs of the network there were of how many.
        methods: as in `quantize`; what they are told for is not searched.
        is_over: asked before each tensor; from when it says so on, ranges stay as they are.
    """
    placement = place(model.clone(), scheme, exclude)
    known = choose_ranges(placement, table, scheme, methods)
    ranges = dict(known)
    found = {method: choose_ranges(placement, by(table, method), scheme) for method in METHODS}
    samples = _Samples.of(model, feeds, discrepancy)
    done, expected = 0, expected_runs(model, len(placement.groups), len(feeds))

    def tell(runs: int, text: str) -> None:
        nonlocal done
        done += runs
        if progress is not None:
            progress(min(done, expected), expected, text)

    def glanced(groups: Sequence[tuple[str, ...]]) -> Distances | None:
        """Distances with the known ranges of some groups together; None when the time is up."""
        if is_over():
            return None
        tensors = [tensor for group in groups for tensor in group]
        alone = quantize_activations(model, scheme, {tensor: known[tensor] for tensor in tensors}, exclude)
        found = samples.glances.distances(onnx_session(alone, fused=False), {})
        tell(len(found), f"effect of {tensors[0]}")
        return found

    glances = _each_alone(placement.groups, glanced)
    if glances is None:  # the harm of some tells nothing
        return MeasuredRanges(known, ranges, {}, {})
    known_harm = {group: typical(distances) for group, distances in glances.items()}
    harm = dict(known_harm)
    least, effort = _MATTERS * sum(harm.values()), 0
    image = sum(macs(node) for node in model.graph)
    told = told_methods(placement, methods or {})
    for group in sorted((one for one in harm if harm[one] > least and one not in told), key=lambda one: -harm[one]):
        if effort > _EFFORT or is_over():
            break
        tell(0, f"range of {group[0]}")
        low, high = known[group[0]]
        others = [limits[group[0]] for limits in found.values()]
        others += [(low * share, high * share) for share in _SHARES]
        probe = _Probe(model, scheme, group, exclude)
        best, known_harm[group], harm[group] = _chosen(probe, (low, high), others, samples, glances[group])
        effort += probe.runs * image
        done += probe.runs
        ranges |= dict.fromkeys(group, best)
    seen, least = choose_ranges(placement, by(table, "minmax"), scheme), _CHEAP * sum(harm.values())
    for group in harm:
        if group not in told and ranges[group[0]] == known[group[0]]:
            ranges |= dict.fromkeys(group, _roomy(known[group[0]], seen[group[0]], harm[group], least))
    return MeasuredRanges(known, ranges, known_harm, harm)


def expected_runs(model: ir.Model, groups: int, images: int) -> int:
    """Estimate on how many images `measure_ranges` runs a network with so many groups of tensors."""
    image = max(1, sum(macs(node) for node in model.graph))
    tried = (len(METHODS) + len(_SHARES)) * min(_GLANCES, images) + _IMAGES
    searched = min(groups * _SEARCHED * tried, _EFFORT / image)
    return int(min(_GLANCES, images) * groups * (1 / _BLOCK + 2 * _SEARCHED) + searched)


def quantize_activations(
    model: ir.Model, scheme: QuantScheme, ranges: Mapping[str, Range], exclude: tuple[str, ...] = ()
) -> ir.Model:
    """`model` with quantized activations and float weights: what ranges alone do.

    Args:
        model: the optimized float network; not modified.
        scheme: number formats and placement.
        ranges: by tensor name; a tensor without one stays float.
        exclude: as in `quantize`.
    """
    copy = model.clone()
    placement = place(copy, scheme, exclude)
    edges = tuple(edge for edge in placement.edges if edge.tensor in ranges)
    insert_quantizers(copy, dataclasses.replace(placement, layers=(), edges=edges), ranges, scheme)
    return copy


@dataclass(frozen=True)
class _Sample:
    """Images, and what the float network says about them."""

    feeds: Sequence[Feeds]
    reference: Outputs
    discrepancy: Discrepancy

    def distances(self, session: Any, parameters: Feeds) -> Distances:
        """Distances of a session's outputs, which takes these inputs besides the images."""
        values = (session.run(None, {**feeds, **parameters}) for feeds in self.feeds)
        return self.discrepancy.each(self.reference, values)


@dataclass(frozen=True)
class _Samples:
    """Images that ranges are compared on."""

    glances: _Sample
    """The few that tell which tensors matter, and which ranges are worth a trial on the others."""
    others: _Sample
    """The others that a range is chosen by."""
    confirms: _Sample
    """As many that confirm it; a single image has to do both."""

    @classmethod
    def of(cls, model: ir.Model, feeds: Sequence[Feeds], discrepancy: Discrepancy) -> _Samples:
        images = list(spread(feeds, 2 * _IMAGES))
        reference = outputs_as_written(model, images)
        chooses = range(0, len(images), 2)
        glances = spread(chooses, _GLANCES)
        others = [index for index in chooses if index not in set(glances)]
        confirms = range(1, len(images), 2) or chooses
        parts = [
            _Sample([images[index] for index in part], [reference[index] for index in part], discrepancy)
            for part in (glances, others, confirms)
        ]
        return cls(*parts)


def _each_alone(
    groups: Sequence[tuple[str, ...]], glanced: Callable[[Sequence[tuple[str, ...]]], Distances | None]
) -> dict[tuple[str, ...], Distances] | None:
    """Distances that each group causes alone, where it is among a few that matter; None when the time is up.

    Args:
        groups: in the order of the graph.
        glanced: measures the distances that some groups cause together.
    """
    blocks = [groups[start : start + _BLOCK] for start in range(0, len(groups), _BLOCK)]
    together = [glanced(block) for block in blocks]
    known = [each for each in together if each is not None]
    least = _MATTERS * sum(map(typical, known))
    found: dict[tuple[str, ...], Distances] = {}
    for block, distances in zip(blocks, together, strict=True):
        if distances is None:
            return None
        for group in block:
            matters = len(block) > 1 and typical(distances) > least
            alone = glanced([group]) if matters else distances / len(block)
            if alone is None:
                return None
            found[group] = alone
    return found


class _Probe:
    """The float network with one group of tensors quantized, at a scale that each run is given."""

    def __init__(self, model: ir.Model, scheme: QuantScheme, group: Sequence[str], exclude: tuple[str, ...]) -> None:
        network = quantize_activations(model, scheme, dict.fromkeys(group, (0.0, 1.0)), exclude)
        self._scheme = scheme
        self._scales: list[str] = []
        self._zero_points: list[str] = []
        for node in network.graph:
            if node.op_type in QUANTIZERS:
                self._scales += _as_inputs(network.graph, node.inputs[1])
                self._zero_points += _as_inputs(network.graph, node.inputs[2])
        self._session = onnx_session(network, fused=False)
        self.runs = 0
        """Images so far."""

    def distances(self, limits: Range, sample: _Sample) -> Distances:
        """Distances of the outputs with the group's tensors in this range."""
        scale, zero_point = scale_and_zero_point(limits, self._scheme)
        parameters = dict.fromkeys(self._scales, np.array(scale))
        parameters |= dict.fromkeys(self._zero_points, np.array(zero_point, self._scheme.dtype))
        self.runs += len(sample.feeds)
        return sample.distances(self._session, parameters)


def _as_inputs(graph: ir.Graph, value: ir.Value | None) -> list[str]:
    """Make an initializer an input of the graph; its name, unless it is one already."""
    assert value is not None
    name = value.name or ""
    if name not in graph.initializers:
        return []
    del graph.initializers[name]
    value.const_value = None
    graph.inputs.append(value)
    return [name]


def _chosen(
    probe: _Probe, known: Range, others: Sequence[Range], samples: _Samples, seen: Distances
) -> tuple[Range, float, float]:
    """Return the range of least harm, the harm of the known one, and that of the chosen one.

    Args:
        probe: measures a range.
        known: it stays where no other is clearly better, on the images that choose and on those that confirm.
        others: the ranges to try.
        samples: the images.
        seen: the known range's distances at the glances.
    """
    tried = {known: seen}
    for limits in others:
        if not any(_alike(limits, one) for one in tried):
            tried[limits] = probe.distances(limits, samples.glances)
    harm = {limits: typical(distances) for limits, distances in tried.items()}
    promising = [
        limits for limits in sorted(harm, key=lambda one: harm[one]) if harm[limits] < _PROMISING * harm[known]
    ]
    finalists = promising[:_FINALISTS]
    for limits in (known, *finalists) if finalists else ():
        harm[limits] = typical(np.concatenate([tried[limits], probe.distances(limits, samples.others)]))
    best = min((known, *finalists), key=lambda limits: harm[limits])
    if harm[best] < _WORTHWHILE * harm[known]:
        confirmed = {limits: typical(probe.distances(limits, samples.confirms)) for limits in (best, known)}
        if confirmed[best] < _CONFIRMED * confirmed[known]:
            return best, harm[known], harm[best]
    return known, harm[known], harm[known]


def _roomy(limits: Range, seen: Range, harm: float, allowed: float) -> Range:
    """Widen a range whose rounding does next to no harm, at most to all that was seen.

    Images of a kind that calibration had few of have values beyond, and what is cut off of them changes the answer;
    rounding grows with the square of the width.
    """
    factor = max(1.0, (allowed / harm) ** 0.5) if harm > 0.0 else 1.0
    low, high = (min(abs(limit) * factor, max(abs(most), abs(limit))) for limit, most in zip(limits, seen, strict=True))
    return (-low, high) if factor > 1.0 else limits


def _alike(first: Range, second: Range) -> bool:
    width = max(first[1] - first[0], second[1] - second[0])
    return max(abs(first[0] - second[0]), abs(first[1] - second[1])) <= _SAME * width


def by(table: CalibrationTable, method: CalibrationMethod) -> CalibrationTable:
    """Return the table with another method of choosing ranges."""
    return dataclasses.replace(table, config=replace(table.config, method=method))
