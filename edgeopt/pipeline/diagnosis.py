"""Diagnose a pair of ONNX files, float and Q/DQ, made by whatever tool."""

from __future__ import annotations

import glob
import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeopt.bundle import Bundle
from edgeopt.calibrate import CalibrationTable, TensorStatistics, calibrate, find_range
from edgeopt.calibrate.table import merge
from edgeopt.calibrate.tap import Feeds, Tap, outputs_as_written
from edgeopt.config import CalibrateConfig, CalibrationMethod, ExportConfig
from edgeopt.dataset import Dataset
from edgeopt.diagnose import (
    FLOAT,
    Diagnosis,
    ModelPair,
    Observed,
    Outputs,
    Remake,
    Remedy,
    Traits,
    channel_range_ratio,
    diagnose,
    effect,
    input_figures,
)
from edgeopt.errors import DataError, ModelError
from edgeopt.graph.edit import node_name
from edgeopt.graph.ending import with_applied
from edgeopt.graph.operators import LINEAR_OPS, weight_axis
from edgeopt.hardware import Cpu, ThisMachine
from edgeopt.hardware.kernels import integer_kernels
from edgeopt.metrics import Discrepancy, OutputReading, readings_of
from edgeopt.metrics.discrepancy import RawReading
from edgeopt.passes.qdq.match import match_layers, misfits, original_constants, restore_activations
from edgeopt.passes.qdq.overflow import overflowing_layers
from edgeopt.passes.qdq.select import (
    ActivationQuantizer,
    Constants,
    QuantizedLayer,
    activation_quantizers,
    dequantized_constant,
    quantization_step,
    quantized_layers,
    rescale,
    select_quantizers,
)
from edgeopt.passes.qdq.ties import tied_tensors
from edgeopt.passes.quantize.insert import quantize_weight, scale_and_zero_point
from edgeopt.passes.quantize.scheme import ARM, OPENVINO, TENSORRT, QuantScheme
from edgeopt.passes.rewrite.opset import raise_opset
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.pipeline.anew import quantized_anew
from edgeopt.pipeline.batches import of_single_images, require_same_in_batches
from edgeopt.pipeline.forms import in_form
from edgeopt.pipeline.graphs import feeds as image_feeds
from edgeopt.pipeline.outputs import READ_IMAGES, OutputKind, read_outputs
from edgeopt.pipeline.standalone import network_feeds
from edgeopt.progress import Progress
from edgeopt.runtime.ov_kernels import outputs_without_vnni
from edgeopt.runtime.session import find_target, known_target
from edgeopt.source.onnx_file import read_onnx
from edgeopt.spec import replace

_WEIGHT, _BIAS = 1, 2
"""Inputs of a layer."""
_METHODS: tuple[CalibrationMethod, ...] = ("mse", "percentile", "minmax")
"""Range methods that are tried on the worst layers."""
_SAME_DB = 40.0
"""The quantized graph without its quantizers computes what the float file does: beyond rounding, not beyond repair."""
_RANGES = " ranges"
_CHANNELS = "weights per channel"
_PER_CHANNEL = "quantize weights per channel, as `edgeopt quantize` always does"


def diagnose_files(
    reference: Path,
    quantized: Path,
    calibration: Path,
    spec: Path | None,
    images: int,
    progress: Progress,
    outputs: Mapping[str, OutputKind] | None = None,
) -> Diagnosis:
    """Say why `quantized` computes something else than `reference`.

    Args:
        reference: the float ONNX file.
        quantized: a Q/DQ ONNX file made from it.
        calibration: a folder of images, or an ``.npz`` of network inputs by name, first dimension = sample.
        spec: TOML with ``[preprocessing]``; needed with images.
        images: use at most so many.
        progress: told about each stage.
        outputs: meaning of the outputs, by name (see `read_outputs`). Default: what they look like.

    Raises:
        ModelError: a file of another kind, or the two have different inputs or outputs.
        DataError: images or arrays that cannot be used.
        ConfigError: images without a spec, or a spec that is not valid.
    """
    progress.begin("load")
    graphs = _float_graph(reference), _quantized_graph(quantized)
    freed = [of_single_images(graph) for graph in graphs]
    (baseline, _), (model, _) = freed
    _check_interfaces(baseline, model)
    samples = list(itertools.islice(network_feeds(baseline, calibration, spec), images))
    feeds = [each for _, each in samples[:READ_IMAGES]]
    for path, graph, (single, batch) in zip((reference, quantized), graphs, freed, strict=True):
        if batch is not None and feeds:
            require_same_in_batches(graph, single, feeds, batch, path.name)
    return _diagnosed(baseline, model, iter(samples), images, progress, outputs or {})


def diagnose_variant(bundle: Bundle, variant: str, images: Dataset, limit: int, progress: Progress) -> Diagnosis:
    """Say why a variant of a bundle loses accuracy against the bundle's FP32 one.

    Args:
        bundle: an opened bundle.
        variant: the quantized one.
        images: such as it was calibrated on.
        limit: use at most so many.
        progress: told about each stage.

    Raises:
        BundleError: no such variant.
        ModelError: the variant is an engine without its ONNX graph, or is not quantized.
        DataError: there are no images.
    """
    progress.begin("load")
    baseline, model = _float_graph(_onnx(bundle, bundle.manifest.baseline)), _quantized_graph(_onnx(bundle, variant))
    spec = with_applied(bundle.spec(variant), baseline.graph.outputs)
    target = known_target(bundle.variant(variant).target)
    on_gpu = target is not None and target.accelerated
    samples = image_feeds(images, spec)
    return _diagnosed(baseline, model, samples, limit, progress, readings_of(spec), on_gpu=on_gpu)


def _diagnosed(
    baseline: ir.Model,
    model: ir.Model,
    samples: Iterator[tuple[str, Feeds]],
    images: int,
    progress: Progress,
    outputs: Mapping[str, OutputKind] | Sequence[OutputReading],
    *,
    on_gpu: bool = False,
) -> Diagnosis:
    """Return the diagnosis; `outputs` is what they mean, by a specification, or what the user says of them."""
    _check_interfaces(baseline, model)
    taken = list(itertools.islice(samples, images))
    if not taken:
        raise DataError("a diagnosis needs images that are like those in use: none were given")
    pair = _Pair(baseline, model, taken, outputs, on_gpu=on_gpu)
    progress.end(f"{len(pair.layers)} quantized layers, {len(taken)} images", reused=False)
    progress.begin("diagnose")
    result = diagnose(pair.subject(), lambda share: progress.update(share, 1.0))
    progress.end(f"the layer that loses most alone is '{result.layers[0].name}'", reused=False)
    return result


def _float_graph(path: Path) -> ir.Model:
    return optimize(raise_opset(read_onnx(path), ExportConfig().opset, path.name))


def _quantized_graph(path: Path) -> ir.Model:
    model = read_onnx(path)
    common.ShapeInferencePass()(model)
    return model


def _onnx(bundle: Bundle, variant: str) -> Path:
    path = bundle.plain_file(variant)
    if path.suffix != ".onnx":
        raise ModelError(
            f"variant '{variant}' is a compiled {path.suffix} file: diagnose one that carries its ONNX graph"
        )
    return path


def _has_x86_kernels(cpu: Cpu) -> bool:
    return integer_kernels(cpu) in ("vnni", "avx2") and find_target("ov").can_run().ok


class _Pair:
    """Both models and the images, and the measurements that the diagnosis asks of them."""

    def __init__(
        self,
        baseline: ir.Model,
        quantized: ir.Model,
        feeds: Sequence[tuple[str, Feeds]],
        outputs: Mapping[str, OutputKind] | Sequence[OutputReading],
        *,
        on_gpu: bool,
    ) -> None:
        self._feeds, self._cpu, self._on_gpu = feeds, ThisMachine().processor.cpu, on_gpu
        self._reference = outputs_as_written(baseline, [each for _, each in feeds])
        self._read = read_outputs(baseline, self._reference, outputs) if isinstance(outputs, Mapping) else ()
        readings = outputs if not isinstance(outputs, Mapping) else [each.reading for each in self._read]
        self._discrepancy = Discrepancy(readings)
        self.layers = {layer.name: layer for layer in quantized_layers(quantized)}
        _refuse_quantized(baseline)
        matches = match_layers(quantized, baseline)
        model = self._quantized = restore_activations(quantized, matches)
        self._nodes = {node_name(node): node for node in model.graph}
        self._originals, self._notes = self._find_originals(matches)
        self._stripped = select_quantizers(model, (), (), self._originals)
        self._baseline = baseline
        self._float_names = {name: node_name(node) for name, node in matches.items()}
        self._quantizers = {name: activation_quantizers(model, layer) for name, layer in self.layers.items()}
        self._tied = tied_tensors(model.graph)
        self._table = self._observe_inputs()

    def subject(self) -> ModelPair:
        """Return the pair as `diagnose` sees it."""
        return ModelPair(
            layers={name: self._traits(layer) for name, layer in self.layers.items()},
            reference=self._reference,
            discrepancy=self._discrepancy,
            run=self._run,
            observe=self._observe,
            repairs=self._repairs,
            together=self._together,
            remake=self._remake,
            overflowing={} if self._on_gpu else overflowing_layers(self._quantized),
            without_vnni=self._without_vnni if _has_x86_kernels(self._cpu) else None,
            saturates_here=integer_kernels(self._cpu) == "avx2",
            knows_weights=bool(self._originals) or not any(layer.weights for layer in self.layers.values()),
            notes=self._notes,
            outputs=tuple(f"{each.output} was taken for {each.kind}: {each.why}" for each in self._read),
        )

    def _without_vnni(self) -> Outputs:
        """Outputs of OpenVINO with the kernels of an x86 processor that has no VNNI."""
        # As `edgeopt build` gives it to OpenVINO, so that saturation is all that differs.
        graph = in_form(self._quantized, find_target("ov"), "int8", None) or self._quantized
        onnx = ir.to_proto(graph).SerializeToString()
        found = outputs_without_vnni(onnx, [feeds for _, feeds in self._feeds])
        names = [value.name or "" for value in self._quantized.graph.outputs]
        return [[outputs[name] for name in names] for outputs in found]

    def _find_originals(self, matches: Mapping[str, ir.Node]) -> tuple[Constants, tuple[str, ...]]:
        """Float weights from the float file, where the quantized graph differs from it in rounding alone."""
        originals = original_constants(self._quantized, self.layers.values(), matches)
        strange = misfits(self._quantized, originals)
        bare = self._outputs(select_quantizers(self._quantized, (), (), originals))
        # Beside the power of all that outputs say: what little differs between images would magnify a rounding.
        readings = [
            replace(each, variation=None) if isinstance(each, RawReading) else each
            for each in self._discrepancy.readings
        ]
        found = effect(self._reference, bare, Discrepancy(readings))
        if strange or found.sqnr_db < _SAME_DB:
            note = (
                "the float file's weights are not those of the quantized graph (equalized, fine-tuned or another "
                f"model; at {', '.join(strange[:3]) or 'its outputs'}): its integer weights are taken as they are, and "
                "their part of the loss cannot be told"
            )
            return {}, (note,)
        unknown = [name for name, layer in self.layers.items() if layer.weights and name not in matches]
        note = f"no float weights were found for {', '.join(unknown)}: theirs stay quantized throughout"
        return originals, (note,) if unknown else ()

    def _outputs(self, model: ir.Model) -> Outputs:
        return outputs_as_written(model, [feeds for _, feeds in self._feeds])

    def _run(self, weights: Collection[str], activations: Collection[str]) -> Outputs:
        return self._outputs(select_quantizers(self._quantized, weights, activations, self._originals))

    def _observe(self) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
        names = {layer.output: name for name, layer in self.layers.items()}
        taps = [Tap(model, list(names), fused=False) for model in (self._stripped, self._quantized)]
        for _, feeds in self._feeds:
            for (tensors, baseline), (_, other) in zip(*(tap.run(feeds) for tap in taps), strict=True):
                for tensor, first, second in zip(tensors, baseline, other, strict=True):
                    yield names[tensor], first, second

    def _observe_inputs(self) -> CalibrationTable:
        """Statistics of what is quantized, in float."""
        tensors = {
            tensor
            for quantizers in self._quantizers.values()
            for each in quantizers
            for tensor in self._tied.get(each.tensor, (each.tensor,))
        }
        config = CalibrateConfig(images=len(self._feeds), minimum_images=1)
        return calibrate(self._stripped, self._feeds, config, tensors=tensors)

    def _traits(self, layer: QuantizedLayer) -> Traits:
        quantizers = self._quantizers[layer.name]
        inputs = tuple(input_figures(each.tensor, each.range, _seen(self._table[each.tensor])) for each in quantizers)
        weight = self._weight(layer)
        if weight is None:
            return Traits(operator=layer.operator or "output", inputs=inputs)
        array, axis = weight
        return Traits(
            operator=layer.operator,
            weight_range_ratio=channel_range_ratio(array, axis),
            per_tensor_weights=array.shape[axis] > 1 and self._could_have_more_scales(layer, array),
            float_setting=f"[quantize] exclude = [{self._pattern(layer.name)}]",
            inputs=inputs,
        )

    def _weight(self, layer: QuantizedLayer) -> tuple[NDArray[Any], int] | None:
        """Return the float weight of a convolution or matrix product, and its axis of output channels."""
        if layer.operator not in LINEAR_OPS or _WEIGHT not in layer.weights:
            return None
        node = self._nodes[layer.name]
        array = self._originals.get((layer.name, _WEIGHT))
        array = dequantized_constant(node.inputs[_WEIGHT]) if array is None else array
        return None if array is None or node.inputs[_WEIGHT] is None else (array, weight_axis(node) % array.ndim)

    def _could_have_more_scales(self, layer: QuantizedLayer, array: NDArray[Any]) -> bool:
        """Return True where weights have one scale and kernels take one a channel: not of a batch of matrices."""
        return self._has_one_scale(layer) and not (layer.operator == "MatMul" and array.ndim > 2)

    def _has_one_scale(self, layer: QuantizedLayer) -> bool:
        step = quantization_step(self._nodes[layer.name].inputs[_WEIGHT])
        return step is not None and step.size == 1

    def _repairs(self, name: str) -> Iterator[Remedy]:
        for method in _METHODS:
            if self._requantizers(name, method):
                chosen = [(name, f"{method}{_RANGES}")]
                setting = f'[quantize.ranges] {self._pattern(name)} = "{method}"'
                yield Remedy(chosen[0][1], setting, partial(self._together, chosen))
        if self._has_uneven_weight(name):
            yield Remedy(_CHANNELS, _PER_CHANNEL, partial(self._together, [(name, _CHANNELS)]))

    def _pattern(self, name: str) -> str:
        """The layer as a recipe names it: as the float model does, in TOML, and nothing else that it could match."""
        return json.dumps(glob.escape(self._float_names.get(name, name)), ensure_ascii=False)

    def _remake(self) -> Remake | str:
        """Return the float model quantized anew, for the kernels that most of the quantizers are for."""
        grids = [_scheme(each) for each in itertools.chain(*self._quantizers.values())]
        schemes = Counter(grid for grid in grids if grid is not None)
        if not schemes:
            return "edgeopt's own repairs were not tried: the activations are not in 8-bit integers"
        ((scheme, _),) = schemes.most_common(1)
        return quantized_anew(self._baseline, self._quantized, scheme, self._feeds, self._reference, self._discrepancy)

    def _together(self, chosen: Sequence[tuple[str, str]]) -> Outputs:
        """Outputs with repairs of several layers, by name of layer and repair."""
        baseline = [name for name, repair in chosen if repair == FLOAT]
        rounded = {(name, _WEIGHT): self._rounded_per_channel(name) for name, repair in chosen if repair == _CHANNELS}
        ranges = [
            quantizer
            for name, repair in chosen
            if repair.endswith(_RANGES)
            for quantizer in self._requantizers(name, cast("CalibrationMethod", repair.removesuffix(_RANGES)))
        ]
        activations = [name for name in self.layers if name not in baseline]
        weights = [name for name in activations if (name, _WEIGHT) not in rounded]
        constants = {**self._originals, **rounded}
        for name, _ in rounded:  # its bias belongs to quantized weights, which it keeps
            constants.pop((name, _BIAS), None)
        model = select_quantizers(rescale(self._quantized, ranges), weights, activations, constants)
        return self._outputs(model)

    def _requantizers(self, name: str, method: CalibrationMethod) -> list[ActivationQuantizer]:
        """Return the layer's quantizers, and those that share a scale with them, with ranges by another method."""
        return [found for each in self._quantizers[name] for found in self._requantized(each, method)]

    def _requantized(self, quantizer: ActivationQuantizer, method: CalibrationMethod) -> list[ActivationQuantizer]:
        """Requantize a layer as `choose_ranges` would; nothing if no scheme has this quantizer's grid."""
        scheme = _scheme(quantizer)
        if scheme is None:
            return []
        tensors = self._tied.get(quantizer.tensor, (quantizer.tensor,))
        statistics = merge([self._table[tensor] for tensor in tensors])
        limits = find_range(statistics, method, scheme.grid, self._table.config.percentile)
        scale, zero_point = scale_and_zero_point(limits, scheme)
        return [ActivationQuantizer(tensor, float(scale), zero_point, quantizer.dtype) for tensor in tensors]

    def _has_uneven_weight(self, name: str) -> bool:
        weight = self._weight(self.layers[name])
        return weight is not None and self._could_have_more_scales(self.layers[name], weight[0])

    def _rounded_per_channel(self, name: str) -> NDArray[Any]:
        weight = self._weight(self.layers[name])
        assert weight is not None
        array, axis = weight
        integers, scale = quantize_weight(array, axis)
        shape = [-1 if index == axis else 1 for index in range(array.ndim)]
        rounded: NDArray[Any] = integers * scale.reshape(shape)
        return rounded


def _check_interfaces(baseline: ir.Model, quantized: ir.Model) -> None:
    first, second = _interface(baseline), _interface(quantized)
    if first != second:
        raise ModelError(
            f"the two files are not of one model: the float one has inputs {first[0]} and outputs {first[1]}, the "
            f"quantized one {second[0]} and {second[1]}"
        )


def _refuse_quantized(baseline: ir.Model) -> None:
    node = next((node for node in baseline.graph if node.op_type == "QuantizeLinear"), None)
    if node is not None:
        raise ModelError(
            f"the float model is quantized too (node '{node.name}' is a QuantizeLinear): give the model that the "
            "quantized one was made from first"
        )


def _interface(model: ir.Model) -> tuple[list[str | None], int]:
    """Names of the inputs and number of outputs: tools rename outputs."""
    inputs = [value.name for value in model.graph.inputs if value.name not in model.graph.initializers]
    return inputs, len(model.graph.outputs)


def _scheme(quantizer: ActivationQuantizer) -> QuantScheme | None:
    """Return the scheme whose grid a quantizer has; None for other than 8-bit integers."""
    if quantizer.dtype == "uint8":
        return OPENVINO
    if quantizer.dtype == "int8":
        return TENSORRT if quantizer.zero_point == 0 else ARM
    return None


def _seen(statistics: TensorStatistics) -> Observed:
    values, counts = statistics.histogram.occupied()
    channels = np.maximum(np.abs(statistics.channel_minimum), np.abs(statistics.channel_maximum))
    return Observed(values, counts, statistics.minimum, statistics.maximum, channels)
