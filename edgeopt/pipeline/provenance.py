"""Hash the code of edgeopt that a stage's result comes from, so that a changed edgeopt never returns a stale one.

A version number does not change with every edit. The key of a stage's result therefore holds a hash over the source of
the modules that make it: those that the stage names and, from there, all of edgeopt that they import. Rooms that no
stage computes with, such as `edgeopt.cli` and `edgeopt.report`, are in none of these hashes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import edgeopt

PACKAGE = Path(edgeopt.__file__).parent
_NAME = PACKAGE.name
_DOORS = f"{_NAME}.doors"
"""It names all that a recipe may ask for, and imports nothing: a stage says itself what it computes with."""
_FROM_IMPORT = re.compile(rf"^[ \t]*from ({_NAME}[\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)
_DOTTED = re.compile(rf"""(?:^[ \t]*import |["'])({_NAME}(?:\.\w+)+)""", re.MULTILINE)
"""An import of a whole module, or the name of one in a table of what is imported when it is needed."""


@dataclass(frozen=True)
class _Module:
    digest: bytes
    """Sha256 of the source."""
    references: tuple[str, ...]
    """Dotted names that may be modules of the package."""


def code_hash(entries: Iterable[str], alone: Iterable[str] = ()) -> str:
    """Hexadecimal sha256 of the source of modules and of all modules of edgeopt that these import.

    All sources are read at the first call of a process, before any stage could take hours in which they change.

    Args:
        entries: dotted names of modules or packages of edgeopt; others are ignored.
        alone: modules whose own source counts, without what they import: one that holds several stages.
    """
    modules = _modules(PACKAGE)
    wanted = {*_reached(modules, entries), *(name for name in alone if name in modules)}
    state = hashlib.sha256()
    for name in sorted(wanted):
        state.update(name.encode() + b"\0" + modules[name].digest)
    return state.hexdigest()


def _reached(modules: Mapping[str, _Module], entries: Iterable[str]) -> set[str]:
    """Return the entries and everything that they refer to."""
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in modules and name not in found:
            found.add(name)
            waiting += modules[name].references
    return found


@cache
def _modules(package: Path) -> dict[str, _Module]:
    """Return every module of the package, by its dotted name."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        source = path.read_bytes()
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        references = () if name == _DOORS else tuple(_references(source.decode("utf-8", errors="replace")))
        found[name] = _Module(hashlib.sha256(source).digest(), references)
    return found


def _references(source: str) -> Iterator[str]:
    """Dotted names of what a module imports, at its top or inside its functions."""
    for module, names in _FROM_IMPORT.findall(source):
        yield module
        yield from (f"{module}.{name}" for name in re.findall(r"\w+", names))
    yield from _DOTTED.findall(source)
