"""QuantScheme: what the kernels of a kind of target want, as data.

Sources: the TensorRT developer guide and ModelOpt's placement rules for ``tensorrt``; what OpenVINO's and onnxruntime's
CPU kernels fuse for ``openvino`` and ``onnxruntime`` (u8 x s8 dot products: VNNI) and ``arm`` (s8 x s8: dotprod, i8mm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from edgeopt.calibrate.ranges import Grid
from edgeopt.config import CandidateName, SchemeName
from edgeopt.errors import ConfigError, did_you_mean
from edgeopt.renamed import SCHEMES as FORMER
from edgeopt.spec import PROCESSORS, Processor, Struct, replace

Additional: TypeAlias = Literal["gates", "hardswish", "resizes"]
"""Inputs that a candidate may quantize beside those that a scheme's kernels need (see `additional`)."""
ADDITIONAL: tuple[Additional, ...] = get_args(Additional)


class QuantScheme(Struct):
    """Number formats of activations and weights, and the places that are quantized.

    Weights are always symmetric int8 per output channel; biases always stay float, because TensorRT's parser rejects an
    INT32 DequantizeLinear.
    """

    name: SchemeName
    dtype: Literal["int8", "uint8"]
    """Data type of activations."""
    symmetric: bool
    """Activations have zero point 0."""
    residual: Literal["skip", "both", "none"]
    """Inputs that are quantized of an Add of two branches. ``skip`` leaves the one that a convolution fuses with."""
    requantize: bool = True
    """Repeat the quantizer behind an operator that carries the scale through. It changes no value: TensorRT and
    onnxruntime recognize a layer by the pair before it, while OpenVINO moves scales itself and would run the pair."""
    fuses_padding: bool = True
    """The engine fuses a Pad with the layer behind it, unless a pair stands between them. onnxruntime does not: its Pad
    moves integers, and the layer needs the pair."""
    averages_padding: bool = True
    """Padding that an average counts is zero in integers too. OpenVINO (2026.4.1) averages integers as they are, among
    which zero is another number than the padding."""
    fuses_scales: bool = True
    """A Mul per channel between a layer and a quantizer costs nothing. onnxruntime runs both layers around it in float,
    which took MobileNetV2 from 1.6 times as fast as FP32 to 0.5 times; so this is OpenVINO's and TensorRT's."""
    also: tuple[Additional, ...] = ()
    """Inputs that are quantized beside those that the kernels need."""
    processors: tuple[Processor, ...] = ()
    """Processors on which integers must be safe, besides GPUs."""
    minimum_channels: int = 0
    """Convolutions and matrix products with fewer input or output channels stay float but for the documented
    exceptions (see `eligibility`)."""

    @property
    def adds_pairs(self) -> bool:
        """Kernels of a processor that it is for add products in pairs in 16 bits (see `saturation`)."""
        return "avx2" in self.processors

    @property
    def grid(self) -> Grid:
        """Values that an activation quantizer of this scheme can represent."""
        return Grid(levels=256, symmetric=self.symmetric)


TENSORRT = QuantScheme(name="tensorrt", dtype="int8", symmetric=True, residual="skip", minimum_channels=16)
OPENVINO = QuantScheme(
    name="openvino",
    dtype="uint8",
    symmetric=False,
    residual="both",
    requantize=False,
    averages_padding=False,
    processors=PROCESSORS,
)
ONNXRUNTIME = replace(OPENVINO, name="onnxruntime", averages_padding=True, fuses_scales=False, fuses_padding=False)
ARM = QuantScheme(
    name="arm",
    dtype="int8",
    symmetric=False,
    residual="both",
    fuses_scales=False,
    fuses_padding=False,
    processors=("arm",),
)

VARIATIONS: Mapping[CandidateName, Mapping[str, object]] = {
    "residual": {"residual": "both"},
    "gates": {"also": ("gates",)},
    "hardswish": {"also": ("hardswish",)},
    "scales": {"fuses_scales": False},
    "resizes": {"also": ("resizes",)},
}
"""Candidates that are quantized anew, by what differs in the scheme. NVIDIA's own projects disagree on the residual
branch behind a SiLU (Model-Optimizer pull request 450, yolov7-qat); that a Mul per channel costs nothing was seen in
TensorRT-RTX alone; ModelOpt quantizes both inputs of a product with a gate, what a convolution gives to HardSwish, and
what a Resize interpolates."""

SCHEMES: dict[str, QuantScheme] = {scheme.name: scheme for scheme in (TENSORRT, OPENVINO, ONNXRUNTIME, ARM)}


def scheme(name: str, processors: Sequence[Processor] = PROCESSORS) -> QuantScheme:
    """Return the scheme called `name`, for those of its processors that are asked for.

    Raises:
        ConfigError: there is none; the message lists them.
    """
    if name not in SCHEMES:
        hint = f" It is called '{FORMER[name]}' now" if name in FORMER else did_you_mean(name, SCHEMES)
        raise ConfigError(f"unknown quantization scheme '{name}'.{hint}")
    found = SCHEMES[name]
    return replace(found, processors=tuple(each for each in found.processors if each in processors))


def require_served(name: SchemeName, processors: Sequence[Processor]) -> None:
    """Refuse processors that a scheme is not for.

    Raises:
        ConfigError: there is one; the message names the schemes that serve all.
    """
    missed = [each for each in processors if each not in SCHEMES[name].processors]
    if missed:
        serving = [other.name for other in SCHEMES.values() if set(processors) <= set(other.processors)]
        raise ConfigError(
            f"scheme '{name}' is not for processor{'s' * (len(missed) > 1)} {', '.join(missed)}. Use --scheme "
            f"{' or '.join(serving)}, or leave --processor out"
        )


def varied(scheme: QuantScheme, question: CandidateName | None) -> QuantScheme:
    """Return a scheme as a candidate of `VARIATIONS` has it; as it is for None."""
    return scheme if question is None else replace(scheme, **VARIATIONS[question])
