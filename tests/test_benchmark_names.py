"""Benchmarks, which no test runs to their end, name nothing of edgeopt that is gone."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for path in (ROOT / "benchmarks").rglob("*.py") if "scripts" not in path.parts)


def imported(tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    """Module, name in it and name here of each import from edgeopt or from other benchmarks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("edgeopt", "benchmarks"):
            for alias in node.names:
                yield node.module or "", alias.name, alias.asname or alias.name


def named(module: str, name: str) -> object:
    """What an import gives, or None."""
    found = getattr(importlib.import_module(module), name, None)
    if found is None:
        try:
            return importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError:
            return None
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_benchmark_names_is_there(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules: dict[str, ModuleType] = {}
    for module, name, here in imported(tree):
        found = named(module, name)
        assert found is not None, f"{module} has no {name}"
        if isinstance(found, ModuleType):
            modules[here] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            assert hasattr(module, node.attr), f"line {node.lineno}: {module.__name__} has no {node.attr}"
