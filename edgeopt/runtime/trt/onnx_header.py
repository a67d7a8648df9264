"""A look at an ONNX file's outermost fields, without the onnx package.

TensorRT's parser accepts an empty file, a text file and impossible versions, and fails later with a misleading message
or not at all. The device side has no onnx package, so the few fields are read from the protobuf encoding itself
(https://protobuf.dev/programming-guides/encoding; field numbers from onnx.proto: 1 ir_version, 7 graph, 8 opset_import;
in OperatorSetIdProto 1 domain, 2 version).
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeopt.errors import ModelError
from edgeopt.spec import Struct

NEWEST_IR_VERSION = 14
NEWEST_OPSET = 28
"""Newest opset, of onnx 1.23. TensorRT silently reads larger numbers with the newest meaning it knows."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class OnnxHeader(Struct):
    """Header of an ONNX file."""

    ir_version: int
    opset: int
    """Opset of the standard domain."""


def read_header(onnx: bytes) -> OnnxHeader:
    """Read and check the header of a serialized model.

    Raises:
        ModelError: not an ONNX file, cut off, without a graph or an operator set, or newer than any known.
    """
    if not onnx:
        raise ModelError("the ONNX file is empty (0 bytes). Export the model again")
    ir_version, opset, has_graph = 0, 0, False
    for number, value in _fields(onnx):
        if number == 1 and isinstance(value, int):
            ir_version = value
        elif number == 7:
            has_graph = True
        elif number == 8 and isinstance(value, memoryview):
            opset = max(opset, _standard_opset(bytes(value)))
    if not (ir_version and opset and has_graph):
        raise ModelError("this is not an ONNX model: it has no graph, no version or no operator set")
    if ir_version > NEWEST_IR_VERSION or opset > NEWEST_OPSET:
        raise ModelError(
            f"the model says IR version {ir_version} and opset {opset}; the newest known are {NEWEST_IR_VERSION} and "
            f"{NEWEST_OPSET}. Export it with an opset from 13 to 23"
        )
    return OnnxHeader(ir_version=ir_version, opset=opset)


def _standard_opset(operator_set: bytes) -> int:
    """Return the version of an OperatorSetIdProto, or 0 where it is of another domain than ONNX's own."""
    fields = dict(_fields(operator_set))
    domain, version = fields.get(1, memoryview(b"")), fields.get(2, 0)
    standard = isinstance(domain, memoryview) and bytes(domain) in (b"", b"ai.onnx")
    return version if standard and isinstance(version, int) else 0


def _fields(message: bytes) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value of each field: an integer for varints, the bytes for the rest."""
    view, position = memoryview(message), 0
    while position < len(view):
        key, position = _varint(view, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(view, position)
            yield number, value
            continue
        if kind == _BYTES:
            length, position = _varint(view, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ModelError(f"this is not an ONNX model: byte {position} holds no protobuf field")
        if position + length > len(view):
            missing = position + length - len(view)
            raise ModelError(
                f"the ONNX file is cut off, or is not an ONNX file: {missing} bytes are missing at its end"
            )
        yield number, view[position : position + length]
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """Return the integer at `position`, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise ModelError("the ONNX file is cut off, or is not an ONNX file: it ends inside a number")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ModelError(f"this is not an ONNX model: no number at byte {position}")
