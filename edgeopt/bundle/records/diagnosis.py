"""Results of a diagnosis: why a quantized network loses accuracy, layer by layer."""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgeopt.spec import Struct

_TENTH_DB = 10.0
"""Above the whole network's ratio: a tenth of its noise."""
Cause: TypeAlias = Literal["none", "weights", "activations", "both", "saturation"]


class InputFigures(Struct):
    """One quantized activation of a layer: what its quantizer covers and what the float values need."""

    tensor: str
    low: float
    """Smallest value that the quantizer represents."""
    high: float
    minimum: float
    """Smallest observed value."""
    maximum: float
    bulk: float
    """Magnitude that all but `OUTLIERS` of the values stay below."""
    outlier_share: float
    """Share of the quantizer's reach that serves only outliers: near 1 the other values have few steps left."""
    clipped_share: float
    """Share of the values beyond the quantizer's range by more than half a step."""
    channel_range_ratio: float
    """Largest over median magnitude of the channels."""
    histogram: tuple[float, ...] = ()
    """Shares of the values in equal bins from `minimum` to `maximum`."""
    channels: tuple[float, ...] = ()
    """Magnitudes of the channels, the largest first; evenly thinned out where there are many."""


class Effect(Struct):
    """Discrepancy of the network's outputs from the baseline's."""

    sqnr_db: float
    """Signal-to-quantization-noise ratio of the mean noise over images and outputs (see `Discrepancy.noise`). Of a
    detector: of its scores and of the boxes that they belong to."""
    kl: float | None = None
    """Mean divergence of the class probabilities, in nats; None where no output is such."""


class LayerDiagnosis(Struct):
    """One quantized layer."""

    name: str
    operator: str
    only: Effect
    """Effect of quantizing this layer alone."""
    without: Effect | None
    """Effect of quantizing all layers but this one. None: it is not among the worst, so this was not run."""
    sqnr_db: float | None
    """SQNR of the layer's own output in the quantized network; None if it was not observed."""
    kl: float | None
    """Between the distributions of that output's values."""
    weight_range_ratio: float | None
    """Largest over median magnitude of the weight's output channels."""
    inputs: tuple[InputFigures, ...]
    finding: str
    """Finding in words; empty if nothing stands out."""


class Tried(Struct):
    """A repair that was run by itself."""

    layer: str
    """Layer that the repair changes; empty for the whole float model, quantized anew."""
    repair: str
    """Such as ``mse ranges`` or ``float``."""
    setting: str
    """Setting of edgeopt that applies it."""
    effect: Effect
    gain_db: float
    """Over the quantized model as it is. What was quantized anew is compared on images that no repair was fitted on."""


class Saturation(Struct):
    """Saturation in kernels of x86 processors without VNNI, which add products in pairs in 16 bits."""

    layers: dict[str, float]
    """Share of the weights' pairs that are too large, by layer; the worst first."""
    effect: Effect
    """Effect of such kernels, as OpenVINO runs them."""


class Diagnosis(Struct):
    """The answer."""

    images: int
    whole: Effect
    """Effect of the quantized model as it is."""
    weights_only: Effect
    activations_only: Effect
    cause: Cause
    """Half that clearly loses more, or saturation if this processor's kernels lose more than both."""
    layers: tuple[LayerDiagnosis, ...]
    """The one that loses most alone first."""
    tried: tuple[Tried, ...]
    """Repairs of the worst layers and of all, each verified by running it."""
    suggestion: str
    chosen: tuple[Tried, ...] = ()
    """Suggestions, the largest gain first."""
    together: Effect | None = None
    """Effect of all suggestions at once; None for one suggestion or none."""
    outputs: tuple[str, ...] = ()
    """Meaning that each output was taken for, and why; empty if a specification says it."""
    saturation: Saturation | None = None
    """Saturation. None: no layer saturates, or no such kernel is available here."""
    notes: tuple[str, ...] = ()
    """Things that could not be told apart, with reasons."""

    @property
    def striking(self) -> tuple[LayerDiagnosis, ...]:
        """Layers with a finding that also cost something: a tenth of the whole noise or more."""
        most_db = self.whole.sqnr_db + _TENTH_DB
        return tuple(layer for layer in self.layers if layer.finding and layer.only.sqnr_db <= most_db)

    def layer(self, name: str) -> LayerDiagnosis:
        """Return the diagnosis of one layer."""
        return next(layer for layer in self.layers if layer.name == name)
