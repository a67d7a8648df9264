"""The keys of a recipe, described from the structs that read it: types and limits from msgspec, words from the source.

Python keeps no docstrings of fields, so that they are read from the source files that the structs are defined in, which
an installed package has.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from msgspec import NODEFAULT
from msgspec import inspect as types

from edgeopt.config import Config, DataConfig, find_recipe, shipped_recipes
from edgeopt.doors import DATA_FORMATS
from edgeopt.errors import ConfigError, did_you_mean
from edgeopt.presets import PRESETS
from edgeopt.references import resolve

_SAME = {"validation": "train", "test": "train", "calibration": "train"}
"""Tables of `DataConfig` that take the keys of another."""


@dataclass(frozen=True)
class Key:
    """One key or table.

    Attributes:
        path: dotted, as in ``calibrate.images``; a table that is told apart by its type has that as a part, as in
            ``model.preprocessing.steps.letterbox.size``.
        kind: the values that it takes, in words.
        default: as TOML; ``needed`` where there is none, ``not set`` where leaving it out means something else.
        description: what it does.
        is_table: whether it holds keys of its own.
    """

    path: str
    kind: str
    default: str
    description: str
    is_table: bool


@cache
def keys() -> tuple[Key, ...]:
    """Return all tables and keys, each table before its keys."""
    return tuple(_of(Config, ""))


def explain(path: str) -> tuple[Key, ...]:
    """Return the key called `path`, and after a table its keys.

    ``data.voc`` and its like are a format of data, ``model.decoding.yolov8`` and its like a preset of a head.

    Raises:
        ConfigError: there is none; the message names the closest.
    """
    parts = path.strip("[]").split(".")
    if parts[0] == "data" and parts[-1] in DATA_FORMATS and len(parts) == 2:
        return (_format(parts[1]), *explain("data.train")[1:])
    if parts[:2] == ["model", "decoding"] and parts[-1] in PRESETS and len(parts) == 3:
        return (_preset(parts[2]), *explain("model.decoding.detection")[1:])
    if parts[0] == "data" and len(parts) > 1:
        parts[1] = _SAME.get(parts[1], parts[1]) if len(parts) > 2 else parts[1]
    wanted = ".".join(parts)
    found = tuple(key for key in keys() if key.path == wanted or key.path.rpartition(".")[0] == wanted)
    if not found:
        known = [key.path for key in keys()]
        ending = [each for each in known if each.rpartition(".")[2] == parts[-1]]
        raise ConfigError(f"there is no key '{path}' in a recipe.{did_you_mean(wanted, ending or known)}")
    return found


def example(path: str) -> str | None:
    """Return how a shipped recipe sets `path`, and that recipe's name; None if each leaves it at its default."""
    default = next((key.default for key in keys() if key.path == path), None)
    for name in shipped_recipes():
        value: Any = msgspec.to_builtins(find_recipe(name)[0])
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value not in (None, [], (), {}) and not isinstance(value, dict) and _toml(value) != default:
            return f"{path.rpartition('.')[2]} = {_toml(value)}   # {name}"
    return None


def _format(name: str) -> Key:
    """Describe a data format by what its reader says of itself."""
    words = inspect.getdoc(resolve(name, DATA_FORMATS, "data format")) or ""
    summary = words.split("\n\nArgs:")[0].split("\n\nRaises:")[0]
    return Key(f'data.*: format = "{name}"', "data format", "not set", _paragraph(summary), is_table=True)


def _preset(name: str) -> Key:
    """Describe a preset of a head, with the keys that it sets."""
    preset = PRESETS[name]
    sets = ", ".join(f"{key} = {_toml(value)}" for key, value in preset.table.items())
    about = f"{preset.about}. It sets: {sets}"
    return Key(f'model.decoding: preset = "{name}"', "preset of a head", "not set", about, is_table=True)


def _of(struct: type, path: str) -> Iterator[Key]:
    info = types.type_info(struct)
    assert isinstance(info, types.StructType)
    words = _descriptions(struct)
    for field in info.fields:
        where = f"{path}.{field.encode_name}" if path else field.encode_name
        tables = list(_tables(field.type))
        description = words.get(field.name, "")
        if struct is DataConfig and field.name in _SAME:
            same = f"Takes the keys of {path}.{_SAME[field.name]}."
            yield Key(where, "table", _default(field), f"{description} {same}".strip(), is_table=True)
            continue
        if not description and len(tables) == 1:
            description = _paragraph(inspect.getdoc(tables[0].cls) or "")
        kind = _kind(field.type)
        yield Key(where, kind, _default(field), description, is_table=bool(tables))
        for table in tables:
            if len(tables) == 1:
                yield from _of(table.cls, where)
            else:
                inner = f"{where}.{table.tag}"
                yield Key(inner, "table", "not set", _paragraph(inspect.getdoc(table.cls) or ""), is_table=True)
                yield from _of(table.cls, inner)


def _tables(kind: types.Type) -> Iterator[types.StructType]:
    """Structs inside a (possibly optional, list or union) type."""
    match kind:
        case types.StructType():
            yield kind
        case types.UnionType():
            for each in kind.types:
                yield from _tables(each)
        case types.VarTupleType() | types.ListType():
            yield from _tables(kind.item_type)
        case types.Metadata():
            yield from _tables(kind.type)


def _kind(kind: types.Type) -> str:
    """Return the values of a type, in words."""
    match kind:
        case types.Metadata():
            allowed = (kind.extra_json_schema or {}).get("anyOf", [])
            names = [f'"{name}"' for each in allowed for name in each.get("enum", [])]
            own = "package.module:callable"
            return f"{', '.join(names)} or {own}" if names else (own if allowed else _kind(kind.type))
        case types.UnionType():
            parts = dict.fromkeys(_kind(each) for each in kind.types if not isinstance(each, types.NoneType))
            return " or ".join(parts)
        case types.LiteralType():
            return ", ".join(_toml(value) for value in kind.values)
        case types.VarTupleType() | types.ListType():
            return f"list of: {_kind(kind.item_type)}"
        case types.TupleType():
            return f"list of {len(kind.item_types)}: {_kind(kind.item_types[0])}"
        case types.IntType() | types.FloatType():
            name = "whole number" if isinstance(kind, types.IntType) else "number"
            return f"{name}{_limits(kind)}"
        case types.StrType():
            return "text"
        case types.BoolType():
            return "true or false"
        case types.DictType() | types.StructType():
            return "table"
        case _:
            return "any value"


def _limits(kind: types.IntType | types.FloatType) -> str:
    signs = {">": kind.gt, "≥": kind.ge, "<": kind.lt, "≤": kind.le}
    shown = [f"{sign} {_toml(value)}" for sign, value in signs.items() if value is not None]
    return f" {' and '.join(shown)}" if shown else ""


def _default(field: types.Field) -> str:
    if field.required:
        return "needed"
    value = field.default if field.default is not NODEFAULT else field.default_factory()
    if value is None or isinstance(value, msgspec.Struct) or value in ({}, ()):
        return "not set"
    return _toml(value)


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(each)}' for key, each in value.items() if each is not None)} }}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def _descriptions(struct: type) -> dict[str, str]:
    """Return the docstrings below the fields of a struct."""
    tree = ast.parse(inspect.getsource(sys.modules[struct.__module__]))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == struct.__name__)
    found = {}
    for field, words in itertools.pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(words, ast.Expr) and isinstance(words.value, ast.Constant) and isinstance(words.value.value, str):
            found[field.target.id] = " ".join(inspect.cleandoc(words.value.value).split())
    return found


def _paragraph(text: str) -> str:
    return " ".join(text.split())
