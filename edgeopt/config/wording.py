"""Messages of msgspec in the terms of a recipe: the key or value that was meant, TOML's names of types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec

from edgeopt.errors import did_you_mean

PERCENTAGE = r"^ *[0-9]*\.?[0-9]+ *% *$"
SHARE_OR_MS = r"^ *[0-9]*\.?[0-9]+ *(x|ms) *$"
PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*(?!\n)$"  # a bare $ lets a line break through
_PATTERNS: Mapping[str, str] = {
    PERCENTAGE: 'a number of points, or a percentage of the FP32 metric as in "0.5%"',
    SHARE_OR_MS: 'a share of the unpruned latency as in "0.6x", or milliseconds as in "12 ms"',
    PLAIN_NAME: "letters, digits, dots, dashes and underscores, with a letter or digit first",
}
"""Words for error messages, by pattern."""
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list, as in [1, 2]",
    "object": "a table",
}
"""Names of TOML's types by msgspec's."""


def explain(message: str, kind: type) -> str:
    """Rewrite msgspec's message in TOML's terms, and suggest the key or the value that was meant."""
    if unknown := re.search(r"unknown field `([^`]+)`(?: - at `\$\.?([^`]*)`)?", message):
        key, where = unknown.group(1), unknown.group(2) or ""
        table = f" in [{where}]" if where else ""
        known = {field.encode_name for struct in _tables(kind, where) for field in msgspec.structs.fields(struct)}
        return f"unknown key '{key}'{table}.{did_you_mean(key, sorted(known))}"
    if invalid := re.search(r"Invalid enum value '([^']*)' - at `\$\.([^`]*)`", message):
        value, where = invalid.groups()
        return f"'{value}' is no value of `{where}`.{did_you_mean(value, _known_values(kind, where))}"
    if wrong := re.fullmatch(r"Expected `([^`]+)`, got `([^`]+)` - at `\$\.([^`]*)`", message):
        expected, got, where = wrong.groups()
        return f"`{where}` takes {_in_words(expected)}, not {_in_words(got)}"
    for pattern, wanted in _PATTERNS.items():
        message = message.replace(f"`str` matching regex {pattern!r}", wanted)
    return message.replace(" - at `$.", " - at `")


def _in_words(types: str) -> str:
    """Name msgspec's types as a user of TOML does: ``int | null`` is a whole number."""
    return " or ".join(_TYPES.get(name, name) for name in types.split(" | ") if name != "null")


def _tables(root: type, where: str) -> list[Any]:
    """Return the structs that may stand at the dotted path `where` of a `root`."""
    found: list[Any] = [root]
    for part in [part.split("[")[0] for part in where.replace("[...]", "").split(".") if part]:
        found = [struct for kind in found for field in _fields(kind, part) for struct in _structs_in(field.type)]
    return found


def _known_values(root: type, where: str) -> list[str]:
    """Return the texts that the key at a dotted path takes."""
    table, _, key = where.rpartition(".")
    fields = [field for kind in _tables(root, table) for field in _fields(kind, key.split("[")[0])]
    return [text for field in fields for text in _literals_in(field.type)]


def _fields(kind: Any, name: str) -> list[Any]:
    return [field for field in msgspec.structs.fields(kind) if field.encode_name == name]


def _literals_in(kind: Any) -> list[str]:
    """Return the texts of the literals inside an annotation."""
    if get_origin(kind) is Literal:
        return [value for value in get_args(kind) if isinstance(value, str)]
    return [text for argument in get_args(kind) for text in _literals_in(argument)]


def _structs_in(kind: Any) -> list[Any]:
    """Return the struct types inside a (possibly optional, union or container) annotation."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [struct for argument in get_args(kind) for struct in _structs_in(argument)]
