"""Typed values from JSON: what comes back, and how refusals read."""

from __future__ import annotations

import msgspec
import pytest

from edgeopt.spec import Letterbox
from edgeopt.typed import convert, from_json


def test_a_value_of_another_type_is_named_by_its_place() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"^Expected `int`, got `str` - at `\$\[0\]`$"):
        from_json(b'["one"]', list[int])
    with pytest.raises(msgspec.ValidationError, match=r"^Object missing required field `size`$"):
        convert({}, Letterbox)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b'"\xff"', b"[" * 200_000, b'{"size": 1e999}'])
def test_what_is_no_json_is_one_kind_of_error(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        from_json(text, Letterbox)
