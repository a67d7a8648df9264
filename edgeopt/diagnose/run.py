"""The diagnosis itself: halves first, then every layer alone and all but it, then repairs of the worst, each run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle.records import Cause, Diagnosis, Effect, InputFigures, LayerDiagnosis, Saturation, Tried
from edgeopt.diagnose.figures import LayerSignals, decibel
from edgeopt.errors import DataError
from edgeopt.metrics import Discrepancy
from edgeopt.spec import Struct, replace

Array: TypeAlias = NDArray[Any]
Outputs: TypeAlias = Sequence[Sequence[Array]]
"""The network's outputs, image by image."""

FLOAT = "float"
"""The repair that leaves a layer unquantized."""
REPAIRED_LAYERS = 3
"""Number of worst layers that repairs are tried on, and of further ones where something stands out."""
EXCLUDED_LAYERS = 16
"""Number of worst layers that are also left out alone."""
_WORTHWHILE_DB = 1.0
"""A repair that gains less, a fifth of the noise, is not what is wrong with the model."""
_MOST = 0.8
"""A repair that removes this share of the noise that the layer in float removes is preferred to that."""
_CLEAR_DB = 3.0
"""One half loses clearly more when its noise is twice the other's."""
_HEALTHY_DB = 40.0
"""Outputs this exact have nothing to repair."""


class Traits(Struct):
    """Facts about a layer from the graph and from its tensors."""

    operator: str
    weight_range_ratio: float | None = None
    per_tensor_weights: bool = False
    float_setting: str = ""
    """Setting that leaves it unquantized; empty if it cannot be left so by itself."""
    inputs: tuple[InputFigures, ...] = ()


@dataclass(frozen=True)
class Remedy:
    """A change that can be tried on one layer."""

    name: str
    setting: str
    """Setting of edgeopt that applies it."""
    run: Callable[[], Outputs]


@dataclass(frozen=True)
class Remake:
    """The float model quantized anew, with what edgeopt itself would do."""

    repair: str
    setting: str
    """Setting of edgeopt that applies it."""
    reference: Outputs
    """Outputs of the baseline, on images that nothing was fitted on."""
    before: Outputs
    """Outputs of the unchanged quantized model, on these images."""
    after: Outputs


def _no_repairs(_layer: str) -> Iterable[Remedy]:
    return ()


@dataclass(frozen=True)
class ModelPair:
    """A pair of models as the diagnosis sees it."""

    layers: Mapping[str, Traits]
    """Quantized layers, in graph order."""
    reference: Outputs
    """Outputs of the baseline."""
    discrepancy: Discrepancy
    """Meaning of the outputs, and so the cost of an error of theirs."""
    run: Callable[[Collection[str], Collection[str]], Outputs]
    """Outputs with only these layers' weights, and these layers' activations, quantized."""
    observe: Callable[[], Iterable[tuple[str, Array, Array]]] = tuple
    """Layer by layer and image by image: name, its output in float, and in the quantized model."""
    repairs: Callable[[str], Iterable[Remedy]] = _no_repairs
    """Remedies that can be tried on a layer."""
    together: Callable[[Sequence[tuple[str, str]]], Outputs] | None = None
    """Outputs with several repairs at once, by layer and the repair's name (`FLOAT` among them)."""
    remake: Callable[[], Remake | str] | None = None
    """Quantize the float model anew, or say why it cannot be."""
    overflowing: Mapping[str, float] = field(default_factory=dict)
    """Layers that saturate on x86 processors without VNNI: share of the weights' pairs that are too large."""
    without_vnni: Callable[[], Outputs] | None = None
    """Outputs of the quantized model with kernels of such a processor; None if there are none here."""
    saturates_here: bool = False
    """This processor is one."""
    knows_weights: bool = True
    """The float weights are known, so that dropping a weight's quantizer drops its error."""
    notes: tuple[str, ...] = field(default=())
    outputs: tuple[str, ...] = ()
    """Meaning that each output was taken for, and why, if no specification says it."""


def diagnose(subject: ModelPair, progress: Callable[[float], None] | None = None) -> Diagnosis:
    """Find what a quantized model loses where.

    Args:
        subject: the pair.
        progress: told the share that is done.

    Raises:
        DataError: there are no images.
    """
    if not subject.reference:
        raise DataError("a diagnosis needs images: none were given")
    return _Run(subject, progress or (lambda _: None)).result()


def effect(
    reference: Outputs,
    outputs: Outputs,
    discrepancy: Discrepancy,
) -> Effect:
    """Compare outputs with the float model's on the same images."""
    pairs = list(zip(reference, outputs, strict=True))
    divergences = [found for pair in pairs if (found := discrepancy.divergence(*pair)) is not None]
    noise = float(np.mean([discrepancy.noise(*pair) for pair in pairs]))
    return Effect(sqnr_db=decibel(noise), kl=float(np.mean(divergences)) if divergences else None)


class _Run:
    """One diagnosis."""

    def __init__(self, subject: ModelPair, progress: Callable[[float], None]) -> None:
        self._subject, self._progress = subject, progress
        self._all = tuple(subject.layers)
        self._done, self._total = 0, 4 + len(self._all) + min(EXCLUDED_LAYERS, len(self._all))

    def result(self) -> Diagnosis:
        whole = self._effect(self._all, self._all)
        weights_only, activations_only = self._effect(self._all, ()), self._effect((), self._all)
        signals = self._signals()
        ranked = sorted((self._layer(name, signals) for name in self._all), key=lambda layer: layer.only.sqnr_db)
        layers = [*(self._left_out(layer) for layer in ranked[:EXCLUDED_LAYERS]), *ranked[EXCLUDED_LAYERS:]]
        striking = [layer for layer in layers[:EXCLUDED_LAYERS] if layer.finding][:REPAIRED_LAYERS]
        chosen = [*layers[:REPAIRED_LAYERS], *(layer for layer in striking if layer not in layers[:REPAIRED_LAYERS])]
        tried = [] if whole.sqnr_db >= _HEALTHY_DB else self._try(chosen, whole)
        cause = _cause(whole, weights_only, activations_only, knows_weights=self._subject.knows_weights)
        saturation = self._saturation()
        if saturation is not None and self._subject.saturates_here and _is_clear(saturation, whole):
            cause = "saturation"
        suggested = _chosen(whole, layers, tried)
        together = self._together(suggested)
        remade, reason = (None, "") if whole.sqnr_db >= _HEALTHY_DB else self._remake()
        self._step()
        return Diagnosis(
            images=len(self._subject.reference),
            whole=whole,
            weights_only=weights_only,
            activations_only=activations_only,
            cause=cause,
            layers=tuple(layers),
            tried=(*tried, *([] if remade is None else [remade])),
            chosen=tuple(suggested),
            together=together,
            suggestion=_suggest(whole, cause, layers, suggested, together, remade) + _on_saturation(saturation, whole),
            saturation=saturation,
            notes=(*self._subject.notes, *([reason] if reason else [])),
            outputs=self._subject.outputs,
        )

    def _saturation(self) -> Saturation | None:
        if not self._subject.overflowing or self._subject.without_vnni is None:
            return None
        worst_first = sorted(self._subject.overflowing.items(), key=lambda item: -item[1])
        return Saturation(layers=dict(worst_first), effect=self._compare(self._subject.without_vnni()))

    def _together(self, chosen: Sequence[Tried]) -> Effect | None:
        """Run the chosen repairs at once, because their gains need not add up."""
        if len(chosen) < 2 or self._subject.together is None:
            return None
        return self._compare(self._subject.together([(each.layer, each.repair) for each in chosen]))

    def _effect(self, weights: Collection[str], activations: Collection[str]) -> Effect:
        found = self._compare(self._subject.run(weights, activations))
        self._step()
        return found

    def _step(self) -> None:
        self._done += 1
        self._progress(self._done / self._total)

    def _remake(self) -> tuple[Tried | None, str]:
        """Describe the model quantized anew, beside the existing one, or why there is none."""
        remake = None if self._subject.remake is None else self._subject.remake()
        if remake is None or isinstance(remake, str):
            return None, remake or ""
        before, after = (
            effect(remake.reference, outputs, self._subject.discrepancy) for outputs in (remake.before, remake.after)
        )
        return _tried("", remake.repair, remake.setting, after, before), ""

    def _compare(self, outputs: Outputs) -> Effect:
        return effect(self._subject.reference, outputs, self._subject.discrepancy)

    def _signals(self) -> Mapping[str, LayerSignals]:
        signals: dict[str, LayerSignals] = {}
        for name, exact, other in self._subject.observe():
            signals.setdefault(name, LayerSignals()).add(exact, other)
        return signals

    def _layer(self, name: str, signals: Mapping[str, LayerSignals]) -> LayerDiagnosis:
        traits = self._subject.layers[name]
        seen = signals.get(name)
        return LayerDiagnosis(
            name=name,
            operator=traits.operator,
            only=self._effect((name,), (name,)),
            without=None,
            sqnr_db=None if seen is None else seen.sqnr_db,
            kl=None if seen is None else seen.kl,
            weight_range_ratio=traits.weight_range_ratio,
            inputs=traits.inputs,
            finding=_finding(traits),
        )

    def _left_out(self, layer: LayerDiagnosis) -> LayerDiagnosis:
        others = tuple(each for each in self._all if each != layer.name)
        return replace(layer, without=self._effect(others, others))

    def _try(self, layers: Sequence[LayerDiagnosis], whole: Effect) -> list[Tried]:
        """Repairs of each layer, and the layer in float, which the ranking has run already."""
        tried = []
        for layer in layers:
            for repair in self._subject.repairs(layer.name):
                found = self._compare(repair.run())
                tried.append(_tried(layer.name, repair.name, repair.setting, found, whole))
            setting = self._subject.layers[layer.name].float_setting
            if layer.without is not None and setting:
                tried.append(_tried(layer.name, FLOAT, setting, layer.without, whole))
        return tried


def _tried(layer: str, repair: str, setting: str, found: Effect, whole: Effect) -> Tried:
    gain_db = found.sqnr_db - whole.sqnr_db
    return Tried(layer=layer, repair=repair, setting=setting, effect=found, gain_db=gain_db)


def _cause(whole: Effect, weights: Effect, activations: Effect, *, knows_weights: bool) -> Cause:
    if whole.sqnr_db >= _HEALTHY_DB:
        return "none"
    difference = weights.sqnr_db - activations.sqnr_db
    if abs(difference) < _CLEAR_DB or not knows_weights:
        return "both"
    return "activations" if difference > 0 else "weights"


def _is_clear(saturation: Saturation, whole: Effect) -> bool:
    """Return True if saturation clearly adds to the loss of the model as written."""
    return whole.sqnr_db - saturation.effect.sqnr_db >= _CLEAR_DB


def _on_saturation(saturation: Saturation | None, whole: Effect) -> str:
    """Return a sentence that follows the suggestion; empty where saturation costs nothing."""
    if saturation is None or whole.sqnr_db - saturation.effect.sqnr_db < _WORTHWHILE_DB:
        return ""
    worst, count = next(iter(saturation.layers)), len(saturation.layers)
    layers = f"'{worst}' and {count - 1} other layers saturate" if count > 1 else f"'{worst}' saturates"
    return (
        f". On x86 processors without VNNI {layers}, which leaves {saturation.effect.sqnr_db:.1f} dB of the outputs' "
        f"{whole.sqnr_db:.1f} (run with such kernels in OpenVINO): quantize with scheme openvino or onnxruntime for "
        "processor avx2, which keeps weights small enough"
    )


def _finding(traits: Traits) -> str:
    """Limits: rules of thumb at which 8 bits have lost two (a factor of 4) to something else."""
    found = []
    for figures in traits.inputs:
        if figures.clipped_share > 0.001:
            found.append(
                f"{figures.clipped_share:.1%} of '{figures.tensor}' lie outside its range "
                f"[{figures.low:.3g}, {figures.high:.3g}]"
            )
        elif figures.outlier_share > 0.75:
            found.append(
                f"the range of '{figures.tensor}' reaches {max(-figures.low, figures.high):.3g}, but 99.9 % of its "
                f"values stay below {figures.bulk:.3g}: outliers take {figures.outlier_share:.0%} of the steps"
            )
    ratio = traits.weight_range_ratio
    if traits.per_tensor_weights and ratio is not None and ratio > 4.0:
        found.append(f"one scale serves weight channels whose ranges differ by a factor of {ratio:.3g}")
    return "; ".join(found)


def _chosen(whole: Effect, layers: Sequence[LayerDiagnosis], tried: Sequence[Tried]) -> list[Tried]:
    """The best repair of each layer that gains something, the largest gain first, no tensor's quantizer twice."""
    by_layer = [_choose(whole, list(repairs)) for _, repairs in itertools.groupby(tried, key=lambda each: each.layer)]
    useful = sorted((each for each in by_layer if each.gain_db >= _WORTHWHILE_DB), key=lambda each: -each.gain_db)
    mended: set[str] = set()
    chosen = []
    for repair in useful:
        tensors = {figures.tensor for figures in _layer(layers, repair.layer).inputs}
        if tensors and tensors <= mended and repair.repair != FLOAT:
            continue  # the same tensor's quantizer, which another layer reads too
        mended |= tensors
        chosen.append(repair)
    return chosen


def _suggest(
    whole: Effect,
    cause: Cause,
    layers: Sequence[LayerDiagnosis],
    chosen: Sequence[Tried],
    together: Effect | None,
    remade: Tried | None,
) -> str:
    if cause == "none":
        return f"nothing to repair: the outputs keep {whole.sqnr_db:.1f} dB"
    sentences = [
        _sentence(whole, _layer(layers, each.layer), each, is_first=index == 0) for index, each in enumerate(chosen)
    ]
    if not chosen:
        half = "both halves" if cause == "both" else cause
        sentences.append(f"No repair of a single layer helps: the loss comes from {half} of many layers")
    if together is not None:
        sentences.append(f"Together they bring the outputs to {together.sqnr_db:.1f} dB")
    if remade is not None:
        sentences.append(_anew(remade))
    return ". ".join(sentences)


def _layer(layers: Sequence[LayerDiagnosis], name: str) -> LayerDiagnosis:
    return next(layer for layer in layers if layer.name == name)


def _choose(whole: Effect, tried: Sequence[Tried]) -> Tried:
    """Choose one of a layer's repairs; float only if nothing else comes near."""
    best = max(tried, key=lambda each: each.gain_db)
    repairs = [each for each in tried if each.repair != FLOAT]
    close = [each for each in repairs if _removed(whole, each.effect) >= _MOST * _removed(whole, best.effect)]
    return max(close, key=lambda each: each.gain_db, default=best)


def _sentence(whole: Effect, layer: LayerDiagnosis, tried: Tried, *, is_first: bool) -> str:
    costs = "costs most" if is_first else "costs too"
    because = f" ({layer.finding})" if layer.finding else ""
    return (
        f"Layer '{layer.name}' {costs}{because}: {tried.repair} for it alone brings the "
        f"outputs from {whole.sqnr_db:.1f} to {tried.effect.sqnr_db:.1f} dB, {tried.setting}"
    )


def _anew(remade: Tried) -> str:
    """Run the model quantized anew, on images that nothing was fitted on."""
    after = remade.effect.sqnr_db
    if remade.gain_db < _WORTHWHILE_DB:
        return (
            f"edgeopt's own repairs gain no more ({remade.gain_db:+.1f} dB). What is left are layers in float "
            "([quantize] exclude, or a [budget] that chooses them), more calibration images, and training the integers "
            '([quantize] repairs with "fine_tuning")'
        )
    return (
        f"Quantized anew by edgeopt with {remade.repair}, the outputs reach {after:.1f} instead of "
        f"{after - remade.gain_db:.1f} dB on images that nothing was fitted on: {remade.setting}"
    )


def _removed(whole: Effect, mended: Effect) -> float:
    """Noise power, relative to the signal, that a repair takes away."""
    return float(10.0 ** (-whole.sqnr_db / 10.0) - 10.0 ** (-mended.sqnr_db / 10.0))
