"""References: ``package.module:callable`` names the user's own code wherever a recipe names a built-in.

A recipe is code: whoever builds it runs what it names, from the recipe's folder, the current folder or an installed
package. A bundle is not: what its manifest names is imported only after the one who loads it has allowed the package
(`allow_code`, or the environment variable of `ALLOWED_VARIABLE`).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import Meta

from edgeopt.errors import ConfigError, EdgeoptError, SettingError, did_you_mean

ALLOWED_VARIABLE = "EDGEOPT_ALLOW_CODE"
"""Environment variable with packages, separated by commas, whose code a bundle may name."""
PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"

_OURS = __name__.partition(".")[0]
_SUFFIXES = (
    *importlib.machinery.SOURCE_SUFFIXES,
    *(suffix for suffix in importlib.machinery.EXTENSION_SUFFIXES if suffix != ".so"),
)
"""Files that are code: shared libraries, which an extension module brings beside itself, can be as large as weights."""
_REFERENCE = re.compile(PATTERN.rstrip("$") + r"\Z")
_allowed: Counter[str] = Counter()
"""Top-level packages whose code may run, with the number of callers that want it."""
_folders: list[str] = []
"""Folders that the user's modules are looked for in, beside the usual places."""


def is_code(reference: str) -> bool:
    """Return True if `reference` has the form ``package.module:callable``."""
    return _REFERENCE.match(reference) is not None


def check(reference: str, table: Mapping[str, Any], kind: str) -> None:
    """Refuse anything but a name in `table` or a reference; nothing is imported.

    Raises:
        SettingError: with the closest name of the table.
    """
    if reference not in table and not is_code(reference):
        form = "One of your own is named as package.module:callable"
        known = did_you_mean(reference, table, form) if table else f" {form}"
        raise SettingError(f"there is no {kind} '{reference}'.{known}")


def named(table: Mapping[str, Any]) -> Meta:
    """Return the JSON schema of a key that takes a name in `table` or a reference."""
    return Meta(extra_json_schema={"anyOf": [{"enum": sorted(table)}, {"pattern": PATTERN}]})


def resolve(
    reference: str,
    table: Mapping[str, str],
    kind: str,
    *,
    expected: type | None = None,
    error: type[EdgeoptError] = ConfigError,
) -> Any:
    """Return the object that `reference` names.

    Args:
        reference: a name of `table`, or ``package.module:callable``.
        table: where each of ours is, as ``package.module:callable``.
        kind: what is looked for, for messages.
        expected: the type that it must be of. Default: anything that can be called.
        error: the type of what is raised.

    Raises:
        EdgeoptError: of type `error`: no such name, a module that cannot be imported or is not allowed, nothing of that
            name in it, or something of another kind.
    """
    if reference in table:
        module_name, _, name = table[reference].partition(":")
        return getattr(importlib.import_module(module_name), name)
    try:
        check(reference, table, kind)
    except SettingError as unknown:
        raise error(str(unknown)) from None
    if not _is_allowed(reference):
        raise error(
            f"the {kind} '{reference}' is code outside edgeopt, which runs only where that is allowed. If you "
            f"trust the package, install it here and allow it: edgeopt --allow-code {_package(reference)}, "
            f'{ALLOWED_VARIABLE}={_package(reference)}, or load(..., allow_code=["{_package(reference)}"])'
        )
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as problem:  # importing runs the user's code
        places = " and ".join([*dict.fromkeys(_folders), "the installed packages"])
        raise error(
            f"the {kind} '{reference}' cannot be imported: {type(problem).__name__}: {problem}. "
            f"Module '{module_name}' was looked for in {places}"
        ) from problem
    value = getattr(module, name, None)
    if not _fits(value, expected):
        known = [key for key, item in vars(module).items() if _fits(item, expected) and not key.startswith("_")]
        wanted = "nothing callable" if expected is None else f"no {expected.__name__}"
        raise error(
            f"the {kind} '{reference}': module '{module_name}' ({getattr(module, '__file__', 'built in')}) has "
            f"{wanted} named '{name}'.{did_you_mean(name, known)}"
        )
    return value


def _fits(value: object, expected: type | None) -> bool:
    return callable(value) if expected is None else isinstance(value, expected)


def allow_code(*packages: str) -> None:
    """Let references to these top-level packages be imported, whoever names them, here and in child processes."""
    if packages:
        os.environ[ALLOWED_VARIABLE] = ",".join(dict.fromkeys((*_allowed_everywhere(), *packages)))


def _allowed_everywhere() -> list[str]:
    return [name.strip() for name in os.environ.get(ALLOWED_VARIABLE, "").split(",") if name.strip()]


def _is_allowed(reference: str) -> bool:
    return _allowed[_package(reference)] > 0 or _package(reference) in _allowed_everywhere()


def _package(reference: str) -> str:
    return re.split("[.:]", reference, maxsplit=1)[0]


@contextmanager
def importable(root: Path, *references: str) -> Iterator[None]:
    """Allow the code that the user's own recipe names, while the recipe is worked on.

    Modules are found in `root` and the current folder too, after all installed packages, which they can therefore not
    replace. Afterwards these are forgotten: another recipe may have a module of the same name.

    Args:
        root: the recipe's folder.
        references: those of the recipe; names of ours among them do not matter.
    """
    packages = [_package(reference) for reference in references if is_code(reference)]
    folders = list(dict.fromkeys((str(root.resolve()), str(Path.cwd()))))
    added = [each for each in folders if each not in sys.path]
    before = set(sys.modules)
    _allowed.update(packages)
    sys.path.extend(added)
    _folders.extend(folders)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        _allowed.subtract(packages)
        for folder in folders:
            _folders.remove(folder)
        for folder in added:
            if folder in sys.path:  # the user's code may change it too
                sys.path.remove(folder)
        new = set(sys.modules) - before
        for name in [each for each in new if _home(sys.modules.get(each.partition(".")[0])) in added]:
            del sys.modules[name]


def _home(package: ModuleType | None) -> str | None:
    """Return the folder that an imported top-level package was found in."""
    spec = getattr(package, "__spec__", None)
    places = [] if spec is None else spec.submodule_search_locations or [spec.origin]
    return str(Path(places[0]).parent.resolve()) if places and places[0] else None


def code_of(*references: str) -> str:
    """Return the sha256 over `code_files`, which results of that code depend on. It is empty for built-ins."""
    files = code_files(*references)
    state = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        state.update(f"{path.parent.name}/{path.name}\0{len(content)}\0".encode() + content)
    return state.hexdigest() if files else ""


def code_files(*references: str) -> list[Path]:
    """List all files behind `references`; built-ins have none.

    They are those of each whole top-level package, and of the user's other packages that it imports anywhere; of
    an installed one its own alone.
    """
    found: list[Path] = []
    seen = {_OURS}
    waiting = [_package(reference) for reference in references if is_code(reference)]
    waiting = [package for package in dict.fromkeys(waiting) if package != _OURS]
    seen.update(waiting)
    while waiting:
        files, neighbours = _code(waiting.pop(0))
        found += files
        waiting += sorted(neighbours - seen)
        seen |= neighbours
    return sorted(found)


def _code(package: str) -> tuple[list[Path], set[str]]:
    """List the files of a top-level package, and of the user's other packages that they import."""
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else [Path(each) for each in spec.submodule_search_locations or ()]
    files = sorted(each for place in places for each in place.rglob("*") if each.name.endswith(_SUFFIXES))
    if spec is not None and not places and spec.has_location:
        files = [Path(str(spec.origin))]
    home = (places or files or [Path()])[0].parent
    if home.resolve() in _installed():
        return files, set()
    names = {name for path in files if path.suffix == ".py" for name in _imports(path)}
    folders = (home, *map(Path, _folders))
    return files, {name for name in names if any(_holds(folder, name) for folder in folders)}


def _holds(folder: Path, package: str) -> bool:
    return (folder / f"{package}.py").is_file() or any((folder / package).glob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    """Return the top-level packages that a file imports anywhere in it; empty for files other than Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@functools.cache
def _installed() -> frozenset[Path]:
    return frozenset(
        Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")
    )
