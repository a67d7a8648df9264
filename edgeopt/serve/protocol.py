"""The Open Inference Protocol (KServe v2) over HTTP: requests to arrays, and arrays to answers.

The protocol is https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; tensors as
binary data follow Triton's extension (protocol/extension_binary_data.md). JSON has no bytes: an input of type BYTES
whose parameter ``content_type`` is ``base64`` holds base64, as MLServer has it.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeopt.serve.limits import Refused
from edgeopt.typed import from_json

Array: TypeAlias = NDArray[Any]
"""Numbers; of type BYTES: an object array of `bytes`."""

HEADER = "Inference-Header-Content-Length"
"""HTTP header with the length of the JSON in front of binary data."""
DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
"""numpy's element types by the protocol's."""
_NAMES = {name: datatype for datatype, name in DATATYPES.items()}
_KINDS = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}
"""Kinds of numbers in JSON that may stand for each kind of element."""
_MOST_ELEMENTS = 1 << 31


class _Input(msgspec.Struct):
    name: str
    shape: list[Annotated[int, Meta(ge=0)]]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


@dataclass(frozen=True)
class Request:
    """A request to a model."""

    inputs: Mapping[str, Array]
    id: str
    parameters: Mapping[str, Any]
    wanted: tuple[str, ...]
    """Names of the outputs that are asked for; empty: all."""
    binary: frozenset[str] | None
    """Outputs that are asked for as binary data; None: all."""


def datatype_of(dtype: str) -> str:
    """Return the protocol's name of an element type."""
    return _NAMES[dtype]


def read_request(body: bytes, header: str | None) -> Request:
    """Read the body of a request.

    Args:
        body: JSON, and binary data behind it.
        header: value of the HTTP header `HEADER`, if there is one.

    Raises:
        Refused: it is malformed.
    """
    length = _json_length(header, len(body))
    try:
        found = from_json(body[:length], _Request)
    except msgspec.DecodeError as error:
        raise Refused(400, f"the request is not one of the protocol: {error}") from error
    inputs: dict[str, Array] = {}
    place = length
    for each in found.inputs:
        if each.name in inputs:
            raise Refused(400, f"input {each.name!r:.100} is there twice")
        size = each.parameters.get("binary_data_size")
        if size is None:
            inputs[each.name] = _from_json(each)
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(body) - place:
            raise Refused(400, f"input {each.name!r:.100} has no {size!r:.30} bytes of binary data")
        inputs[each.name] = _from_binary(each, memoryview(body)[place : place + size])
        place += size
    if place != len(body):
        raise Refused(400, f"{len(body) - place} bytes of binary data belong to no input")
    return Request(
        inputs, found.id, found.parameters, tuple(each.name for each in found.outputs), _binary_outputs(found)
    )


def _binary_outputs(found: _Request) -> frozenset[str] | None:
    every = found.parameters.get("binary_data_output") is True
    if not found.outputs:
        return None if every else frozenset()
    return frozenset(each.name for each in found.outputs if each.parameters.get("binary_data", every) is True)


def _json_length(header: str | None, size: int) -> int:
    if header is None:
        return size
    if not header.isascii() or not header.isdecimal() or len(header) > 12 or int(header) > size:
        raise Refused(400, f"the header {HEADER} must be a number of bytes, of at most {size} here")
    return int(header)


def _count(each: _Input) -> int:
    count = math.prod(each.shape)
    if len(each.shape) > 8 or count > _MOST_ELEMENTS:
        raise Refused(400, f"input {each.name!r:.100} has a shape that is too large")
    return count


def _dtype(each: _Input) -> np.dtype[Any]:
    if each.datatype not in DATATYPES:
        known = ", ".join((*DATATYPES, "BYTES"))
        raise Refused(400, f"input {each.name!r:.100} has datatype {each.datatype!r:.30}. Known: {known}")
    return np.dtype(DATATYPES[each.datatype]).newbyteorder("<")


def _from_binary(each: _Input, data: memoryview) -> Array:
    """Read little-endian numbers, or bytes that their length goes before in four bytes each."""
    count = _count(each)
    if each.datatype == "BYTES":
        return _objects(_pieces(each, data, count), each)
    dtype = _dtype(each)
    if len(data) != count * dtype.itemsize:
        wanted = count * dtype.itemsize
        raise Refused(400, f"input {each.name!r:.100} has {len(data)} bytes; its shape and datatype need {wanted}")
    values = np.frombuffer(data, np.uint8 if each.datatype == "BOOL" else dtype).reshape(each.shape)
    return values != 0 if each.datatype == "BOOL" else values


def _pieces(each: _Input, data: memoryview, count: int) -> list[bytes]:
    found: list[bytes] = []
    place = 0
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "little")
        if place + 4 + length > len(data) or len(found) == count:
            break
        found.append(bytes(data[place + 4 : place + 4 + length]))
        place += 4 + length
    if place != len(data) or len(found) != count:
        raise Refused(
            400,
            f"input {each.name!r:.100} is not {count} elements of BYTES: each begins with its length, in 4 bytes, the "
            "lowest first",
        )
    return found


def _objects(pieces: Sequence[bytes], each: _Input) -> Array:
    values = np.empty(len(pieces), object)
    values[:] = pieces
    return values.reshape(each.shape)


def _from_json(each: _Input) -> Array:
    """Read an array of JSON, nested or flat."""
    count = _count(each)
    if each.datatype == "BYTES":
        texts = _flat(each.data, count, each)
        if each.parameters.get("content_type") == "base64":
            return _objects([_decoded(text, each) for text in texts], each)
        return _objects([text.encode() for text in texts], each)
    dtype = _dtype(each)
    try:
        found = np.asarray(each.data if isinstance(each.data, list) else None)
    except ValueError as error:  # of uneven rows
        raise Refused(400, f"input {each.name!r:.100} has rows of different lengths") from error
    if found.dtype.kind not in _KINDS[dtype.kind]:
        raise Refused(400, f"the data of input {each.name!r:.100} is not an array of {each.datatype}")
    if found.size != count:
        raise Refused(400, f"input {each.name!r:.100} has {found.size} values; its shape needs {count}")
    with np.errstate(over="ignore"):
        values = found.reshape(each.shape).astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(values, found.reshape(each.shape)):
        raise Refused(400, f"input {each.name!r:.100} has values outside {each.datatype}")
    return values


def _flat(data: Any, count: int, each: _Input) -> list[str]:
    found = data if isinstance(data, list) else [data]
    while found and all(isinstance(one, list) for one in found):
        found = [inner for one in found for inner in one]
    if len(found) != count or not all(isinstance(one, str) for one in found):
        raise Refused(400, f"the data of input {each.name!r:.100} is not an array of {count} texts")
    return found


def _decoded(text: str, each: _Input) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"input {each.name!r:.100} holds text that is not base64") from error


def write_answer(model: str, version: str, request: Request, outputs: Mapping[str, Array]) -> tuple[bytes, int | None]:
    """Write the outputs that a request asks for.

    Args:
        model: its name.
        version: its version.
        request: what was asked for.
        outputs: all that there are, by name.

    Returns:
        Body, and the length of its JSON where binary data follows it.

    Raises:
        Refused: an output is asked for that does not exist.
    """
    if unknown := sorted(set(request.wanted) - set(outputs)):
        raise Refused(400, f"there is no output {unknown[0]!r:.100}. Known: {', '.join(outputs)}")
    described: list[dict[str, Any]] = []
    pieces: list[bytes] = []
    for name in request.wanted or outputs:
        array = outputs[name]
        bytes_type = array.dtype == object
        entry: dict[str, Any] = {
            "name": name,
            "datatype": "BYTES" if bytes_type else _NAMES[array.dtype.name],
            "shape": list(array.shape),
        }
        if request.binary is None or name in request.binary:
            piece = _packed(array) if bytes_type else np.ascontiguousarray(array).tobytes()
            entry["parameters"] = {"binary_data_size": len(piece)}
            pieces.append(piece)
        else:
            flat = array.reshape(-1).tolist()
            entry["data"] = [one.decode() for one in flat] if bytes_type else flat
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        answer["id"] = request.id
    text = msgspec.json.encode(answer)
    return (b"".join((text, *pieces)), len(text)) if pieces else (text, None)


def _packed(array: Array) -> bytes:
    return b"".join(len(one).to_bytes(4, "little") + one for one in array.reshape(-1).tolist())
