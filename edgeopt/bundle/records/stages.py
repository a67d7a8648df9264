"""Records of the stages of a build on the way to one variant."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from edgeopt.bundle.records.latency import Ratio
from edgeopt.bundle.records.search import SearchResult
from edgeopt.spec import PositiveInt, Struct, replace

_NUMBER = re.compile(r"\d+")
_NAMED = 3
"""Layers that one line names."""


class RepairTrial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One repair that was tried."""

    name: str
    before: float
    """Discrepancy of the outputs from the float network's on held-out calibration images (see `Discrepancy`): the mean
    without the largest tenth, which belong to odd images. Of ``ranges`` and ``exemption`` it is that with all weights
    in float, whose rounding would blur what they do; of ``training`` the loss on validation images."""
    after: float
    declined: str = ""
    """Reason why it could not be tried, or is not worth its gain; otherwise empty."""

    def __post_init__(self) -> None:
        """Outputs that are NaN or infinite are as far away as can be; JSON has no word for either."""
        for name in ("before", "after"):
            if not math.isfinite(getattr(self, name)):
                msgspec.structs.force_setattr(self, name, sys.float_info.max)

    @property
    def is_kept(self) -> bool:
        """True if it helped."""
        return not self.declined and self.after < self.before

    @property
    def verdict(self) -> str:
        """Outcome in words."""
        if self.is_kept:
            return "kept"
        return self.declined or ("changes nothing" if self.after == self.before else "makes it worse")


class ImplicitCalibration(Struct):
    """INT8 by TensorRT's own entropy calibrator, on the device."""

    source: str
    """The float variant whose graph it is of."""
    images: PositiveInt


class FloatLayer(Struct):
    """A convolution or product of an INT8 variant that stays float."""

    name: str
    operator: str
    why: str
    share: float
    """Share of the network's multiplications."""


class IntegerCoverage(Struct):
    """Part of a quantized network that is computed on integers."""

    share: float
    """Share of the multiplications of convolutions and products, 0 to 1."""
    layers: int
    """Convolutions and products, float ones too."""
    floats: tuple[FloatLayer, ...]
    """Layers that stay float, the largest first."""

    @property
    def reasons(self) -> dict[str, str]:
        """Reason for each layer that stays float, by name."""
        return {layer.name: layer.why for layer in self.floats}

    def summary(self) -> str:
        """One line for people."""
        quantized = self.layers - len(self.floats)
        return f"INT8 has {self.share:.1%} of the multiplications, in {quantized} of {self.layers} layers"

    def lines(self, most: int = 10) -> Iterator[str]:
        """Yield the summary, then at most so many reasons why layers stay float, that of the largest layer first.

        Reasons that differ in their numbers alone are one.
        """
        yield self.summary()
        alike: dict[str, list[FloatLayer]] = {}
        for layer in self.floats:
            alike.setdefault(_NUMBER.sub("", layer.why), []).append(layer)
        groups = list(alike.values())
        yield from map(_line, groups[:most])
        if rest := [layer for group in groups[most:] for layer in group]:
            yield f"{len(rest)} more stay float ({_percentage(rest)}); --json has them all"


def _line(layers: Sequence[FloatLayer]) -> str:
    """Say why layers stay float, with the names of the largest."""
    first = layers[0]
    if len(layers) == 1:
        return f"{first.operator} {first.name} stays float ({_percentage(layers)}): {first.why}"
    like = "" if all(layer.why == first.why for layer in layers) else ", and the like"
    named = ", ".join(f"{layer.operator} {layer.name}" for layer in layers[:_NAMED])
    more = f" and {len(layers) - _NAMED} more (--json)" if len(layers) > _NAMED else ""
    return f"{len(layers)} layers stay float ({_percentage(layers)}), {named}{more}: {first.why}{like}"


def _percentage(layers: Sequence[FloatLayer]) -> str:
    return f"{sum(layer.share for layer in layers):.1%}"


class LayerType(Struct):
    """Type that a convolution or product of an engine runs in."""

    name: str
    operator: Literal["convolution", "product"]
    quantized: bool
    """True if the graph asks for INT8."""
    runs_in: str
    """``int8``, ``fp16``, ``fp32``…; ``unknown`` where the builder's list does not name it."""


class Arithmetic(Struct):
    """Types that an engine computes in, by its builder's own account."""

    layers: tuple[LayerType, ...]
    """Convolutions and products, in the graph's order."""
    kernels: int
    """Kernels of a run; what is beyond the layers moves, quantizes or computes element by element."""

    def summary(self) -> str:
        """One line for people."""
        counts = Counter((layer.operator, layer.runs_in) for layer in self.layers)
        parts = [f"{count} {operator}{'s' * (count > 1)} in {kind}" for (operator, kind), count in counts.items()]
        return f"{', '.join(parts)}; {self.kernels} kernels"

    def refusal(self) -> str:
        """Return why it is no INT8 engine, as a sentence without a stop; empty where it is one, or was not to be.

        It is none if most of the layers that the graph quantizes run in another type.
        """
        asked = [layer for layer in self.layers if layer.quantized]
        missed = Counter((layer.operator, layer.runs_in) for layer in asked if layer.runs_in != "int8")
        if 2 * missed.total() <= len(asked):
            return ""
        types = ", ".join(f"{count} {operator}s in {kind}" for (operator, kind), count in missed.most_common())
        return (
            f"of {len(asked)} layers that the graph quantizes this engine runs {types}: INT8 costs accuracy and saves "
            "no time here"
        )


class Compression(Struct):
    """Pruning of a network before its export, and the training after it."""

    goal: str
    """In words."""
    reached: bool
    """By the finished engine if that was measured, else by the search."""
    parameters: float
    """Share of the parameters that is left."""
    macs: float
    """Share of the multiplications that is left."""
    latency: Ratio | None = None
    """Latency against the unpruned network's in the search, where neither had repairs, on the machine that built it.
    None if the goal was none of latency."""
    latency_ms: float | None = None
    """Median of the pruned network's engine there."""
    finished: Ratio | None = None
    """Latency of the finished engine, trained and with its repairs, against that of the unpruned network's with its
    own, which would ship without pruning. None if it was not measured: the goal was none of latency, or the engine is
    not among those that were built."""
    finished_ms: float | None = None
    """Median of the finished engine there."""
    engine: str = ""
    """Target and precision that were measured."""
    metric: str = ""
    """Metric on the validation images; empty without any."""
    before: float | None = None
    """The unpruned network's."""
    after: float | None = None
    """The pruned one's, trained."""

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{self.parameters:.0%} of the parameters and {self.macs:.0%} of the multiplications are left"]
        shown, shown_ms = self.finished or self.latency, self.finished_ms or self.latency_ms
        if shown is not None and self.latency is not None:
            found = f"{shown.low:.2f} to {shown.high:.2f}, {shown_ms:.2f} ms, {self.engine}"
            if self.finished is None:
                found = f"in the search, {found}"
            else:
                parts.insert(0, f"{self.latency.estimate:.2f}× in the search")
            parts.insert(0, f"{shown.estimate:.2f}× the latency ({found})")
        if self.before is not None and self.after is not None:
            parts.append(f"validation {self.metric} {100.0 * self.before:.2f} → {100.0 * self.after:.2f} %")
        missed = f"the goal of {self.goal} was not reached"
        missed += ": this is the nearest. " if self.finished is None else " by the finished engine. "
        return ("" if self.reached else missed) + ", ".join(parts)


class Fit(Struct):
    """Fitting of a classifier on the features of a frozen network."""

    classifier: str
    pictures: int
    """Pictures, or regions of pictures, that it was fitted on."""
    features: int
    """Numbers that it knows of each."""
    settings: dict[str, float]
    """Settings that cross-validation chose."""
    rows: int
    """Support vectors, or prototypes; 0 of classifiers without."""
    weights: int
    """Numbers in its operators."""
    score: float | None
    """Share of right answers on pictures left out; None where none could be."""
    balanced: bool
    """The score is the mean over classes."""
    features_s: float
    """Seconds in which the features were computed."""
    fit_s: float
    """Seconds of fitting, with its cross-validation."""
    of_regions: bool = False
    """The pictures are regions."""

    def summary(self) -> str:
        """One line for people."""
        seen = "regions" if self.of_regions else "pictures"
        rows = {"rbf_svm": f", {self.rows} support vectors", "knn": f", {self.rows} prototypes"}
        parts = [f"{self.classifier} on {self.features} features of {self.pictures} {seen}"]
        parts[0] += rows.get(self.classifier, "")
        if self.score is not None:
            metric = "balanced accuracy" if self.balanced else "accuracy"
            parts.append(f"{metric} {100 * self.score:.1f} % on {seen} left out")
        parts.append(f"fitted in {self.fit_s:.1f} s, features in {self.features_s:.1f} s")
        return "; ".join(parts)


class StageRecords(Struct):
    """Record of each stage. A field is at its default if the stage did not run."""

    repairs: tuple[RepairTrial, ...] = ()
    kept_float32: dict[str, str] | None = None
    """Reasons why nodes of an FP16 graph stayed FP32, by name; None if it was never made FP16."""
    coverage: IntegerCoverage | None = None
    """Share of the work of an INT8 graph that is on integers, and the layers that are not; None of float graphs."""
    search: SearchResult | None = None
    """Search for the plan within the recipe's ``[budget]``."""
    evaluated_in: str = ""
    """Engine that ran it for its accuracy, if that was not its own, and why."""
    implicit: ImplicitCalibration | None = None
    arithmetic: Arithmetic | None = None
    """Types that its engine's layers run in, where the builder tells."""
    compression: Compression | None = None
    fit: Fit | None = None

    def after(self, earlier: StageRecords) -> StageRecords:
        """Combine two records; where both say something, this one, which is the later stage's, counts."""
        said = {name: getattr(self, name) for name in self.__struct_fields__}
        return replace(earlier, **{name: value for name, value in said.items() if value != getattr(NO_RECORDS, name)})

    @property
    def helped(self) -> tuple[str, ...]:
        """Names of the repairs that were kept."""
        return tuple(trial.name for trial in self.repairs if trial.is_kept)


NO_RECORDS = StageRecords()
"""Record of a stage that has nothing to tell."""
