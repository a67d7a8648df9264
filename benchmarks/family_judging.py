"""A family's seeded network in INT8 beside FP32, and with its tail moved beside whole: shares of equal detections."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir

from benchmarks.family_graphs import SIDE, Family
from benchmarks.family_networks import pictures, seeded_network, with_plugin
from edgeopt.config import CalibrateConfig, ModelConfig, QuantizeConfig, SchemeName
from edgeopt.errors import ModelError
from edgeopt.identify import Identification
from edgeopt.metrics import detection_agreement, readings_of
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.pipeline.quantizing import quantize_graph
from edgeopt.postprocess import Detections, decode
from edgeopt.preprocess import batch, feed
from edgeopt.runtime.ort import OrtSession
from edgeopt.runtime.ov import OvSession
from edgeopt.source import resolve
from edgeopt.spec import DetectionDecoding, ModelSpec, Normalization, Preprocessing, Resize, replace

Tail = Literal["keep", "cut", "topk", "nms"]
TAILS: tuple[Tail, ...] = ("cut", "topk", "nms")
ENGINES: Mapping[str, tuple[SchemeName, Any]] = {
    "OpenVINO": ("openvino", OvSession), "ONNX Runtime": ("onnxruntime", OrtSession),
}  # fmt: skip
FITTED, JUDGED = 16, 24
"""Pictures that are calibrated on, and others that are compared on."""
_CLOSE = 1e-3
"""Largest difference of scores, and of boxes as a share of the picture's side, of the same object."""


@dataclass(frozen=True)
class Judged:
    """What became of one family's network.

    Attributes:
        objects: detections of FP32 a picture.
        int8: share of detections in which INT8 agrees with FP32, by engine.
        tails: share of detections that are the same with the file's tail cut off or with one put on, by tail; none of
            those that it cannot have.
        quantized: tail of the graph that was quantized: ``cut`` where no processor runs the file whole.
    """

    objects: float
    int8: dict[str, float]
    tails: dict[str, float]
    quantized: Tail


@dataclass(frozen=True)
class Opened:
    """A network and its specification."""

    network: ir.Model
    spec: ModelSpec

    def detected(self, images: Sequence[Any], session: Any = OrtSession) -> list[Detections]:
        """Return what it finds in pictures."""
        found: list[Detections] = []
        with session(ir.to_proto(self.network).SerializeToString()) as opened:
            for image in images:
                tensor, geometries = batch([image], self.spec.preprocessing)
                results = decode(opened.run(feed(self.spec, tensor, geometries)), self.spec, geometries)
                found += [each for each in results if isinstance(each, Detections)]
        return found


def judge(family: Family, found: Identification) -> Judged:
    """Quantize a family's network for each engine, and move its tail.

    Args:
        family: whose.
        found: what its file was identified as.
    """
    logging.getLogger("edgeopt").setLevel(logging.ERROR)
    images = pictures(JUDGED, 1)
    whole = seeded_network(family)
    runs_whole = with_plugin(family) is None
    with TemporaryDirectory() as folder:
        exact = opened(whole, found, Path(folder))
        quantized = exact if runs_whole else opened(_file(family), found, Path(folder), "cut")
    int8 = {engine: _int8(quantized, images, engine) for engine in ENGINES}
    expected = exact.detected(images)
    each = sum(map(len, expected)) / len(expected)
    return Judged(round(each, 1), int8, moved(family, found, images), "keep" if runs_whole else "cut")


def moved(family: Family, found: Identification, images: Sequence[Any]) -> dict[str, float]:
    """Return the share of detections that are the same with each tail that a family's file can have.

    Args:
        family: whose.
        found: what its file was identified as.
        images: (SIDE, SIDE, 3) uint8 pictures.
    """
    shares: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        expected = opened(seeded_network(family), found, Path(folder)).detected(images)
        for tail in TAILS:
            with suppress(ModelError):  # it has none to cut, or has chosen its rows
                other = opened(_file(family), found, Path(folder), tail).detected(images)
                shares[tail] = round(same(expected, other), 4)
    return shares


def _file(family: Family) -> onnx.ModelProto:
    """Return the file as its exporter writes it."""
    return with_plugin(family) or seeded_network(family)


def opened(network: onnx.ModelProto, found: Identification, folder: Path, tail: Tail = "keep") -> Opened:
    """Open a file as a recipe does, by the reading that it was identified as, with one threshold for all.

    Raises:
        ModelError: its tail cannot be moved.
    """
    path = folder / "m.onnx"
    onnx.save(network, path)
    reading = found.candidates[0]
    assert isinstance(reading.decoder, DetectionDecoding)
    is_bytes = network.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    sides = [side.dim_value for side in network.graph.input[0].type.tensor_type.shape.dim]
    config = ModelConfig(
        source=path.name,
        labels=tuple(f"thing {number}" for number in range(reading.classes or _number_of_classes(reading.decoder))),
        preprocessing=Preprocessing(
            steps=(Resize(size=(SIDE, SIDE)),),
            normalization=None if is_bytes else Normalization(),
            layout="NCHW" if sides[1] == 3 else "NHWC",
        ),
        decoding=reading.decoder,
        tail=tail,
    )
    source = resolve(config, folder)
    decoding = replace(source.spec.decoding, score_threshold=reading.decoder.score_threshold)
    return Opened(source.onnx, replace(source.spec, decoding=decoding))


def _number_of_classes(decoding: DetectionDecoding) -> int:
    """Return how many classes there are where outputs hold numbers of them."""
    return 80 if decoding.numbering == "coco91" else 3


def same(expected: Sequence[Detections], found: Sequence[Detections]) -> float:
    """Return twice the pairs of detections with the same class, score and box over all detections."""
    pairs = total = 0
    for one, other in zip(expected, found, strict=True):
        left = list(range(len(other)))
        for index in range(len(one)):
            for place in left:
                if _is_same(one, index, other, place):
                    left.remove(place)
                    pairs += 1
                    break
        total += len(one) + len(other)
    return 2 * pairs / total if total else 1.0


def _is_same(one: Detections, first: int, other: Detections, second: int) -> bool:
    return bool(
        one.classes[first] == other.classes[second]
        and abs(one.scores[first] - other.scores[second]) < _CLOSE
        and np.abs(one.boxes[first] - other.boxes[second]).max() < _CLOSE * SIDE
    )


def _int8(exact: Opened, images: Sequence[Any], engine: str) -> float:
    """Return the share of detections in which INT8 of an engine agrees with FP32 in the same one."""
    scheme, session = ENGINES[engine]
    network = optimize(exact.network)
    spec = exact.spec
    samples = []
    for index, picture in enumerate(pictures(FITTED, 2)):
        tensor, geometries = batch([picture], spec.preprocessing)
        samples.append((str(index), feed(spec, tensor, geometries)))
    config = QuantizeConfig(repairs=())
    calibration = CalibrateConfig(images=FITTED)
    quantized = quantize_graph(network, samples, calibration, config, scheme, readings_of(spec))
    found = [Opened(each, spec).detected(images, session) for each in (network, quantized.model)]
    return round(detection_agreement(found[1], found[0], len(spec.labels)), 4)
