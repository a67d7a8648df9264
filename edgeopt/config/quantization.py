"""``[export]``, ``[calibrate]``, ``[quantize]``, ``[precision]`` and ``[budget]``: the graph and its number formats."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeopt.config.wording import PERCENTAGE
from edgeopt.doors import REPAIRS
from edgeopt.errors import SettingError
from edgeopt.references import check, named
from edgeopt.spec import Fraction, PositiveInt, Struct

CalibrationMethod: TypeAlias = Literal["minmax", "mean_minmax", "percentile", "entropy", "mse", "auto"]
Repair: TypeAlias = Annotated[str, named(REPAIRS)]
SchemeName: TypeAlias = Literal["tensorrt", "openvino", "onnxruntime", "arm"]
FAST_REPAIRS = ("range_method", "equalization", "smoothing", "floats", "bias_correction", "weight_clipping", "gptq")
"""The repairs that run the network on each image a few times, and search for nothing."""


class ExportConfig(Struct):
    """``[export]``: how the model becomes ONNX."""

    opset: Annotated[int, Meta(ge=13, le=23)] = 18
    """Version of ONNX's operators."""
    tolerance: Annotated[float, Meta(gt=0.0)] = 1e-4
    """Largest allowed difference of torch and ONNX outputs, relative to the largest output if that exceeds 1."""
    fold_normalization: bool = True
    """Make scale, mean and std part of the graph, so that sessions take uint8."""


class CalibrateConfig(Struct):
    """``[calibrate]``: how activations are observed and ranges chosen."""

    method: CalibrationMethod = "mean_minmax"
    """Method of choosing ranges. The repair ``ranges`` then gives single tensors another one where that measurably
    helps, and ``[quantize.ranges]`` settles the method of single layers."""
    images: PositiveInt = 200
    """Number of calibration images. If there are fewer, the build says so. Thousands can be observed by many workers:
    ``edgeopt build --on``."""
    percentile: Annotated[float, Meta(gt=50.0, le=100.0)] = 99.99
    """Share of values inside the range, in percent, of the method ``percentile``."""
    minimum_images: PositiveInt = 16
    """Fewest readable images; fewer is an error."""
    seed: int = 0
    """Seed of the order of the images, and so of which of them repairs are fitted and which they are judged on. 0: the
    order of the set."""


class QuantizeConfig(Struct):
    """``[quantize]``. With `enabled = false`, only float variants are built."""

    enabled: bool = True
    """Build INT8 variants."""
    file: str | None = None
    """An ``.onnx`` file that another tool quantized, with Q/DQ in the graph: it becomes the INT8 variant of each target
    as it is, without calibration or repairs. ``[model] source`` is its float model; where there is none it is the same
    file, and the FP32 variant is that file without its quantizers. OpenVINO gets its int8 activations as uint8 of the
    same values: it rounds int8 ones to whole numbers where a Concat joins them. Where this processor's kernels add
    products in 16 bits and its weights are too large for that, smaller ones are tried on calibration (or else test)
    images, and kept if the outputs are then nearer to what the file says."""
    scheme: SchemeName | None = None
    """Quantization scheme. Default: the one that each target's kernels want."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of names of nodes that stay float."""
    ranges: dict[str, CalibrationMethod] = msgspec.field(default_factory=dict)
    """Method of the input ranges of some layers, by glob pattern of node names: ``"stem*" = "mse"``. Tensors that share
    a scale with such an input follow. If several patterns match, the last one counts. The repair ``ranges`` leaves
    these ranges alone. Default: ``[calibrate] method``."""
    repairs: tuple[Repair, ...] = (
        "range_method",
        "equalization",
        "smoothing",
        "ranges",
        "exemption",
        "floats",
        "bias_correction",
        "weight_clipping",
        "gptq",
    )
    """Accuracy repairs to try. Each is kept only if it measurably helps on held-out calibration images.
    ``range_method`` tries the other methods of ``[calibrate] method`` on all ranges.
    ``equalization`` inserts a Mul per channel for ONNX Runtime only where it is timed to be as fast with it.
    ``smoothing`` is for LayerNorms, and not tried without (SmoothQuant). The repair ``ranges`` chooses ranges anew,
    by their effect on the outputs, and so may replace those of ``[calibrate] method``. ``exemption`` keeps small
    layers float whose inputs do much of the harm, at most 5 % of the multiplications. Those two take most of the time,
    for they search; the others run the network on each image a few times. ``floats`` keeps depthwise layers, and sums
    of branches, float where that is timed to pay in OpenVINO or ONNX Runtime. ``fine_tuning``, which is not among the
    defaults, trains integers, scales and biases until each layer computes what it does in float, without labels: it
    takes minutes to hours, and needs torch. Your own is a `passes.repair.trials.Repair`."""
    minutes: Annotated[float, Meta(gt=0.0)] | None = None
    """Most minutes that the repairs of one graph may take; for ``edgeopt quantize`` its calibration too. A repair that
    would take longer than what is left is not tried, and the report says what it would have needed. Results then depend
    on how fast the machine is. Default: as long as they need."""

    def __post_init__(self) -> None:
        for repair in self.repairs:
            check(repair, REPAIRS, "repair")
        if self.file is not None and (self.exclude or self.ranges or self.scheme):
            raise SettingError(
                f"'{self.file}' is quantized already and is taken as it is. Remove exclude, ranges and scheme"
            )


class PrecisionConfig(Struct):
    """``[precision]``: the precision of layers that are not quantized.

    Each reduced precision is a variant of its own beside FP32, and the float part of the target's INT8 variant.
    """

    gpu: Literal["fp16", "fp32"] = "fp16"
    """Precision in the graph of ``trt`` and ``rtx``. Nodes whose tensors exceed 512 on calibration images, with
    constants beyond 65504 or sums of more than 4096 products stay FP32. TensorRT 8 (JetPack 5.1 and 6.0) reads no
    FP16 scales: those of target ``trt8`` are FP32 with either."""
    cpu: Literal["bf16", "fp32"] = "fp32"
    """Precision of ``ov``, as a setting of the engine. bf16 needs a processor that has it (avx512_bf16, amx_bf16 or
    Arm's)."""


class BudgetConfig(Struct):
    """``[budget]``: limits on the cost of INT8. Layers that cost more accuracy than they save time then stay float.

    The search measures on the validation images, on the engines of each target. Without this table all layers that can
    be are quantized.
    """

    max_drop: Fraction | Annotated[str, Meta(pattern=PERCENTAGE)] | None = None
    """Largest drop of the main metric: ``"0.5%"`` of the FP32 model's, or a number in points of a metric from 0 to 1.
    Where the validation images have no labels, the metric is the agreement with the FP32 model.
    Default: 0.5 %. With only `latency_ms` set there is no limit on accuracy: the most accurate plan within that latency
    wins."""
    latency_ms: Annotated[float, Meta(gt=0.0)] | None = None
    """Largest latency end to end, on this machine."""
