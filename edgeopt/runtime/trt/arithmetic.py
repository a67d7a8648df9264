"""Types that the convolutions and matrix products of an engine run in, by the builder's own list of its layers.

TensorRT-RTX writes that list into its log (VERBOSE, after the line "Layers:"), on any machine. A graph's quantizers say
what it asks for, and only this list what it gets: an INT8 graph may well run in FP16, with its quantizers as kernels of
their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from edgeopt.bundle.records import Arithmetic, LayerType
from edgeopt.runtime.trt.library import Library

Operator: TypeAlias = Literal["convolution", "product"]

_ROW = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[.*?\], TacticName: .*?, Metadata: (?P<nodes>.*)"
)
_DATATYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_POINTWISE = ("kgen", "shape_call")
"""Generated kernels for what is computed element by element, and calls that compute shapes."""
_NAMES = {"Int8": "int8", "Half": "fp16", "Float": "fp32", "BFloat16": "bf16", "FP8": "fp8"}
_OPERATORS: Mapping[str, Operator] = {
    "CONVOLUTION": "convolution",
    "DECONVOLUTION": "convolution",
    "MATRIX_MULTIPLY": "product",
}


class Asked(NamedTuple):
    """A convolution or product of the parsed network."""

    name: str
    operator: Operator
    quantized: bool
    """True if its input comes out of a DequantizeLinear: the graph asks for INT8."""


def asked_for(library: Library, network: Any) -> list[Asked]:
    """Return the convolutions and products of a parsed network, in its order."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = {getattr(library.module.LayerType, name): operator for name, operator in _OPERATORS.items()}
    dequantize = library.module.LayerType.DEQUANTIZE
    integers = {
        layer.get_output(index).name
        for layer in layers
        if layer.type == dequantize
        for index in range(layer.num_outputs)
    }
    return [
        Asked(_node_of(layer), kinds[layer.type], layer.get_input(0).name in integers)
        for layer in layers
        if layer.type in kinds
    ]


def arithmetic(asked: Iterable[Asked], lists: Iterable[str]) -> Arithmetic | None:
    """Return what the builder made of the layers that a graph asks for; None where it listed nothing.

    Args:
        asked: convolutions and products of the network.
        lists: what the builder logged.
    """
    rows = [row for text in lists for row in _rows(text)]
    if not rows:
        return None
    found = (
        LayerType(name=each.name, operator=each.operator, quantized=each.quantized, runs_in=_runs_in(each.name, rows))
        for each in asked
    )
    return Arithmetic(layers=tuple(found), kernels=len(rows))


class _Row(NamedTuple):
    kind: str
    types: tuple[str, ...]
    """Types of its inputs, then of its constants."""
    nodes: frozenset[str]


def _rows(text: str) -> Iterator[_Row]:
    for line in text.splitlines():
        if (match := _ROW.match(line)) is not None and match["kind"] != "shape_call":
            types = (*_DATATYPE.findall(match["inputs"])[:2], *_DATATYPE.findall(match["constants"])[:1])
            yield _Row(match["kind"], types, frozenset(_NODE.findall(match["nodes"])))


def _runs_in(node: str, rows: Iterable[_Row]) -> str:
    """Return the type of a node's operands: INT8 only where activation and weight are."""
    mine = [row for row in rows if node in row.nodes]
    row = next((each for each in mine if each.kind not in _POINTWISE), next(iter(mine), None))
    if row is None or not row.types:
        return "unknown"
    integer = row.types[0] == "Int8" and len(row.types) > 1 and row.types[1] == "Int8"
    first = row.types[0] if integer else next((each for each in row.types if each != "Int8"), row.types[0])
    return _NAMES.get(first, first.lower())


def _node_of(layer: Any) -> str:
    """Return the name of the ONNX node that a layer was parsed from."""
    named = _NODE.search(str(layer.metadata))
    return named[1] if named else str(layer.name)
