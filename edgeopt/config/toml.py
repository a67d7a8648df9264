"""Reading TOML into structs with errors in the user's terms, changing single keys of it, and writing values."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgeopt.config.wording import explain
from edgeopt.errors import ConfigError, SettingError
from edgeopt.presets import expand
from edgeopt.renamed import use_present_names
from edgeopt.typed import convert

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_T = TypeVar("_T")


def parse_toml(text: str, kind: type[_T], origin: str, overrides: Sequence[str] = ()) -> _T:
    """Parse a specification from TOML, with errors in the user's terms.

    Raises:
        ConfigError: not TOML, an unknown key (with the closest known one) or a value out of range.
    """
    try:
        document = tomllib.loads(text)
        for override in overrides:
            _override(document, override)
        use_present_names(document, origin)
        if isinstance(model := document.get("model"), dict) and "decoding" in model:
            model["decoding"] = expand(model["decoding"])
    except SettingError as error:
        raise ConfigError(f"{origin}, [model.decoding]: {error}") from error
    except ValueError as error:  # TOMLDecodeError, or a whole number of thousands of digits
        raise ConfigError(f"{origin} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{origin} holds tables or lists in each other beyond any depth that is meant") from error
    _refuse_infinite(document, origin)
    return checked_table(document, kind, origin)


def _refuse_infinite(value: Any, origin: str, where: str = "") -> None:
    """Refuse ``inf`` and ``nan``, which TOML has and no key means.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(
            f"{origin}: `{where}` is {value}, which is not a finite number. Leave it out, or give another"
        )
    if isinstance(value, dict):
        for key, each in value.items():
            _refuse_infinite(each, origin, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            _refuse_infinite(each, origin, f"{where}[{number}]")


def checked_table(table: Mapping[str, Any], kind: type[_T], origin: str) -> _T:
    """Convert a table that was read to a specification, of edgeopt or of the user.

    Raises:
        ConfigError: an unknown key (with the closest known one) or a value out of range.
    """
    try:
        return convert(table, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {explain(str(error), kind)}") from error


def read_toml(path: Path, kind: type[_T]) -> _T:
    """Read a file and parse it as `parse_toml` does.

    Raises:
        ConfigError: it cannot be read, or as `parse_toml`.
    """
    return parse_toml(read_text(path, advice="Check the path"), kind, origin=str(path))


def read_text(path: Path, advice: str = "Write a starter recipe with: edgeopt init") -> str:
    """Read a file that the user named.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {path}. {advice}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(f"cannot read {path}: {reason}. {advice}") from error


def _override(document: dict[str, Any], override: str) -> None:
    """Set one dotted key of `document`."""
    key, equals, text = _split_override(override)
    parts = _key_parts(key)
    if not equals or not parts:
        raise ConfigError(f"'{override}' is not KEY=VALUE, as in calibrate.images=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in parts[:-1]:
        if document.get(part) is True:  # such as `quantize = true`: a table with the defaults
            document[part] = {}
        document = document.setdefault(part, {})
        if not isinstance(document, dict):
            raise ConfigError(f"'{override}': '{part}' is a value, not a table")
    document[parts[-1]] = value


def _split_override(override: str) -> tuple[str, str, str]:
    """Key, equals sign and value; a quoted part of the key may hold an equals sign."""
    quoted = re.match(r"""\s*(?:"[^"]*"|'[^']*'|[^"'=])*""", override)
    end = 0 if quoted is None else quoted.end()
    return override[:end], override[end : end + 1], override[end + 1 :]


def _key_parts(key: str) -> list[str]:
    """The parts of a dotted TOML key, quoted as in ``quantize.ranges."layer.0"`` or not; empty where it is none."""
    try:
        found: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return []
    parts = []
    while isinstance(found, dict) and found:
        ((part, found),) = found.items()
        parts.append(part)
    return parts


def toml_value(value: Any) -> str:
    """Write a plain value as TOML; text is escaped as in JSON, whose strings TOML reads."""
    if isinstance(value, dict):
        inside = ", ".join(f"{_toml_key(key)} = {toml_value(each)}" for key, each in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    return msgspec.json.encode(value).decode()


def _toml_key(key: Any) -> str:
    return str(key) if re.fullmatch(r"[A-Za-z0-9_-]+", str(key)) else msgspec.json.encode(str(key)).decode()
