"""Read typed values from JSON and from parsed documents. Only this module asks msgspec to read a type.

When msgspec (0.22) first meets a struct, it stores the description of its fields in the class *before* it has filled
it in (for types that contain themselves), and evaluates annotations meanwhile, so that another thread may run. That
thread finds the half-filled description and the process crashes. So all types are described under one lock; once that
is done, decoders are safe to share.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

_T = TypeVar("_T")
_DESCRIBING = threading.RLock()


def from_json(text: bytes | str, kind: type[_T]) -> _T:
    """Read JSON as `kind`. Any number of threads may call this.

    Raises:
        msgspec.DecodeError: not JSON, not UTF-8, nested too deeply, or not of this type (`msgspec.ValidationError`).
    """
    with _DESCRIBING:
        decoder = _decoder(cast("Hashable", kind))
    try:
        value: _T = decoder.decode(text)
    except msgspec.DecodeError:
        raise
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are a ValueError
        raise msgspec.DecodeError(f"JSON is malformed: {error}") from error
    return value


def convert(value: Any, kind: type[_T]) -> _T:
    """Convert dicts, lists and plain values to `kind`. Any number of threads may call this.

    Raises:
        msgspec.ValidationError: not of this type.
    """
    with _DESCRIBING:
        try:
            return msgspec.convert(value, kind)
        except UnicodeEncodeError as error:  # bytes of a command line that are not UTF-8 come as halves of pairs
            raise msgspec.ValidationError(f"text that is not UTF-8: {error.object[:80]!r}") from error


@cache
def _decoder(kind: Hashable) -> Any:
    return msgspec.json.Decoder(cast("Any", kind))
